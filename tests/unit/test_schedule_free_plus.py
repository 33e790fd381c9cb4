"""Schedule-Free+: a rate from the loss, and an average whose weights follow from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from tests import trees

DIRECTION = gc.chain(gc.scale_by_adam(0.9, 0.95), gc.scale(-1.0))
TARGET = np.array([3.0, -1.0])


def loss_fn(w):
    return jnp.sum(jnp.array([1.0, 5.0], w.dtype) * (w - TARGET) ** 2)


def walk(tx, steps=6, factor=1.0, start=(0.0, 0.0)):
    """Yield (params, state, the gradient before, the loss before) after each step down a bowl."""
    params = jnp.array(start)
    state = tx.init(params)
    for _ in range(steps):
        value, gradient = jax.value_and_grad(lambda w: factor * loss_fn(w))(params)
        updates, state = tx.update(gradient, state, params, value=value)
        params = gc.apply_updates(params, updates)
        yield params, state, gradient, value


def test_the_three_points_while_the_share_of_the_average_rises(x64):
    """x, y and z written out, with the loss at z to first order, and the average's beginning after two steps."""
    beta = 1 - gc.exponential_decay(0.5, 4, 0.3)
    x = y = z = np.zeros(2)
    top = total = 0.0
    for k, (params, state, g, value) in enumerate(walk(gc.schedule_free_plus(gc.scale(-1.0), 0.3, beta, start=2))):
        rate = 0.3 * max(value + g @ (z - y), 0) / (np.sqrt(np.pi / 2) * np.abs(g).sum())
        z, top = z - rate * g, max(top, rate)
        total += top**2 if k >= 2 else 0
        share = top**2 / total if k >= 2 else 1
        x = (1 - share) * x + share * z
        y = float(beta(k)) * x + (1 - float(beta(k))) * z
        np.testing.assert_allclose(params, y, rtol=1e-12)
        np.testing.assert_allclose(gc.eval_params(gc.schedule_free_plus(gc.scale(-1.0)), state, params), x, rtol=1e-12)


def test_the_unit_of_the_loss_doesnt_matter(x64):
    tx = gc.schedule_free_plus(gc.chain(gc.scale_by_adam(0.9, 0.95, eps=0.0), gc.scale(-1.0)), weight_decay=0.1)
    *_, (params, *_) = walk(tx)
    *_, (scaled, *_) = walk(tx, factor=1000.0)
    np.testing.assert_allclose(scaled, params, rtol=1e-12)


def test_where_nothing_is_to_be_gained_no_step_is_made():
    tx, params = gc.schedule_free_plus(DIRECTION), jnp.ones(2)
    for gradient, value in ((jnp.zeros(2), 1.0), (jnp.ones(2), -1.0), (jnp.full(2, 1e-30), 0.0)):
        updates, state = tx.update(gradient, tx.init(params), params, value=value)
        np.testing.assert_array_equal(updates, 0.0)
        np.testing.assert_array_equal(gc.eval_params(tx, state, params), params)


def test_without_the_loss_it_says_what_is_missing():
    tx, params = gc.schedule_free_plus(DIRECTION), jnp.ones(2)
    with pytest.raises(ValueError, match=r"schedule_free_plus needs 'value': call update\(.*value=\.\.\.\)"):
        tx.update(params, tx.init(params), params)


def test_several_gradients_behind_one_loss_are_an_error():
    with pytest.raises(
        ValueError, match=r"accumulate inside .* put accumulate around it: accumulate\(schedule_free_plus\(\.\.\.\)"
    ):
        gc.schedule_free_plus(gc.accumulate(DIRECTION, 2))


def test_steps_that_emit_nothing_count_for_nothing():
    tx, params = gc.schedule_free_plus(gc.apply_if_finite(DIRECTION, 9), 0.3, norm_decay=0.5), jnp.ones(2)
    _, state = tx.update(jnp.ones(2), tx.init(params), params, value=1.0)
    updates, skipped = tx.update(jnp.full(2, jnp.nan), state, params, value=jnp.nan)
    np.testing.assert_array_equal(updates, 0.0)
    trees.assert_close(skipped._replace(base_optimizer_state=None), state._replace(base_optimizer_state=None), 0)


def test_what_moves_on_such_steps_moves_the_average_alike():
    base = gc.chain(gc.apply_if_finite(gc.scale(-1.0), 9), gc.trace(0.5))
    tx, params = gc.schedule_free_plus(base, 0.3), jnp.array([1.0, 2.0])
    updates, state = tx.update(jnp.ones(2), tx.init(params), params, value=1.0)
    params = gc.apply_updates(params, updates)
    average = gc.eval_params(tx, state, params)
    updates, state = tx.update(jnp.full(2, jnp.nan), state, params, value=jnp.nan)
    np.testing.assert_allclose(updates, -0.5)
    moved = gc.eval_params(tx, state, gc.apply_updates(params, updates))
    np.testing.assert_allclose(moved - average, -0.5, rtol=1e-5)


def test_constraints_stand_inside():
    bound = gc.keep_params_nonnegative()
    tx = gc.schedule_free_plus(gc.scale(-1.0))
    params, state, *_ = list(walk(gc.chain(tx, bound)))[-1]
    with pytest.raises(ValueError, match=r"put it inside: schedule_free_plus\(chain\("):
        gc.eval_params(gc.chain(tx, bound), state, params)
    inside = gc.schedule_free_plus(gc.chain(gc.scale(-1.0), gc.keep_norm()), 0.1)
    lengths = [jnp.linalg.norm(gc.eval_params(inside, s, w)) for w, s, *_ in walk(inside, start=(2.0, 2.0))]
    np.testing.assert_allclose(lengths, np.sqrt(8.0), rtol=1e-6)
    around = gc.schedule_free_plus(gc.lookahead(gc.scale(-1.0), 2, 0.5))
    with pytest.raises(ValueError, match=r"schedule_free_plus: the transform inside has evaluation weights, too"):
        gc.eval_params(around, around.init(params), params)


def test_the_mask_says_what_decays_and_averaging_starts_after_twice_the_warm_up():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    tx = gc.schedule_free_plus_adamw(0.5, 3, weight_decay=2.0, mask=gc.by_path([("bias", False)], default=True))
    assert gc.hyperparams(tx)["schedule_free_plus.start"] == 6
    assert gc.hyperparams(gc.schedule_free_plus_adamw())["schedule_free_plus.start"] == 0
    tx = tx.replace(**{"schedule_free_plus.learning_rate": 0.5})
    plain, state = tx.replace(weight_decay=0.0), tx.init(params)
    (moved, _), (without, _) = (t.update(params, state, params, value=2.0) for t in (tx, plain))
    np.testing.assert_array_equal(moved["bias"], without["bias"])
    rate = 0.5 * 2 / (np.sqrt(np.pi / 2) * 6)
    np.testing.assert_allclose(moved["kernel"] - without["kernel"], -2.0 * rate**2, rtol=1e-4)


def test_z_of_bfloat16_parameters_is_float32_or_what_is_asked_for():
    params = jnp.ones(3, jnp.bfloat16)
    assert gc.schedule_free_plus(DIRECTION).init(params).z.dtype == jnp.float32
    assert gc.schedule_free_plus_adamw(state_dtype="bfloat16").init(params).z.dtype == jnp.bfloat16
