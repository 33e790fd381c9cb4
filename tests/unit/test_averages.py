"""Averages, slow weights and their evaluation: what they mean, and where Optax differs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import gradchain as gc
from tests import trees

GRADIENTS = trees.stream(12)
PARAMS = trees.standard()


def walk(tx, steps=12, params=PARAMS, gradients=GRADIENTS):
    """Yield (params, state) after each step."""
    state = tx.init(params)
    for k in range(steps):
        updates, state = tx.update(trees.at(gradients, k), state, params)
        params = gc.apply_updates(params, updates)
        yield params, state


def path(tx, **kwargs):
    """Return the parameters after each step."""
    return [params for params, _ in walk(tx, **kwargs)]


def last(tx, **kwargs):
    """Return parameters, state and evaluation weights after all steps."""
    *_, (params, state) = walk(tx, **kwargs)
    return params, state, gc.eval_params(tx, state, params)


def mean(weights, shares):
    """Return the weighted mean of trees, in double precision."""
    shares = np.asarray(shares) / np.sum(shares)
    return jax.tree.map(lambda *xs: sum(s * x for s, x in zip(shares, xs, strict=True)), *map(trees.as_numpy, weights))


LABELS = {"bias": "rest", "kernel": "kernel", "scale": "rest"}


def halves(kernel, rest):
    """Give the kernel to one transform and what is left to another."""
    return gc.partition({"kernel": kernel, "rest": rest}, LABELS)


def both(first, second):
    """Add the updates of two transforms."""
    return gc.parallel(first, second, merge=gc.tree.add)


def test_a_transform_without_weights_of_its_own_returns_the_very_parameters():
    for tx in (gc.adamw(0.1), gc.chain(gc.clip(1.0), gc.cautious(gc.sgd(0.1))), optax.adam(0.1)):
        assert gc.eval_params(tx, gc.from_optax(tx).init(PARAMS), PARAMS)["kernel"] is PARAMS["kernel"]


@pytest.mark.parametrize("start", [0, 3])
def test_polyak_averaging_is_the_mean_of_all_weights_after_the_start(start):
    tx = gc.average_params(gc.sgd(0.05), start=start)
    for k, (params, state) in enumerate(walk(tx), 1):
        tail = path(tx, steps=k)[start:] or [params]
        trees.assert_close(trees.as_numpy(gc.eval_params(tx, state, params)), mean(tail, np.ones(len(tail))), 2e-6)


def test_the_moving_average_is_corrected_for_its_beginning():
    tx = gc.average_params(gc.sgd(0.05), decay=0.8)
    weights = path(tx)
    trees.assert_close(trees.as_numpy(last(tx)[2]), mean(weights, 0.8 ** np.arange(12)[::-1]), 1e-6)


def test_the_average_is_of_the_real_weights_whatever_becomes_of_the_updates():
    tx = gc.chain(gc.average_params(gc.sgd(0.05)), gc.scale(0.1), gc.trace(0.9))
    trees.assert_close(trees.as_numpy(last(tx)[2]), mean(path(tx), np.ones(12)), 1e-6)


def test_the_average_of_bfloat16_weights_is_kept_in_float32():
    params, gradients = trees.standard("bfloat16"), trees.stream(12, "bfloat16")
    tx = gc.average_params(gc.sgd(0.05), decay=0.99)
    *_, (_, state) = walk(tx, params=params, gradients=gradients)
    exact = mean(path(tx, params=params, gradients=gradients)[:-1], 0.99 ** np.arange(11)[::-1])
    trees.assert_close(trees.as_numpy(state.average), exact, 1e-6)


def test_an_average_around_a_transform_with_evaluation_weights_averages_those():
    inner = gc.schedule_free_sgd(0.1)
    tx = gc.average_params(inner, decay=0.5)
    weights = [gc.eval_params(inner, state, params) for params, state in walk(inner)]
    trees.assert_close(trees.as_numpy(last(tx)[2]), mean(weights, 0.5 ** np.arange(12)[::-1]), 1e-6)


WITH_WEIGHTS = [
    gc.average_params(gc.sgd(0.05), decay=0.5),
    gc.lookahead(gc.sgd(0.05), 5, 0.5),
    gc.schedule_free_sgd(0.1),
    gc.primal_averaging(gc.sgd(0.05)),
    gc.sam(gc.sgd(0.05), gc.sgd(0.1), 5),
]


@pytest.mark.parametrize("inner", WITH_WEIGHTS, ids=lambda tx: tx.name)
def test_nests_three_deep(inner):
    """In a chain in a named chain in the state's hyperparameters, and each half of the parameters by itself."""
    params, _, expected = last(inner)
    deep = gc.chain(
        gc.hyperparams_in_state(gc.named_chain(("a", gc.identity()), ("b", gc.chain(gc.float32_updates(inner))))),
        gc.chain(),
    )
    trees.assert_close(last(deep)[2], expected, 1e-6)
    trees.assert_close(last(gc.inject_hyperparams(lambda: gc.chain(inner))())[2], expected, 1e-6)
    halved = gc.chain(gc.identity(), halves(gc.chain(inner), gc.chain(gc.identity(), gc.sgd(0.05))))
    trees.assert_close(last(halved)[2]["kernel"], expected["kernel"], 1e-6)
    assert trees.relative_error(expected, params) > 1e-3
    rest = gc.chain(halves(gc.sgd(0.05), both(gc.identity(), gc.chain(inner))))
    params, state, weights = last(rest)
    assert weights["kernel"] is params["kernel"]
    own = state[0].inner_states["rest"][1][0]
    trees.assert_close(weights["bias"], gc.eval_params(inner, own, {**params, "kernel": None})["bias"], 0)


