"""Accumulation: its laws, against Optax's, and where it differs from Optax's on purpose."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradchain as gc
from tests import trees
from tests.registry import ROWS

NAN = jnp.full(2, jnp.nan)
ANY = st.sampled_from([row for row in ROWS if not row.random])
INNER = st.sampled_from(
    [
        gc.sgd(0.1, momentum=0.9),
        gc.adam(0.01),
        gc.adamw(0.01),
        gc.lion(0.01),
        gc.adafactor(0.01, min_dim_size_to_factor=2),
    ]
)
SEEDS = st.integers(0, 2**16)


def run(tx, gradients, params, **extra):
    """Return all updates on a list of gradients with the parameters at rest, and the last state."""
    state, results = tx.init(params), []
    for k, gradient in enumerate(gradients):
        updates, state = tx.update(gradient, state, params, **{name: values[k] for name, values in extra.items()})
        results.append(updates)
    return results, state


def stream(steps, seed):
    """Return ``steps`` gradients as a list."""
    stacked = trees.stream(steps, seed=seed)
    return [trees.at(stacked, k) for k in range(steps)]


@pytest.mark.slow
@given(ANY, SEEDS)
def test_accumulating_one_gradient_is_the_transform_itself(row, seed):
    params, tx = trees.standard(seed=seed), row.build()
    gradients, extra = stream(4, seed + 1), {name: [x] * 4 for name, x in row.extra(params).items()}
    for mean in (True, False):
        wrapped, state = run(gc.accumulate(row.build(), 1, use_grad_mean=mean), gradients, params, **extra)
        alone, own = run(tx, gradients, params, **extra)
        trees.assert_close(wrapped, alone, 0)
        trees.assert_close(state.inner_state, own, 0)


@given(INNER, st.integers(2, 4), SEEDS)
def test_k_micro_batches_are_one_step_on_the_full_batch(tx, k, seed):
    params, gradients = trees.standard(seed=seed), stream(2 * k, seed + 1)
    full = [jax.tree.map(lambda *gs: sum(gs) / k, *gradients[i : i + k]) for i in (0, k)]
    updates, state = run(gc.accumulate(tx, k), gradients, params)
    expected, inner_state = run(tx, full, params)
    trees.assert_close(updates[k - 1 :: k], expected, 1e-4)
    trees.assert_close(state.inner_state, inner_state, 1e-5)
    rest = [u for i, u in enumerate(updates) if i % k != k - 1]
    assert all(np.all(u == 0) for u in jax.tree.leaves(rest))


@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), SEEDS)
def test_uneven_micro_batches_are_weighted(sizes, seed):
    rng = np.random.default_rng(seed)
    examples = rng.standard_normal((sum(sizes), 3)).astype("float32")
    micro = [jnp.asarray(x.mean(0)) for x in np.split(examples, np.cumsum(sizes)[:-1])]
    updates, _ = run(gc.accumulate(gc.sgd(1.0), len(sizes)), micro, jnp.zeros(3), weight=sizes)
    np.testing.assert_allclose(updates[-1], -examples.mean(0), rtol=1e-4, atol=1e-5)


def test_weights_of_zero_leave_micro_batches_out():
    ones = jnp.ones(2)
    tx = gc.accumulate(gc.scale(1.0), 2)
    np.testing.assert_allclose(run(tx, [ones, 5 * ones], ones, weight=[0, 2])[0][1], 5)
    np.testing.assert_allclose(run(tx, [ones, 5 * ones], ones, weight=[0, 0])[0][1], 0)
    summed = gc.accumulate(gc.scale(1.0), 2, use_grad_mean=False)
    np.testing.assert_allclose(run(summed, [ones, 5 * ones], ones, weight=[3, 2])[0][1], 13)


def test_counts_and_schedules_move_only_when_it_emits():
    tx = gc.accumulate(gc.sgd(gc.linear_schedule(1.0, 0.0, 4)), 3)
    ones = jnp.ones(2)
    updates, state = run(tx, [ones] * 7, ones)
    np.testing.assert_allclose([u[0] for u in updates], [0, 0, -1, 0, 0, -0.75, 0])
    assert gc.hyperparams(tx, state)["scale_by_learning_rate.learning_rate"] == 0.5
    assert (state.count, state.mini_step) == (2, 1)


def test_every_may_be_traced_batched_and_changed():
    ones = jnp.ones(2)

    @jax.jit
    def updates(tx):
        return jnp.stack(run(tx, [ones] * 6, ones)[0])[:, 0]

    tx = gc.accumulate(gc.scale(1.0), jnp.array([1, 2, 3]))
    batch = jax.vmap(updates, in_axes=(gc.batch_axes(tx),))(tx)
    np.testing.assert_allclose(batch, [[1] * 6, [0, 1] * 3, [0, 0, 1] * 2])
    np.testing.assert_allclose(updates(tx.replace(every=4)), [0, 0, 0, 1, 0, 0])
    state = gc.accumulate(gc.scale(1.0), 4).init(ones)
    for _ in range(3):
        _, state = gc.accumulate(gc.scale(1.0), 4).update(ones, state)
    assert gc.accumulate(gc.scale(1.0), 2).update(ones, state)[0][0] == 1, "a shorter round ends at once"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_schedule_of_rounds_agrees_with_optax(dtype):
    def every(count):
        return jnp.where(count < 2, 1, 3)

    gradients = [jax.tree.map(lambda g: g.astype(dtype), g) for g in stream(11, 1)]
    params = trees.standard(dtype)
    ours, _ = run(gc.accumulate(gc.sgd(0.1), every), gradients, params)
    theirs, _ = run(optax.MultiSteps(optax.sgd(0.1), every), gradients, params)
    trees.assert_close(ours, theirs, 1e-6 if dtype == "float32" else 8e-3)


@pytest.mark.parametrize("ours", [gc.skip_not_finite, functools.partial(gc.skip_large_updates, max_squared_norm=4.0)])
def test_skipped_micro_steps_count_for_nothing_as_in_optax(ours):
    theirs = optax.skip_not_finite
    if ours is not gc.skip_not_finite:
        theirs = functools.partial(optax.skip_large_updates, max_squared_norm=4.0)
    ones = jnp.ones(2)
    gradients = [ones, NAN, 0.5 * ones, jnp.full(2, jnp.inf), ones, 9 * ones, -ones, ones]
    tx = gc.accumulate(gc.sgd(0.1, momentum=0.9), 2, should_skip_update_fn=ours)
    twin = optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2, should_skip_update_fn=theirs)
    (updates, state), (expected, their_state) = run(tx, gradients, ones), run(twin, gradients, ones)
    trees.assert_close(updates, expected, 1e-6)
    trees.assert_close(state.skip_state, their_state.skip_state, 1e-6)
    assert state.skipped == (2 if ours is gc.skip_not_finite else 3)
    assert state.count == their_state.gradient_step


def test_what_decides_about_skipping_must_return_one_boolean():
    tx = gc.accumulate(gc.sgd(0.1), 2, should_skip_update_fn=lambda *_: (jnp.zeros(2), ()))
    with pytest.raises(TypeError, match=r"should_skip_update_fn must return one boolean, got float32 of shape \(2,\)"):
        tx.init(jnp.ones(2))


def test_a_nan_ends_with_its_round_here_and_stays_there():
    gradients, ones = [NAN, *[jnp.ones(2)] * 5], jnp.ones(2)
    ours, _ = run(gc.accumulate(gc.sgd(0.1), 2), gradients, ones)
    theirs, _ = run(optax.MultiSteps(optax.sgd(0.1), 2), gradients, ones)
    assert [bool(np.isnan(u).any()) for u in ours] == [False, True, False, False, False, False]
    assert [bool(np.isnan(u).any()) for u in theirs] == [True] * 6
    np.testing.assert_allclose(ours[3], -0.1, rtol=1e-6)


def test_with_a_guard_inside_a_nan_reaches_no_round_and_no_momentum():
    gradients, ones = [NAN, *[jnp.ones(2)] * 3], jnp.ones(2)
    tx = gc.accumulate(gc.apply_if_finite(gc.sgd(0.1, momentum=0.9), 9), 2)
    updates, _ = run(tx, gradients, ones)
    np.testing.assert_allclose(np.array(updates)[:, 0], [0, 0, 0, -0.1], rtol=1e-6)


def test_apply_every_forgets_a_nan_here_and_not_there():
    gradients, ones = [NAN, *[jnp.ones(2)] * 3], jnp.ones(2)
    assert np.isfinite(run(gc.apply_every(2), gradients, ones)[0][3]).all()
    assert np.isnan(run(optax.apply_every(2), gradients, ones)[0][3]).all()


def test_bfloat16_gradients_are_handed_on_in_single_precision_here_and_rounded_there():
    """The mean of 1 and 1 + 2^-7 is 1 + 2^-8, which bfloat16 can't hold; what is above 1 shows it."""
    first, second = (jnp.full(2, x, "bfloat16") for x in (1, 1 + 2**-7))

    def excess(updates, params):
        return 256 * (updates - 1)

    ours, _ = run(gc.accumulate(gc.stateless(excess), 2), [first, second], first)
    theirs, _ = run(optax.MultiSteps(optax.stateless(excess), 2), [first, second], first)
    assert ours[1][0] == 1
    assert theirs[1][0] == 0


