"""What all losses do with their arguments: check them, and widen them to the dtype to compute in."""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradchain.core.hyper import Number
from gradchain.eager import custom_jvp
from gradchain.numerics import compute_dtype

Axis = int | tuple[int, ...]
ANY, POSITIVE = Number("any", "(-inf, inf)"), Number("positive", "(0, inf)")
NON_NEGATIVE, FRACTION = Number("non-negative", "[0, inf)"), Number("fraction", "[0, 1]")


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


def class_labels(where: str, labels: ArrayLike, shape: tuple[int, ...], classes: int, name: str) -> tuple[Array, Array]:
    """Return integer labels, 0 where they name no class; and where they do."""
    index = jnp.asarray(labels)
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(f"{where}: labels must be integers, got {index.dtype}")
    same_shape(where, {"labels": index.shape, name: shape})
    index = index.astype(int) if index.dtype.itemsize < 4 else index
    valid = (index >= 0) & (index < classes)
    return jnp.where(valid, index, 0), valid


@custom_jvp
def pick(x: Array, index: Array) -> Array:
    """Return each row's element at its index: ``x`` of shape ``(..., n)``, ``index`` ``(...)`` from 0 to ``n - 1``."""
    return jnp.take_along_axis(x, index[..., None], -1)[..., 0]


@pick.defjvp
def _pick_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    """Transpose to a comparison, which fuses with what else is done to ``x``, in place of a scattering of zeros."""
    (x, index), (dx, _) = primals, tangents
    here = index[..., None] == jax.lax.broadcasted_iota(index.dtype, x.shape, x.ndim - 1)
    return pick(x, index), jnp.sum(jnp.where(here, dx, 0), -1)


def number(where: str, name: str, value: ArrayLike, kind: Number, shape: tuple[int, ...] = ()) -> Any:
    """Return one number, or an array that fits ``shape``, checked where it isn't traced."""
    value = kind.normalize(f"{where}: {name}", value)
    given = jnp.shape(value)
    if given and (len(given) != len(shape) or any(a not in (1, b) for a, b in zip(given, shape, strict=True))):
        wanted = f"a number or of shape {shape}" if shape else "one number"
        raise ValueError(f"{where}: {name} must be {wanted}, got shape {given}")
    return value


def axes_of(where: str, axis: Axis | None, ndim: int, what: str = "logits") -> tuple[int, ...]:
    """Return the axes, counted from the first; all for None."""
    if axis is None:
        return tuple(range(ndim))
    given = axis if isinstance(axis, tuple) else (operator.index(axis),)
    axes = tuple(a + ndim if a < 0 else a for a in given)
    if len(set(axes)) != len(axes) or not all(0 <= a < ndim for a in axes):
        raise ValueError(f"{where}: axis must name different axes of {ndim}-dimensional {what}, got {axis}")
    return axes


def without(shape: Sequence[int], axes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that is left when axes are summed over."""
    return tuple(size for i, size in enumerate(shape) if i not in axes)


def mask_of(
    name: str, where: ArrayLike | None, shape: tuple[int, ...], axes: tuple[int, ...], what: str = "logits"
) -> Array:
    """Return ``where`` in the inputs' shape; all true for None."""
    if where is None:
        return jnp.ones(shape, bool)
    mask = jnp.asarray(where)
    if mask.dtype != bool:
        raise TypeError(f"{name}: where must be boolean, got {mask.dtype}")
    if mask.shape == without(shape, axes):
        mask = jnp.expand_dims(mask, axes)
    if mask.ndim != len(shape) or any(size not in (1, full) for size, full in zip(mask.shape, shape, strict=True)):
        raise ValueError(
            f"{name}: where must have the shape of the {what} or of the result, got {mask.shape} and {shape}"
        )
    return jnp.broadcast_to(mask, shape)
