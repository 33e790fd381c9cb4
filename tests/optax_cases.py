"""Comparing a function of ``gradchain.optax`` with Optax's."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np


def outcome(function, args, kwargs):
    """Return what a function returns, or the error that it raises."""
    try:
        with jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return function(*args, **kwargs)
    except Exception as error:
        return error


def assert_same(ours, theirs, *args, **kwargs):
    """Assert equal results (their structures, dtypes, shapes and numbers), or errors of the same type."""
    found, expected = (outcome(function, args, kwargs) for function in (ours, theirs))
    if isinstance(expected, Exception) or isinstance(found, Exception):
        assert type(found) is type(expected), f"{found!r} in the place of {expected!r}"
        return
    assert str(jax.tree.structure(found)) == str(jax.tree.structure(expected))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if isinstance(b, float | jax.Array | np.ndarray | np.generic):
            assert_same_array(a, b)
        else:
            assert (type(a), a) == (type(b), b)


def assert_same_array(found, expected):
    """Assert equal types, dtypes, shapes, and numbers to a few roundings."""
    assert isinstance(found, jax.Array) == isinstance(expected, jax.Array), (type(found), type(expected))
    found, expected = jnp.asarray(found), jnp.asarray(expected)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if jnp.issubdtype(expected.dtype, jax.dtypes.prng_key):
        found, expected = jax.random.key_data(found), jax.random.key_data(expected)
    kind = complex if jnp.iscomplexobj(expected) else float
    tolerance = 2e-2 if expected.dtype == jnp.bfloat16 else 2e-6
    np.testing.assert_allclose(found.astype(kind), expected.astype(kind), rtol=tolerance, atol=tolerance)
