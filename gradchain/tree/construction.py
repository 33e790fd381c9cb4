"""New trees from old ones: filled, random, batched, in other dtypes."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from gradchain import eager
from gradchain.eager import is_of_dtype, once
from gradchain.signatures import public
from gradchain.tree.alignment import T, Tree, is_float0, is_key, show_path


@public
def zeros_like(tree: T, dtype: DTypeLike | None = None) -> T:
    """Return zeros of the same shapes, in ``dtype`` or in the leaves' own dtypes."""
    zeros = once(eager.zeros_like)

    def leaf(x: Any) -> Any:
        if is_float0(x):
            return x  # as zero as it can be
        own = jnp.dtype(dtype) if dtype is not None else jnp.result_type(x)
        return zeros(x, own) if isinstance(x, Array) else jnp.zeros_like(x, dtype=own)

    return jax.tree.map(leaf, tree)


@public
def ones_like(tree: T, dtype: DTypeLike | None = None) -> T:
    """Return ones of the same shapes, in ``dtype`` or in the leaves' own dtypes."""
    return full_like(tree, 1, dtype)


@public
def full_like(tree: T, fill_value: ArrayLike, dtype: DTypeLike | None = None) -> T:
    """Return arrays of the same shapes filled with ``fill_value``, in ``dtype`` or in the leaves' own dtypes.

    Raises:
      TypeError: where that dtype can't hold the value: a fraction in an integer dtype, or a complex number in a real
        one.
    """

    def leaf(path: Any, x: Any) -> Any:
        if is_float0(x):
            return x  # as zero as it can be
        own = jnp.dtype(dtype) if dtype is not None else jnp.result_type(x)
        if not can_hold(own, jnp.result_type(fill_value)) and not _holds(own, fill_value):
            raise TypeError(f"tree.full_like: {show_path(path)} is {own} and can't hold {fill_value}; give a dtype")
        return jnp.full_like(x, fill_value, dtype=own)

    return jax.tree_util.tree_map_with_path(leaf, tree)


def _holds(dtype: Any, value: ArrayLike) -> bool:
    return not isinstance(value, Tracer) and bool(np.all(np.real(np.asarray(value)).astype(dtype) == np.asarray(value)))


@public
def batch_shape(tree: T, shape: tuple[int, ...] = ()) -> T:
    """Return the tree with leading axes of the given sizes added to each leaf, along which the leaf is repeated."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*shape, *jnp.shape(x))), tree)


@public
def split_key_like(rng_key: Array, target_tree: T) -> T:
    """Return a tree of the target's structure with a PRNG key of its own for each leaf."""
    treedef = jax.tree.structure(target_tree)
    return treedef.unflatten(jax.random.split(rng_key, treedef.num_leaves))


@public
def random_like(
    rng_key: Array,
    target_tree: T,
    sampler: Callable[..., Array] = jax.random.normal,
    dtype: DTypeLike | None = None,
) -> T:
    """Return independent samples of the target's shapes, one key for each leaf.

    Args:
      rng_key: a PRNG key.
      target_tree: gives shapes and dtypes.
      sampler: called as ``sampler(key, shape, dtype)``.
      dtype: dtype of the samples; by default each leaf's own.
    """

    def leaf(x: ArrayLike, key: Array) -> Array:
        return sampler(key, jnp.shape(x), dtype or jnp.result_type(x))

    return jax.tree.map(leaf, target_tree, split_key_like(rng_key, target_tree))


@public
def unwrap_random_key_data(input_tree: T) -> T:
    """Return the tree with typed PRNG keys as arrays of raw ``uint32``, so that they can be compared or saved."""

    def leaf(x: Any) -> Any:
        return jax.random.key_data(x) if isinstance(x, Array) and is_key(x) else x

    return jax.tree.map(leaf, input_tree)


@public
def cast(tree: T, dtype: DTypeLike | None) -> T:
    """Return the tree with inexact leaves in ``dtype``; ``None`` leaves all as they are. Integers and keys stay.

    Raises:
      TypeError: where a complex leaf would lose its imaginary part, or any leaf its fractional part.
    """
    if dtype is None:
        return tree

    def leaf(path: Any, x: Any) -> Any:
        if is_float0(x):
            return x
        return converted(path, x, jnp.dtype(dtype)) if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else x

    return jax.tree_util.tree_map_with_path(leaf, tree)


