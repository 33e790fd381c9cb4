"""Ratios of widths, and what muP makes of them: kinds of arrays, factors by rule, errors for a forgotten base model."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gradchain as gc
from gradchain.training import update_check
from tests import trees

IN, OUT = 6, 10


def mlp(n):
    """Return shapes of the parameters of a network with one hidden matrix."""
    shapes = {"w1": (IN, n), "b1": (n,), "w2": (n, n), "w3": (n, OUT), "b3": (OUT,)}
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def ones(n):
    return jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), mlp(n))


def kinds(widths):
    """Return kinds and ratios by path."""
    return {path: (width.kind, width.inputs, width.outputs) for path, width in widths.items()}


class Attention(nn.Module):
    """What a transformer is made of, in linen."""

    width: int

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(20, self.width)(tokens)
        x = nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        x = nn.Conv(self.width, (3,))(x)
        return nn.Dense(20, name="head")(x)


def test_a_transformer_in_flax():
    shapes = [jax.eval_shape(Attention(n).init, jax.random.key(0), jnp.zeros((1, 4), int))["params"] for n in (32, 8)]
    found = kinds(gc.width_multipliers(*shapes))
    attention = "MultiHeadDotProductAttention_0"
    for name in ("query", "key", "value", "out"):
        assert found.pop(f"{attention}/{name}/kernel") == ("hidden", 4, 4)
        assert found.pop(f"{attention}/{name}/bias") == ("vector", 1, 4)
    vectors = ("LayerNorm_0/scale", "LayerNorm_0/bias", "Conv_0/bias")
    assert [found.pop(name) for name in vectors] == [("vector", 1, 4)] * 3
    assert found == {
        "Embed_0/embedding": ("input", 1, 4),
        "Conv_0/kernel": ("hidden", 4, 4),
        "head/kernel": ("output", 4, 1),
        "head/bias": ("fixed", 1, 1),
    }


def test_the_layouts_of_other_libraries():
    def in_nnx(n):
        def make():
            layers = nnx.List([nnx.Linear(IN, n, rngs=nnx.Rngs(0)), nnx.Linear(n, OUT, rngs=nnx.Rngs(0))])
            return nnx.Dict(layers=layers)

        return nnx.state(nnx.eval_shape(make), nnx.Param)

    def in_haiku(n):
        net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([n, n, OUT])(x)))
        return jax.eval_shape(net.init, jax.random.key(0), jnp.ones((1, IN)))

    def in_equinox(n):
        keys = jax.random.split(jax.random.key(0), 3)
        model = eqx.filter_eval_shape(
            lambda: (
                eqx.nn.Embedding(20, n, key=keys[0]),
                eqx.nn.Linear(n, n, key=keys[1]),
                eqx.nn.Linear(n, OUT, key=keys[2]),
            )
        )
        return {"embed": model[0], "hidden": model[1], "head": model[2]}

    found = kinds(gc.width_multipliers(in_nnx(8), in_nnx(4)))
    assert sorted(found.values()) == sorted([("input", 1, 2), ("output", 2, 1), ("vector", 1, 2), ("fixed", 1, 1)])
    found = [kind for kind, *_ in kinds(gc.width_multipliers(in_haiku(8), in_haiku(4))).values()]
    assert sorted(found) == ["fixed", "hidden", "input", "output", "vector", "vector"]
    found = kinds(gc.width_multipliers(in_equinox(8), in_equinox(4), layout="outputs_first"))
    assert found == kinds(gc.width_multipliers(in_equinox(8), in_equinox(4)))
    assert found["embed/weight"] == ("input", 1, 2)
    assert found["hidden/weight"] == ("hidden", 2, 2)
    assert found["head/weight"] == ("output", 2, 1)
    by_hand = [("hidden", gc.MuonDimensionNumbers(1, 0)), ("head/weight", gc.MuonDimensionNumbers(1, 0))]
    with pytest.raises(ValueError, match="doesn't fit hidden/bias"):
        gc.width_multipliers(in_equinox(8), in_equinox(4), weight_dimension_numbers=by_hand)
    by_hand[0] = ("hidden/weight", gc.MuonDimensionNumbers(1, 0))
    assert kinds(gc.width_multipliers(in_equinox(8), in_equinox(4), weight_dimension_numbers=by_hand)) == found


ARRAYS = {  # by path: shapes at widths 12 and 4, and what is expected
    "layers/attn/query/kernel": ((6, 12, 2, 6), (6, 4, 2, 2), ("hidden", 3, 3)),
    "layers/attn/query/bias": ((6, 2, 6), (6, 2, 2), ("vector", 1, 3)),
    "layers/attn/out/kernel": ((6, 6, 2, 12), (6, 2, 2, 4), ("hidden", 3, 3)),
    "layers/qkv/kernel": ((6, 12, 3, 2, 6), (6, 4, 3, 2, 2), ("hidden", 3, 3)),
    "layers/experts/wi": ((6, 5, 12, 24), (6, 5, 4, 8), ("hidden", 3, 3)),
    "layers/norm/gamma": ((6, 12), (6, 4), ("vector", 1, 3)),
    "blocks/0/q_proj/kernel": ((12, 6, 2), (4, 2, 2), ("hidden", 3, 3)),
    "lora/A": ((12, 2), (4, 2), ("output", 3, 1)),
    "lora/B": ((2, 12), (2, 4), ("input", 1, 3)),
    "patch_embed/weight": ((12, 3, 4, 4), (4, 3, 4, 4), ("input", 1, 3)),
    "position_table": ((17, 12), (17, 4), ("input", 1, 3)),
    "conv/weight": ((12, 12, 3, 3), (4, 4, 3, 3), ("hidden", 3, 3)),
    "head/weight": ((10, 12), (10, 4), ("output", 3, 1)),
}


def test_arrays_are_those_that_hidden_matrices_sees():
    wide, base = ({path: jnp.ones(each[i]) for path, each in ARRAYS.items()} for i in (0, 1))
    trees = [nested_by_path(flat) for flat in (wide, base)]
    found = kinds(gc.width_multipliers(*trees))
    assert found == {path: expected for path, (_, _, expected) in ARRAYS.items()}


def nested_by_path(flat):
    tree = {}
    for path, x in flat.items():
        *above, last = path.split("/")
        node = tree
        for name in above:
            node = node.setdefault(name, {})
        node[last] = x
    return tree


def test_stacked_layers_and_roles():
    def shapes(layers, n):
        sizes = {"stack": (layers, n, n), "b": (layers, n), "table": (20, n), "out": (20, n)}
        return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in sizes.items()}

    dims = [("stack", gc.MuonDimensionNumbers(1, 2)), ("b", gc.MuonDimensionNumbers((), 1))]
    options = {"weight_dimension_numbers": dims, "roles": {"out": "output", "table": "fixed"}}
    widths = gc.width_multipliers(shapes(6, 12), shapes(2, 4), **options)
    assert kinds(widths) == {
        "stack": ("hidden", 3, 3),
        "b": ("vector", 1, 3),
        "table": ("fixed", 1, 1),
        "out": ("output", 3, 1),
    }
    assert (widths["out"].fans, widths["out"].base_fans) == ((12, 20), (4, 20))
    with pytest.raises(ValueError, match=r"stack has shape .* axis 0 differs, and nothing says whether it is inputs"):
        gc.width_multipliers(shapes(6, 12), shapes(2, 4))
    with pytest.raises(ValueError, match="out can't be 'hidden': by its shapes"):
        gc.width_multipliers(shapes(2, 12), shapes(2, 4), roles={"out": "hidden"})


@pytest.mark.parametrize(
    ("base", "options", "error"),
    [
        (mlp(8), {}, "no array differs from its base"),
        (mlp(4) | {"w4": jnp.ones(2)}, {}, r"base_params has \['w4'\], which params lacks"),
        (mlp(4) | {"b1": jnp.ones((4, 1))}, {}, r"b1 has shape \(8,\), and \(4, 1\) in the base model"),
        (mlp(4), {"roles": {"w9": "input"}}, "roles: 'w9' matches no parameter"),
        (mlp(4), {"roles": {"w1": "inputs"}}, "must be one of hidden, input"),
        (mlp(4), {"layout": "rows"}, "layout must be one of"),
        (mlp(4), {"weight_dimension_numbers": [("w9", gc.MuonDimensionNumbers())]}, "'w9' matches no parameter"),
    ],
)
def test_errors_where_nothing_would_be_scaled(base, options, error):
    with pytest.raises(ValueError, match=error):
        gc.width_multipliers(mlp(8), base, **options)


def test_what_is_no_widths_and_no_pairs_is_told():
    widths = gc.width_multipliers(mlp(8), mlp(4))
    for use in (
        lambda x: gc.mup(gc.adam(0.1), x),
        lambda x: gc.mup_init(ones(8), x),
        lambda x: gc.scale_by_width(x, "adam"),
    ):
        with pytest.raises(TypeError, match=r"widths are what width_multipliers\(params, base_params\) returns"):
            use(mlp(8))
    with pytest.raises(TypeError, match="weight_dimension_numbers are pairs of a pattern"):
        gc.width_multipliers(mlp(8), mlp(4), weight_dimension_numbers={"w1": gc.MuonDimensionNumbers()})
    with pytest.raises(ValueError, match="scale_by_adam acts on other arrays than the parameters"):
        gc.mup(gc.galore(0.1, 2), widths)
    assert gc.describe_widths(widths, gc.dion2(0.1)).splitlines()[4].split()[-5] == "muon_spectral"


def test_the_base_model_itself_stays_as_it_is():
    widths = gc.width_multipliers(mlp(8), mlp(8), allow_same=True)
    params = ones(8)
    tx = gc.adamw(0.1, weight_decay=0.1)
    scaled = gc.mup(tx, widths)
    trees.assert_close(
        scaled.update(params, scaled.init(params), params), tx.update(params, tx.init(params), params), 0
    )
    assert gc.mup_init(params, widths)["w3"] is params["w3"]
    assert gc.from_config(gc.to_config(scaled)) == scaled


RATES = {  # four times as wide as the base: w1, b1, w2, w3
    "sgd": (4, 4, 1, 1 / 4),
    "momentum": (4, 4, 1, 1 / 4),
    "adam": (1, 1, 1 / 4, 1 / 4),
    "lion": (1, 1, 1 / 4, 1 / 4),
    "soap": (1, 1, 1 / 4, 1 / 4),
    "muon": (1, 1, 1, (10 / 32 / (10 / 8)) ** 0.5 * 1.25**0.5),
    "muon_rms": (1, 1, 1 / 2, (8 * 10 / (32 * 32)) ** 0.5),
    "spectral": (1, 1, 1, 1),
    "scion": (1, 1, 1, 1),
    "orthogonal": (2, 1, 1, 1 / 2),
    "shampoo": (2, 1, 1, 1 / 2),
}


@pytest.mark.parametrize("rule", RATES)
def test_the_table_of_rates(rule):
    widths = gc.width_multipliers(mlp(32), mlp(8))
    params = ones(32)
    tx = gc.chain(gc.identity(), gc.scale_by_width(widths, rule))
    updates = tx.update(params, tx.init(params))[0]
    got = [float(updates[name].ravel()[0]) for name in ("w1", "b1", "w2", "w3", "b3")]
    np.testing.assert_allclose(got, [*RATES[rule], 1], rtol=1e-6)


def outer_products(n):
    """Return parameters and gradients as those of a network of width n on one example: activations times errors."""
    rng = np.random.default_rng(n)
    x, h, error = rng.normal(size=IN), rng.choice([-1, 1], n), rng.normal(size=OUT)
    back = rng.choice([-1, 1], n) / n
    gradient = {"w1": np.outer(x, back), "b1": back, "w2": np.outer(h, back), "w3": np.outer(h, error), "b3": error}
    return ones(n), [jax.tree.map(jnp.float32, gradient)] * 2


OPTIMIZERS = {
    "sgd": lambda: gc.sgd(0.1, momentum=0.9),
    "adam": lambda: gc.adam(0.1),
    "lion": lambda: gc.lion(0.1),
    "muon": lambda: gc.muon(0.1),
    "muon_rms": lambda: gc.muon(0.1, consistent_rms=0.2),
    "spectral": lambda: gc.chain(gc.trace(0.9), gc.scale_by_spectral_norm(steps=8), gc.scale_by_learning_rate(0.1)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "sgd" else pytest.mark.slow) for name in OPTIMIZERS]
)
def test_updates_move_outputs_equally_at_every_width(name):
    widths = [16, 64]
    plain = update_check(OPTIMIZERS[name](), outer_products, widths)
    scaled = update_check(
        lambda n: gc.mup(OPTIMIZERS[name](), gc.width_multipliers(mlp(n), mlp(8))), outer_products, widths
    )
    assert all(abs(slope) < 0.1 for slope in scaled.slopes.values()), str(scaled)
    assert name == "spectral" or any(abs(slope) > 0.45 for slope in plain.slopes.values()), str(plain)


@pytest.mark.parametrize(
    ("direction", "family"),
    [
        (lambda: gc.scale_by_muon(), "orthogonal"),
        (lambda: gc.chain(gc.ema(0.9), gc.orthogonalize_in_metric()), "orthogonal"),
        (lambda: gc.chain(gc.scale_by_normuon(), gc.scale_by_shape(scale="spectral")), "muon_spectral"),
        (lambda: gc.chain(gc.scale_by_muon(), gc.scale_by_shape(consistent_rms=0.2)), "muon_rms"),
        (lambda: gc.chain(gc.trace(0.9), gc.scale_by_lmo()), "scion"),
        (lambda: gc.scale_by_shampoo(), "grafted"),
        (lambda: gc.scale_by_shampoo(graft=False), "shampoo"),
        (lambda: gc.scale_by_soap(), "adam"),
    ],
)
def test_families_of_rules_for_matrices(direction, family):
    shapes = [{"w": jax.ShapeDtypeStruct((n, 2 * n), jnp.float32)} for n in (32, 8)]
    widths = gc.width_multipliers(*shapes)
    tx = gc.chain(direction(), gc.scale_by_learning_rate(0.1))
    assert gc.mup(tx, widths) == gc.mup(tx, widths, family)
    assert gc.describe_widths(widths, tx).split()[-5] == family


def test_which_rule_acts_on_which_array_is_seen():
    widths = gc.width_multipliers(mlp(32), mlp(8))
    assert gc.describe_widths(widths, gc.muon(0.1)).splitlines()[3].split()[-6:-1] == ["input", "muon", "1", "1", "1"]
    by_hand = gc.mup(gc.muon(0.1), widths, [("b?", "adam"), ("*", "muon")])
    assert gc.mup(gc.muon(0.1), widths) == by_hand
    assert gc.mup(gc.sgd(0.1, momentum=0.9), widths) == gc.mup(gc.sgd(0.1, momentum=0.9), widths, "sgd")
    for tx, problem in (
        (
            gc.chain(gc.scale_by_adam(), gc.scale_by_trust_ratio(), gc.scale_by_learning_rate(0.1)),
            "scale_by_trust_ratio isn't known",
        ),
        (gc.chain(gc.scale_by_adam(), gc.scale_by_muon(), gc.scale_by_learning_rate(0.1)), "both act on it"),
    ):
        with pytest.raises(ValueError, match=problem):
            gc.mup(tx, widths)
        gc.mup(tx, widths, "adam")
    with pytest.raises(ValueError, match=r"there is no rule 'adan'.*did you mean 'adam'"):
        gc.mup(gc.adam(0.1), widths, "adan")
    with pytest.raises(ValueError, match="rule has no entry for b1, b3"):
        gc.mup(gc.adam(0.1), widths, [("w?", "adam")])
    with pytest.raises(ValueError, match="no rule has the hyperparameter 'learning_rate'"):
        gc.mup(gc.scale_by_adam(), widths)


@pytest.mark.parametrize(
    ("decay", "products"),
    [("independent", (1, 1, 1)), ("inverse_width", (1 / 4, 1 / 4, 1 / 4)), ("coupled", (1, 1 / 4, 1 / 4))],
)
def test_decay_times_rate(decay, products):
    widths, params = gc.width_multipliers(mlp(32), mlp(8)), ones(32)
    tx = gc.mup(gc.adamw(0.1, weight_decay=0.5), widths, decay=decay)
    updates = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)[0]
    got = [float(updates[name][0, 0]) for name in ("w1", "w2", "w3")]
    np.testing.assert_allclose(got, -0.05 * np.array(products), rtol=1e-6)
    with pytest.raises(ValueError, match="decay must be one of independent"):
        gc.mup(tx, widths, decay="none")


@pytest.mark.parametrize(
    "tx", [gc.adam(0.1, eps=0.02), pytest.param(gc.adam(0.1, eps=0.0, eps_root=1e-2), marks=pytest.mark.slow)]
)
def test_eps_falls_as_gradients_do(tx):
    def largest(n):
        params, (gradient, *_) = outer_products(n)
        scaled = gc.mup(tx, gc.width_multipliers(mlp(n), mlp(8), allow_same=True))
        updates = jax.jit(scaled.update)(gradient, scaled.init(params), params)[0]
        return np.array([np.abs(updates[name]).max() for name in ("b1", "w2")])

    np.testing.assert_allclose(largest(64), largest(8) * np.array([1, 1 / 8]), rtol=1e-5)
    assert largest(8)[0] < 0.09  # eps matters


def test_depth():
    widths = gc.width_multipliers(mlp(32), mlp(8))
    tx = gc.mup(gc.adam(0.1), widths, depth=4, depth_paths=["w2", "b1"], depth_exponent=0.5)
    factors = gc.hyperparams(tx)
    rates = {name.rpartition(".")[2]: x for name, x in factors.items() if "factors.learning_rate" in name}
    assert rates == {"hidden": 1 / 8, "output": 1 / 4, "vector": 1 / 2}
    eps = {name.rpartition(".")[2]: x for name, x in factors.items() if "adam:eps." in name}
    assert eps == {"hidden": 1 / 8, "input": 1 / 4, "vector": 1 / 8}
    for options, error in (
        ({"depth": 2.0}, "give both or neither"),
        ({"depth": 2.0, "depth_paths": ["blocks"]}, "'blocks' matches no parameter"),
    ):
        with pytest.raises(ValueError, match=error):
            gc.mup(gc.adam(0.1), widths, **options)
    with pytest.raises(ValueError, match="depth is for normalised updates"):
        gc.mup(gc.sgd(0.1), widths, depth=2.0, depth_paths=["w2"])


def test_initial_parameters():
    widths = gc.width_multipliers(mlp(32), mlp(8))
    params = ones(32)
    new = gc.mup_init(params, widths, by_features=["w1"])
    trees.assert_close(new, params | {"w1": 2 * params["w1"], "w3": 0.5 * params["w3"]}, 1e-6)
    half = gc.mup_init(jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), widths)
    assert half["w3"].dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"b1 has shape \(8,\), and \(32,\) in widths"):
        gc.mup_init(ones(8), widths)
    with pytest.raises(ValueError, match="params and widths differ"):
        gc.mup_init({"w1": params["w1"]}, widths)
    with pytest.raises(ValueError, match="mup_init: by_features: 'Embed_0' matches no parameter; there are: b1"):
        gc.mup_init(params, widths, by_features=["Embed_0"])


def test_embeddings_in_flax_start_equally_large_at_every_width():
    sizes, tokens = (256, 16), jnp.zeros((1, 2), int)
    wide, base = (jax.eval_shape(nn.Embed(50, n).init, jax.random.key(0), tokens) for n in sizes)
    tables = [nn.Embed(50, n).init(jax.random.key(1), tokens) for n in sizes]
    models = [{"Embed_0": table["params"]} for table in tables]
    widths = gc.width_multipliers({"Embed_0": wide["params"]}, {"Embed_0": base["params"]})
    for pattern in ("Embed_0", "*embed*", "E*/embedding"):
        scaled = gc.mup_init(models[0], widths, by_features=[pattern])
        spread = [float(jnp.std(model["Embed_0"]["embedding"])) for model in (scaled, models[1])]
        assert spread[0] == pytest.approx(spread[1], rel=0.1)


def test_parameters_that_widths_say_nothing_about():
    widths, params = gc.width_multipliers(mlp(32), mlp(8)), ones(32)
    tx = gc.mup(gc.adam(0.1), widths)
    with pytest.raises(ValueError, match="new"):
        tx.init(params | {"new": jnp.ones(3)})
    four = tx.replace(learning_rate=jnp.logspace(-3, 0, 4))  # factors stay
    steps = jax.vmap(lambda tx: tx.update(params, tx.init(params))[0]["w2"][0, 0], in_axes=(gc.batch_axes(four),))(four)
    np.testing.assert_allclose(steps, -0.25 * np.logspace(-3, 0, 4), rtol=1e-5)
