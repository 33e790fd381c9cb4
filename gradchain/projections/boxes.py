"""Projections that act on each element by itself: onto boxes, cubes, the non-negative orthant."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from gradchain import tree as trees
from gradchain.projections._arguments import Tree, arrays, scalar
from gradchain.signatures import public
from gradchain.tree.alignment import T, spread


@public
def projection_non_negative(tree: T) -> T:
    r"""Return the nearest tree without negative elements, :math:`\max(x, 0)` element by element.

    Args:
      tree: :math:`x`, of floating-point arrays.

    Returns:
      A tree of the same structure, shapes and dtypes.

    Raises:
      TypeError: if a leaf isn't floating-point.
    """
    return jax.tree.map(jax.nn.relu, arrays("projection_non_negative", tree))


@public
def projection_box(tree: T, lower: Any, upper: Any) -> T:
    r"""Return the nearest tree between two bounds, :math:`\min(\max(x, l), u)` element by element.

    Args:
      tree: :math:`x`, of floating-point arrays.
      lower: :math:`l`, one number for all elements, or a tree of the same paths with, for each leaf, a number or an
        array that broadcasts to the leaf's shape; None for no bound. (Optax takes one number only where the tree is
        a single array.)
      upper: :math:`u`, likewise.

    Returns:
      A tree of the same structure, shapes and dtypes.

    Raises:
      ValueError: if a bound doesn't fit the tree, or a lower bound is above its upper one (where neither is traced).
      TypeError: if a leaf isn't floating-point.
    """
    return _clip("projection_box", tree, lower, upper)


@public
def projection_hypercube(tree: T, scale: Any = 1) -> T:
    r"""Return the nearest tree of elements in :math:`[0, s]`.

    Args:
      tree: the tree to project, of floating-point arrays.
      scale: :math:`s \ge 0`, one number, or a tree of upper bounds as in :func:`projection_box`.

    Returns:
      A tree of the same structure, shapes and dtypes.

    Raises:
      ValueError: if ``scale`` doesn't fit the tree, or is negative (where it isn't traced).
      TypeError: if a leaf isn't floating-point.
    """
    return _clip("projection_hypercube", tree, 0.0, scale)


@public
def projection_linf_ball(tree: T, scale: ArrayLike = 1) -> T:
    r"""Return the nearest tree whose largest magnitude is at most :math:`s`.

    .. math:: \operatorname{argmin}_y \|x - y\|_2 \;\text{ subject to }\; \|y\|_\infty \le s

    Args:
      tree: :math:`x`, of floating-point arrays.
      scale: :math:`s \ge 0`, the radius.

    Returns:
      A tree of the same structure, shapes and dtypes.

    Raises:
      ValueError: if ``scale`` isn't one number, or is negative (where it isn't traced).
      TypeError: if a leaf isn't floating-point.
    """
    radius = scalar("projection_linf_ball", "scale", scale)
    return _clip("projection_linf_ball", tree, -radius, radius)


def _clip(where: str, tree: Tree, lower: Any, upper: Any) -> Tree:
    tree = arrays(where, tree)
    low, high = (_bounds(where, tree, *bound) for bound in (("lower", lower), ("upper", upper)))

    def leaf(path: Any, x: Array, low: Any, high: Any) -> Array:
        place = f"{where}: {trees.show_path(path)}"
        below, above = (_fit(place, x, bound) for bound in (low, high))
        known = not any(bound is None or isinstance(bound, Tracer) for bound in (low, high))
        if known and np.any(np.asarray(low) > np.asarray(high)):
            raise ValueError(f"{place} has a lower bound above its upper one")
        return jnp.clip(x, below, above)

    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    return treedef.unflatten([leaf(path, x, a, b) for (path, x), a, b in zip(leaves, low, high, strict=True)])


def _bounds(where: str, tree: Tree, name: str, bound: Any) -> list[Any]:
    """Return one bound a leaf, from one for all or a tree of them."""
    if jax.tree_util.all_leaves([bound]) and jnp.ndim(bound) != 0 and not jax.tree_util.all_leaves([tree]):
        raise ValueError(f"{where}: {trees.mismatch(tree, bound, 'tree', name)}")
    bounds, treedef = trees.flatten_optional(bound)
    try:
        each = spread(treedef, bounds, tree, name, "tree")
    except ValueError:
        raise ValueError(f"{where}: {trees.mismatch(tree, bound, 'tree', name)}") from None
    return [own for own, x in zip(each, trees.flatten_optional(tree)[0], strict=True) if x is not None]


def _fit(where: str, x: Array, bound: Any) -> Array | None:
    """Return a bound in the shape and dtype of its leaf."""
    if bound is None:
        return None
    try:
        return jnp.broadcast_to(jnp.asarray(bound, x.dtype), x.shape)
    except (ValueError, TypeError):
        raise ValueError(f"{where} has shape {x.shape}, but a bound has {jnp.shape(bound)}") from None
