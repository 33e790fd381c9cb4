"""The logarithm of the softmax, and of sums of exponentials, over the elements that are possible.

Both take their argument relative to the largest possible element, so that 1e4 loses no digits. Their derivatives are
finite even where nothing is possible.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from gradchain.numerics import compute_dtype


def log_softmax(x: Array, axes: tuple[int, ...], possible: Array) -> Array:
    """Return log-probabilities over the ``possible`` elements, and minus infinity for the others."""
    _, relative, total = sum_relative(x, axes, possible)
    return jnp.where(possible, relative - log_total(total), -math.inf)


def log_sum_exp(x: Array, axes: tuple[int, ...], possible: Array) -> Array:
    """Return the logarithm of the sum of exponentials, with ``axes`` kept; minus infinity if nothing is possible."""
    shift, _, total = sum_relative(x, axes, possible)
    return jnp.where(total == 0, -math.inf, shift + log_total(total))


def log_total(total: Array) -> Array:
    """Return the logarithm of a sum of exponentials, and 0 for the sum of none."""
    return jnp.log(jnp.where(total == 0, 1, total))


def sum_relative(x: Array, axes: tuple[int, ...], possible: Array | None) -> tuple[Array, Array, Array]:
    """Return the largest element, the elements less that, and the sum of their exponentials, in at least float32.

    Args:
      x: elements; a minus infinity adds nothing to the sum.
      axes: summed over, and kept with size 1.
      possible: which elements take part; relative to the largest, the others are 0. ``None`` for all.
    """

    def among(values: Array, other: Array | float) -> Array:
        return values if possible is None else jnp.where(possible, values, other)

    largest = jnp.max(among(x, -math.inf), axes, keepdims=True, initial=-math.inf)
    shift = jax.lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0))
    dtype = compute_dtype(x.dtype)
    relative = among(x, shift).astype(dtype) - shift.astype(dtype)
    return shift.astype(dtype), relative, jnp.sum(among(jnp.exp(relative), 0), axes, keepdims=True)
