"""The scale that falls on plateaus: Optax's trajectories, and where they differ on purpose."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax.contrib
import pytest

import gradchain as gc
from tests import trees
from tests.unit.test_accumulation import run

ONES = jnp.ones(2)
SETTINGS = [
    {},
    {"factor": 0.5, "patience": 3, "cooldown": 2},
    {"factor": 0.5, "patience": 2, "accumulation_size": 3, "min_scale": 0.2},
    {"factor": 0.7, "patience": 1, "rtol": 0.0, "atol": 0.3, "cooldown": 4, "min_scale": 0.05},
    {"factor": 0.3, "patience": 4, "rtol": 0.2, "accumulation_size": 2},
]


def scales(tx):
    """Return a compiled function from losses to the scales that the steps multiply with."""

    def step(state, loss):
        updates, state = tx.update(ONES, state, ONES, value=loss)
        return state, updates[0]

    return jax.jit(lambda losses: jax.lax.scan(step, tx.init(ONES), losses)[1])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_trajectories_are_those_of_optax(settings):
    ours = scales(gc.reduce_on_plateau(**settings))
    theirs = scales(optax.contrib.reduce_on_plateau(**settings))
    reduced = 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        losses = np.asarray(np.exp(-0.1 * np.arange(40)) + 0.5 * rng.uniform(size=40), "float32")
        losses[rng.integers(40)] = np.nan
        reduced += np.min(ours(losses)) < 1
        np.testing.assert_allclose(ours(losses), theirs(losses), rtol=1e-5)
    assert reduced > 5


def test_signature_is_that_of_optax():
    ours, theirs = (inspect.signature(f) for f in (gc.reduce_on_plateau, optax.contrib.reduce_on_plateau))
    assert [(p.name, p.default) for p in ours.parameters.values()] == [
        (p.name, p.default) for p in theirs.parameters.values()
    ]


def test_it_keeps_its_state_and_needs_the_loss():
    tx = gc.chain(gc.adam(0.1), gc.reduce_on_plateau(patience=2))
    for dtype in ("float32", "bfloat16", "complex64"):
        params = trees.standard(dtype)
        state = tx.init(params)
        updates, new = jax.jit(tx.update)(params, state, params, value=jnp.ones((), "bfloat16"))
        trees.assert_same_kind(new, state)
        trees.assert_same_kind(updates, params)
    with pytest.raises(ValueError, match="reduce_on_plateau needs 'value'"):
        tx.update(params, state, params)


@pytest.mark.slow
def test_the_scale_of_half_precision_parameters_is_exact_here_and_rounded_there():
    tx, theirs = gc.reduce_on_plateau(0.9, patience=1), optax.contrib.reduce_on_plateau(0.9, patience=1)
    losses = [jnp.ones(())] * 40
    half = jnp.ones(2, "bfloat16")
    ours = run(tx, [half] * 40, half, value=losses)[1].scale
    rounded = run(theirs, [half] * 40, half, value=losses)[1].scale
    np.testing.assert_allclose(ours, 0.9**39, rtol=1e-5)
    assert abs(rounded.astype("float32") / 0.9**39 - 1) > 0.005


def test_without_patience_an_improvement_keeps_the_scale_here_and_reduces_it_there():
    losses = jnp.array([4.0, 3.0, 2.0])
    np.testing.assert_allclose(scales(gc.reduce_on_plateau(0.5, patience=0))(losses), 1)
    np.testing.assert_allclose(scales(optax.contrib.reduce_on_plateau(0.5, patience=0))(losses), [0.5, 0.25, 0.125])


def test_new_numbers_do_not_retrace_and_batches_equal_single_runs():
    traces, losses = [], jnp.array([1.0, 1, 1, 0.5, 0.5, 0.5, 0.5])

    @jax.jit
    def updates(tx):
        traces.append(1)

        def step(state, loss):
            u, state = tx.update(ONES, state, ONES, value=loss)
            return state, u[0]

        return jax.lax.scan(step, tx.init(ONES), losses)[1]

    one, other = (updates(gc.reduce_on_plateau(f, patience=p)) for f, p in ((0.5, 1), (0.1, 2)))
    assert len(traces) == 1
    batch = gc.reduce_on_plateau(jnp.array([0.5, 0.1]), patience=jnp.array([1, 2]))
    together = jax.vmap(updates, in_axes=(gc.batch_axes(batch),))(batch)
    np.testing.assert_allclose(together, [one, other], rtol=1e-6)
    np.testing.assert_allclose(one, [1, 0.5, 0.25, 0.25, 0.125, 0.0625, 0.03125])


def test_the_scale_is_among_the_metrics():
    tx = gc.chain(gc.adam(0.1), gc.reduce_on_plateau(0.5, patience=1))
    state = run(tx, [ONES] * 3, ONES, value=[1.0] * 3)[1]
    assert gc.metrics(tx, state)["reduce_on_plateau.scale"] == 0.25


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_loss_that_stands_still_is_a_plateau_whatever_its_sign(settings):
    of = scales(gc.reduce_on_plateau(**settings))
    above, at, below = (np.asarray(of(np.full(60, loss, "float32"))) for loss in (2.0, 0.0, -2.0))
    assert above[-1] < 1
    np.testing.assert_array_equal(below, above)
    np.testing.assert_array_equal(at, above)


def test_the_best_of_rising_losses_is_the_first():
    tx = gc.reduce_on_plateau(rtol=0.1, patience=5)
    state = tx.init(ONES)
    for loss in (-10.0, -9.5, -9.0, -10.9):
        _, state = tx.update(ONES, state, ONES, value=loss)
    assert float(state.best_value) == -10


def test_an_improvement_is_relative_to_the_size_of_the_loss():
    of = scales(gc.reduce_on_plateau(0.5, patience=1, rtol=0.1))
    falling = np.array([2.0, 1.7, 1.4, 1.2, 0.5, 0.0, -1.0, -1.2, -1.4, -2.0], "float32")
    np.testing.assert_array_equal(of(falling), 1)
    creeping = np.array([-1.0, -1.05, -1.09, -1.2, -1.25], "float32")
    np.testing.assert_array_equal(of(creeping), [1, 0.5, 0.25, 0.25, 0.125])
