"""Averages, slow weights and their evaluation: what they mean, and where Optax differs."""

import functools

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
    gc.ema_nesterov(gc.sgd(0.05), decay=0.5),
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
    [lambda tx: gc.lookahead(tx, 2, 0.5), lambda tx: gc.schedule_free(tx, 0.1), gc.primal_averaging, gc.ema_nesterov],
    ids=["lookahead", "schedule_free", "primal_averaging", "ema_nesterov"],
)
def test_weights_that_the_transform_around_would_disregard_are_an_error(around, inner):
    with pytest.raises(ValueError, match=r"the transform inside has evaluation weights, too"):
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


EMITTED = [jnp.array([1.0, -2.0]), jnp.array([0.5, 0.3]), jnp.array([-0.7, 1.1])]
NAN = jnp.full(2, jnp.nan)
TWICE = [g for g in EMITTED for _ in range(2)]
BEHIND_A_NAN = [x for g in EMITTED for x in (NAN, g)]


def is_even(count):
    return count % 2 == 0


SKIPPING = {
    "accumulate": (lambda tx: gc.accumulate(tx, 2), TWICE),
    "accumulate_what_is_finite": (
        lambda tx: gc.accumulate(tx, 1, should_skip_update_fn=gc.skip_not_finite),
        BEHIND_A_NAN,
    ),
    "apply_if_finite": (lambda tx: gc.apply_if_finite(tx, 9), BEHIND_A_NAN),
    "skip_spikes": (lambda tx: gc.skip_spikes(tx, 9.0), BEHIND_A_NAN),
    "loss_scale": (lambda tx: gc.loss_scale(tx, 1.0, growth_interval=None), BEHIND_A_NAN),
    "conditionally_mask": (lambda tx: gc.conditionally_mask(tx, is_even), TWICE),
    "conditionally_mask_in_rounds": (lambda tx: gc.accumulate(gc.conditionally_mask(tx, is_even), 1), TWICE),
    "chain": (lambda tx: gc.chain(gc.clip(9.0), gc.named_chain(("in", gc.accumulate(tx, 2)))), TWICE),
    "partition": (lambda tx: gc.partition({"all": gc.masked(gc.accumulate(tx, 2), True)}, "all"), TWICE),
    "branch": (lambda tx: gc.parallel(gc.accumulate(tx, 2), gc.accumulate(gc.sgd(0.0), 2), merge=gc.tree.add), TWICE),
    "inject_hyperparams": (lambda tx: gc.inject_hyperparams(lambda every: gc.accumulate(tx, every))(2), TWICE),
    "hyperparams_in_state": (lambda tx: gc.hyperparams_in_state(gc.store(gc.accumulate(tx, 2), "int8")), TWICE),
    "optax": (lambda tx: optax.MultiSteps(gc.to_optax(tx), 2), TWICE),
    "within": (lambda tx: gc.split_real_and_imaginary(gc.watch(gc.accumulate(tx, 2))), TWICE),
}
COUNTING = {
    "average": lambda tx: gc.average_params(tx, start=1),
    "moving_average": lambda tx: gc.average_params(tx, gc.linear_schedule(0.5, 0.9, 3)),
    "lookahead": lambda tx: gc.lookahead(tx, 3, 0.5, reset_state=True),
    "outer_nesterov": lambda tx: gc.outer_nesterov(tx, gc.piecewise_constant_schedule(1, {2: 2.0})),
    "schedule_free": lambda tx: gc.schedule_free(tx, 0.1, r=1.0),
    "primal_averaging": lambda tx: gc.primal_averaging(tx, gc.linear_schedule(0.5, 0.9, 3)),
    "ema_nesterov": lambda tx: gc.ema_nesterov(tx, gc.linear_schedule(0.5, 0.9, 3), 0.5),
    "mechanize": lambda tx: gc.mechanize(tx, s_init=0.1),
}


def course(tx, gradients, more=()):
    """Return parameters and evaluation weights after a list of gradients, and after some more."""
    params = jnp.array([1.0, 2.0])
    state, seen = gc.from_optax(tx).init(params), []
    for part in (gradients, more):
        for gradient in part:
            updates, state = tx.update(gradient, state, params)
            params = gc.apply_updates(params, updates)
        seen.append((params, gc.eval_params(tx, state, params)))
    return seen


@functools.cache
def course_without_skips(around):
    return course(COUNTING[around](gc.sgd(0.1, momentum=0.5)), EMITTED)


