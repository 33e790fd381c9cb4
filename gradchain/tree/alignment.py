"""How trees fit each other: paths as code, ``None`` as a leaf, and errors that name the first difference."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def show_path(path: Any) -> str:
    """Return a leaf's path as ``['block']['kernel']``; "the tree itself" for an empty one."""
    return jax.tree_util.keystr(path) or "(the whole tree)"


def is_array(x: Any) -> bool:
    """Return whether a leaf has a shape and a dtype: an array, or what stands for one."""
    return hasattr(x, "shape") and hasattr(x, "dtype")


def is_array_like(x: Any) -> bool:
    """Return whether a leaf is an array, what stands for one, or a Python number."""
    return hasattr(x, "dtype") or isinstance(x, int | float | complex)


def is_key(x: Any) -> bool:
    """Return whether a leaf is an array of typed PRNG keys, or what stands for one."""
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def key_impl(keys: Any) -> Any:
    """Return the algorithm of PRNG keys, which JAX tells of keys but not of their shapes."""
    found: list[Any] = []
    jax.eval_shape(lambda x: found.append(jax.random.key_impl(x)), keys)
    return found[0]


def bytes_of(x: Any, shape: tuple[int, ...] | None = None) -> int:
    """Return the bytes of an array, of PRNG keys those of their data; ``shape`` is that of a part of it."""
    item = x.dtype.itemsize
    if is_key(x):
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct((), x.dtype))
        item = math.prod(data.shape) * data.dtype.itemsize
    return math.prod(x.shape if shape is None else shape) * item


def same_leaves(tree_x: Tree, tree_y: Tree) -> bool:
    """Return whether two trees hold the very same leaves, in the same order."""
    return all(x is y for x, y in zip(jax.tree.leaves(tree_x), jax.tree.leaves(tree_y), strict=True))


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


def batch_size(tree: Tree, where: str = "batch_size") -> int:
    """Return the length of the first axis that all arrays share; 0 for a tree without any.

    Args:
      tree: a tree of arrays with a leading batch axis.
      where: what error messages begin with.

    Raises:
      ValueError: if an array has no axis, or another length.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for path, x in leaves:
        if not jnp.shape(x):
            raise ValueError(f"{where}: {show_path(path)} is a scalar and lacks the leading batch axis")
        if len(x) != len(leaves[0][1]):
            (first, like), *_ = leaves
            raise ValueError(
                f"{where}: batch axes differ: {show_path(first)} has shape {jnp.shape(like)}, "
                f"{show_path(path)} has {jnp.shape(x)}"
            )
    return len(leaves[0][1]) if leaves else 0


def one_example(tree: Tree, where: str) -> Tree:
    """Return the shapes and dtypes that remain without the leading batch axis, which all arrays must share."""
    batch_size(tree, where)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.result_type(x)), tree)
