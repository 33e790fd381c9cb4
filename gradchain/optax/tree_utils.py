"""Arithmetic on trees and parts of states by name, in Optax's conventions, made of :mod:`gradchain.tree`.

Results have the dtypes that Optax's have: sums and norms those of the arrays, though they are accumulated in float32;
everything else what JAX promotes to. States are found by their fields as in Optax, and also by gradchain's addresses.
"""

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from gradchain import tree as trees
from gradchain.numerics import abs_sq
from gradchain.optax._deprecated import old_names
from gradchain.signatures import public
from gradchain.tree import NamedTupleKey

__all__ = [
    "NamedTupleKey",
    "tree_add",
    "tree_add_scale",
    "tree_allclose",
    "tree_batch_shape",
    "tree_bias_correction",
    "tree_cast",
    "tree_cast_like",
    "tree_clip",
    "tree_conj",
    "tree_div",
    "tree_dtype",
    "tree_full_like",
    "tree_get",
    "tree_get_all_with_path",
    "tree_map_params",
    "tree_max",
    "tree_min",
    "tree_mul",
    "tree_norm",
    "tree_ones_like",
    "tree_random_like",
    "tree_real",
    "tree_scale",
    "tree_set",
    "tree_size",
    "tree_split_key_like",
    "tree_sub",
    "tree_sum",
    "tree_unwrap_random_key_data",
    "tree_update_infinity_moment",
    "tree_update_moment",
    "tree_update_moment_per_elem_norm",
    "tree_vdot",
    "tree_where",
    "tree_zeros_like",
]

tree_allclose = trees.allclose
tree_batch_shape = trees.batch_shape
tree_clip = trees.clip
tree_conj = trees.conj
tree_get_all_with_path = trees.get_all_with_path
tree_map_params = trees.map_params
tree_ones_like = trees.ones_like
tree_real = trees.real
tree_set = trees.set
tree_size = trees.size
tree_split_key_like = trees.split_key_like
tree_unwrap_random_key_data = trees.unwrap_random_key_data
tree_where = trees.where
tree_zeros_like = trees.zeros_like

Path = tuple[Any, ...]


def _is_none(x: Any) -> bool:
    return x is None


# Elementwise


@public
def tree_add(tree_x: Any, tree_y: Any, *other_trees: Any) -> Any:
    """Return the sum of trees by Python's ``+``: numbers stay numbers."""
    return jax.tree.map(lambda *leaves: sum(leaves), tree_x, tree_y, *other_trees)


@public
def tree_sub(tree_x: Any, tree_y: Any) -> Any:
    """Return ``tree_x - tree_y``."""
    return jax.tree.map(operator.sub, tree_x, tree_y)


@public
def tree_mul(tree_x: Any, tree_y: Any) -> Any:
    """Return ``tree_x * tree_y``."""
    return jax.tree.map(operator.mul, tree_x, tree_y)


@public
def tree_div(tree_x: Any, tree_y: Any) -> Any:
    """Return ``tree_x / tree_y``."""
    return jax.tree.map(operator.truediv, tree_x, tree_y)


@public
def tree_scale(scalar: ArrayLike, tree: Any) -> Any:
    """Return ``scalar * tree``."""
    return jax.tree.map(lambda x: scalar * x, tree)


@public
def tree_add_scale(tree_x: Any, scalar: ArrayLike, tree_y: Any) -> Any:
    """Return ``tree_x + scalar * tree_y``, and ``None`` where ``tree_x`` is."""
    factor = jnp.asarray(scalar)
    return jax.tree.map(lambda x, y: None if x is None else x + factor * y, tree_x, tree_y, is_leaf=_is_none)


# Reductions


def _sum_dtype(*trees_of_arrays: Any, magnitude: bool = False) -> Any:
    """Return the dtype of the sum of products of arrays, one of each tree."""
    dtypes = [jnp.result_type(x) for x in jax.tree.leaves(trees_of_arrays)]
    dtypes = [jnp.finfo(d).dtype if magnitude and jnp.issubdtype(d, jnp.complexfloating) else d for d in dtypes]
    summed = [jax.eval_shape(jnp.sum, jax.ShapeDtypeStruct((), d)).dtype for d in dict.fromkeys(dtypes)]
    return functools.reduce(jnp.promote_types, summed) if summed else jnp.result_type(int)


@public
def tree_sum(tree: Any, associative_reduction: bool = False) -> Array:
    """Return the sum of all elements, in the dtype of the arrays: see :func:`gradchain.tree.sum`."""
    return trees.sum(tree, associative_reduction).astype(_sum_dtype(tree))


@public
def tree_vdot(tree_x: Any, tree_y: Any) -> Array:
    """Return the inner product of two trees, in the dtype of the arrays: see :func:`gradchain.tree.vdot`."""
    return trees.vdot(tree_x, tree_y).astype(_sum_dtype(tree_x, tree_y))


@public
def tree_max(tree: Any) -> Array:
    """Return the largest element, a floating-point number: see :func:`gradchain.tree.max`."""
    return _floating(trees.max(tree))


@public
def tree_min(tree: Any) -> Array:
    """Return the smallest element, a floating-point number: see :func:`gradchain.tree.min`."""
    return _floating(trees.min(tree))


def _floating(x: Array) -> Array:
    return x.astype(jnp.result_type(x, 0.0))


