"""SOAP, KL-Shampoo and SPlus: what their bases do, beyond the formulas that the contract suite compares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain import matrices
from tests import oracles, quick, references, trees

AXES = {"update_interval": 3, "weight_dimension_numbers": "axes"}
SHAPES = {"tall": (5, 3), "wide": (3, 5), "three": (2, 3, 2)}
MORE = {"square": (4, 4), "four": (2, 2, 3, 3), "row": (1, 4), "vector": (5,), "empty": (0, 3)}
RULES = {
    "soap": (
        lambda: gc.scale_by_soap(0.9, 0.97, **AXES),
        lambda: oracles.soap(0.9, 0.97, every=3, axes=True),
    ),
    "kl_soap": (
        lambda: gc.scale_by_soap(factors="kl", **AXES),
        lambda: oracles.soap(every=3, axes=True, kl=True),
    ),
    "kl_shampoo": (lambda: gc.scale_by_kl_shampoo(**AXES), lambda: oracles.kl_shampoo(every=3, axes=True)),
    "splus": (lambda: gc.scale_by_splus(**AXES), lambda: oracles.splus(every=3, axes=True)),
}


def draw(shapes, dtype=float, seed=0, steps=None):
    rng = np.random.default_rng(seed)
    lead = () if steps is None else (steps,)
    return {name: trees.normal(rng, lead + shape, np.dtype(dtype)) for name, shape in shapes.items()}


def run(tx, params, grads):
    """Return the updates for gradients that are stacked along a first axis, and the last state."""

    def step(state, g):
        u, state = tx.update(g, state, params)
        return state, u

    state, updates = quick.jit(lambda grads: jax.lax.scan(step, tx.init(params), grads))(grads)
    return updates, state


def assert_follows_oracle(name, shapes, dtype):
    rule, oracle = RULES[name]
    oracle = oracle()
    with jax.enable_x64(True):
        params, grads = draw(shapes, dtype), draw(shapes, dtype, 1, 30)
        updates, _ = run(rule(), params, grads)
        state = oracle.init(params)
        for k in range(30):
            expected, state = oracle.update(trees.at(grads, k), state, params)
            trees.assert_close(trees.at(updates, k), expected, 1e-10)


def test_soap_is_its_oracle_on_arrays_of_any_shape():
    assert_follows_oracle("soap", SHAPES, float)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("name", RULES)
def test_rules_are_their_oracles_on_arrays_of_any_shape(name, dtype):
    assert_follows_oracle(name, SHAPES | MORE, dtype)


def moved(rule, problem):
    """Return how much the way of 30 steps changes where the gradients change by 1e-10, as a share of its length."""
    with jax.enable_x64(True):
        start, grads, _ = references.problem(problem)
        rng = np.random.default_rng(0)
        others = {k: g * (1 + 1e-10 * rng.normal(size=g.shape)) for k, g in grads.items()}
        ways = [jax.tree.map(lambda u: jnp.sum(u, axis=0), run(rule, start, g)[0]) for g in (grads, others)]
        return trees.relative_error(*ways)


def test_on_matrices_that_are_not_square_updates_change_little_where_gradients_do():
    assert moved(gc.scale_by_soap(**AXES), "lstsq") <= 1e-9
    assert moved(gc.scale_by_soap(ridge=0.0, **AXES), "lstsq") > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["lstsq", "mlp", "conv", "square"])
@pytest.mark.parametrize("name", RULES)
def test_updates_change_little_where_gradients_do(name, problem):
    assert moved(RULES[name][0](), problem) <= 1e-9


def test_the_first_update_is_adams():
    grads = draw({"w": (3, 2)}, "float32", steps=1)
    ours, theirs = (run(tx, trees.at(grads, 0), grads)[0] for tx in (gc.scale_by_soap(), gc.scale_by_adam(0.95, 0.95)))
    trees.assert_close(ours, theirs, 1e-6)


def test_arrays_are_refreshed_in_turn():
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
    tx = gc.scale_by_soap(update_interval=2, stagger=True)
    state, step, changed = tx.init(params), quick.jit(tx.update), []
    for k in range(5):
        new = step(draw({"a": (2, 2), "b": (2, 2)}, "float32", k), state)[1]
        changed.append([bool(jnp.any(new.bases[n][0][0] != state.bases[n][0][0])) for n in "ab"])
        state = new
    assert changed == [[True, True], [False, True], [True, False], [False, True], [True, False]]
    assert step._cache_size() == 1


def parted(tx, whole, parts, steps=4):
    """Assert that a transform treats an array as it treats its parts, each given as a function of the array."""
    grads = draw({"w": whole}, "float32", steps=steps)
    together, _ = run(tx, trees.at(grads, 0), grads)
    apart = {name: jax.vmap(part)(grads["w"]) for name, part in parts.items()}
    alone, _ = run(gc.scale_by_soap(update_interval=2), trees.at(apart, 0), apart)
    trees.assert_close({name: jax.vmap(part)(together["w"]) for name, part in parts.items()}, alone, 2e-6)


def test_blocks_are_matrices_of_their_own():
    tx = gc.scale_by_soap(update_interval=2, block_size=3)
    parted(tx, (5, 3), {"above": lambda w: w[:3], "below": lambda w: w[3:]})


def test_stacked_layers_are_matrices_of_their_own():
    tx = gc.scale_by_soap(update_interval=2, weight_dimension_numbers=gc.MuonDimensionNumbers(1, 2))
    parted(tx, (2, 3, 2), {"first": lambda w: w[0], "second": lambda w: w[1]})


def test_kernels_of_convolutions_are_matrices():
    tx = gc.scale_by_soap(update_interval=2, weight_dimension_numbers=gc.MuonDimensionNumbers((0, 1, 2), 3))
    parted(tx, (2, 1, 2, 3), {"matrix": lambda w: w.reshape(4, 3)})


@pytest.mark.parametrize("rule", [gc.scale_by_soap, gc.scale_by_splus, gc.scale_by_kl_shampoo])
def test_sides_that_are_left_out_have_no_basis(rule):
    def shapes(**options):
        return jax.tree.map(jnp.shape, rule(**options).init({"w": jnp.ones((2, 5))}).bases["w"])

    assert shapes() == [{0: (2, 2), 1: (5, 5)}]
    assert shapes(sides="smaller") == shapes(sides="rows") == shapes(max_dim=4) == [{0: (2, 2)}]
    assert shapes(sides="columns") == [{1: (5, 5)}]
    kernel = rule(sides="smaller", weight_dimension_numbers="axes").init(jnp.ones((3, 1, 2, 5))).bases
    assert [*kernel[0]] == [0, 2, 3]  # an array that is not a matrix has no sides


def test_arrays_that_are_no_matrices_need_dimension_numbers():
    message = r"\['k'\]: an array of shape \(2, 3, 4\) is not a matrix; it needs MuonDimensionNumbers, or 'axes'"
    for rule in (gc.scale_by_soap, gc.scale_by_splus, gc.scale_by_kl_shampoo):
        with pytest.raises(ValueError, match=message):
            rule().init({"k": jnp.ones((2, 3, 4))})
    with pytest.raises(ValueError, match=r"scale_by_kl_shampoo: \['b'\]: .*'axes'"):
        gc.scale_by_kl_shampoo().init({"b": jnp.ones(3)})
    with pytest.raises(ValueError, match="must be one of 'axes', got 'rows'"):
        gc.scale_by_soap(weight_dimension_numbers="rows")


def test_bases_and_factors_keep_their_bits():
    params = {"w": jnp.ones((8, 8))}
    tx = gc.store(gc.scale_by_soap(), "int8", min_size=1)
    state = tx.init(params).inner_state
    assert state.mu["w"].codes.dtype == state.nu["w"].codes.dtype == "uint8"
    assert {x.dtype.name for x in jax.tree.leaves((state.factors, state.bases))} == {"float32"}
    with pytest.raises(ValueError, match=r"store: scale_by_soap\.bases needs all of its bits; leave it out"):
        gc.store(gc.scale_by_soap(), bases="bfloat16").init(params)


def test_a_basis_that_is_not_finite_is_not_taken():
    a = jnp.stack([jnp.diag(jnp.array([3.0, 2.0])), *(jnp.full((2, 2), x) for x in (jnp.nan, jnp.inf))])
    basis = jnp.stack(3 * [jnp.array([[0.8, -0.6], [0.6, 0.8]])])
    for method in ("qr", "eigh"):
        new = matrices.track_basis(a, basis, method=method)
        assert jnp.all(jnp.isfinite(new))
        trees.assert_close(new[1:], basis[1:], 0)
        assert jnp.any(new[0] != basis[0])


def test_eigenvectors_keep_their_places_or_are_sorted():
    a = jnp.diag(jnp.array([1.0, 5.0, 3.0]))
    places = matrices.track_basis(a, jnp.eye(3), method="eigh")
    trees.assert_close(places, jnp.eye(3), 1e-6)
    ordered = matrices.track_basis(a, jnp.eye(3), method="eigh", sort=False)
    trees.assert_close(jnp.abs(ordered), jnp.eye(3)[:, jnp.array([1, 2, 0])], 1e-6)


def test_signs_of_rounding_errors_count_as_zero():
    """Gradients have rank 1, so that all but one element of the momentum is rounding error in the end."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 1)), rng.normal(size=(1, 6))
    grads = jnp.asarray(np.broadcast_to(x @ y, (60, 4, 6)), jnp.float32)

    def rank(floor):
        tx = gc.scale_by_splus(update_interval=1, floor=floor)
        return int(jnp.linalg.matrix_rank(run(tx, grads[0], grads)[0][-1], rtol=1e-3))

    assert rank(1e-5) == 1
    assert rank(0.0) > 1


