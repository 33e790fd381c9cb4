"""Checksums of arrays: the same for equal bits, wherever an array lies and however it is sharded."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gradchain.tree.shardings import in_host_memory, move

MULTIPLIERS = (2654435761, 2246822519)
"""Odd numbers that spread positions over 32 bits, one for each half of the checksum."""


def checksums(arrays: Sequence[Any]) -> list[str]:
    """Return a checksum of each array's bits, 16 hexadecimal digits.

    Each 32-bit half is a sum, modulo :math:`2^{32}`, of the array's words, each mixed with its position by a map that
    is one-to-one (the last step of MurmurHash3). So the order of summation doesn't matter, a single changed word always
    shows, and other damage stays hidden with a chance of about :math:`2^{-64}`. NumPy arrays are summed by NumPy,
    JAX's where they lie.

    Args:
      arrays: of any numeric dtype. PRNG keys come as their ``jax.random.key_data``.
    """
    halves = [_traced_halves(x) if isinstance(x, Array) else _halves(_host_words(x), np) for x in arrays]
    return [f"{int(a):08x}{int(b):08x}" for a, b in jax.device_get(halves)]


@jax.jit
def _traced_halves(x: Array) -> tuple[Any, Any]:
    return _halves(_words(move(x, to_host=False) if in_host_memory(x) else x), jnp)


def _halves(words: Any, xp: Any) -> tuple[Any, Any]:
    position = xp.zeros(words.shape, xp.uint32)
    for axis in range(words.ndim):
        stride = math.prod(words.shape[axis + 1 :]) % 2**32
        index = xp.arange(words.shape[axis], dtype=xp.uint32) * xp.uint32(stride)
        position = position + index.reshape((-1,) + (1,) * (words.ndim - axis - 1))[(None,) * axis]
    first, second = (xp.sum(_mixed(words ^ (position * xp.uint32(m)), xp), dtype=xp.uint32) for m in MULTIPLIERS)
    return first, second


def _mixed(z: Any, xp: Any) -> Any:
    z = (z ^ (z >> 16)) * xp.uint32(0x85EBCA6B)
    z = (z ^ (z >> 13)) * xp.uint32(0xC2B2AE35)
    return z ^ (z >> 16)


def _words(x: Array) -> Array:
    """Return the bits as ``uint32``; numbers of more than four bytes have a further axis of their words."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    x = _whole_bytes(x)
    return lax.bitcast_convert_type(x, _word_type(x)).astype(jnp.uint32)


def _host_words(x: Any) -> Any:
    x = np.ascontiguousarray(_whole_bytes(x)).reshape(-1)
    return x.view(_word_type(x)).astype(np.uint32)


def _whole_bytes(x: Any) -> Any:
    """Widen truth values and numbers of less than a byte, whose bits can't be read alone."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint8)
    if jnp.issubdtype(x.dtype, jnp.integer):
        return x.astype(jnp.int8) if jnp.iinfo(x.dtype).bits < 8 else x
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 8 else x


def _word_type(x: Any) -> Any:
    return {1: np.uint8, 2: np.uint16}.get(x.dtype.itemsize, np.uint32)