@public
def tree_norm(tree: Any, ord: int | str | float | None = None, squared: bool = False) -> Array:
    """Return the norm of all elements together, in the dtype of the arrays: see :func:`gradchain.tree.norm`."""
    norm = trees.norm(tree, ord, squared)
    dtype = _sum_dtype(tree, magnitude=True)
    whole = squared if ord in (None, 2) else ord == 1
    return norm.astype(dtype if whole else jnp.result_type(dtype, 0.0))


# Trees like others


@public
def tree_cast(tree: Any, dtype: DTypeLike | None) -> Any:
    """Return the tree with all arrays in a dtype, whole numbers too; the tree itself for ``None``."""
    return tree if dtype is None else jax.tree.map(lambda x: x.astype(dtype), tree)


@public
def tree_cast_like(tree: Any, other_tree: Any) -> Any:
    """Return the tree with each array in the dtype of the other tree's; what has no dtype there stays as it is."""
    return jax.tree.map(lambda x, like: x.astype(like.dtype) if hasattr(like, "dtype") else x, tree, other_tree)


@public
def tree_dtype(tree: Any, mixed_dtype_handler: str | None = None) -> Any:
    """Return the dtype of a tree: see :func:`gradchain.tree.dtype`."""
    if not jax.tree.leaves(tree):
        return trees.dtype(tree)
    handler: Any = mixed_dtype_handler
    return trees.dtype(tree, handler)


@public
def tree_full_like(tree: Any, fill_value: ArrayLike, dtype: DTypeLike | None = None) -> Any:
    """Return a tree of arrays filled with a number, converted to their dtypes."""
    return jax.tree.map(lambda x: jnp.full_like(x, fill_value, dtype=dtype), tree)


@public
def tree_random_like(
    rng_key: Any,
    target_tree: Any,
    sampler: Callable[..., Any] = jax.random.normal,
    dtype: DTypeLike | None = None,
) -> Any:
    """Return a tree of random arrays: see :func:`gradchain.tree.random_like`.

    A sampler with an argument ``out_sharding`` gets the array's own.
    """
    if "out_sharding" not in inspect.signature(sampler).parameters:
        return trees.random_like(rng_key, target_tree, sampler, dtype)
    keys = trees.split_key_like(rng_key, target_tree)

    def leaf(x: Any, key: Any) -> Any:
        return sampler(key, x.shape, dtype or x.dtype, out_sharding=jax.typeof(x).sharding)

    return jax.tree.map(leaf, target_tree, keys)


# Moments


@public
def tree_update_moment(updates: Any, moments: Any, decay: ArrayLike, order: int) -> Any:
    """Return the moving average of a power of the updates, in the dtype that both promote to."""
    return _moment(lambda g: g**order, updates, moments, decay)


@public
def tree_update_moment_per_elem_norm(updates: Any, moments: Any, decay: ArrayLike, order: int) -> Any:
    """Return the moving average of a power of the updates, or of their magnitudes where they are complex."""

    def power(g: Any) -> Any:
        if jnp.isrealobj(g):
            return g**order
        return abs_sq(g) ** (order // 2 if order % 2 == 0 else order / 2)

    return _moment(power, updates, moments, decay)


def _moment(power: Callable[[Any], Any], updates: Any, moments: Any, decay: ArrayLike) -> Any:
    def leaf(g: Any, m: Any) -> Any:
        return None if g is None else (1 - decay) * power(g) + decay * m

    return jax.tree.map(leaf, updates, moments, is_leaf=_is_none)


@public
def tree_update_infinity_moment(updates: Any, moments: Any, decay: ArrayLike, eps: ArrayLike) -> Any:
    """Return the decaying maximum of the updates' magnitudes, in the dtype that both promote to."""

    def leaf(g: Any, m: Any) -> Any:
        return None if g is None else jnp.maximum(jnp.abs(g) + eps, decay * m)

    return jax.tree.map(leaf, updates, moments, is_leaf=_is_none)


@public
def tree_bias_correction(moment: Any, decay: ArrayLike, count: ArrayLike) -> Any:
    """Return bias-corrected moving averages: see :func:`gradchain.bias_correction`."""
    return trees.bias_correction(moment, decay, count)


# Parts by name


@public
def tree_get(tree: Any, key: Any, default: Any = None, filtering: Callable[[Path, Any], bool] | None = None) -> Any:
    """Return the part of a state that a key or an address selects, or ``default``: see :func:`gradchain.tree.get`.

    Raises:
      KeyError: if several parts match.
    """
    found = trees.get_all_with_path(tree, key, filtering)
    if len(found) > 1:
        return trees.get(tree, key, default, filtering)  # which raises the error, and lists them
    return found[0][1] if found else default


__getattr__ = old_names(
    __name__,
    {
        "tree_scalar_mul": ("tree_scale", tree_scale),
        "tree_add_scalar_mul": ("tree_add_scale", tree_add_scale),
        "tree_l1_norm": ("tree_norm(..., ord=1)", functools.partial(tree_norm, ord=1)),
        "tree_l2_norm": ("tree_norm", functools.partial(tree_norm, ord=2)),
        "tree_linf_norm": ("tree_norm(..., ord='inf')", functools.partial(tree_norm, ord="inf")),
    },
)
