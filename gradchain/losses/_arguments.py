"""What all losses do with their arguments: check them, and widen them to the dtype to compute in."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradchain.numerics import compute_dtype


def floating(where: str, name: str, value: ArrayLike) -> Array:
    """Return ``value`` as an array, which must be of a real floating-point dtype."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{where}: {name} must be floating-point, got {array.dtype}")
    return array


def pair(where: str, **arrays: Any) -> tuple[Array, Array, Any]:
    """Return two arrays of one shape, the first floating-point, in the compute dtype; and the dtype of the result."""
    (name, first), (other, second) = arrays.items()
    first, second = floating(where, name, first), jnp.asarray(second)
    same_shape(where, {name: first.shape, other: second.shape})
    if jnp.iscomplexobj(second):
        raise TypeError(f"{where}: {other} must be real, got {second.dtype}")
    dtype = jnp.result_type(first, second)
    wide = compute_dtype(dtype)
    return first.astype(wide), second.astype(wide), dtype


def same_shape(where: str, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise ``ValueError`` with both shapes if they differ."""
    (name, shape), (other, other_shape) = shapes.items()
    if shape != other_shape:
        raise ValueError(f"{where}: the shapes must be equal, got {name} {shape} and {other} {other_shape}")
