"""What combinators share that read the weights or keep a second copy of them."""

from typing import Any

import jax
import jax.numpy as jnp

from gradchain import tree
from gradchain.core.lift import inexact_leaves
from gradchain.core.transform import Transform, lacks_params
from gradchain.eager import copy, once, zeros_like
from gradchain.numerics import compute_dtype
from gradchain.tree import Tree
from gradchain.tree.alignment import inexact, is_array_like


def copies(where: str, params: Tree, dtype: Any = None) -> Tree:
    """Return the weights in ``dtype``, or in at least float32, in memory of their own.

    What isn't of an inexact dtype gets no gradient and never moves: ``None`` stands in its place.

    Raises:
      TypeError: if complex weights don't fit into ``dtype``, or a leaf isn't an array.
    """
    check_arrays(where, params)

    def leaf(x: Any) -> jax.Array:
        target = jnp.dtype(dtype or compute_dtype(jnp.result_type(x)))
        if jnp.iscomplexobj(x) and not jnp.issubdtype(target, jnp.complexfloating):
            raise TypeError(f"{where}: {target.name} can't hold the slot of a {x.dtype} parameter")
        return copy(x, target)

    return jax.tree.map(once(leaf, key=id), inexact(params))


def check_arrays(where: str, params: Tree) -> None:
    """Raise a TypeError for a leaf that isn't an array, such as the activation function of a module."""
    for path, x in jax.tree_util.tree_flatten_with_path(params)[0]:
        if not is_array_like(x):
            raise TypeError(
                f"{where}: parameter {tree.show_path(path)} is {type(x).__name__}, expected an array; filter the tree, "
                f"or put masked(...) around {where}"
            )


def wide(tx: Transform, params: Tree | None) -> Tree:
    """Return the weights in at least float32.

    Raises:
      ValueError: if they are missing.
    """
    if params is None:
        raise lacks_params(tx.name)
    return widened(inexact(params))


def widened(tree: Tree) -> Tree:
    """Return a tree of arrays in at least float32."""
    return jax.tree.map(lambda x: jnp.asarray(x, compute_dtype(jnp.result_type(x))), tree)


def widened_inexact(where: str, updates: Tree, what: str = "update") -> Tree:
    """Return updates (or parameters) in at least float32.

    Raises:
      TypeError: for a leaf that isn't a floating-point or complex array.
    """
    leaves, treedef = inexact_leaves(where, updates, what)
    return widened(treedef.unflatten(leaves))


def zeros(where: str, params: Tree) -> Tree:
    """Return zeros like the parameters, in at least float32.

    Raises:
      TypeError: for parameters that aren't floating-point or complex arrays.
    """
    leaves, treedef = inexact_leaves(f"{where}.init", params, "parameter")
    like = once(zeros_like)
    return treedef.unflatten([x if x is None else like(x, compute_dtype(x.dtype)) for x in leaves])


def stored(new: Tree, old: Tree) -> Tree:
    """Return the next value of a tree in the state: in its dtypes, and with the leaves that had no update this time."""
    return tree.overlay(jax.tree.map(_cast, new, tree.match(old, new, "state", "the state", "the updates")), old)


def _cast(x: Any, like: Any) -> jax.Array:
    return jnp.asarray(x).astype(like.dtype)
