"""Losses of differences: values and derivatives against the oracle and optax, extremes, dtypes, shapes."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradchain import losses
from tests.oracles import losses as oracle

NAMES = ["squared_error", "l2_loss", "huber_loss", "log_cosh"]
each = pytest.mark.parametrize("name", NAMES)
P = np.random.default_rng(0).normal(size=(4, 5)) * np.logspace(-3, 2, 5)
T = np.random.default_rng(1).normal(size=(4, 5))


def slopes(function, *args):
    return jax.grad(lambda *a: jnp.sum(function(*a)))(*args)


def error(actual, expected):
    return np.max(np.abs(np.asarray(actual, np.float64) - expected)) / np.max(np.abs(expected))


@each
def test_oracle_in_float32(name):
    p, t = P.astype(np.float32), T.astype(np.float32)
    loss = getattr(losses, name)
    assert error(loss(p, t), getattr(oracle, name)(*map(np.float64, (p, t)))) < 1e-6
    assert error(slopes(loss, p, t), getattr(oracle, f"{name}_slope")(*map(np.float64, (p, t)))) < 1e-6


@each
def test_oracle_and_optax_in_float64(x64, name):
    loss = getattr(losses, name)
    for expected in (getattr(oracle, name), getattr(optax, name)):
        assert error(loss(P, T), np.asarray(expected(P, T))) < 1e-12
    assert error(slopes(loss, P, T), getattr(oracle, f"{name}_slope")(P, T)) < 1e-12
    assert error(slopes(loss, P, T), np.asarray(slopes(getattr(optax, name), P, T))) < 1e-12


@each
def test_optax_signature(name):
    ours, theirs = (inspect.signature(getattr(lib, name)).parameters for lib in (losses, optax))
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]


@each
def test_targets_default_to_zero(name):
    loss = getattr(losses, name)
    np.testing.assert_array_equal(loss(P), loss(P, np.zeros_like(P)))


@pytest.mark.parametrize("delta", [0.3, 5.0, np.full((4, 5), 0.7)], ids=["small", "large", "array"])
def test_huber_at_any_delta(x64, delta):
    assert error(losses.huber_loss(P, T, delta=delta), oracle.huber_loss(P, T, delta)) < 1e-12
    slope = slopes(lambda p: losses.huber_loss(p, T, delta=delta), P)
    assert error(slope, oracle.huber_loss_slope(P, T, delta)) < 1e-12


def test_huber_delta_may_be_traced_and_learned():
    slope = jax.jit(jax.grad(lambda d: losses.huber_loss(jnp.float32(3.0), delta=d)))(1.0)
    assert slope == 2.0  # d/dδ of δ (|e| - δ / 2) = |e| - δ


def test_log_cosh_of_small_errors_keeps_its_digits():
    e = np.logspace(-15, 0, 31).astype(np.float32)
    zero = np.zeros_like(e)
    np.testing.assert_allclose(losses.log_cosh(e), oracle.log_cosh(e.astype(np.float64), zero), rtol=1e-6)
    np.testing.assert_allclose(slopes(losses.log_cosh, e), np.tanh(e.astype(np.float64)), rtol=1e-6)


@each
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4, 1e18])
def test_finite_in_value_and_derivative_at_extremes(name, size):
    for p in (size, -size):
        value, slope = jax.value_and_grad(getattr(losses, name))(jnp.float32(p))
        assert np.isfinite(value)
        assert np.isfinite(slope)
        assert np.sign(slope) == np.sign(p)


@each
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_rounded_once(name, dtype):
    p, t = jnp.asarray(P, dtype), jnp.asarray(T, dtype)
    loss = getattr(losses, name)
    assert loss(p, t).dtype == dtype
    expected = loss(p.astype(jnp.float32), t.astype(jnp.float32)).astype(dtype)
    np.testing.assert_array_equal(loss(p, t), expected)
    assert loss(p, np.float32(T)).dtype == jnp.float32


@each
def test_a_column_against_a_vector_is_an_error(name):
    with pytest.raises(
        ValueError, match=rf"{name}: the shapes must be equal, got predictions \(5, 1\) and targets \(5,\)"
    ):
        getattr(losses, name)(jnp.ones((5, 1)), jnp.ones(5))
    with pytest.raises(ValueError, match=r"targets \(\)"):
        getattr(losses, name)(jnp.ones(5), 0.0)


@each
def test_dtypes_that_are_errors(name):
    with pytest.raises(TypeError, match=f"{name}: predictions must be floating-point, got int32"):
        getattr(losses, name)(jnp.arange(3), jnp.arange(3))
    with pytest.raises(TypeError, match=f"{name}: predictions must be floating-point, got complex64"):
        getattr(losses, name)(jnp.ones(3, complex))
    with pytest.raises(TypeError, match=f"{name}: targets must be real, got complex64"):
        getattr(losses, name)(jnp.ones(3), jnp.ones(3, complex))


@pytest.mark.parametrize("delta", [0.0, -1.0, np.inf, np.nan])
def test_huber_delta_out_of_range(delta):
    with pytest.raises(ValueError, match=r"huber_loss: delta must be in \(0, inf\), got"):
        losses.huber_loss(jnp.ones(3), delta=delta)


def test_huber_delta_of_another_shape():
    with pytest.raises(ValueError, match=r"huber_loss: delta must be a number or of shape \(4, 5\), got shape \(5,\)"):
        losses.huber_loss(P, delta=np.ones(5))


@each
def test_empty_arrays(name):
    assert getattr(losses, name)(jnp.zeros((0, 3)), jnp.zeros((0, 3))).shape == (0, 3)