def test_accumulator_dtype():
    params = trees.standard()
    assert (
        gc.accumulate(gc.sgd(0.1), 2, accumulator_dtype="bfloat16").init(params).acc_grads["bias"].dtype == "bfloat16"
    )
    half = trees.standard("bfloat16")
    assert gc.accumulate(gc.sgd(0.1), 2).init(half).acc_grads["bias"].dtype == "float32"
    with pytest.raises(TypeError, match="accumulator_dtype='float32' can't hold the slot of a complex64 parameter"):
        gc.accumulate(gc.sgd(0.1), 2, accumulator_dtype="float32").init(trees.standard("complex64"))


def test_has_updated_at_any_depth():
    tx = gc.chain(gc.clip(1.0), gc.named_chain(("slow", gc.accumulate(gc.adam(0.1), 2))))
    ones = jnp.ones(2)
    state, seen = tx.init(ones), []
    assert not gc.has_updated(state)
    for _ in range(4):
        _, state = tx.update(ones, state, ones)
        seen.append(bool(gc.has_updated(state)))
    assert seen == [False, True, False, True]
    with pytest.raises(ValueError, match="there is no accumulate in this state"):
        gc.has_updated(gc.adam(0.1).init(ones))


def test_a_skipped_step_after_a_round_has_not_updated_here_but_has_there():
    ones = jnp.ones(2)
    _, state = run(gc.accumulate(gc.sgd(0.1), 1, should_skip_update_fn=gc.skip_not_finite), [ones, NAN], ones)
    theirs = optax.MultiSteps(optax.sgd(0.1), 1, should_skip_update_fn=optax.skip_not_finite)
    assert not gc.has_updated(state)
    assert theirs.has_updated(run(theirs, [ones, NAN], ones)[1])


