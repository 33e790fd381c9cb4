"""Layers stacked in one array get the updates that they would get as arrays of their own."""

import pickle
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from gradchain.combinators.routing import masked, partition
from gradchain.core.hyper import PerLeafKind
from gradchain.core.hyperparams import walk
from gradchain.transforms.low_rank import scale_by_galore
from tests import public, quick, trees
from tests.contract.cases import each, secondary
from tests.registry import ROWS

LAYERS = 3
STEPS = 3


def looks_at_all(tx):
    """Return whether a rule inside looks at all arrays together: layers together aren't layers apart."""
    specs = [part.transform.spec for part in walk(tx) if hasattr(part.transform, "spec")]
    return any(spec.whole or spec.kind == "treewise" for spec in specs)


def has_leafwise(row):
    """Return whether ``per_layer`` changes a row's transform."""
    specs = [part.transform.spec for part in walk(row.build()) if hasattr(part.transform, "spec")]
    return any(spec.kind == "leafwise" for spec in specs)


def routes(tx):
    """Return whether it goes by the number of axes, which a stack has one more of."""
    routing = masked.Value | partition.Value | scale_by_galore.Value
    return isinstance(tx, routing) or any(routes(part.transform) for part in tx.parts())


LEAFWISE = [
    row
    for row in ROWS
    if row.any_tree and has_leafwise(row) and not (row.random or looks_at_all(row.build()) or routes(row.build()))
]
"""Rows whose rules look at one array at a time, and draw nothing at random: layers together draw other numbers."""


def stack(layers, axes):
    """Return trees as one, each array stacked along its axis."""
    return {name: jnp.stack([layer[name] for layer in layers], axis) for name, axis in axes.items()}


def updates_of(tx, gradients, params, compiled=False):
    """Return the updates of a few steps with the parameters at rest, after checking that the state keeps its kind."""
    update = quick.jit(lambda g, s, p: tx.update(g, s, p)) if compiled else tx.update
    state, results = tx.init(params), []
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        trees.assert_same_kind(updates, params)
        trees.assert_same_kind(state, tx.init(params))
        results.append(updates)
    return results


def assert_law(tx, axes, dtype="float32", compiled=True, tolerance=2e-6):
    """Assert that ``tx`` with layers, on stacks, is the stack of ``tx`` on each; return a function of how far off
    it is without."""
    layers = [trees.standard(dtype, seed) for seed in range(LAYERS)]
    streams = [trees.stream(STEPS, dtype, seed=10 + seed) for seed in range(LAYERS)]
    gradients = [[trees.at(stream, k) for k in range(STEPS)] for stream in streams]
    apart = [updates_of(tx, mine, layer, compiled) for mine, layer in zip(gradients, layers, strict=True)]
    expected = [stack(each, axes) for each in zip(*apart, strict=True)]
    stacked = [stack(each, axes) for each in zip(*gradients, strict=True)]
    together = updates_of(gc.per_layer(tx, axes), stacked, stack(layers, axes), compiled)
    trees.assert_close(together, expected, tolerance)
    return lambda: trees.relative_error(updates_of(tx, stacked, stack(layers, axes)), expected)


@each(LEAFWISE, slow=secondary)
def test_layers_of_a_stack_are_arrays_of_their_own(row):
    assert_law(row.build(), {"bias": -1, "kernel": 1, "scale": 0})


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "complex64"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_nested_chain_in_one_call_for_each_array(dtype, compiled):
    adafactor = gc.adafactor(0.1, 2, momentum=0.9, dtype_momentum=None)
    tx = gc.chain(gc.centralize(), gc.named_chain(("a", gc.chain(gc.scale_by_sm3(), gc.lamb(0.01))), ("b", adafactor)))
    axes, tolerance = {"bias": 1, "kernel": 1, "scale": 0}, 8e-3 if dtype == "bfloat16" else 5e-6
    without_layers = assert_law(tx, axes, dtype, compiled, tolerance)
    assert without_layers() > 0.1


def test_nans_are_found_layer_by_layer():
    params = jnp.ones((LAYERS, 2))
    _, state = gc.per_layer(gc.zero_nans(), 0).update(
        params.at[1, 0].set(jnp.nan), gc.per_layer(gc.zero_nans(), 0).init(params)
    )
    np.testing.assert_array_equal(state.found_nan, [False, True, False])


@pytest.mark.parametrize("tx", [gc.adamw(0.1), gc.clip_by_global_norm(0.5), gc.scale_by_lion()])
def test_rules_that_see_single_numbers_or_all_arrays_are_left_alone(tx):
    assert gc.per_layer(tx, 0) is tx or gc.per_layer(tx, 0) == tx