@public
def cast_like(tree: T, other_tree: Tree) -> T:
    """Return ``tree`` with each leaf in the dtype of its counterpart; JAX's ``float0``, for no derivative, stays.

    Raises:
      TypeError: where a complex leaf would lose its imaginary part, or a floating-point one would become integer.
    """

    leaves, treedef = jax.tree.flatten(tree)
    others = treedef.flatten_up_to(other_tree)
    if all(is_of_dtype(x, getattr(like, "dtype", None)) for x, like in zip(leaves, others, strict=True)):
        return tree  # without paths, which take longer than that

    def leaf(path: Any, x: Any, like: Any) -> Any:
        return converted(path, x, jnp.result_type(like))

    return jax.tree_util.tree_map_with_path(leaf, tree, other_tree)


def converted(path: Any, x: Any, dtype: Any) -> Any:
    """Return a leaf in another dtype; an error that shows its path where that would lose a part of it."""
    if is_float0(x) or is_of_dtype(x, dtype):
        return x
    own = jnp.result_type(x)
    if not can_hold(dtype, own):
        lost = "imaginary part" if jnp.issubdtype(own, jnp.complexfloating) else "fraction"
        lost = "value" if dtype == jnp.bool_ else lost
        raise TypeError(f"{show_path(path)} is {own} and can't become {dtype}: it would lose its {lost}")
    return jnp.asarray(x).astype(dtype)


def narrowed(result: Array, like: ArrayLike) -> Array:
    """Return a result in the dtype of ``like``, unless that is of a lesser kind: whole for real, real for complex."""
    dtype = jnp.result_type(like)
    return result.astype(dtype) if can_hold(dtype, result.dtype) else result


def can_hold(dtype: Any, other: Any) -> bool:
    """Return whether a dtype is of a kind that numbers of the other one can become without losing a part."""
    return _kind(dtype) >= _kind(other)


def _kind(dtype: Any) -> int:
    """Return the place of a dtype among bools, whole numbers, real and complex ones: each can hold those before."""
    kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    return next((i for i, kind in enumerate(kinds) if jnp.issubdtype(dtype, kind)), 0)


@public
def dtype(tree: Tree, mixed_dtype_handler: Literal["promote", "highest", "lowest"] | None = None) -> np.dtype[Any]:
    """Return the dtype of a tree; the default floating-point dtype for an empty one.

    Args:
      tree: the tree.
      mixed_dtype_handler: what to do where dtypes differ. ``None`` is an error; ``"promote"`` gives the dtype that all
        promote to; ``"highest"`` and ``"lowest"`` give the one among them that all others promote to, or that promotes
        to all others.

    Raises:
      ValueError: if dtypes differ and ``mixed_dtype_handler`` is ``None``, naming two leaves; if for ``"highest"`` or
        ``"lowest"`` two dtypes don't promote to one another; for any other ``mixed_dtype_handler``.
    """
    leaves = [(path, jnp.result_type(x)) for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]]
    if mixed_dtype_handler not in (None, "promote", "highest", "lowest"):
        raise ValueError(
            f"tree.dtype: mixed_dtype_handler must be None, promote, highest or lowest, got {mixed_dtype_handler!r}"
        )
    if not leaves:
        return np.dtype(jnp.result_type(float))
    if mixed_dtype_handler is None:
        (path, first), *others = leaves
        for other_path, other in others:
            if other != first:
                raise ValueError(f"tree.dtype: {show_path(path)} is {first}, but {show_path(other_path)} is {other}")
    dtypes = [own for _, own in leaves]
    if mixed_dtype_handler in ("highest", "lowest"):
        return functools.reduce(functools.partial(_ranked, highest=mixed_dtype_handler == "highest"), dtypes)
    return np.dtype(functools.reduce(jnp.promote_types, dtypes))


def _ranked(x: np.dtype[Any], y: np.dtype[Any], highest: bool) -> np.dtype[Any]:
    promoted = jnp.promote_types(x, y)
    if promoted not in (x, y):
        raise ValueError(f"tree.dtype: neither {x} nor {y} promotes to the other; use mixed_dtype_handler='promote'")
    return x if (promoted == x) is highest else y