def test_an_optax_transform_inside():
    gradients, params = stream(6, 3), trees.standard()
    ours, _ = run(gc.accumulate(optax.adam(0.1), 3), gradients, params)
    theirs, _ = run(optax.MultiSteps(optax.adam(0.1), 3), gradients, params)
    trees.assert_close(ours, theirs, 1e-6)


def test_derivatives_through_a_round_with_a_skipped_nan_are_finite():
    def total(tx):
        gradients = [jnp.ones(2), NAN, jnp.ones(2)]
        return jnp.sum(functools.reduce(operator.add, run(tx, gradients, jnp.ones(2))[0]))

    tx = gc.accumulate(gc.adam(0.1), 2, should_skip_update_fn=gc.skip_not_finite)
    slope = gc.hyperparams(jax.grad(total, allow_int=True)(tx))["scale_by_learning_rate.learning_rate"]
    np.testing.assert_allclose(slope, -2, rtol=1e-5)


@pytest.mark.parametrize("weight", [jnp.ones(3), jnp.ones(1), True, 1j, "all", None])
def test_a_weight_is_one_number(weight):
    tx, ones = gc.accumulate(gc.sgd(1.0), 2), jnp.ones(3)
    with pytest.raises((ValueError, TypeError), match=r"accumulate.* (weight must be one|needs 'weight')"):
        tx.update(ones, tx.init(ones), ones, weight=weight)