def test_arrays_without_a_layer_axis_and_prefixes():
    params = {"layers": {"a": jnp.ones((3, 4)), "b": jnp.ones((3, 2, 2))}, "head": jnp.ones((4, 2))}
    gradient = jax.tree.map(lambda x: x + jnp.arange(x.size).reshape(x.shape), params)
    rule = gc.scale_by_trust_ratio()
    got, _ = gc.per_layer(rule, {"layers": 0, "head": None}).update(gradient, rule.init(params), params)
    head, _ = rule.update(gradient["head"], rule.init(gradient["head"]), params["head"])
    trees.assert_close(got["head"], head, 0)
    norms = jnp.linalg.norm(got["layers"]["b"].reshape(3, -1), axis=1)
    np.testing.assert_allclose(norms, 2.0, rtol=1e-6)


def by_shape(params):
    """Return 0 for arrays of three axes."""
    return jax.tree.map(lambda x: 0 if x.ndim == 3 else None, params)


def test_axes_may_be_a_function_of_parameters():
    params = {"a": jnp.ones((3, 2, 2)), "b": jnp.ones((2, 2)), "gone": None}
    rule = gc.centralize()
    for tx in (gc.per_layer(rule, by_shape), gc.per_layer(rule, {"a": 0, "b": None, "gone": 0})):
        trees.assert_close(
            updates_of(tx, [params], params), updates_of(gc.per_layer(rule, by_shape), [params], params), 0
        )
        assert tx.update(params, tx.init(params))[0]["gone"] is None


def test_axes_may_go_by_path():
    params = {"layers": {"a": jnp.ones((3, 4)), "norm": jnp.ones((4, 3))}, "head": jnp.ones((4, 2))}
    by_tree = {"layers": {"a": 0, "norm": 1}, "head": None}
    expected = gc.per_layer(gc.scale_by_sm3(), by_tree).init(params)
    patterns = gc.per_layer(gc.scale_by_sm3(), [("norm", 1), ("layers", 0)])
    by_function = gc.per_layer(
        gc.scale_by_sm3(), gc.by_leaf(lambda path, leaf: None if path == "head" else leaf.ndim - 2)
    )
    trees.assert_same_kind(patterns.init(params), expected)
    assert by_function.init(params).mu["layers"]["norm"][0].shape == (4, 3)
    assert patterns == gc.per_layer(gc.scale_by_sm3(), (("norm", 1), ("layers", 0)))
    assert eval(repr(patterns), public.NAMES) == patterns
    with pytest.raises(TypeError, match="axes must be a whole number"):
        gc.per_layer(gc.scale_by_sm3(), [("norm", "first")])


def test_layers_of_layers():
    params = trees.normal(np.random.default_rng(0), (2, 5, 3, 4), "float32")
    rule = gc.scale_by_factored_rms(min_dim_size_to_factor=2)
    tx = gc.per_layer(gc.per_layer(rule, 1), 2)  # outer axis 2, then axis 1 of what is left
    together, state = tx.update(jnp.asarray(params), tx.init(jnp.asarray(params)), jnp.asarray(params))
    assert (state.v_row.shape, state.v_col.shape) == ((3, 5, 2), (3, 5, 4))
    for i in range(3):
        for j in range(5):
            one = jnp.asarray(params[:, j, i])
            alone, _ = rule.update(one, rule.init(one), one)
            trees.assert_close(together[:, j, i], alone, 1e-6)


def test_slots_keep_the_layer_axis_and_those_of_another_shape_have_it_first():
    state = gc.per_layer(gc.scale_by_sm3(), 1).init(jnp.ones((4, 3, 5)))
    assert state.nu.shape == (4, 3, 5)
    assert [v.shape for v in state.mu] == [(3, 4), (3, 5)]


def test_no_layers_at_all():
    params = jnp.ones((0, 2, 3))
    assert updates_of(gc.per_layer(gc.scale_by_sm3(), 0), [params], params)[0].shape == (0, 2, 3)


@gc.leafwise(slots={"draw": gc.Slot(lambda p, hyper: 1.0)}, random=True, extra=("value",), whole=gc.global_norm)
def draw(g: Any, slot: gc.Slots, at: gc.At, key: gc.Key, size: gc.Hyper = 1.0):
    """Use everything that a rule may use."""
    noise = size * jax.random.normal(at.key) * slot.draw
    return g * noise + 0 * at.value + at.whole, slot(draw=1.0)


def test_each_layer_draws_from_its_own_key_and_sees_the_whole():
    params = jnp.ones((LAYERS, 2))
    tx = gc.per_layer(draw(0), 0)
    state = tx.init(params)
    assert state.draw.shape == (LAYERS,)
    updates, state = tx.update(params, state, value=jnp.ones(()))
    assert len(np.unique(updates)) == LAYERS
    trees.assert_close(jax.jit(tx.update)(params, tx.init(params), value=jnp.ones(())), (updates, state), 1e-6)
    centered, _ = gc.per_layer(draw(0, 0.0), 0).update(params, tx.init(params), value=jnp.ones(()))
    np.testing.assert_allclose(centered, np.sqrt(6), rtol=1e-6)