WITHIN = SKIPPING.keys() - {"conditionally_mask", "conditionally_mask_in_rounds"}
"""Where the first step of two is the one without an update, so that a look in between is worth it."""
PAIRS = {(name, "moving_average") for name in SKIPPING}
PAIRS |= {(name, around) for name in ("chain", "apply_if_finite") for around in COUNTING} - {("chain", "mechanize")}


@pytest.mark.parametrize(("name", "around"), sorted(PAIRS))
def test_steps_that_emit_nothing_count_for_nothing(name, around):
    """Averages, slow steps and scales move once for each update, not for each call."""
    skipping, gradients = SKIPPING[name]
    found = course(COUNTING[around](skipping(gc.sgd(0.1, momentum=0.5))), gradients, gradients[: name in WITHIN])
    trees.assert_close(found, course_without_skips(around), 1e-6)


@pytest.mark.parametrize("around", ["moving_average", "lookahead", "schedule_free"])
def test_sums_of_several_updates_count_once(around):
    summing = gc.chain(gc.sgd(0.05), gc.apply_every(2))
    once = course(COUNTING[around](gc.sgd(0.1)), EMITTED)
    trees.assert_close(course(COUNTING[around](summing), TWICE, TWICE[:1]), once, 1e-6)


@pytest.mark.parametrize("around", ["schedule_free", "primal_averaging", "ema_nesterov"])
def test_what_moves_between_two_rounds_moves_the_average_alike(around):
    behind = gc.chain(gc.accumulate(gc.identity(), 2), gc.sgd(0.1, momentum=0.5))
    (params, average), (later, average_then) = course(COUNTING[around](behind), TWICE, TWICE[:1])
    assert np.abs(later - params).min() > 1e-3
    np.testing.assert_allclose(average_then - average, later - params, rtol=1e-5)


def test_an_average_of_the_weights_that_a_climb_begins_at_counts_descents():
    sam = gc.sam(gc.sgd(0.1), gc.sgd(0.05), 2)
    homes = []
    params, state = jnp.array([1.0, 2.0]), sam.init(jnp.array([1.0, 2.0]))
    for k, gradient in enumerate(TWICE, 1):
        updates, state = sam.update(gradient, state, params)
        params = gc.apply_updates(params, updates)
        homes += [params] if k % 2 == 0 else []
    np.testing.assert_allclose(
        course(gc.average_params(sam, 0.5), TWICE)[0][1], np.average(homes, axis=0, weights=[1, 2, 4]), rtol=1e-5
    )


@pytest.mark.parametrize("start", [0, 4])
def test_a_moving_average_follows_the_decays_that_were_used(start):
    """Weights 1 ... 15 by m = b m + (1 - b) w, divided by 1 - prod(b); the first decay is that of the first update."""
    decays, one = [0.9] * 6 + [0.99] * 9, jnp.ones(1)
    schedule = gc.join_schedules([0.9, 0.99], [7])
    replaced, tx = [], gc.average_params(gc.sgd(1.0), schedule, start)
    params, state = jnp.zeros(1), tx.init(jnp.zeros(1))
    by_hand, own = gc.average_params(gc.sgd(1.0), 0.9, start), gc.average_params(gc.sgd(1.0), 0.9, start).init(params)
    mean, left = 0.0, 1.0
    for k in range(1, 16):
        replaced = by_hand.replace(decay=0.9 if k <= 7 else 0.99)  # folds in the weights before it, k - 1
        _, own = replaced.update(-one, own, params)
        updates, state = tx.update(-one, state, params)
        params = gc.apply_updates(params, updates)
        if k > start:
            b = decays[k - 1]
            mean, left = b * mean + (1 - b) * k, left * b
    np.testing.assert_allclose(gc.eval_params(tx, state, params), mean / (1 - left), rtol=1e-5)
    np.testing.assert_allclose(gc.eval_params(by_hand.replace(decay=0.99), own, params), mean / (1 - left), rtol=1e-5)


FROZEN = {"a": jnp.array(0.1), "b": jnp.array(1.0)}
KEEPERS = {
    "average": lambda tx: gc.average_params(tx, 0.5),
    "lookahead": lambda tx: gc.lookahead(tx, 3, 0.5),
    "outer_nesterov": lambda tx: gc.outer_nesterov(tx, 3),
    "schedule_free": lambda tx: gc.schedule_free(tx, 0.05),
    "primal_averaging": gc.primal_averaging,
    "ema_nesterov": gc.ema_nesterov,
    "sam": lambda tx: gc.sam(tx, gc.sgd(0.1), 3),
}


