"""Guards and conditions: what they let through, against Optax's, and where they differ on purpose."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from tests import trees
from tests.unit.test_accumulation import NAN, run, stream

ONES = jnp.ones(2)
BAD = [ONES, NAN, NAN, ONES, jnp.full(2, -jnp.inf), NAN, NAN, NAN, ONES]


@pytest.mark.parametrize("most", [0, 1, 2, 5])
def test_apply_if_finite_agrees_with_optax_step_for_step(most):
    def both(lib):
        tx = lib.apply_if_finite(lib.sgd(0.1, momentum=0.9), most)
        state, results = tx.init(ONES), []
        for gradient in BAD:
            updates, state = tx.update(gradient, state, ONES)
            results.append((updates, state.notfinite_count, state.last_finite, state.total_notfinite))
        return results

    for ours, theirs in zip(both(gc), both(optax), strict=True):
        for x, y in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6)


def test_a_bad_gradient_leaves_state_and_counts_alone():
    tx = gc.apply_if_finite(gc.adam(gc.linear_schedule(1.0, 0.0, 10)), 3)
    (_, before), (updates, after) = run(tx, [ONES], ONES), run(tx, [ONES, NAN], ONES)
    trees.assert_close(after.inner_state, before.inner_state, 0)
    assert np.all(updates[1] == 0)


@pytest.mark.slow
def test_guards_under_vmap_equal_single_runs():
    """Some of the runs skip where others don't."""
    gradients = jnp.stack([jnp.stack(BAD), jnp.stack(BAD[::-1]), jnp.stack([2 * ONES] * len(BAD))])
    for tx in (gc.apply_if_finite(gc.adam(0.1), 2), gc.skip_spikes(gc.adam(0.1), warmup=2)):

        def updates(gs, tx=tx):
            return jnp.stack(run(tx, list(gs), ONES)[0])

        together = jax.vmap(updates)(gradients)
        for one, gs in zip(together, gradients, strict=True):
            np.testing.assert_allclose(one, updates(gs), rtol=1e-6)


def test_the_derivative_after_a_skipped_step_is_finite_where_a_bare_select_gives_nan():
    def slope(wrap):
        return jax.grad(lambda rate: jnp.sum(run(wrap(gc.sgd(rate)), [ONES, NAN], ONES)[0][1]))(0.1)

    class Bare:
        """The guard without its care for derivatives."""

        def __init__(self, tx):
            self.init, self.tx = tx.init, tx

        def update(self, gradient, state, params):
            updates, new = self.tx.update(gradient, state, params)
            return jnp.where(jnp.isfinite(gradient).all(), updates, 0), new

    assert slope(lambda tx: gc.apply_if_finite(tx, 3)) == 0
    assert np.isnan(slope(Bare))


def test_optax_computes_both_branches_under_vmap_too_and_the_results_are_the_same():
    gradients = jnp.stack([ONES, NAN])

    def first_update(lib):
        tx = lib.apply_if_finite(lib.adam(0.1), 3)
        return lambda g: tx.update(g, tx.init(ONES), ONES)[0]

    assert "cond[" in str(jax.make_jaxpr(first_update(optax))(ONES))
    assert "cond[" not in str(jax.make_jaxpr(jax.vmap(first_update(optax)))(gradients))
    ours, theirs = (jax.vmap(first_update(lib))(gradients) for lib in (gc, optax))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_skip_functions_agree_with_optax():
    for gradient in (stream(1, 0)[0], {"a": NAN}, {"a": jnp.ones(3)}):
        trees.assert_close(gc.skip_not_finite(gradient, 0, None), optax.skip_not_finite(gradient, 0, None), 0)
        ours = gc.skip_large_updates(gradient, 0, None, 3.5)
        theirs = optax.skip_large_updates(gradient, 0, None, max_squared_norm=3.5)
        np.testing.assert_allclose(ours[1]["norm_squared"], theirs[1]["norm_squared"], rtol=1e-6)
        assert ours[0] == theirs[0] == ours[1]["should_skip"]
    assert gc.skip_not_finite({}, 0, None)[1]["num_not_finite"] == 0


def test_a_large_half_precision_norm_is_finite_here_and_not_there():
    gradient = jnp.full(4, 300.0, "float16")
    assert gc.skip_large_updates(gradient, 0, None, 1e6)[1]["norm_squared"] == 4 * 300.0**2
    assert np.isinf(optax.skip_large_updates(gradient, 0, None, 1e6)[1]["norm_squared"])


