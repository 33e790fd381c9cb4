"""Projections onto balls and spheres in the 1- and 2-norm, and onto the simplex."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradchain import tree as trees
from gradchain.projections._arguments import Tree, arrays, largest, scalar, widened
from gradchain.signatures import public
from gradchain.tree.alignment import T


@public
def projection_l2_sphere(tree: T, scale: ArrayLike = 1) -> T:
    r"""Return the nearest tree of Euclidean norm :math:`s`, which is :math:`s\, x / \|x\|_2`.

    From zero all points of the sphere are equally far: the one with equal elements is returned, with derivative 0
    (Optax returns NaN).

    Args:
      tree: :math:`x`, of floating-point or complex arrays.
      scale: :math:`s \ge 0`, the radius.

    Returns:
      A tree of the same structure, shapes and dtypes.

    Raises:
      ValueError: if ``scale`` isn't one number, or is negative (where it isn't traced).
      TypeError: if a leaf is neither floating-point nor complex.
    """
    name = "projection_l2_sphere"
    radius, x = scalar(name, "scale", scale), widened(name, tree, jnp.inexact)
    size = largest(x)
    unit = jax.tree.map(lambda leaf: leaf / size, x)
    length = trees.norm(unit)
    factor = radius / jnp.where(length == 0, 1, length)
    centre = radius / max(trees.size(x), 1) ** 0.5
    return trees.cast_like(jax.tree.map(lambda leaf: jnp.where(length == 0, centre, factor * leaf), unit), tree)


@public
def projection_l2_ball(tree: T, scale: ArrayLike = 1) -> T:
    r"""Return the nearest tree of Euclidean norm at most :math:`s`, which is :math:`x \min(1, s / \|x\|_2)`.

    Args:
      tree: :math:`x`, of floating-point or complex arrays.
      scale: :math:`s \ge 0`, the radius.

    Returns:
      A tree of the same structure, shapes and dtypes; the same numbers where they are in the ball.

    Raises:
      ValueError: if ``scale`` isn't one number, or is negative (where it isn't traced).
      TypeError: if a leaf is neither floating-point nor complex.
    """
    name = "projection_l2_ball"
    radius, x = scalar(name, "scale", scale), widened(name, tree, jnp.inexact)
    size = largest(x)
    length = trees.norm(jax.tree.map(lambda leaf: leaf / size, x))
    inside = length <= radius / size
    factor = jnp.where(inside, length, radius / size) / jnp.where(length == 0, 1, length)
    return trees.cast_like(jax.tree.map(lambda leaf: jnp.where(inside, leaf, factor * leaf), x), tree)


@public
def projection_simplex(tree: T, scale: ArrayLike = 1) -> T:
    r"""Return the nearest tree of non-negative elements with sum :math:`s`.

    .. math:: \operatorname{argmin}_p \|x - p\|_2 \;\text{ subject to }\; p \ge 0,\; \sum_i p_i = s,
        \qquad p_i = \max(x_i - \tau, 0)

    The threshold :math:`\tau` is found by sorting. On the support :math:`S = \{i : p_i > 0\}` the derivative is the
    identity less the mean over :math:`S`; elsewhere it is 0. Elements are taken relative to the largest, so that a
    large common shift costs no digits.

    Args:
      tree: :math:`x`, of floating-point arrays; :math:`-\infty` is an element that stays 0.
      scale: :math:`s \ge 0`, the sum; the default gives the nearest probabilities, the "sparsemax" of :math:`x`.

    Returns:
      A tree of the same structure, shapes and dtypes. An empty one is returned as it is.

    Raises:
      ValueError: if ``scale`` isn't one number, or is negative (where it isn't traced).
      TypeError: if a leaf isn't floating-point.

    Reference: Held, Wolfe and Crowder, *Validation of subgradient optimization*, 1974; Martins and Astudillo, *From
    Softmax to Sparsemax*, 2016, for the derivative.
    """
    name = "projection_simplex"
    total, x = scalar(name, "scale", scale), widened(name, tree)
    if trees.size(x) == 0:
        return arrays(name, tree)
    cut = _threshold(x, total)
    return trees.cast_like(jax.tree.map(cut.shrink, x), tree)


@public
def projection_l1_sphere(tree: T, scale: ArrayLike = 1) -> T:
    r"""Return the nearest tree whose magnitudes add up to :math:`s`.

    .. math:: \operatorname{argmin}_y \|x - y\|_2 \;\text{ subject to }\; \|y\|_1 = s

    The magnitudes are projected onto the simplex and keep their signs; zeros count as positive. (Optax gives them
    the sign 0, so that what it returns may be off the sphere.)

    Args:
      tree: :math:`x`, of floating-point arrays.
      scale: :math:`s \ge 0`, the radius.

    Returns:
      A tree of the same structure, shapes and dtypes. An empty one is returned as it is.

    Raises:
      ValueError: if ``scale`` isn't one number, or is negative (where it isn't traced).
      TypeError: if a leaf isn't floating-point.
    """
    name = "projection_l1_sphere"
    radius, x = scalar(name, "scale", scale), widened(name, tree)
    if trees.size(x) == 0:
        return arrays(name, tree)
    cut = _threshold(jax.tree.map(lambda leaf: _sign(leaf) * leaf, x), radius)
    return trees.cast_like(jax.tree.map(lambda leaf: _sign(leaf) * cut.shrink(_sign(leaf) * leaf), x), tree)


@public
def projection_l1_ball(tree: T, scale: ArrayLike = 1) -> T:
    r"""Return the nearest tree whose magnitudes add up to at most :math:`s`.

    .. math:: \operatorname{argmin}_y \|x - y\|_2 \;\text{ subject to }\; \|y\|_1 \le s,
        \qquad y_i = \operatorname{sign}(x_i) \max(|x_i| - \tau, 0)

    Args:
      tree: :math:`x`, of floating-point arrays.
      scale: :math:`s \ge 0`, the radius.

    Returns:
      A tree of the same structure, shapes and dtypes; the same numbers where they are in the ball.

    Raises:
      ValueError: if ``scale`` isn't one number, or is negative (where it isn't traced).
      TypeError: if a leaf isn't floating-point.

    Reference: Duchi, Shalev-Shwartz, Singer and Chandra, *Efficient Projections onto the l1-Ball for Learning in High
    Dimensions*, 2008.
    """
    name = "projection_l1_ball"
    radius, x = scalar(name, "scale", scale), widened(name, tree)
    if trees.size(x) == 0:
        return arrays(name, tree)
    inside = trees.norm(x, ord=1) <= radius
    sphere = projection_l1_sphere(x, radius)
    return trees.cast_like(trees.where(inside, x, sphere), tree)


class _Threshold(NamedTuple):
    """What to subtract, in two parts, the larger of them taken off first without rounding."""

    shift: Array
    rest: Array

    def shrink(self, x: Array) -> Array:
        """Subtract, and cut at 0."""
        return jax.nn.relu((x - self.shift).astype(x.dtype) - self.rest.astype(x.dtype))


def _threshold(tree: Tree, total: ArrayLike) -> _Threshold:
    r"""Return :math:`\tau` with :math:`\sum_i \max(x_i - \tau, 0) = \text{total}`.

    Which elements are above it is found by sorting; it is then computed again from them, for its derivative and its
    last digits.
    """
    x = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    shift = jax.lax.stop_gradient(jnp.max(x))
    x, total = x - shift, jnp.asarray(total, x.dtype)
    descending = -jnp.sort(-jax.lax.stop_gradient(x))
    excess = jnp.cumsum(descending) - jax.lax.stop_gradient(total)
    rank = jnp.arange(1, x.size + 1, dtype=x.dtype)
    last = jnp.maximum(jnp.count_nonzero(rank * descending > excess), 1) - 1
    above = x > excess[last] / rank[last]
    count = jnp.maximum(jnp.count_nonzero(above), 1).astype(x.dtype)
    return _Threshold(shift, (jnp.sum(jnp.where(above, x, 0)) - total) / count)


def _sign(x: Array) -> Array:
    return jnp.where(x < 0, -1, 1).astype(x.dtype)
