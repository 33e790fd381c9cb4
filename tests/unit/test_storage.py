"""``store``: which slots are stored how, how many bytes they take, and that averages don't stand still."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from gradchain import tree
from tests import trees

PARAMS = {"embed": {"kernel": jnp.ones((64, 32))}, "layer": {"kernel": jnp.ones((32, 64)), "bias": jnp.ones(64)}}


def formats(state, slot):
    """Return how each array of a slot is stored, by path."""
    found = tree.get(state, slot)
    pairs = jax.tree_util.tree_flatten_with_path(found, is_leaf=lambda x: isinstance(x, gc.Stored))[0]
    names = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in pairs}
    return {path: x.codec.format if isinstance(x, gc.Stored) else str(x.dtype) for path, x in names.items()}


def of(kernels, bias="float32"):
    return {"embed/kernel": kernels, "layer/bias": bias, "layer/kernel": kernels}


def test_slots_are_chosen_by_name_and_small_arrays_stay():
    state = gc.store(gc.adam(0.1), mu="bfloat16", nu="int8", min_size=100).init(PARAMS)
    assert formats(state, "mu") == of("bfloat16")
    assert formats(state, "nu") == of("int8")
    state = gc.store(gc.adam(0.1), "int4", mu="float32", min_size=64).init(PARAMS)
    assert formats(state, "mu") == of("float32")
    assert formats(state, "nu") == of("int4", "int4")
    assert formats(gc.store(gc.adam(0.1), "int8").init(PARAMS), "mu") == of("float32")


def test_signs_are_stored_where_a_slot_may_be_negative():
    state = gc.store(gc.adam(0.1), "int8", min_size=0).init(PARAMS)
    signed = {slot: tree.get(state, slot)["layer"]["kernel"].codec.signed for slot in ("mu", "nu")}
    assert signed == {"mu": True, "nu": False}


def test_parameters_are_chosen_by_path_or_by_array():
    choice = gc.by_path([("embed", "float32"), ("bias", "bfloat16")], default="int8")
    state = gc.store(gc.adam(0.1), choice, min_size=0).init(PARAMS)
    assert formats(state, "nu") == {"embed/kernel": "float32", "layer/bias": "bfloat16", "layer/kernel": "int8"}
    by_shape = gc.by_leaf(lambda path, leaf: gc.codec("int4", 32) if leaf.shape[-1] == 32 else None)
    state = gc.store(gc.adam(0.1), nu=by_shape, min_size=0).init(PARAMS)
    assert formats(state, "nu") == {"embed/kernel": "int4", "layer/bias": "float32", "layer/kernel": "float32"}


def test_one_of_several_transforms_is_chosen_by_its_name():
    tx = gc.chain(gc.trace(0.9), gc.scale_by_adam(), gc.trace(0.5))
    state = gc.store(tx, min_size=0, **{"trace.trace": "int8", "scale_by_adam.mu": "bfloat16"}).init(PARAMS)
    assert formats(state, "trace.trace") == of("int8", "int8")
    assert formats(state, "scale_by_adam.mu") == of("bfloat16", "bfloat16")
    assert formats(state, "nu") == of("float32")


def test_other_trees_in_a_state_are_stored_where_they_are_named():
    tx = gc.store(gc.average_params(gc.adam(0.1), 0.9), "int8", average="bfloat16", min_size=0)
    state = tx.init(PARAMS)
    assert formats(state, "average") == of("bfloat16", "bfloat16")
    assert formats(state, "nu") == of("int8", "int8")
    weights = gc.eval_params(tx, state, PARAMS)
    trees.assert_same_kind(weights, PARAMS)
    foreign = gc.store(optax.adam(0.1), nu="bfloat16", min_size=0)
    assert formats(foreign.init(PARAMS), "nu") == of("bfloat16", "bfloat16")
    updates, _ = foreign.update(PARAMS, foreign.init(PARAMS), PARAMS)
    trees.assert_close(updates, jax.tree.map(lambda x: -0.1 * x, PARAMS), 1e-5)


def test_the_innermost_store_decides():
    inner = gc.store(gc.scale_by_adam(), "bfloat16", min_size=0)
    tx = gc.store(gc.chain(inner, gc.trace(0.9)), "int8", min_size=0)
    state = tx.init(PARAMS)
    assert formats(state, "mu") == of("bfloat16", "bfloat16")
    assert formats(state, "trace.trace") == of("int8", "int8")
    _, after = jax.jit(tx.update)(PARAMS, state, PARAMS)
    trees.assert_same_kind(after, state)


def test_mistakes_are_named():
    for choice, message in {
        "bfloat17": "store: default: codec: format must be one of",
        gc.by_path([("kernel", "int7")], default="int8"): "store: embed/kernel: codec: format must be one of",
        gc.by_path(
            [("kernal", "int8")], default="float32"
        ): "pattern 'kernal' matches no parameter; there are: embed/k",
    }.items():
        with pytest.raises(ValueError, match=message):
            gc.store(gc.adam(0.1), choice).init(PARAMS)
    with pytest.raises(ValueError, match=r"no slot is called 'nv'; there are: scale_by_adam\.mu, scale_by_adam\.nu"):
        gc.store(gc.adam(0.1), nv="int8").init(PARAMS)
    with pytest.raises(ValueError, match="store: nu: codec: format must be one of"):
        gc.store(gc.adam(0.1), nu="int")
    with pytest.raises(TypeError, match=r"min_size must be a whole number, got 1\.5"):
        gc.store(gc.adam(0.1), min_size=1.5)


def test_eight_bit_adam_takes_two_bytes_a_parameter_computed_and_measured():
    params = {"w": jnp.ones((512, 256)), "b": jnp.ones(64)}
    size, small = 512 * 256, 64
    single, tx = gc.adam(0.1), gc.store(gc.adam(0.1), "int8")
    counts, key = 2 * 4 + 2 * 4, 8
    slots = 2 * (size + 4 * size // 256 + 4 * small)
    state = tx.init(params)
    assert sum(x.nbytes for x in jax.tree.leaves(state)) == slots + counts + key
    assert gc.describe(tx, params).state_bytes == slots + counts + key
    assert gc.describe(tx, params).to_dict()["parameters"]["w"]["state_bytes"] / (2 * size) < 1.1

    def measured(tx):
        step = jax.jit(lambda state, params: tx.update(params, state, params)[1])
        return step.lower(tx.init(params), params).compile().memory_analysis().output_size_in_bytes

    saved = measured(single) - measured(tx)
    assert saved == pytest.approx(2 * (4 * size - size - 4 * size // 256) - key, abs=64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bfloat16", "float16", "float8", "int8"])
def test_an_average_fades_with_stochastic_rounding_and_stands_still_without(name):
    steps, decay = 2000, 0.999
    one, zero = jnp.ones(4096), jnp.zeros(4096)

    def last(codec):
        tx = gc.store(gc.scale_by_rms(decay, initial_scale=0.0), codec)
        state = tx.update(one, tx.init(one))[1]
        step = jax.jit(lambda state: jax.lax.scan(lambda s, _: (tx.update(zero, s)[1], None), state, length=steps)[0])
        return float(jnp.mean(tree.get(gc.decoded(step(state)), "nu"))) / (1 - decay)

    assert last(gc.codec(name)) == pytest.approx(decay**steps, rel=0.1)
    stands_still = 1.0 if name == "bfloat16" else decay**steps  # a block's scale fades with its largest number
    assert last(gc.codec(name, rounding="nearest")) == pytest.approx(stands_still, rel=0.01)


def test_decoded_state_is_that_of_the_transform_inside():
    tx = gc.adam(0.1)
    stored = gc.store(tx, "bfloat16", min_size=0)
    state = stored.update(PARAMS, stored.init(PARAMS), PARAMS)[1]
    plain = gc.decoded(state).inner_state
    trees.assert_same_kind(plain, tx.init(PARAMS))
    trees.assert_close(plain, tx.update(PARAMS, tx.init(PARAMS), PARAMS)[1], 0.01)


@pytest.mark.slow
def test_a_batch_of_models_equals_single_ones():
    tx = gc.store(gc.adam(0.1), "int4", min_size=0)
    batch = jnp.asarray(np.random.default_rng(0).standard_normal((3, 8, 32)), "float32")

    def run(params):
        state = tx.init(params)
        for _ in range(3):
            updates, state = tx.update(params, state, params)
            params = gc.apply_updates(params, updates)
        return params, state

    together = jax.jit(jax.vmap(run))(batch)
    for i in range(3):
        trees.assert_close(trees.at(together, i), run(batch[i]), 2e-6)


def test_the_first_state_of_large_arrays_is_encoded_when_it_runs_not_when_it_is_compiled():
    text = jax.jit(gc.store(gc.adam(0.1), "int8").init).lower(jnp.ones((64, 64))).as_text()
    assert text.count("optimization_barrier") == 2
