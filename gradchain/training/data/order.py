"""A random order of the examples, without sorting: a small cipher of their numbers."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax

ROUNDS = 12
"""Pairs of rounds. From 8 on all orders of up to 6 examples come out equally often; the others are a margin."""


def random_order(key: Array, n: int) -> Array:
    r"""Return the whole numbers below ``n`` in a random order, as ``jax.random.permutation(key, n)`` does, but faster.

    Sorting random keys takes longer on a CPU than a small network's steps on the examples. Here every number is written
    as :math:`i = a r + l` with :math:`l < a`, :math:`r < b`, and enciphered by a Feistel network on
    :math:`\mathbb{Z}_a \times \mathbb{Z}_b`, whose every round can be undone, so that no number comes twice:

    .. math:: l \leftarrow l + F_j(r) \bmod a, \qquad r \leftarrow r + F'_j(l) \bmod b,

    where the :math:`F` are hashes with keys of their own. What falls on :math:`n` or beyond
    is enciphered again until it falls below.

    Args:
      key: a PRNG key.
      n: how many, from 1 to :math:`2^{31}`.

    Returns:
      A permutation of ``arange(n)``. (As with any key of 64 bits, not all of the :math:`n!` can come out from
      :math:`n = 21` on.)

    Reference: Black and Rogaway, *Ciphers with Arbitrary Finite Domains*, CT-RSA 2002 (the generalised Feistel network
    and the cycle walking); Mitchell, Stokes, Frank and Holmes, *Bandwidth-Optimal Random Shuffling for GPUs*, ACM TOPC
    2022 (shuffling by ciphers). The hash is the finaliser of Appleby's MurmurHash3.
    """
    a = math.isqrt(n - 1) + 1
    a += a % 2  # shifts around an even circle can be odd permutations
    b = -(-n // a)

    def encipher(pair: tuple[Array, Array], keys: Array) -> tuple[tuple[Array, Array], None]:
        low, high = pair
        low = _shift(low, high, keys[0], a)
        return (low, _shift(high, low, keys[1], b)), None

    place = jnp.arange(a * b, dtype=jnp.uint32)
    keys = jax.random.bits(key, (ROUNDS, 2), jnp.uint32)
    (low, high), _ = lax.scan(encipher, (place % a, place // a), keys)
    table = (high * a + low).astype(int)
    return lax.while_loop(lambda x: jnp.any(x >= n), lambda x: jnp.where(x >= n, table[x], x), table[:n])


def _shift(x: Array, y: Array, key: Array, size: int) -> Array:
    """Return ``x`` moved around a circle of ``size`` by a hash of ``y``."""
    moved = x + _below(_hash(y + key), size)
    return jnp.where(moved >= size, moved - size, moved)


def _hash(x: Array) -> Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _below(x: Array, size: int) -> Array:
    """Return ``floor(x * size / 2**32)``, for a size of at most 2**16."""
    return ((x >> 16) * size + ((x & 0xFFFF) * size >> 16)) >> 16
