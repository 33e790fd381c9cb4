"""Gradients of any finite size: no update is NaN, and no weight stands still for ever after a huge one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from tests import quick
from tests.contract.cases import each, secondary
from tests.registry import ROWS

SIZES = (1e-38, 1e-30, 1e-20, 1e15, 1e20, 1e30, 3e38)
AFTER = 4


def check(tx, update):
    """Take a few steps with one gradient of each size among ordinary ones: nothing is NaN, and
    no state becomes infinite."""
    params = {"kernel": jax.random.normal(jax.random.key(0), (3, 4))}
    ordinary = jax.tree.map(lambda w: jnp.tanh(w) + 0.1, params)

    def run(size):
        huge = jax.tree.map(lambda g: jnp.sign(g) * jnp.minimum(1, jnp.abs(g)) * size, ordinary)

        def step(state, k):
            gradient = jax.tree.map(lambda a, b: jnp.where(k == 1, a, b), huge, ordinary)
            updates, state = update(gradient, state, params)
            return state, (updates, state)

        return jax.lax.scan(step, tx.init(params), jnp.arange(2 + AFTER))[1]

    updates, states = quick.jit(jax.vmap(run))(jnp.array(SIZES))
    meant = {jax.tree_util.keystr(path) for path, x in jax.tree.leaves_with_path(tx.init(params)) if np.isinf(x).any()}
    lasting = [x for path, x in jax.tree.leaves_with_path(states) if jax.tree_util.keystr(path) not in meant]
    assert not sizes_of(np.isnan, (updates, states)), "NaN"
    assert not [size for size in sizes_of(np.isinf, lasting) if size <= 1e30], "an infinite state"


def sizes_of(bad, arrays):
    """Return the sizes of gradients for which a number is bad."""
    floating = [x for x in jax.tree.leaves(arrays) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return [size for i, size in enumerate(SIZES) if any(bad(np.asarray(x[i])).any() for x in floating)]


@pytest.mark.parametrize(
    "tx",
    [
        gc.scale_by_adam(nesterov=True),
        gc.scale_by_belief(nesterov=True),
        gc.scale_by_yogi(),
        gc.scale_by_factored_rms(min_dim_size_to_factor=1),
        gc.scale_by_muon(),
        gc.scale_by_dog(),
    ],
    ids=lambda tx: tx.name,
)
def test_no_size_of_a_finite_gradient_does_lasting_harm(tx):
    check(tx, tx.update)


@pytest.mark.slow
@each([row for row in ROWS if row.any_tree and not secondary(row)])
def test_no_size_of_a_finite_gradient_does_lasting_harm_in_any_row(row):
    tx = row.build()
    check(tx, lambda *arguments: row.update(tx, *arguments))


def test_a_weight_that_wakes_late_makes_a_bounded_step_with_acprop():
    """At most 1 / sqrt(1 - b2) = 31.6 of the rate, not g / eps."""
    tx = gc.scale_by_acprop()
    state = tx.init(jnp.zeros(2))
    for gradient in (jnp.array([0.0, 1.0]), jnp.array([0.0, -1.0]), jnp.array([1.0, 1.0])):
        updates, state = tx.update(gradient, state)
    assert 0 < updates[0] <= 32
