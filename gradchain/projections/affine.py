"""Projections onto a line, a hyperplane and the space on one side of it."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradchain import tree as trees
from gradchain.projections._arguments import ANY, Tree, largest, scalar, widened
from gradchain.signatures import public
from gradchain.tree.alignment import T


@public
def projection_vector(x: T, a: Tree) -> T:
    r"""Return the nearest multiple of a vector :math:`a`.

    .. math:: \operatorname{proj}_a x = \frac{\langle a, x \rangle}{\langle a, a \rangle}\, a

    The multiples of zero are zero alone (Optax returns NaN). For complex trees :math:`\langle a, x \rangle` is
    :math:`a^{\mathsf H} x`, which makes this the nearest one (Optax takes its conjugate).

    Args:
      x: the tree to project, of floating-point or complex arrays.
      a: a tree of the same structure and shapes.

    Returns:
      A tree of the structure, shapes and dtypes of ``x``.

    Raises:
      ValueError: if the trees don't fit.
      TypeError: if a leaf is neither floating-point nor complex, or ``x`` is real and ``a`` is complex.
    """
    x_wide, unit, _ = _direction("projection_vector", x, a, jnp.inexact)
    factor = _divide(trees.vdot(unit, x_wide), unit)
    return trees.cast_like(jax.tree.map(lambda leaf: factor * leaf, unit), x)


@public
def projection_hyperplane(x: T, a: Tree, b: ArrayLike) -> T:
    r"""Return the nearest point of a hyperplane.

    .. math:: \operatorname{argmin}_y \|x - y\|_2 \;\text{ subject to }\; \langle a, y \rangle = b, \qquad
        y = x + \frac{b - \langle a, x \rangle}{\langle a, a \rangle}\, a

    Where :math:`a` is zero there is no plane, and ``x`` is returned (by Optax, NaN).

    Args:
      x: the tree to project, of floating-point arrays.
      a: the normal, a tree of the same structure and shapes.
      b: one number.

    Returns:
      A tree of the structure, shapes and dtypes of ``x``.

    Raises:
      ValueError: if the trees don't fit, or ``b`` isn't one finite number.
      TypeError: if a leaf isn't floating-point.
    """
    x_wide, unit, size = _direction("projection_hyperplane", x, a)
    gap = scalar("projection_hyperplane", "b", b, ANY) / size - trees.vdot(unit, x_wide)
    return trees.cast_like(trees.add_scale(x_wide, _divide(gap, unit), unit), x)


@public
def projection_halfspace(x: T, a: Tree, b: ArrayLike) -> T:
    r"""Return the nearest point on one side of a hyperplane.

    .. math:: \operatorname{argmin}_y \|x - y\|_2 \;\text{ subject to }\; \langle a, y \rangle \le b, \qquad
        y = x - \frac{\max(\langle a, x \rangle - b,\, 0)}{\langle a, a \rangle}\, a

    Where :math:`a` is zero there is no plane, and ``x`` is returned (by Optax, NaN).

    Args:
      x: the tree to project, of floating-point arrays.
      a: the outward normal, a tree of the same structure and shapes.
      b: one number.

    Returns:
      A tree of the structure, shapes and dtypes of ``x``; the same numbers where they satisfy the inequality.

    Raises:
      ValueError: if the trees don't fit, or ``b`` isn't one finite number.
      TypeError: if a leaf isn't floating-point.
    """
    x_wide, unit, size = _direction("projection_halfspace", x, a)
    excess = trees.vdot(unit, x_wide) - scalar("projection_halfspace", "b", b, ANY) / size
    return trees.cast_like(trees.add_scale(x_wide, -_divide(jax.nn.relu(excess), unit), unit), x)


def _direction(where: str, x: Tree, a: Tree, kind: Any = jnp.floating) -> tuple[Tree, Tree, Array]:
    """Return ``x``, and ``a`` divided by its largest magnitude, in the compute dtype; and that magnitude."""
    a = widened(where, trees.match(a, x, where, "a", "x"), kind)
    size = largest(a)
    return widened(where, x, kind), jax.tree.map(lambda leaf: leaf / size, a), size


def _divide(inner: Array, unit: Tree) -> Array:
    """Divide by the direction's squared norm; 0 for a direction of zeros."""
    length = trees.norm(unit, squared=True)
    return jnp.where(length == 0, 0, inner / jnp.where(length == 0, 1, length))
