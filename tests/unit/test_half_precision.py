"""Half-precision parameters that take steps below their spacing, in each way there is; and that they stall without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from tests import trees

STEPS = 10_000
WAYS = {
    "stochastic_rounding": gc.stochastic_rounding,
    "kahan": gc.kahan,
    "master_weights_32": gc.master_weights,
    "master_weights_16": lambda tx: gc.master_weights(tx, bits=16),
    "master_weights_8": lambda tx: gc.master_weights(tx, bits=8),
}

BYTES = {
    "stochastic_rounding": 0,
    "kahan": 2,
    "master_weights_32": 4,
    "master_weights_16": 2,
    "master_weights_8": 1,
}


def walk(tx, weights, update, steps=STEPS):
    """Return weights and state after constant updates."""

    def step(carry, _):
        weights, state = carry
        updates, state = tx.update(update, state, weights)
        return (gc.apply_updates(weights, updates), state), None

    run = jax.jit(lambda weights: jax.lax.scan(step, (weights, tx.init(weights)), length=steps)[0])
    return run(weights)


def check_mean_and_variance(weights, update, spacing):
    """Check the end of a walk of ``STEPS`` rounded steps from 1."""
    mean, variance = STEPS * update, STEPS * update * (spacing - update)
    moved = np.asarray(weights, np.float64) - 1
    assert abs(moved.mean() - mean) < 4 * np.sqrt(variance / moved.size)
    assert abs(moved.var() / variance - 1) < 4 * np.sqrt(2 / moved.size)


def test_stochastic_rounding_is_unbiased_over_10000_steps_and_its_variance_is_that_of_a_coin():
    update, spacing = 4e-5, 2.0**-7
    weights, updates = jnp.ones(4096, "bfloat16"), jnp.full(4096, update)
    assert np.all(np.asarray(walk(gc.identity(), weights, updates)[0], np.float32) == 1)
    check_mean_and_variance(walk(gc.stochastic_rounding(gc.identity()), weights, updates)[0], update, spacing)


def test_apply_updates_with_stochastic_rounding_is_unbiased_over_10000_steps():
    update, spacing = 4e-5, 2.0**-7

    def step(weights, key):
        return gc.apply_updates(weights, {"w": jnp.full(4096, update)}, rounding="stochastic", key=key), None

    keys = jax.random.split(jax.random.key(0), STEPS)
    weights, _ = jax.jit(lambda w: jax.lax.scan(step, w, keys))({"w": jnp.ones(4096, "bfloat16")})
    check_mean_and_variance(weights["w"], update, spacing)


@pytest.fixture(scope="module")
def regression():
    """Return a function from a transform and a dtype to the loss after ``STEPS`` small steps on least squares."""
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.standard_normal((64, 32)), "float32")
    targets = inputs @ jnp.asarray(rng.standard_normal(32), "float32") + jnp.asarray(rng.standard_normal(64), "float32")

    def loss(weights):
        return jnp.mean((inputs @ weights.astype("float32") - targets) ** 2)

    def run(tx, dtype):
        def step(carry, _):
            weights, state = carry
            updates, state = tx.update(jax.grad(loss)(weights), state, weights)
            return (gc.apply_updates(weights, updates), state), None

        weights = jnp.asarray(np.random.default_rng(1).standard_normal(32), "bfloat16").astype(dtype)
        scan = jax.jit(lambda w: jax.lax.scan(step, (w, tx.init(w)), length=STEPS)[0][0])
        return float(loss(scan(weights)))

    single = run(gc.sgd(2e-4), "float32")
    return lambda wrap, dtype: run(wrap(gc.sgd(2e-4)), dtype) / single


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", WAYS)
def test_each_way_reaches_the_loss_of_single_precision(way, dtype, regression):
    assert abs(regression(WAYS[way], dtype) - 1) < {"bfloat16": 0.1, "float16": 0.02}[dtype]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_plain_half_precision_stalls_far_above(dtype, regression):
    assert regression(lambda tx: tx, dtype) > 10


@pytest.mark.parametrize("bits", [16, 32])
def test_sixteen_bits_more_are_the_trajectory_of_single_precision(bits):
    rng = np.random.default_rng(0)
    start = jnp.asarray(rng.standard_normal(300), "bfloat16")
    gradients = jnp.asarray(rng.standard_normal((200, 300)), "float32")
    inner = gc.adamw(1e-4, weight_decay=0.1)
    tx = gc.master_weights(inner, bits)

    def run(tx, weights):
        def step(carry, gradient):
            weights, state = carry
            updates, state = tx.update(gradient, state, weights)
            return (gc.apply_updates(weights, updates), state), None

        return jax.jit(lambda w: jax.lax.scan(step, (w, tx.init(w)), gradients)[0])(weights)

    single, _ = run(inner, start.astype("float32"))
    half, state = run(tx, start)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.float32(half), np.float32(single.astype("bfloat16")))
    full = tx.weights(state, half.astype("float32"), half)
    np.testing.assert_allclose(full, single, rtol=1e-6)


@pytest.mark.parametrize("way", ["kahan", "master_weights_32", "master_weights_16", "master_weights_8"])
def test_weights_that_other_code_has_changed_are_where_the_next_step_begins(way):
    tx = WAYS[way](gc.identity())
    weights = jnp.ones(4, "bfloat16")
    state = tx.init(weights)
    for _ in range(3):
        updates, state = tx.update(jnp.full(4, 1e-3), state, weights)
        weights = gc.apply_updates(weights, updates)
    moved = jnp.full(4, -3.0, "bfloat16")
    updates, state = tx.update(jnp.full(4, 1.0), state, moved)
    np.testing.assert_allclose(np.float32(gc.apply_updates(moved, updates)), -2.0, rtol=0.01)


@pytest.mark.parametrize("way", WAYS)
def test_arrays_in_full_precision_pass_and_take_no_memory(way):
    params = {"half": jnp.ones(3, "bfloat16"), "single": jnp.ones(3), "complex": jnp.ones(2, "complex64")}
    tx, inner = WAYS[way](gc.sgd(0.1)), gc.sgd(0.1)
    state, gradient = tx.init(params), jax.tree.map(jnp.ones_like, params)
    kept = sum(x.nbytes for x in jax.tree.leaves(state)) - sum(x.nbytes for x in jax.tree.leaves(inner.init(params)))
    assert kept == 3 * BYTES[way] + 8 * (way == "stochastic_rounding")
    updates, _ = jax.jit(tx.update)(gradient, state, params)
    trees.assert_same_kind(updates, params)
    expected, _ = inner.update(gradient, inner.init(params), params)
    for name in ("single", "complex"):
        trees.assert_close(updates[name], expected[name], 1e-7)


@pytest.mark.parametrize("way", WAYS)
def test_evaluation_weights_are_those_of_the_transform_inside(way):
    tx = WAYS[way](gc.lookahead(gc.sgd(0.1), 3, 0.5))
    params = jnp.full(3, 2.0, "bfloat16")
    updates, state = tx.update(jnp.ones(3, "bfloat16"), tx.init(params), params)
    weights = gc.eval_params(tx, state, gc.apply_updates(params, updates))
    assert weights.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.float32(weights), 2.0)


def test_updates_larger_than_the_weights_arrive_within_a_spacing():
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.standard_normal(1000), "bfloat16")
    updates = jnp.asarray(-2 * rng.standard_normal(1000), "float32")
    wanted = np.float32(weights) + np.float32(updates)
    for wrap in WAYS.values():
        tx = wrap(gc.identity())
        move, _ = tx.update(updates, tx.init(weights), weights)
        got = np.float32(gc.apply_updates(weights, move))
        assert np.all(np.abs(got - wanted) <= 2.0**-7 * (np.abs(wanted) + np.abs(np.float32(updates))))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="master_weights: bits must be 8, 16 or 32, got 24"):
        gc.master_weights(gc.sgd(0.1), 24)
    params = jnp.ones(2, "bfloat16")
    for arguments, message in {
        ("kahan",): r"kahan keeps what was lost, so it is a transform: kahan\(tx\)",
        ("up",): "rounding must be 'nearest' or 'stochastic', got 'up'",
        ("stochastic",): "needs a PRNG key: pass key=jax.random.key",
    }.items():
        with pytest.raises(ValueError, match=message):
            gc.apply_updates(params, params, *arguments)
