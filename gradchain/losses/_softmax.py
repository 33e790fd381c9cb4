"""The logarithm of the softmax, and of sums of exponentials, over the elements that are possible.

Both take their argument relative to the largest possible element, so that 1e4 loses no digits. Their derivatives are
finite even where nothing is possible.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array


def log_softmax(x: Array, axes: tuple[int, ...], possible: Array) -> Array:
    """Return log-probabilities over the ``possible`` elements, and minus infinity for the others."""
    _, relative, total = _sum_relative(x, axes, possible)
    return jnp.where(possible, relative - jnp.log(jnp.where(total == 0, 1, total)), -math.inf)


def log_sum_exp(x: Array, axes: tuple[int, ...], possible: Array) -> Array:
    """Return the logarithm of the sum of exponentials, with ``axes`` kept; minus infinity if nothing is possible."""
    shift, _, total = _sum_relative(x, axes, possible)
    return jnp.where(total == 0, -math.inf, shift + jnp.log(jnp.where(total == 0, 1, total)))


def _sum_relative(x: Array, axes: tuple[int, ...], possible: Array) -> tuple[Array, Array, Array]:
    """Return the largest element, the elements less that, and the sum of their exponentials."""
    largest = jnp.max(jnp.where(possible, x, -math.inf), axes, keepdims=True, initial=-math.inf)
    shift = jax.lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0))
    relative = jnp.where(possible, x, shift) - shift
    return shift, relative, jnp.sum(jnp.where(possible, jnp.exp(relative), 0), axes, keepdims=True)
