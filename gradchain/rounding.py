"""Rounding to half precision and below, at random so that the mean is kept, and the bits that precision leaves out."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from gradchain.signatures import public


@public
def stochastic_round(x: ArrayLike, dtype: DTypeLike, key: Array) -> Array:
    r"""Round each number up or down to a neighbour in ``dtype`` at random, so that the mean is the number itself.

    A number at a share :math:`p` of the way from the neighbour below to the one above becomes the latter with
    probability :math:`p`. So a sum of many small terms, each lost by plain rounding, is right on average:
    the error grows as the square root of the number of terms. Infinities and NaNs stay.

    The random bits are a hash of each number's position and the key: a few operations a number, the same under any
    sharding.

    Args:
      x: an array, real or complex. What lies beyond the largest number in ``dtype`` overflows as in a plain cast.
      dtype: a floating-point dtype. Where it is as wide as that of ``x`` or wider, this is a plain cast. Complex
        numbers keep theirs.
      key: a PRNG key.

    Example:
      >>> x = jnp.full(10_000, 1 + 1 / 1024)
      >>> float(x.astype("bfloat16").mean(dtype="float32"))
      1.0
      >>> rounded = stochastic_round(x, "bfloat16", jax.random.key(0)).mean(dtype="float32")  # close to 1.00098

    References:
      Gupta et al., *Deep Learning with Limited Numerical Precision*, 2015, section 3.
      Zamirai et al., *Revisiting BFloat16 Training*, 2020.
    """
    x, dtype = jnp.asarray(x), jnp.dtype(dtype)
    if not is_half(dtype) or jnp.iscomplexobj(x) or x.dtype == dtype:
        return x if jnp.iscomplexobj(x) else x.astype(dtype)
    return round_at(x, dtype, uniform(x.shape, seeds(key, 1)[0]))


def is_half(dtype: DTypeLike) -> bool:
    """Return whether a dtype is real floating point with fewer than 32 bits."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4


def seeds(key: Array, number: int) -> Array:
    """Return seeds for ``random_bits``: an array of shape ``(number, 2)``."""
    return jax.random.bits(key, (number, 2), jnp.uint32)


def random_bits(shape: tuple[int, ...], seed: Array) -> Array:
    """Return random words (uint32) from a seed of two.

    JAX's own generator takes as long as ten steps of Adam. This hashes a number's index: two rounds of multiplication
    and shift with constants from a search for little bias, the second after the seed's other word.
    """
    index = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        index += lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride % 2**32)
        stride *= shape[axis]
    h = index * np.uint32(0x9E3779B1) + seed[0]
    h = (h ^ (h >> 16)) * np.uint32(0x21F0AAAD) + seed[1]
    h = (h ^ (h >> 15)) * np.uint32(0x735A2D97)
    return h ^ (h >> 15)


def uniform(shape: tuple[int, ...], seed: Array) -> Array:
    """Return float32 numbers in [0, 1), multiples of 2^-23, from a seed of two words."""
    return lax.bitcast_convert_type((random_bits(shape, seed) >> 9) | np.uint32(0x3F800000), jnp.float32) - 1


@functools.partial(jax.jit, static_argnums=1)
def round_at(x: Array, dtype: np.dtype[Any], share: Array) -> Array:
    """Round up where the share of the way between two neighbours in ``dtype`` is at least 1 - ``share``."""
    return on_grid(x.astype(jnp.float32), dtype, share).astype(dtype)


def on_grid(x: Array, dtype: DTypeLike, share: Array | None = None) -> Array:
    """Round float32 ``x`` to numbers of ``dtype``, which are still float32, to nearest or as ``round_at``.

    A cast to ``dtype`` and back doesn't do: XLA leaves such pairs out, to be more precise than it was told to.
    """
    step = spacing(x, dtype)
    steps = x * (1 / step)
    below = jnp.floor(steps)
    whole = jnp.round(steps) if share is None else jnp.where(steps - below + share < 1, below, below + 1)
    return jnp.where(jnp.isfinite(x), whole * step, x)


def spacing(x: Array, dtype: DTypeLike) -> Array:
    """Return how far the numbers of ``dtype`` lie apart at float32 ``x``: a power of two, at least 2^-126."""
    info = jnp.finfo(dtype)
    exponent = lax.bitcast_convert_type(x, jnp.uint32) & np.uint32(0x7F800000)
    least = max(float(info.smallest_normal), math.ldexp(1.0, info.nmant - 126))
    return jnp.maximum(lax.bitcast_convert_type(exponent, jnp.float32), least) * math.ldexp(1.0, -info.nmant)
