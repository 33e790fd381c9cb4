"""Evaluation between the weights and their tail average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from tests import trees
from tests.unit.test_averages import last, path, walk


@pytest.mark.parametrize("start", [0, 4])
def test_a_tail_average_begins_with_the_weights_at_its_start(start):
    tx = gc.average_params(gc.sgd(0.05), start=start, time_constant=3)
    weights, average = [trees.standard(), *path(gc.sgd(0.05))], None
    for k, (params, state) in enumerate(walk(tx), 1):
        if k <= start:
            average = weights[k]
        else:
            before = weights[0] if average is None else average
            average = jax.tree.map(lambda e, w: e + (w - e) / 3, before, weights[k])
        trees.assert_close(gc.eval_params(tx, state, params), average, 1e-6)


def test_a_blend_lies_between_the_weights_and_the_average_or_beyond_it():
    params, _, average = last(gc.average_params(gc.sgd(0.05), decay=0.8))
    for blend in (0.0, 0.6, 1.3):
        _, _, weights = last(gc.average_params(gc.sgd(0.05), decay=0.8, blend=blend))
        expected = jax.tree.map(lambda w, e, blend=blend: (1 - blend) * w + blend * e, params, average)
        trees.assert_close(weights, expected, 1e-6)
    trees.assert_close(last(gc.average_params(gc.sgd(0.05), decay=0.8, blend=0.0))[2], params, 0)


def test_a_scheduled_blend_counts_updates():
    tx = gc.average_params(gc.sgd(0.05), blend=gc.piecewise_constant_schedule(1.0, {12: 0.0}))
    for k, (params, state) in enumerate(walk(tx), 1):
        assert (trees.relative_error(gc.eval_params(tx, state, params), params) > 1e-3) == (1 < k < 12)


def test_arrays_may_have_blends_of_their_own():
    blends = gc.by_path([("kernel", 0.5), ("bias", gc.piecewise_constant_schedule(0.0, {}))], default=1.3)
    tx = gc.average_params(gc.sgd(0.05), decay=0.8, blend=blends)
    assert gc.hyperparams(tx)["average_params.blend.kernel"] == 0.5
    params, _, average = last(gc.average_params(gc.sgd(0.05), decay=0.8))
    expected = {n: params[n] + b * (average[n] - params[n]) for n, b in (("bias", 0), ("kernel", 0.5), ("scale", 1.3))}
    trees.assert_close(last(tx)[2], expected, 1e-6)
    few = last(gc.average_params(gc.sgd(0.05), decay=0.8, blend=[("kernel", 0.5)]))[2]
    trees.assert_close(few, {**average, "kernel": expected["kernel"]}, 1e-6)
    part = {**trees.standard(), "bias": None}
    masked = gc.average_params(gc.sgd(0.05), blend=[("kernel", 0.5)])
    assert gc.eval_params(masked, masked.init(part), part)["bias"] is None


def test_a_pattern_for_a_blend_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"by_path: pattern 'kernle' matches no parameter; there are: bias, kernel"):
        gc.average_params(gc.sgd(0.1), blend=[("kernle", 0.5)]).init(trees.standard())
    with pytest.raises(ValueError, match=r"average_params: blend: kernel must be in \[0, inf\], got -1"):
        gc.average_params(gc.sgd(0.1), blend=[("kernel", -1.0)])


def test_a_blend_is_made_of_the_evaluation_weights_inside():
    inner = gc.ema_nesterov(gc.sgd(0.05), 0.8, 0.5)
    tx = gc.average_params(inner, decay=0.5, blend=0.25)
    behind = [gc.eval_params(inner, state, params) for params, state in walk(inner)]
    shares = 0.25 * 0.5 ** np.arange(12)[::-1] / sum(0.5 ** np.arange(12)) + 0.75 * (np.arange(12) == 11)
    expected = jax.tree.map(lambda *xs: sum(s * x for s, x in zip(shares, xs, strict=True)), *behind)
    trees.assert_close(last(tx)[2], expected, 1e-6)


@pytest.mark.parametrize("inside", [False, True])
def test_a_point_beyond_the_average_obeys_constraints(inside):
    stage, tx = gc.keep_params_nonnegative(), gc.sgd(0.1)
    tx = gc.chain(tx, stage) if inside else tx
    tx = gc.chain(gc.average_params(tx, blend=3.0), gc.identity() if inside else stage)
    params, state = jnp.zeros(2), tx.init(jnp.zeros(2))
    for gradient in ([-1.0, 1.0], [-1.0, -1.0]):
        updates, state = tx.update(jnp.array(gradient), state, params)
        params = gc.apply_updates(params, updates)
    np.testing.assert_allclose(params, [0.2, 0.1], rtol=1e-6)
    np.testing.assert_allclose(gc.eval_params(tx, state, params), [0.05, 0.0], atol=1e-6)
    assert float(gc.eval_params(tx, state, params).min()) >= 0


def test_two_forms_of_the_moving_average_are_an_error():
    with pytest.raises(ValueError, match=r"decay=0\.9 and time_constant=10\.0 both set the moving average; give one"):
        gc.average_params(gc.sgd(0.1), decay=0.9, time_constant=10)
    with pytest.raises(ValueError, match=r"time_constant must be in \[1, inf\], got 0\.5"):
        gc.average_params(gc.sgd(0.1), time_constant=0.5)