def test_hyperparameters_have_the_names_that_they_had():
    tx = gc.lamb(gc.linear_schedule(0.1, 0.0, 10))
    layered = gc.per_layer(tx, 0)
    assert gc.hyperparams(layered) == gc.hyperparams(tx)
    assert layered.replace(trust_coefficient=2.0) == gc.per_layer(tx.replace(trust_coefficient=2.0), 0)
    assert pickle.loads(pickle.dumps(layered)) == layered
    params = jnp.ones((2, 3))
    steered = gc.hyperparams_in_state(layered)
    trees.assert_close(updates_of(steered, [params], params), updates_of(layered, [params], params), 1e-6)


def test_a_batch_of_transforms_in_a_scan():
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 2)), "float32")}
    tx = gc.per_layer(gc.lamb(0.1), 0)

    def run(tx):
        def body(carry, _):
            params, state = carry
            updates, state = tx.update(params, state, params)
            return (gc.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, tx.init(params)), length=5)[0][0]

    batch = tx.replace(learning_rate=jnp.array([0.1, 0.2]))
    together = jax.jit(jax.vmap(run, in_axes=(gc.batch_axes(batch),)))(batch)
    trees.assert_close(trees.at(together, 1), run(tx.replace(learning_rate=0.2)), 1e-6)


def test_errors_name_path_and_axis():
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(())}
    with pytest.raises(ValueError, match=r"per_layer: \['b'\] has no axis 0, its shape is \(\)"):
        gc.per_layer(gc.centralize(), 0).init(params)
    with pytest.raises(ValueError, match=r"per_layer: \['b'\] has no axis 0"):
        gc.per_layer(gc.centralize(), 0).init({"b": 1.0})
    with pytest.raises(ValueError, match=r"per_layer: \['w'\] has no axis -3, its shape is \(2, 2\)"):
        gc.per_layer(gc.centralize(), {"w": -3, "b": None}).update(params, (), params)
    with pytest.raises(ValueError, match=r"axes must be a prefix of the parameters: .*params has \['w'\]"):
        gc.per_layer(gc.centralize(), {"b": None}).init(params)
    for wrong in (0.5, True, "layers", {"w": "0"}):
        with pytest.raises(TypeError, match="per_layer: axes must be a whole number, a tree of them or a function"):
            gc.per_layer(gc.centralize(), wrong)
    with pytest.raises(TypeError, match="axes can't be None"):
        gc.per_layer(gc.centralize(), None)
    with pytest.raises(TypeError, match=r"axes's result must be a whole number"):
        gc.per_layer(gc.centralize(), lambda params: 0.5).init(params)


def test_what_cannot_be_looked_into_is_an_error():
    for tx in (optax.adam(0.1), gc.chain(gc.scale(2.0), optax.adam(0.1)), gc.inject_hyperparams(gc.lamb)(0.1)):
        with pytest.raises(TypeError, match="per_layer can't look into"):
            gc.per_layer(tx, 0)


Size = Annotated[Any, PerLeafKind("a whole number", int)]


@gc.leafwise(slots={"wide": gc.Slot(lambda p, hyper: jnp.zeros(hyper.size or 1))})
def repeat(g: Any, slot: gc.Slots, at: gc.At, size: Size = None):
    """Multiply by the value that is declared for each array alone."""
    return g * (size or 1), slot(wide=slot.wide)


def test_a_rule_may_declare_a_value_for_each_array():
    params = {"a": jnp.ones(2), "b": {"c": jnp.ones(2), "d": None}}
    for size in ({"a": 3, "b": None}, lambda tree: {"a": 3, "b": {"c": None, "d": 7}}):
        tx = repeat(size)
        state = tx.init(params)
        assert (state.wide["a"].shape, state.wide["b"]["c"].shape) == ((3,), (1,))
        updates, _ = jax.jit(tx.update)(params, state)
        assert (updates["a"][0], updates["b"]["c"][0]) == (3, 1)
    assert repeat(3).update(params, repeat(3).init(params))[0]["b"]["c"][0] == 3
    assert repeat({"a": 3, "b": None}) == repeat({"a": 3, "b": None}) != repeat({"a": 2, "b": None})
    with pytest.raises(TypeError, match="repeat: size must be a whole number, a tree of them"):
        repeat({"a": "3"})


def test_a_function_of_parameters_sees_one_layer():
    seen = []
    tx = gc.per_layer(repeat(lambda tree: seen.append(tree["a"].shape)), 1)
    tx.init({"a": jnp.ones((2, 3))})
    assert seen == [(2,)]


def test_a_treewise_rule_gets_a_tree_of_the_values_for_each_array():
    @gc.treewise()
    def repeat_all(updates: Any, slot: gc.Slots, at: gc.At, size: Size = None):
        return jax.tree.map(lambda g, n: g * (n or 1), updates, size, is_leaf=lambda x: x is None)

    params = {"a": jnp.ones(2), "b": {"c": jnp.ones(2), "d": jnp.ones(2)}}
    tx = repeat_all({"a": 3, "b": {"c": None, "d": 7}})
    updates, _ = jax.jit(tx.update)(params, tx.init(params))
    assert (updates["a"][0], updates["b"]["c"][0], updates["b"]["d"][0]) == (3, 1, 7)