def quiet(steps, seed=0):
    """Return gradients whose norms vary by a tenth."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(1 + 0.1 * rng.standard_normal()) * ONES for _ in range(steps)]


def kept(tx, gradients, **extra):
    """Return which gradients were let through."""
    return [bool(np.any(u != 0)) for u in run(tx, gradients, ONES, **extra)[0]]


def test_spikes_are_skipped_and_leave_no_trace():
    tx = gc.skip_spikes(gc.sgd(0.1, momentum=0.9), k=5.0, warmup=10)
    calm = quiet(40)
    spiky = [*calm[:20], 50 * ONES, NAN, *calm[20:]]
    assert kept(tx, spiky) == [True] * 20 + [False] * 2 + [True] * 20
    (_, with_spikes), (_, without) = run(tx, spiky, ONES), run(tx, calm, ONES)
    trees.assert_close(with_spikes.inner_state, without.inner_state, 0)
    trees.assert_close((with_spikes.mean, with_spikes.variance), (without.mean, without.variance), 0)
    assert (with_spikes.skipped, with_spikes.skipped_in_a_row) == (2, 0)


def test_a_lasting_change_of_level_is_accepted_after_a_while():
    tx = gc.skip_spikes(gc.sgd(0.1), k=5.0, warmup=10, max_consecutive_skips=3)
    calm = quiet(60)
    assert kept(tx, [*calm[:20], *(100 * g for g in calm[20:])]) == [True] * 20 + [False] * 3 + [True] * 37


def test_nothing_that_is_not_finite_passes_or_ends_the_statistics():
    tx = gc.skip_spikes(gc.sgd(0.1), warmup=1, max_consecutive_skips=2)
    gradients = [ONES, *[NAN] * 9, 0.5 * ONES]
    assert kept(tx, gradients) == [True, *[False] * 9, True]
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(run(tx, gradients, ONES)[1]))


def test_huge_gradients_leave_the_statistics_finite():
    tx = gc.skip_spikes(gc.scale(1.0), warmup=1, max_consecutive_skips=0)
    state = run(tx, [1e18 * ONES, ONES, 1e18 * ONES, ONES], ONES)[1]
    assert np.isfinite(state.mean)
    assert np.isfinite(state.variance)
    assert state.skipped == 0


def test_the_guard_may_watch_the_loss():
    tx = gc.skip_spikes(gc.sgd(0.1), k=4.0, warmup=3, by_value=True)
    losses = [1.0, 0.9, 1.1, 1.0, 99.0, float("nan"), 0.9]
    assert kept(tx, [ONES] * 7, value=losses) == [True] * 4 + [False] * 2 + [True]
    with pytest.raises(ValueError, match="skip_spikes needs 'value': call update"):
        tx.update(ONES, tx.init(ONES), ONES)


def test_the_running_mean_and_variance_are_those_of_the_values():
    values = np.random.default_rng(0).uniform(1, 2, 30)
    tx = gc.skip_spikes(gc.identity(), k=1e9, decay=0.999)
    state = run(tx, [jnp.full(1, x) for x in values], jnp.ones(1))[1]
    np.testing.assert_allclose(state.mean, values.mean(), rtol=1e-6)
    np.testing.assert_allclose(state.variance, values.var(), rtol=1e-5)


@pytest.mark.parametrize("name", ["conditionally_transform", "conditionally_mask"])
def test_conditions_agree_with_optax_step_for_step(name):
    def condition(count, value):
        return (count > 1) & (value < 0)

    gradients, values = stream(8, 2), [jnp.cos(k) for k in range(8)]
    txs = [getattr(lib, name)(lib.adam(0.1), condition, forward_extra_args=True) for lib in (gc, optax)]
    (ours, _), (theirs, _) = (run(tx, gradients, trees.standard(), value=values) for tx in txs)
    trees.assert_close(ours, theirs, 2e-5)


@pytest.mark.parametrize("wrap", [gc.conditionally_transform, gc.conditionally_mask])
def test_a_condition_must_be_one_boolean(wrap):
    tx = wrap(gc.sgd(0.1), lambda count: count)
    with pytest.raises(TypeError, match=rf"{wrap.__name__}: should_transform_fn must return one boolean, got int32"):
        tx.update(ONES, tx.init(ONES), ONES)


def test_a_condition_under_vmap_equals_single_runs():
    tx = gc.conditionally_transform(gc.adam(0.1), lambda count, value: value > 0, forward_extra_args=True)

    def updates(values):
        return jnp.stack(run(tx, [ONES] * 4, ONES, value=values)[0])

    values = jnp.array([[1.0, -1, 1, 1], [-1, -1, 1, 1], [-1, -1, -1, -1]])
    together = jax.vmap(updates)(values)
    for one, row in zip(together, values, strict=True):
        np.testing.assert_allclose(one, updates(row), rtol=1e-6)