def evaluated(tx, params, gradients, steps=7):
    """Return the parameters and evaluation weights after some steps with a constant gradient."""
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(gradients, state, params)
        params = gc.apply_updates(params, updates)
    return params, gc.eval_params(tx, state, params)


@pytest.mark.parametrize("keeper", KEEPERS.values(), ids=KEEPERS)
def test_frozen_weights_have_their_own_value_for_evaluation(keeper):
    """Wherever the freezing stands behind the weights' keeper; the others have what they have without it."""
    gradients = {"a": jnp.array(0.5), "b": jnp.array(1.0)}
    freeze, tx = gc.freeze({"a": True, "b": False}), keeper(gc.sgd(0.05))
    frozen = gc.partition({"still": gc.set_to_zero(), "free": gc.identity()}, {"a": "still", "b": "free"})
    for whole in (
        gc.chain(tx, freeze),
        gc.chain(gc.chain(gc.clip(9.0), tx), gc.scale(1.0), gc.named_chain(("last", frozen))),
        gc.named_chain(("first", tx), ("last", gc.inject_hyperparams(gc.freeze)({"a": True, "b": False}))),
    ):
        _, weights = evaluated(whole, FROZEN, gradients)
        np.testing.assert_allclose(weights["a"], 0.1, rtol=1e-6)
        np.testing.assert_allclose(weights["b"], evaluated(tx, FROZEN, gradients)[1]["b"], rtol=1e-6)


def on_the_simplex(w):
    return gc.projections.projection_simplex(w)


BOUNDS = {
    "nonnegative": (gc.keep_params_nonnegative(), lambda w: w.min() >= 0),
    "simplex": (gc.project(on_the_simplex), lambda w: abs(w.sum() - 1) < 1e-5 and w.min() >= 0),
    "sphere": (gc.keep_norm(), lambda w: abs(np.linalg.norm(w) - np.linalg.norm([0.1, 0.6, 0.3])) < 1e-6),
    "sphere_of_radius_2": (gc.keep_norm(2.0), lambda w: abs(np.linalg.norm(w) - 2) < 1e-6),
    "sphere_of_a_layer": (
        gc.per_layer(gc.keep_norm(), 0),
        lambda w: np.allclose(np.abs(w), [0.1, 0.6, 0.3], rtol=1e-5),
    ),
}


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("keeper", ["average", "outer_nesterov"])
def test_evaluation_weights_obey_constraints_that_come_later(keeper, bound):
    stage, holds = BOUNDS[bound]
    start, gradients = jnp.array([0.1, 0.6, 0.3]), jnp.array([0.5, -0.2, 0.1])
    for tx in (
        gc.chain(KEEPERS[keeper](gc.sgd(0.05)), stage),
        gc.chain(KEEPERS[keeper](gc.sgd(0.05)), gc.conditionally_transform(gc.masked(stage, True), lambda count: True)),
        KEEPERS[keeper](gc.chain(gc.sgd(0.05), stage)),
    ):
        assert holds(np.asarray(evaluated(tx, start, gradients)[1])), tx


@pytest.mark.slow
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("keeper", ["schedule_free", "primal_averaging", "ema_nesterov"])
def test_a_constraint_stands_inside_what_relies_on_its_updates(keeper, bound):
    """There it holds for the evaluation weights; behind, these would be made of updates that weren't taken."""
    stage, holds = BOUNDS[bound]
    start, gradients = jnp.array([0.1, 0.6, 0.3]), jnp.array([0.5, -0.2, 0.1])
    inside = KEEPERS[keeper](gc.chain(gc.sgd(0.05), stage))
    assert holds(np.asarray(evaluated(inside, start, gradients)[1]))
    for tx in (
        gc.chain(KEEPERS[keeper](gc.sgd(0.05)), stage),
        gc.chain(gc.chain(KEEPERS[keeper](gc.sgd(0.05))), gc.scale(1.0), gc.masked(stage, True)),
    ):
        with pytest.raises(ValueError, match=rf"behind {keeper} changes .* put it inside: {keeper}\(chain\("):
            evaluated(tx, start, gradients)
    apart = gc.partition({"x": KEEPERS[keeper](gc.sgd(0.05)), "y": stage}, {"x": "x", "y": "y"})
    evaluated(gc.chain(apart, gc.masked(stage, {"x": False, "y": True})), {"x": start, "y": start}, FROZEN_PAIR)


FROZEN_PAIR = {"x": jnp.array([0.5, -0.2, 0.1]), "y": jnp.array([0.5, -0.2, 0.1])}
