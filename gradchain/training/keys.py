"""Seeds and PRNG keys, one or many, as typed keys."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain.arguments import shown
from gradchain.tree.alignment import is_key


def as_keys(seeds: Any, where: str) -> Array:
    """Return whole numbers, typed PRNG keys or raw ones (``uint32``) as typed PRNG keys of the same shape.

    Raises:
      ValueError: if they are anything else, or none.
    """
    seeds = seeds if isinstance(seeds, Array) else np.asarray(seeds)
    if seeds.size and is_key(seeds):
        return seeds
    raw = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    if seeds.size and seeds.dtype == raw.dtype and seeds.shape[-1:] == raw.shape:
        return jax.random.wrap_key_data(jnp.asarray(seeds))
    if not seeds.size or not jnp.issubdtype(seeds.dtype, jnp.integer):
        raise ValueError(f"{where} must be whole numbers or PRNG keys, at least one, got {shown(seeds)}")
    return jax.vmap(jax.random.key)(seeds.reshape(-1)).reshape(seeds.shape)


def as_key(seed: Any, where: str) -> Array:
    """Return one seed or PRNG key as a PRNG key."""
    key = as_keys(seed, where)
    if key.ndim:
        raise ValueError(f"{where} must be one seed or PRNG key, got an array of shape {key.shape}")
    return key