def test_leaves_that_are_no_arrays_come_back():
    tx = gc.chain(gc.average_params(gc.sgd(0.05)))
    params, state, weights = last(tx)
    model = {**params, "activation": jax.nn.relu, "layers": 3, "nothing": None}
    state = (state[0]._replace(average={**state[0].average, "activation": None, "layers": None, "nothing": None}),)
    evaluated = gc.eval_params(tx, state, model)
    assert evaluated["activation"] is jax.nn.relu
    assert evaluated["layers"] == 3
    trees.assert_close({name: evaluated[name] for name in params}, weights, 0)


def test_a_single_array_that_a_mask_leaves_out():
    average = gc.average_params(gc.sgd(0.1))
    for chosen in (True, False):
        tx, params = gc.masked(average, chosen), jnp.ones(3)
        state = tx.init(params)
        _, state = tx.update(jnp.ones(3), state, params)
        assert (gc.eval_params(tx, state, params) is params) != chosen


def test_weights_of_two_side_by_side_are_an_error_where_both_change_a_leaf():
    average = gc.average_params(gc.sgd(0.05))
    tx = both(gc.chain(average), gc.lookahead(gc.sgd(0.05), 5, 0.5))
    with pytest.raises(ValueError, match=r"parallel: two parts have evaluation weights for \['bias'\]"):
        last(tx)
    apart = both(halves(average, gc.identity()), halves(gc.identity(), average))
    params, _, weights = last(apart)
    assert all(trees.relative_error(weights[name], params[name]) > 1e-3 for name in params)


@pytest.mark.parametrize("inner", WITH_WEIGHTS, ids=lambda tx: tx.name)
@pytest.mark.parametrize(
    "around",
    [lambda tx: gc.lookahead(tx, 2, 0.5), lambda tx: gc.schedule_free(tx, 0.1), gc.primal_averaging],
    ids=["lookahead", "schedule_free", "primal_averaging"],
)
def test_weights_that_the_transform_around_would_disregard_are_an_error(around, inner):
    with pytest.raises(ValueError, match=r"both it and .* inside it have evaluation weights"):
        last(around(gc.chain(gc.clip(1.0), inner)))


def test_lookahead_keeps_the_slow_weights_in_the_state_and_optax_in_the_parameters():
    ours, theirs = gc.lookahead(gc.adam(0.05), 5, 0.5), optax.lookahead(optax.adam(0.05), 5, 0.5)
    pair = optax.LookaheadParams.init_synced(PARAMS)
    their_state = theirs.init(pair)
    for k, (params, state) in enumerate(walk(ours)):
        updates, their_state = theirs.update(trees.at(GRADIENTS, k), their_state, pair)
        pair = optax.apply_updates(pair, updates)
        trees.assert_close(params, pair.fast, 1e-5)
        trees.assert_close(gc.eval_params(ours, state, params), pair.slow, 1e-5)
    with pytest.raises(AttributeError, match="fast"):
        theirs.update(trees.at(GRADIENTS, 0), their_state, params)


@pytest.mark.parametrize("around", [lambda tx: gc.lookahead(tx, 3, 1.0), lambda tx: gc.outer_nesterov(tx, 3, 1.0, 0.0)])
def test_slow_steps_of_full_size_are_the_fast_optimizer(around):
    trees.assert_close(path(around(gc.adam(0.05))), path(gc.adam(0.05)), 1e-6)


