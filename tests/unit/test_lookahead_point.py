"""Gradients ahead of the weights: what the transform is in known cases, and what its evaluation weights are."""

import jax
import jax.numpy as jnp
import numpy as np

import gradchain as gc
from tests import trees
from tests.unit.test_averages import GRADIENTS, PARAMS, last, path, walk


def in_double():
    """Return the standard walk's parameters and gradients in float64."""
    return {"params": trees.standard("float64"), "gradients": trees.stream(12, "float64")}


def test_without_extrapolation_it_is_the_optimizer_inside():
    weights = path(gc.adam(0.05))
    for step_from in ("lookahead", "weights"):
        for k, (params, state) in enumerate(walk(tx := gc.ema_nesterov(gc.adam(0.05), 0.0, step_from=step_from))):
            trees.assert_close(params, weights[k], 0)
            trees.assert_close(gc.eval_params(tx, state, params), weights[k], 0)


def test_ahead_by_one_step_it_is_nesterovs_method(x64):
    """Then the average is the last step, and the step from the point ahead is where momentum comes from."""
    ours = path(gc.ema_nesterov(gc.sgd(0.1), 0.8, decay=0.0), **in_double())
    trees.assert_close(ours, path(gc.sgd(0.1, momentum=0.8, nesterov=True), **in_double()), 1e-13)


def test_steps_from_the_weights_are_the_anchor_lookahead(x64):
    """With g (w - e) ahead of w, where e is the moving average of the weights from their start."""
    g, tau = 0.45, 5.0
    tx = gc.ema_nesterov(gc.trace(0.5), g * (tau - 1), 1 - 1 / tau, step_from="weights")
    start, gradients = in_double().values()
    w, e, m = start, start, gc.trace(0.5).init(start)
    for k, (params, state) in enumerate(walk(tx, params=start, gradients=gradients)):
        move, m = gc.trace(0.5).update(trees.at(gradients, k), m)
        w = gc.tree.add(w, move)
        e = jax.tree.map(lambda e, w: e + (w - e) / tau, e, w)
        trees.assert_close(gc.eval_params(tx, state, params), w, 1e-13)
        trees.assert_close(params, jax.tree.map(lambda w, e: w + g * (w - e), w, e), 1e-13)


def test_the_schedule_counts_the_updates_that_led_to_the_point():
    tx = gc.ema_nesterov(gc.sgd(0.05), gc.join_schedules([0.0, 0.5, 0.0], [3, 5]), 0.5)
    ahead = [trees.relative_error(params, gc.eval_params(tx, state, params)) > 1e-3 for params, state in walk(tx)]
    assert ahead == [3 <= updates < 5 for updates in range(1, 13)]
    _, state, _ = last(tx, steps=4)
    assert float(gc.hyperparams(tx, state)["ema_nesterov.beta"]) == float(state.beta) == 0.5


def test_a_changed_beta_moves_the_parameters_and_not_the_weights_behind_them():
    tx = gc.ema_nesterov(gc.sgd(0.05), 0.9, 0.5)
    params, state, before = last(tx)
    changed = tx.replace(beta=0.1, learning_rate=0.0)
    trees.assert_close(gc.eval_params(changed, state, params), before, 0)
    updates, state = changed.update(trees.at(GRADIENTS, 0), state, params)
    there = gc.apply_updates(params, updates)
    assert trees.relative_error(there, params) > 1e-3
    trees.assert_close(gc.eval_params(changed, state, there), params, 1e-6)


def test_bfloat16_parameters_have_an_average_in_float32():
    tx, params = gc.ema_nesterov(gc.sgd(1e-3)), trees.standard("bfloat16")
    *_, (_, state) = walk(tx, params=params, gradients=trees.stream(12, "bfloat16"))
    assert {x.dtype for x in jax.tree.leaves(state.velocity)} == {jnp.dtype("float32")}
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(trees.as_numpy(state.velocity)))


def test_none_of_it_needs_the_parameters():
    tx = gc.ema_nesterov(gc.sgd(0.05, momentum=0.9))
    state = tx.init(PARAMS)
    trees.assert_close(tx.update(PARAMS, state)[0], tx.update(PARAMS, state, PARAMS)[0], 0)


def test_weights_behind_obey_constraints_inside_to_the_last_digit():
    """Where weights reach 0 the point ahead is below it, and the way back is rounded."""
    tx = gc.ema_nesterov(gc.chain(gc.sgd(0.3), gc.keep_params_nonnegative()), 0.7, 0.6)
    start = jnp.linspace(0.1, 1.0, 50)
    for params, state in walk(tx, 4, start, jnp.broadcast_to(start, (4, 50))):
        assert float(gc.eval_params(tx, state, params).min()) >= 0
    assert float(params.min()) < 0
