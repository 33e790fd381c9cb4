"""Theory: laws of chain, invariances, and the rates that gradient descent and the heavy ball have on a quadratic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradchain as gc
from tests import trees
from tests.contract.cases import each, follows
from tests.registry import ROWS
from tests.registry.row import no_extra
from tests.unit.test_routing_laws import law

STEPS = 5
STAGES = st.sampled_from([row for row in ROWS if not row.random])
SEEDS = st.integers(0, 2**16)


def updates_of(tx, seed=0, scale=1.0, extra=no_extra):
    """Return the updates of a few steps with the parameters at rest."""
    params, gradients = trees.standard(seed=seed), trees.stream(STEPS, seed=seed + 1)
    state, results = tx.init(params), []
    for k in range(STEPS):
        gradient = jax.tree.map(lambda g: scale * g, trees.at(gradients, k))
        updates, state = tx.update(gradient, state, params, **extra(params))
        results.append(updates)
    return results


@law(STAGES, STAGES, STAGES, SEEDS, few=4, many=25)
def test_chain_is_associative(first, second, third, seed):
    a, b, c = first.build(), second.build(), third.build()

    def extra(params):
        return first.extra(params) | second.extra(params) | third.extra(params)

    flat = updates_of(gc.chain(a, b, c), seed, extra=extra)
    trees.assert_close(updates_of(gc.chain(gc.chain(a, b), c), seed, extra=extra), flat, 0)
    trees.assert_close(updates_of(gc.chain(a, gc.chain(b, c)), seed, extra=extra), flat, 0)


@each(slow=follows)
def test_identity_is_the_identity_of_chain(row):
    alone = updates_of(row.build(), extra=row.extra)
    for tx in (gc.chain(row.build()), gc.chain(gc.identity(), row.build()), gc.chain(row.build(), gc.chain())):
        trees.assert_close(updates_of(tx, extra=row.extra), alone, 0)


def test_a_chain_of_nothing_returns_what_it_gets():
    tx, gradient = gc.chain(), trees.standard()
    assert tx.init(gradient) == ()
    assert tx.update(gradient, ()) == (gradient, ())


@given(st.sampled_from([2.0**-10, 2.0**-3, 2.0**8]), st.booleans(), SEEDS)
def test_adam_doesnt_see_the_scale_of_gradients(scale, nesterov, seed):
    """Powers of two commute with rounding, so that the updates are the same to the last bit."""
    tx = gc.scale_by_adam(eps=0.0, nesterov=nesterov)
    trees.assert_close(updates_of(tx, seed, scale), updates_of(tx, seed), 0)


@given(st.sampled_from([gc.scale_by_rms(eps=0.0), gc.scale_by_rss(0.0, eps=0.0)]), SEEDS)
def test_other_adaptive_rules_dont_either(tx, seed):
    trees.assert_close(updates_of(tx, seed, 2.0**6), updates_of(tx, seed), 0)


@given(st.floats(0.25, 4), st.floats(0.0, 0.99), SEEDS)
def test_momentum_is_linear_in_the_gradients(scale, decay, seed):
    expected = jax.tree.map(lambda u: scale * u, updates_of(gc.trace(decay), seed))
    trees.assert_close(updates_of(gc.trace(decay), seed, scale), expected, 1e-6)


@given(st.floats(0.1, 10), SEEDS)
def test_clipping_bounds_the_norm_and_keeps_the_direction(bound, seed):
    gradients, clipped = updates_of(gc.identity(), seed), updates_of(gc.clip_by_global_norm(bound), seed)
    for g, u in zip(gradients, clipped, strict=True):
        norm = float(gc.global_norm(g))
        assert float(gc.global_norm(u)) <= bound * (1 + 1e-6)
        trees.assert_close(u, jax.tree.map(lambda x, n=norm: x * min(1, bound / n), g), 1e-6)


@pytest.mark.parametrize("depth", [1, 2])
def test_vmap_over_gradients_equals_a_stack_of_runs(depth):
    tx = gc.adamw(0.01, weight_decay=0.1)
    params = jax.tree.map(lambda *xs: jnp.stack(xs), *[trees.standard(seed=k) for k in range(4)])
    init, update = tx
    for _ in range(depth - 1):
        params = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), params)
    for _ in range(depth):
        init, update = jax.vmap(init), jax.vmap(update)
    stacked, _ = update(params, init(params), params)
    for index in np.ndindex(*(2, 2) if depth == 2 else (4,)):
        one = jax.tree.map(lambda x, i=index: x[i], params)
        expected, _ = tx.update(one, tx.init(one), one)
        trees.assert_close(jax.tree.map(lambda x, i=index: x[i], stacked), expected, 1e-6)


def path(tx, curvatures, steps):
    """Return the iterates on sum(h w^2) / 2 from all ones."""
    h = jnp.asarray(curvatures)

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(h * w, state, w)
        w = gc.apply_updates(w, updates)
        return (w, state), w

    start = jnp.ones_like(h)
    return np.asarray(jax.lax.scan(step, (start, tx.init(start)), length=steps)[1])


@given(rate=st.floats(0.05, 0.95), low=st.floats(0.1, 0.5), high=st.floats(1.0, 2.0))
def test_gradient_descent_contracts_by_one_minus_rate_times_curvature(rate, low, high):
    """w_k = (1 - eta h)^k w_0 (Polyak 1964, section 2)."""
    with jax.enable_x64(True):
        curvatures = np.array([low, high])
        expected = (1 - rate * curvatures) ** np.arange(1, 31)[:, None]
        np.testing.assert_allclose(path(gc.sgd(rate), curvatures, 30), expected, rtol=1e-11, atol=1e-14)


def test_gradient_descent_diverges_above_two_over_the_curvature():
    assert abs(path(gc.sgd(0.99), [2.0], 200)[-1]) < 0.1
    assert abs(path(gc.sgd(1.01), [2.0], 200)[-1]) > 10


@pytest.mark.parametrize("high", [10.0, 100.0])
def test_the_heavy_ball_reaches_polyaks_rate(high, x64):
    """At its best numbers the error shrinks by (sqrt(k) - 1) / (sqrt(k) + 1) a step (Polyak 1964, theorem 9)."""
    low = 1.0
    spectral = (np.sqrt(high) - np.sqrt(low)) / (np.sqrt(high) + np.sqrt(low))
    tx = gc.sgd(4 / (np.sqrt(high) + np.sqrt(low)) ** 2, momentum=spectral**2)
    steps = int(25 / -np.log(spectral))
    errors = np.linalg.norm(path(tx, [low, 0.5 * (low + high), high], steps), axis=1)
    counts = np.arange(1, steps + 1)
    late = counts > steps // 2
    measured = np.exp(np.polyfit(counts[late], np.log(errors[late] / counts[late]), 1)[0])
    assert abs(measured - spectral) < 0.01 * (1 - spectral) + 1e-3


def test_the_heavy_ball_beats_gradient_descent_at_its_own_best_rate(x64):
    low, high = 1.0, 100.0
    plain = path(gc.sgd(2 / (low + high)), [low, high], 100)[-1]
    ball = path(gc.sgd(4 / (np.sqrt(high) + np.sqrt(low)) ** 2, momentum=(9 / 11) ** 2), [low, high], 100)[-1]
    np.testing.assert_allclose(np.abs(plain), (99 / 101) ** 100, rtol=1e-9)
    assert np.max(np.abs(ball)) < 1e-5


def test_noise_has_the_variance_of_the_paper():
    """Neelakantan et al. 2015, equation 1: eta / k^gamma on the k-th update."""
    tx, zeros = gc.add_noise(0.5, 0.55, 0), jnp.zeros((200, 200))
    state = tx.init(zeros)
    for k in range(1, 6):
        updates, state = tx.update(zeros, state)
        np.testing.assert_allclose(jnp.var(updates), 0.5 / k**0.55, rtol=5 * (2 / zeros.size) ** 0.5)
        assert abs(float(jnp.mean(updates))) < 5 * (0.5 / zeros.size) ** 0.5