def test_slow_schedules_count_slow_steps():
    rate = gc.piecewise_constant_schedule(1.0, {1: 0.0})
    params, _, weights = last(gc.lookahead(gc.sgd(0.05), 4, rate))
    trees.assert_close(weights, path(gc.sgd(0.05))[3], 1e-6)
    trees.assert_close(params, weights, 1e-6)


def test_primal_averaging_with_equal_weights_is_nesterovs_method(x64):
    params, gradients = trees.standard("float64"), trees.stream(12, "float64")
    ours = gc.primal_averaging(gc.sgd(0.1), mu_x=0.8, mu_y=0.8)
    nesterov = gc.sgd(0.1 * (1 - 0.8), momentum=0.8, nesterov=True)
    kwargs = {"params": params, "gradients": gradients}
    trees.assert_close(path(ours, **kwargs), path(nesterov, **kwargs), 1e-13)


def test_schedule_free_follows_optax_to_the_tenth_digit(x64):
    params, gradients = trees.standard("float64"), trees.stream(12, "float64")
    for ours, theirs in (
        (gc.schedule_free_sgd(0.3, b1=0.95), contrib.schedule_free_sgd(0.3, b1=0.95)),
        (gc.schedule_free_adamw(0.1, weight_decay=0.1), contrib.schedule_free_adamw(0.1, weight_decay=0.1)),
    ):
        kwargs = {"params": params, "gradients": gradients}
        for (w, state), (v, their_state) in zip(walk(ours, **kwargs), walk(theirs, **kwargs), strict=True):
            trees.assert_close(w, v, 1e-10)
            x = contrib.schedule_free_eval_params(their_state, v)
            trees.assert_close(gc.eval_params(ours, state, w), x, 1e-10)
            trees.assert_close(gc.schedule_free_eval_params(state, w), x, 1e-10)


def test_schedule_free_weighs_with_the_rate_of_the_step_and_optax_with_the_next():
    rate = gc.linear_schedule(0.01, 0.3, 12)
    ours = path(gc.schedule_free(gc.sgd(rate), rate))
    theirs = path(contrib.schedule_free(optax.sgd(rate), rate))
    shifted = path(contrib.schedule_free(optax.sgd(rate), lambda count: rate(count - 1)))
    trees.assert_close(ours, shifted, 1e-5)
    assert trees.relative_error(ours, theirs) > 1e-3


def test_evaluation_weights_inside_a_chain_are_found_here_and_lost_in_optax():
    ours = gc.chain(gc.clip_by_global_norm(1.0), gc.schedule_free_sgd(0.3))
    theirs = optax.chain(optax.clip_by_global_norm(1.0), contrib.schedule_free_sgd(0.3))
    params, _, weights = last(ours)
    *_, (their_params, their_state) = walk(theirs)
    trees.assert_close(params, their_params, 1e-5)
    with pytest.raises(AttributeError, match="b1"):
        contrib.schedule_free_eval_params(their_state, their_params)
    trees.assert_close(weights, contrib.schedule_free_eval_params(their_state[1], their_params), 1e-5)
    with pytest.raises(ValueError, match="the state is from another transform"):
        gc.schedule_free_eval_params(their_state, their_params)


def test_z_of_bfloat16_parameters_is_float32_here_and_bfloat16_there():
    params = trees.standard("bfloat16")
    assert gc.schedule_free_sgd(0.1).init(params).z["kernel"].dtype == jnp.float32
    assert gc.schedule_free_sgd(0.1, state_dtype="bfloat16").init(params).z["kernel"].dtype == jnp.bfloat16
    assert contrib.schedule_free_sgd(0.1).init(params).z["kernel"].dtype == jnp.bfloat16
    with pytest.raises(TypeError, match="float32 can't hold the slot of a complex64 parameter"):
        gc.schedule_free_sgd(0.1, state_dtype="float32").init(trees.standard("complex64"))


def test_a_changed_b1_moves_the_parameters_and_not_the_average():
    tx = gc.schedule_free_sgd(0.1, b1=0.9)
    params, state, before = last(tx)
    frozen = tx.replace(**{"schedule_free.learning_rate": 0.0, "scale_by_learning_rate.learning_rate": 0.0, "b1": 0.5})
    state = state._replace(max_lr=jnp.zeros(()))  # so that this step has no weight in the average
    updates, state = frozen.update(trees.at(GRADIENTS, 0), state, params)
    assert trees.relative_error(updates, gc.tree.zeros_like(updates)) > 1e-3
    trees.assert_close(gc.eval_params(frozen, state, gc.apply_updates(params, updates)), before, 1e-6)
