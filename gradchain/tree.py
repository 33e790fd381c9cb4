"""Arithmetic on trees of arrays, and the few tree operations that JAX lacks.

A *tree* is any pytree of arrays. ``None`` is an empty subtree, as everywhere in JAX: it is carried along.
"""

import builtins
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from gradchain.numerics import abs_sq, compute_dtype, sqrt

Tree = Any


def add(*trees: Tree) -> Tree:
    """Return the elementwise sum of one or more trees of equal structure."""
    return jax.tree.map(lambda *xs: builtins.sum(xs[1:], start=xs[0]), *trees)


def sub(tree_x: Tree, tree_y: Tree) -> Tree:
    """Return ``tree_x - tree_y`` elementwise."""
    return jax.tree.map(lambda x, y: x - y, tree_x, tree_y)


def mul(tree_x: Tree, tree_y: Tree) -> Tree:
    """Return ``tree_x * tree_y`` elementwise."""
    return jax.tree.map(lambda x, y: x * y, tree_x, tree_y)


def div(tree_x: Tree, tree_y: Tree) -> Tree:
    """Return ``tree_x / tree_y`` elementwise."""
    return jax.tree.map(lambda x, y: x / y, tree_x, tree_y)


def scale(scalar: ArrayLike, tree: Tree) -> Tree:
    """Return ``scalar * tree``, each leaf in its own dtype."""
    return jax.tree.map(lambda x: (scalar * x).astype(jnp.result_type(x)), tree)


def add_scale(tree_x: Tree, scalar: ArrayLike, tree_y: Tree) -> Tree:
    """Return ``tree_x + scalar * tree_y``, each leaf in the dtype of ``tree_x``'s."""
    return jax.tree.map(lambda x, y: (x + scalar * y).astype(jnp.result_type(x)), tree_x, tree_y)


def vdot(tree_x: Tree, tree_y: Tree) -> Array:
    r"""Return :math:`\sum_i \overline{x_i} y_i` over all elements, summed in at least float32."""

    def leaf(x: ArrayLike, y: ArrayLike) -> Array:
        dtype = compute_dtype(jnp.result_type(x), jnp.result_type(y))
        return jnp.vdot(jnp.asarray(x, dtype), jnp.asarray(y, dtype), precision="highest")

    return sum(jax.tree.map(leaf, tree_x, tree_y))


def sum(tree: Tree, start: Any = 0.0) -> Array:
    """Return the sum of all elements, accumulated in at least float32; ``start`` for an empty tree."""
    total = start
    for x in jax.tree.leaves(tree):
        x = jnp.asarray(x)
        dtype = compute_dtype(x.dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else None
        total = total + jnp.sum(x, dtype=dtype)
    return jnp.asarray(total)


def norm(tree: Tree, ord: float | str | None = 2, squared: bool = False) -> Array:
    r"""Return the vector norm of all elements together, in at least float32.

    Args:
      tree: the tree; an empty one has norm 0.
      ord: 1 (sum of magnitudes), 2 (Euclidean) or ``inf`` (largest magnitude). ``None`` means 2.
      squared: return the square of the norm. For ``ord=2`` no root is taken.

    Raises:
      ValueError: for any other ``ord``.
    """
    if ord is None or ord == 2:
        total = jnp.zeros((), jnp.float32)
        for x in jax.tree.leaves(tree):
            part = _sum_abs_sq(jnp.asarray(x))
            total = lax.add(total, part) if total.dtype == part.dtype else total + part
        return total if squared else sqrt(total)
    leaves = [jnp.asarray(x, compute_dtype(jnp.result_type(x))) for x in jax.tree.leaves(tree)]
    if ord == 1:
        result = sum([jnp.abs(x) for x in leaves])
    elif ord in (jnp.inf, "inf"):
        result = jnp.asarray(0.0)
        for x in leaves:
            result = jnp.maximum(result, jnp.max(jnp.abs(x), initial=0))
    else:
        raise ValueError(f"tree.norm: ord must be 1, 2 or inf, got {ord!r}")
    return jnp.square(result) if squared else result


def _sum_abs_sq(x: Array) -> Array:
    # Straight to lax where that is all there is to do: jnp's dispatch would be most of the time to trace many leaves.
    if x.dtype in (jnp.float32, jnp.float64):
        return lax.reduce_sum(lax.square(x), axes=tuple(range(x.ndim)))
    return jnp.sum(abs_sq(x.astype(compute_dtype(x.dtype))))


def global_norm(updates: Tree) -> Array:
    r"""Return :math:`\sqrt{\sum_i |u_i|^2}` over all elements of all arrays, in at least float32.

    It has derivative 0 at zero, and is 0 for an empty tree.
    """
    return norm(updates)


def zeros_like(tree: Tree, dtype: DTypeLike | None = None) -> Tree:
    """Return zeros of the same shapes, in ``dtype`` or in the leaves' own dtypes."""
    return full_like(tree, 0, dtype)


def ones_like(tree: Tree, dtype: DTypeLike | None = None) -> Tree:
    """Return ones of the same shapes, in ``dtype`` or in the leaves' own dtypes."""
    return full_like(tree, 1, dtype)


def full_like(tree: Tree, fill_value: ArrayLike, dtype: DTypeLike | None = None) -> Tree:
    """Return arrays of the same shapes filled with ``fill_value``, in ``dtype`` or in the leaves' own dtypes."""
    return jax.tree.map(lambda x: jnp.full_like(x, fill_value, dtype=dtype or jnp.result_type(x)), tree)


def cast(tree: Tree, dtype: DTypeLike | None) -> Tree:
    """Return the tree with inexact leaves in ``dtype``; ``None`` leaves all as they are. Integers and keys stay."""
    if dtype is None:
        return tree
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else x, tree)


