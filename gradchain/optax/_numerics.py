"""Optax's functions of arrays and counts, and its normal distribution."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.stats import norm
from jax.typing import ArrayLike

from gradchain import numerics
from gradchain.signatures import public
from gradchain.tree import scale_gradient

__all__ = [
    "multi_normal",
    "safe_increment",
    "safe_int32_increment",
    "safe_norm",
    "safe_root_mean_squares",
    "scale_gradient",
]


@public
def safe_increment(count: ArrayLike) -> Array:
    """Return the count plus 1, or the dtype's largest number: see :func:`gradchain.safe_increment`.

    Raises:
      ValueError: if the count is neither a whole nor a floating-point number.
    """
    dtype = jnp.asarray(count).dtype
    if not (jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)):
        raise ValueError(f"safe_increment: count must be an integer or a floating-point number, got {dtype}")
    return numerics.safe_increment(count)


safe_int32_increment = safe_increment


@public
def safe_norm(
    x: ArrayLike,
    min_norm: ArrayLike,
    ord: int | float | str | None = None,
    axis: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
) -> Array:
    """Return the norm, at least ``min_norm``, with a derivative at zero: see :func:`gradchain.safe_norm`.

    It has the dtype of ``x``.
    """
    return numerics.safe_norm(x, min_norm, ord, axis, keepdims).astype(_real_dtype(x, min_norm))


@public
def safe_root_mean_squares(x: ArrayLike, min_rms: ArrayLike) -> Array:
    """Return the root of the mean square, at least ``min_rms``: see :func:`gradchain.safe_root_mean_squares`.

    It has the dtype of ``x``.
    """
    return numerics.safe_root_mean_squares(x, min_rms).astype(_real_dtype(x, min_rms))


def _real_dtype(x: ArrayLike, bound: ArrayLike) -> Any:
    dtype = jnp.result_type(x, 0.0)
    return jnp.result_type(jnp.finfo(dtype).dtype, bound)


class MultiNormalDiagFromLogScale:
    """Independent normal distributions, given by their means and the logarithms of their standard deviations."""

    def __init__(self, loc: ArrayLike, log_scale: ArrayLike):
        self._mean, self._log_scale = jnp.asarray(loc), jnp.asarray(log_scale)
        self._scale = jnp.exp(self._log_scale)
        self._shape = jnp.broadcast_shapes(self._mean.shape, self._scale.shape)

    def sample(self, shape: tuple[int, ...], key: Array) -> Array:
        """Return samples, with ``shape`` before the parameters' shape."""
        return jax.random.normal(key, (*shape, *self._shape)) * self._scale + self._mean

    def log_prob(self, x: ArrayLike) -> Array:
        """Return the logarithm of the density, summed over the parameters' axes."""
        axes = tuple(range(-len(self._shape), 0))
        return jnp.sum(norm.logpdf(jnp.asarray(x), loc=self._mean, scale=self._scale), axes)

    @property
    def log_scale(self) -> Array:
        """The logarithms of the standard deviations."""
        return self._log_scale

    @property
    def params(self) -> list[Array]:
        """The means, and the logarithms of the standard deviations."""
        return [self._mean, self._log_scale]


@public
def multi_normal(loc: ArrayLike, log_scale: ArrayLike) -> MultiNormalDiagFromLogScale:
    """Return independent normal distributions with these means and logarithms of standard deviations."""
    return MultiNormalDiagFromLogScale(loc, log_scale)