VALUES = [(3.0, jnp.array([2.0, 0.0])), (1.0, jnp.array([0.0, 2.0]))]


def test_a_step_by_the_loss_sees_the_mean_loss_of_the_round():
    """Polyak's step is f / |g|^2 with the means of f and g: by their weights, and by sums where sums are asked for."""
    gradients, values = [g for _, g in VALUES], [v for v, _ in VALUES]
    mean, _ = run(gc.accumulate(gc.polyak_sgd(10.0), 2), gradients, jnp.zeros(2), value=values)
    np.testing.assert_allclose(mean[1], -(2.0 / 2.0) * np.array([1.0, 1.0]), rtol=1e-5)
    uneven, _ = run(gc.accumulate(gc.polyak_sgd(10.0), 2), gradients, jnp.zeros(2), value=values, weight=[3, 1])
    np.testing.assert_allclose(uneven[1], -(2.5 / 2.5) * np.array([1.5, 0.5]), rtol=1e-5)
    summed, _ = run(gc.accumulate(gc.polyak_sgd(10.0), 2, use_grad_mean=False), gradients, jnp.zeros(2), value=values)
    np.testing.assert_allclose(summed[1], -(4.0 / 8.0) * np.array([2.0, 2.0]), rtol=1e-5)


def seen_by(told):
    """Return a transform that notes its extra arguments."""

    def update(updates, state, params=None, **extra):
        told.append(extra)
        return updates, state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def test_the_value_ends_with_its_round_and_skipped_micro_steps_have_none():
    told, ones = [], jnp.ones(2)
    tx = gc.accumulate(seen_by(told), 2, should_skip_update_fn=gc.skip_not_finite)
    values = [1.0, 100.0, 3.0, float("nan"), 1.0, 5.0, 7.0]
    run(tx, [ones, NAN, *[ones] * 5], ones, value=values)
    emitted = [float(told[k]["value"]) for k in (2, 4, 6)]
    np.testing.assert_allclose(emitted, [2.0, np.nan, 6.0])


def test_inside_a_round_the_gradient_and_the_weight_are_the_rounds_too():
    told, ones = [], jnp.ones(2)
    tx = gc.accumulate(seen_by(told), 2)
    state = tx.init(ones)
    for g, weight in ((ones, 1), (5 * ones, 3)):
        _, state = tx.update(g, state, ones, grad=g, weight=weight)
    np.testing.assert_allclose(told[-1]["grad"], 4.0)
    assert told[-1]["weight"] == 4
    clipped = gc.chain(gc.clip(1.0), tx)
    clipped.update(5 * ones, clipped.init(ones), ones, grad=5 * ones)
    assert told[-1]["grad"] is None, "what isn't the gradient that comes in has no mean here"


def test_a_loss_for_each_example_is_no_value():
    tx = gc.accumulate(gc.sgd(0.1), 2)
    with pytest.raises(ValueError, match=r"accumulate: value must be one number, .* shape \(4,\)"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), value=jnp.ones(4))


def test_per_example_gradients_are_refused_in_words():
    private = gc.dpsgd(1.0, l2_norm_clip=0.5, noise_multiplier=0.0, seed=0)
    for tx in (private, gc.chain(private, gc.scale(1.0)), gc.inject_hyperparams(gc.dpsgd)(0.1, 1.0, 0.0, 0)):
        with pytest.raises(ValueError, match="bounds the gradient of each example"):
            gc.accumulate(tx, 2)


@pytest.mark.parametrize("around", [gc.cautious, gc.mechanize], ids=lambda f: f.__name__)
def test_what_compares_updates_with_their_gradient_stands_inside(around):
    with pytest.raises(
        ValueError, match=rf"{around.__name__} .* put accumulate around it: accumulate\({around.__name__}"
    ):
        around(gc.chain(gc.clip(1.0), gc.accumulate(gc.sgd(0.1), 2)))