@pytest.mark.parametrize("shape", [(64, 64), (64, 256)])
def test_an_update_takes_two_gram_products_and_six_with_a_basis(shape):
    m, n = shape
    params = jnp.ones(shape)
    tx = gc.scale_by_soap(update_interval=1000)
    state = jax.eval_shape(tx.init, params)
    frozen = jax.jit(lambda g, s: tx.update(g, s._replace(count=s.count))[0]).lower(params, state)
    products = 2 * m * n * (m + n) * 3  # of the gradient, of momentum, and back
    assert frozen.compile().cost_analysis()["flops"] <= 1.1 * products
    whole = jax.jit(tx.update).lower(params, state).compile().cost_analysis()["flops"]
    refresh = sum(2 * k**3 * (1 + 2 / 3 + 1) for k in shape)
    assert whole <= 1.1 * (products + 2 * m * n * (m + n) + refresh)


def network(params, x):
    for i in (1, 2):
        x = jax.nn.relu(x @ params[f"w{i}"] + params[f"b{i}"][None])
    return x @ params["w3"] + params["b3"][None]


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.01, 0.1])
@pytest.mark.parametrize("name", ["soap", "kl_soap", "kl_shampoo", "splus", "shampoo", "kron"])
def test_two_thousand_steps_in_single_precision_stay_finite(name, rate):
    """The network of 16, 48, 48 and 10 units has some that never fire: factors are singular."""
    rng = np.random.default_rng(0)
    teacher = jnp.asarray(rng.normal(size=(16, 10)), jnp.float32)
    sizes = {"w1": (16, 48), "w2": (48, 48), "w3": (48, 10)}
    start = {k: jnp.asarray(rng.normal(size=s) * (2 / s[0]) ** 0.5, jnp.float32) for k, s in sizes.items()}
    start |= {f"b{i}": jnp.zeros(n) for i, n in ((1, 48), (2, 48), (3, 10))}
    dims = {k: gc.MuonDimensionNumbers() if k in sizes else None for k in start}
    options = {"update_interval": 1, "weight_dimension_numbers": dims}
    make = {
        "soap": lambda: gc.soap(rate, **options),
        "kl_soap": lambda: gc.soap(rate, factors="kl", **options),
        "kl_shampoo": lambda: gc.kl_shampoo(rate, **options),
        "splus": lambda: gc.splus(rate, **options),
        "shampoo": lambda: gc.shampoo(rate, **options),
        "kron": lambda: gc.kron(rate, weight_dimension_numbers=dims),
    }
    tx = make[name]()

    def loss(params, key):
        x = jax.random.normal(key, (64, 16))
        labels = jnp.argmax(jnp.tanh(x @ teacher) + 0.5 * jnp.sin(2 * x[:, :10]), axis=1)
        return jnp.mean(gc.losses.softmax_cross_entropy_with_integer_labels(network(params, x), labels))

    def step(carry, key):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, key)
        updates, state = tx.update(grads, state, params)
        size = jnp.max(jnp.array([jnp.sqrt(jnp.mean(updates[k] ** 2)) for k in sizes]))
        return (gc.apply_updates(params, updates), state), (value, size)

    keys = jax.random.split(jax.random.key(0), 2000)
    (params, state), (losses, steps) = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), keys))(start)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves((params, state)))
    assert jnp.max(steps) <= 10 * rate
    assert jnp.median(losses[-100:]) <= (1.5 if rate < 0.1 else 2.5)  # with a rate of 0.1 there is nothing to learn
