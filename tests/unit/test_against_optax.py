"""Every row with a twin in Optax, live: 100 steps on the same gradients; and the intended differences, pinned.

The contract suite holds all rows to oracles in NumPy, so that one rule of each family is enough in ``make test``.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from tests import quick, trees
from tests.contract.cases import each, follows
from tests.registry import ROWS

STEPS = 100
WITH_OPTAX = [row for row in ROWS if row.optax]
SINGLE, DOUBLE = 3e-5, 1e-12


def updates_of(row, tx, params, gradients):
    """Return all updates on a stream of gradients, stacked, with the parameters at rest."""

    def step(state, gradient):
        updates, state = row.update(tx, gradient, state, params)
        return state, updates

    return quick.jit(lambda: jax.lax.scan(step, tx.init(params), gradients)[1])()


def assert_agree(row, dtype, tolerance):
    """Assert that gradchain and Optax make the same updates."""
    params, gradients = trees.standard(dtype), trees.stream(STEPS, dtype)
    ours, theirs = (updates_of(row, tx, params, gradients) for tx in (row.build(), row.optax()))
    trees.assert_close(ours, theirs, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("row", WITH_OPTAX, ids=str)
def test_single_precision(row):
    assert_agree(row, "float32", SINGLE)


@each(WITH_OPTAX, slow=follows)
def test_double_precision(row, x64):
    assert_agree(row, "float64", DOUBLE)


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in WITH_OPTAX if row.optax_complex], ids=str)
def test_complex(row):
    assert_agree(row, "complex64", SINGLE)


def test_state_of_half_precision_parameters_is_float32_here_and_half_there():
    params = trees.standard("bfloat16")
    ours, theirs = gc.scale_by_adam().init(params), optax.scale_by_adam().init(params)
    assert {x.dtype for x in jax.tree.leaves((ours.mu, ours.nu))} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves((theirs.mu, theirs.nu))} == {jnp.dtype("bfloat16")}


def test_a_variance_that_rounds_below_zero_is_zero_here_and_nan_there():
    gradient = {"w": jnp.full(4096, 1.0) + 1e-3 * jnp.arange(4096.0)}

    def last(tx):
        state = tx.init(gradient)
        for _ in range(200):
            updates, state = tx.update(gradient, state)
        return updates["w"]

    arguments = {"decay": 0.9, "eps": 1e-12, "bias_correction": True}
    assert np.any(np.isnan(last(optax.scale_by_stddev(**arguments))))
    assert np.all(np.isfinite(last(gc.scale_by_stddev(**arguments))))


def test_the_derivative_at_a_zero_gradient_is_finite_here_and_nan_there():
    def total(gradient, tx):
        return jnp.sum(tx.update(gradient, tx.init(gradient))[0])

    derive = functools.partial(jax.grad(total), jnp.zeros(3))
    assert np.all(np.isfinite(derive(gc.scale_by_adam())))
    assert np.all(np.isnan(derive(optax.scale_by_adam())))


def test_bias_correction_is_exact_here_and_off_by_several_roundings_there():
    gradient = jnp.full(1, 1.0)
    exact = 1 / (1 + 1e-8)
    ours, theirs = (
        abs(float(tx.update(gradient, tx.init(gradient))[0][0]) - exact)
        for tx in (gc.scale_by_adam(), optax.scale_by_adam())
    )
    assert ours <= 1.2e-7
    assert theirs > 1e-6


def test_clipping_a_gradient_of_norm_zero_to_zero_is_zero_here_and_nan_there():
    gradient = jnp.zeros(3)
    assert np.all(gc.clip_by_global_norm(0.0).update(gradient, gc.clip_by_global_norm(0.0).init(gradient))[0] == 0)
    assert np.all(np.isnan(optax.clip_by_global_norm(0.0).update(gradient, optax.EmptyState())[0]))
