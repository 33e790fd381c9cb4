"""Loss scaling: small gradients survive, overflowed steps are left out, and the scale recovers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain import training
from tests import trees

PARAMS = jnp.array([1.0, 2.0], "float16")


def feed(tx, gradients):
    """Return updates, scales and numbers of skipped steps, one for each gradient of the scaled loss."""
    state, results = tx.init(PARAMS), []
    for gradient in gradients:
        updates, state = tx.update(jnp.full(2, gradient, "float16"), state, PARAMS)
        results.append((float(updates[0]), float(state.scale), int(state.skipped)))
    return zip(*results, strict=True)


def test_the_scale_is_halved_by_overflows_and_doubled_after_good_steps():
    tx = gc.loss_scale(gc.scale(1.0), 8.0, growth_interval=2)
    updates, scales, skipped = feed(tx, [8.0, jnp.inf, jnp.nan, 1.0, 2.0, 4.0, 4.0, 8.0])
    assert updates == (1.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0)
    assert scales == (8.0, 4.0, 2.0, 2.0, 4.0, 4.0, 8.0, 8.0)
    assert skipped == (0, 1, 2, 2, 2, 2, 2, 2)


def test_the_scale_stays_within_its_bounds():
    down = gc.loss_scale(gc.scale(1.0), 8.0, min_scale=3.0)
    assert list(feed(down, [jnp.inf] * 3))[1] == (4.0, 3.0, 3.0)
    up = gc.loss_scale(gc.scale(1.0), 8.0, growth_interval=1, max_scale=20.0)
    assert list(feed(up, [1.0] * 3))[1] == (16.0, 20.0, 20.0)
    beyond = gc.loss_scale(gc.scale(1.0), 64.0, growth_interval=1, max_scale=20.0)
    assert list(feed(beyond, [1.0] * 2))[1] == (64.0, 64.0)


def test_a_static_scale_stays_and_still_leaves_overflows_out():
    updates, scales, skipped = feed(gc.loss_scale(gc.scale(1.0), 8.0, growth_interval=None), [8.0, jnp.inf, 8.0])
    assert (updates, scales, skipped) == ((1.0, 0.0, 1.0), (8.0,) * 3, (0, 1, 1))


def test_a_step_left_out_changes_nothing_inside():
    tx = gc.loss_scale(gc.adam(0.1))
    state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)[1]
    after = tx.update(PARAMS.at[0].set(jnp.inf), state, PARAMS)[1]
    trees.assert_close(after.inner_state, state.inner_state, 0)
    metrics = gc.metrics(tx, after)
    assert (metrics["loss_scale.scale"], metrics["loss_scale.skipped"]) == (2.0**14, 1)


def in_float32(params):
    """Return parameters in float32; their gradient is rounded to float16, which a GPU's kernels would leave out."""
    return jax.lax.optimization_barrier(params).astype("float32")


def small_loss(params, batch):
    """Return a loss whose gradient is below the smallest float16 number."""
    return jnp.mean(jnp.float32(1e-8) * (in_float32(params) - 3) ** 2)


@pytest.mark.parametrize("scaled", [True, False])
def test_gradients_too_small_for_float16_survive_if_scaled(scaled):
    inner = gc.sgd(1e7)
    tx = gc.loss_scale(inner) if scaled else inner
    params = jnp.zeros(4, "float16")
    step = training.make_step(small_loss, tx)
    state = tx.init(params)
    for _ in range(60):
        params, state, metrics = step(params, state, None)
    assert (float(metrics.loss) < 1e-9) == scaled
    assert (float(params[0]) == 0) != scaled


def test_training_recovers_from_a_scale_that_is_too_large_and_reports_the_loss_itself():
    tx = gc.loss_scale(gc.sgd(0.5), 2.0**24)
    params = jnp.zeros(4, "float16")

    def loss(params, batch):
        return jnp.sum((in_float32(params) - 2) ** 2) / 4

    state = tx.init(params)
    step = jax.jit(lambda params, state: training.train_step(loss, params, tx, state, None))
    losses = []
    for _ in range(40):
        params, state, metrics = step(params, state)
        losses.append(float(metrics.loss))
    assert losses[0] == 4.0
    assert losses[-1] < 1e-5
    assert 5 <= int(state.skipped) <= 12
    assert float(state.scale) == 2.0 ** (24 - int(state.skipped))


def test_extra_arguments_are_those_of_the_loss_itself():
    seen = []

    @gc.treewise(extra=("grad", "value"))
    def look(updates, slot, at):
        """Note what comes."""
        seen.append((at.grad, at.value, updates))
        return updates

    tx = gc.loss_scale(look(), 1024.0)
    params = jnp.array([3.0])
    training.train_step(lambda w, batch: jnp.sum(w**2), params, tx, tx.init(params), None)
    ((grad, value, updates),) = seen
    assert (float(grad[0]), float(value), float(updates[0])) == (6.0, 9.0, 6.0)


def test_the_scale_is_found_at_any_depth():
    tx = gc.chain(gc.clip(1.0), gc.masked(gc.loss_scale(gc.adam(0.1), 64.0), True))
    assert float(gc.current_loss_scale(tx.init(PARAMS))) == 64.0
    assert gc.current_loss_scale(gc.adam(0.1).init(PARAMS)) == 1.0
    twice = gc.loss_scale(gc.loss_scale(gc.adam(0.1)))
    with pytest.raises(ValueError, match="2 transforms scale the loss"):
        gc.current_loss_scale(twice.init(PARAMS))


def test_a_batch_of_scales_equals_single_ones():
    def run(tx):
        return jnp.stack([*map(jnp.asarray, list(feed_traced(tx)))])

    def feed_traced(tx):
        state = tx.init(PARAMS)
        for gradient in (4.0, jnp.inf, 4.0):
            updates, state = tx.update(jnp.full(2, gradient, "float16"), state, PARAMS)
            yield updates[0].astype("float32")
            yield state.scale

    batch = gc.loss_scale(gc.scale(1.0), jnp.array([2.0, 8.0]))
    together = jax.vmap(run, in_axes=(gc.batch_axes(batch),))(batch)
    np.testing.assert_array_equal(together, np.stack([run(gc.loss_scale(gc.scale(1.0), s)) for s in (2.0, 8.0)]))
