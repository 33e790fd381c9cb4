"""Hyperparameters of any transform, and other values for them that stay in range."""

import jax.numpy as jnp
import numpy as np

import gradchain as gc


def numbers_of(tx):
    """Return the numeric hyperparameters by name, without the schedules that hold some of them."""
    return {name: value for name, value in gc.hyperparams(tx).items() if isinstance(value, int | float)}


def neighbour(value, k, of=64):
    """Return the ``k``-th of ``of`` values between ``value`` and half of it (above it for a whole number or zero)."""
    if isinstance(value, int):
        return value + k
    return value * (1 - k / (2 * of)) if value else k / (2 * of)


def changed(tx, k, kinds=(lambda value: value,)):
    """Return ``tx`` with every number changed to its ``k``-th neighbour, in one of several types."""
    values = {name: neighbour(value, k) for name, value in numbers_of(tx).items()}
    return tx.replace(**{name: kinds[(k + i) % len(kinds)](value) for i, (name, value) in enumerate(values.items())})


TYPES = (
    lambda value: value,
    lambda value: np.int64(value) if isinstance(value, int) else np.float32(value),
    lambda value: np.asarray(value),
    jnp.asarray,
    lambda value: round(value) if isinstance(value, float) and value.is_integer() else value,
)
"""Python, NumPy and JAX scalars; whole floats as ints."""
