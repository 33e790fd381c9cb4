"""Gradients of any finite size: no update is NaN, and no weight stands still for ever after a huge one."""

import jax
import jax.numpy as jnp
import numpy as np

import gradchain as gc
from tests.contract.cases import each, secondary

SIZES = (1e-38, 1e-30, 1e-20, 1e15, 1e20, 1e30, 3e38)
AFTER = 4
FAST = ("scale_by_adam", "scale_by_yogi", "scale_by_factored_rms", "scale_by_muon", "scale_by_dog", "momo")
"""Rows that are tested quickly: one for each way of squaring gradients."""


def runs(row):
    """Return (updates, states) of a few steps for each size: one gradient of that size and ordinary ones after it."""
    key = jax.random.key(0)
    params = {"bias": jnp.full(4, 0.5), "kernel": jax.random.normal(key, (3, 4)), "scale": jnp.full((), 2.0)}
    ordinary = jax.tree.map(lambda w: jnp.tanh(w) + 0.1, params)
    tx = row.build()

    def run(size):
        huge = jax.tree.map(lambda g: jnp.sign(g) * jnp.minimum(1, jnp.abs(g)) * size, ordinary)

        def step(state, k):
            gradient = jax.tree.map(lambda a, b: jnp.where(k == 1, a, b), huge, ordinary)
            updates, state = row.update(tx, gradient, state, params)
            return state, (updates, state)

        return jax.lax.scan(step, tx.init(params), jnp.arange(2 + AFTER))[1]

    return jax.jit(jax.vmap(run))(jnp.array(SIZES))


@each([row for row in ROWS if not secondary(row)], slow=lambda row: row.name not in FAST)
def test_no_size_of_a_finite_gradient_makes_a_nan(row):
    updates, states = runs(row)
    for x in jax.tree.leaves((updates, states)):
        if jnp.issubdtype(x.dtype, jnp.inexact):
            bad = np.isnan(np.asarray(x)).reshape(len(SIZES), -1).any(1)
            assert not bad.any(), f"NaN for gradients of size {np.array(SIZES)[bad]}"
    for x in jax.tree.leaves(states):
        if jnp.issubdtype(x.dtype, jnp.inexact):
            bad = np.isinf(np.asarray(x[: len(SIZES) - 1])).reshape(len(SIZES) - 1, -1).any(1)
            assert not bad.any(), f"an infinite state after a gradient of size {np.array(SIZES[:-1])[bad]}"


def test_a_weight_that_wakes_late_makes_a_bounded_step_with_acprop():
    """At most 1 / sqrt(1 - b2) = 31.6 of the rate, not g / eps."""
    tx = gc.scale_by_acprop()
    state = tx.init(jnp.zeros(2))
    for gradient in (jnp.array([0.0, 1.0]), jnp.array([0.0, -1.0]), jnp.array([1.0, 1.0])):
        updates, state = tx.update(gradient, state)
    assert 0 < updates[0] <= 32