def where(condition: Array, tree_x: Tree, tree_y: Tree) -> Tree:
    """Return ``tree_x`` where ``condition``, a boolean that broadcasts to every leaf, holds, else ``tree_y``."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), tree_x, tree_y)


def size(tree: Tree) -> int:
    """Return the number of elements in all arrays together."""
    return int(builtins.sum(jnp.size(x) for x in jax.tree.leaves(tree)))


def random_like(key: Array, target_tree: Tree, sampler: Callable[..., Array] = jax.random.normal) -> Tree:
    """Return independent samples of the target's shapes and dtypes, one key for each leaf.

    Args:
      key: a PRNG key.
      target_tree: gives shapes and dtypes.
      sampler: called as ``sampler(key, shape, dtype)``.
    """
    leaves, treedef = jax.tree.flatten(target_tree)
    keys = jax.random.split(key, max(len(leaves), 1))
    samples = [sampler(k, jnp.shape(x), jnp.result_type(x)) for k, x in zip(keys, leaves, strict=False)]
    return treedef.unflatten(samples)


def show_path(path: Any) -> str:
    """Return a leaf's path as ``['block']['kernel']``; "the tree itself" for an empty one."""
    return jax.tree_util.keystr(path) or "(the whole tree)"


def _is_none(x: Any) -> bool:
    return x is None


def flatten_optional(tree: Tree) -> tuple[list[Any], Any]:
    """Flatten with ``None`` as a leaf, so that trees with ``None`` in different places still align."""
    return jax.tree.flatten(tree, is_leaf=_is_none)


def map_optional(function: Callable[..., Any], tree: Tree, other: Tree, where: str) -> Tree:
    """Map ``function(path, x, y)`` over ``tree`` and ``other``, with ``None`` in ``tree`` passed on as a leaf."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_none)
    try:
        others = treedef.flatten_up_to(other)
    except (ValueError, TypeError):
        raise ValueError(f"{where}: {mismatch(tree, other, 'updates', 'params')}") from None
    return treedef.unflatten([function(path, x, y) for (path, x), y in zip(leaves, others, strict=True)])


def overlay(tree: Tree, base: Tree) -> Tree:
    """Return ``base`` with the leaves of ``tree``; where ``tree`` has ``None``, what ``base`` has there stays."""
    return map_optional(lambda _, x, y: y if x is None else x, tree, base, "tree.overlay")


def mismatch(tree_x: Tree, tree_y: Tree, name_x: str, name_y: str) -> str:
    """Describe how two trees differ: the first path that only one of them has, or the two structures."""
    for is_leaf in (None, _is_none):
        x, y = (
            {show_path(path): None for path, _ in jax.tree_util.tree_flatten_with_path(t, is_leaf=is_leaf)[0]}
            for t in (tree_x, tree_y)
        )
        for mine, theirs, has, lacks in ((x, y, name_x, name_y), (y, x, name_y, name_x)):
            extra = [path for path in mine if path not in theirs]
            if extra:
                return f"{name_x} and {name_y} differ in structure: {has} has {extra[0]}, which {lacks} lacks"
    return (
        f"{name_x} and {name_y} differ in structure: {name_x} is {jax.tree.structure(tree_x)}, "
        f"{name_y} is {jax.tree.structure(tree_y)}"
    )


def match(tree: Tree, like: Tree, where: str, name: str, name_like: str) -> Tree:
    """Return ``tree`` in the structure of ``like``, after checking that structure and shapes agree.

    Where ``like`` has ``None``, ``tree`` may hold anything (the static parts of an Equinox model, say); it becomes
    ``None`` too.

    Raises:
      ValueError: naming ``where`` and the path of the first difference.
    """
    if jax.tree.structure(tree) != jax.tree.structure(like):
        treedef = jax.tree.structure(like, is_leaf=_is_none)
        try:
            parts = treedef.flatten_up_to(tree)
        except (ValueError, TypeError):
            raise ValueError(f"{where}: {mismatch(like, tree, name_like, name)}") from None
        wanted = jax.tree.leaves(like, is_leaf=_is_none)
        tree = treedef.unflatten([None if w is None else p for p, w in zip(parts, wanted, strict=True)])
        if jax.tree.structure(tree) != jax.tree.structure(like):
            raise ValueError(f"{where}: {mismatch(like, tree, name_like, name)}")
    for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True):
        if jnp.shape(x) != jnp.shape(y):
            raise ValueError(f"{where}: {_shape_mismatch(tree, like, name, name_like)}")
    return tree


def _shape_mismatch(tree: Tree, like: Tree, name: str, name_like: str) -> str:
    with_path = jax.tree_util.tree_flatten_with_path(tree)[0]
    for (path, x), y in zip(with_path, jax.tree.leaves(like), strict=True):
        if jnp.shape(x) != jnp.shape(y):
            return f"{show_path(path)} has shape {jnp.shape(x)} in {name} but {jnp.shape(y)} in {name_like}"
    raise AssertionError("unreachable: shapes agree")


def cast_like(tree: Tree, other_tree: Tree) -> Tree:
    """Return ``tree`` with each leaf in the dtype of its counterpart.

    Raises:
      TypeError: where a complex leaf would lose its imaginary part.
    """

    def leaf(path: Any, x: Any, like: Any) -> Array:
        dtype = jnp.result_type(like)
        if isinstance(x, jax.Array) and x.dtype == dtype and not x.weak_type:
            return x
        if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"{show_path(path)} is {jnp.result_type(x)} and can't become {dtype}: it would lose its imaginary part"
            )
        return jnp.asarray(x).astype(dtype)

    return jax.tree_util.tree_map_with_path(leaf, tree, other_tree)