def test_has_updated_is_false_where_what_is_inside_emits_nothing():
    ones = jnp.ones(2)
    for inner in (gc.apply_if_finite(gc.sgd(0.1), 9), optax.MultiSteps(optax.sgd(0.1), 2)):
        _, state = run(gc.accumulate(inner, 2), [NAN, ones], ones)
        assert not gc.has_updated(state)


ACCUMULATED = gc.accumulate(gc.sgd(0.1, momentum=0.9), 3)
FLUSHED = {
    "alone": lambda tx: tx,
    "chain": lambda tx: gc.chain(gc.trace(0.9), tx, gc.scale(0.5)),
    "named_chain": lambda tx: gc.named_chain(("before", gc.scale_by_adam()), ("tx", tx)),
    "average": lambda tx: gc.average_params(tx, 0.5),
    "lookahead": lambda tx: gc.lookahead(tx, 2, 0.5),
    "schedule_free": lambda tx: gc.schedule_free(tx, 0.1),
    "partition": lambda tx: gc.partition({"tx": tx, "other": gc.sgd(0.1)}, {"a": "tx", "b": "other"}),
    "inject_hyperparams": lambda tx: gc.inject_hyperparams(lambda step: gc.chain(tx, gc.scale(step)))(0.5),
    "hyperparams_in_state": gc.hyperparams_in_state,
    "rounds_of_rounds": lambda tx: gc.accumulate(tx, 1),
}


@pytest.mark.parametrize("around", FLUSHED.values(), ids=FLUSHED)
def test_flush_is_what_micro_steps_without_weight_would_bring_about(around):
    params = {"a": jnp.ones(2), "b": jnp.ones(())}
    tx = around(ACCUMULATED)
    state = tx.init(params)
    for g in (1.0, -2.0, 0.5, 3.0):
        updates, state = tx.update(gc.tree.scale(g, params), state, params, weight=1)
        params = gc.apply_updates(params, updates)
    updates, flushed = gc.flush(tx, state, params)
    trees.assert_same_kind(flushed, state)
    if isinstance(state, dict):
        trees.assert_close(flushed["before"], state["before"], 0)
    again, same = gc.flush(tx, flushed, params)
    trees.assert_close((again, same), (gc.tree.zeros_like(params), flushed), 0)
    for _ in range(2):
        expected, state = tx.update(gc.tree.zeros_like(params), state, params, weight=0)
    assert float(jnp.abs(updates["a"]).max()) > 0.01
    trees.assert_close(updates, expected, 1e-6)
    new = gc.apply_updates(params, updates)
    trees.assert_close(gc.eval_params(tx, flushed, new), gc.eval_params(tx, state, new), 1e-6)


def test_flush_of_a_half_full_round_is_the_step_on_what_there_was():
    gradients, ones = [jnp.full(2, x) for x in (1.0, 2.0, 3.0, 5.0)], jnp.ones(2)
    tx = gc.accumulate(gc.sgd(gc.linear_schedule(1.0, 0.0, 4)), 3)
    _, state = run(tx, gradients, ones)
    updates, state = jax.jit(gc.flush)(tx, state, ones)
    np.testing.assert_allclose(updates, -0.75 * 5.0)
    assert (state.count, state.mini_step, float(state.weight)) == (2, 0, 0)
    _, state = run(gc.accumulate(gc.accumulate(gc.sgd(1.0), 2), 2), gradients[:3], ones)
    np.testing.assert_allclose(gc.flush(gc.accumulate(gc.accumulate(gc.sgd(1.0), 2), 2), state, ones)[0], -2.25)


def test_flush_says_what_it_cannot_end():
    ones = jnp.ones(2)
    for tx, problem in (
        (gc.adam(0.1), "there is no accumulate in"),
        (gc.chain(ACCUMULATED, ACCUMULATED), "only one of several accumulations in a chain can be ended"),
        (gc.sam(ACCUMULATED, gc.sgd(0.1)), "put accumulate around sam"),
    ):
        with pytest.raises(ValueError, match=f"flush: .*{problem}"):
            gc.flush(tx, tx.init(ones), ones)
