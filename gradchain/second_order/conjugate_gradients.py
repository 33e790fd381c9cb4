"""The method of conjugate gradients for linear systems of trees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from gradchain import tree
from gradchain.tree import Tree


class _Iterate(NamedTuple):
    x: Tree
    residual: Tree
    direction: Tree
    square: Array
    """The residual's squared norm."""
    steps: Array


def conjugate_gradients(multiply: Callable[[Tree], Tree], b: Tree, tol: Any, max_steps: Any) -> tuple[Tree, Array]:
    r"""Return (an approximate solution of :math:`A x = b`, the number of products that it took), starting from zero.

    It stops where :math:`\|b - A x\| \le \mathrm{tol}\,\|b\|`, after ``max_steps`` products, or where the curvature
    :math:`\langle p, A p\rangle` along a direction isn't positive, as rounding may have it.

    Args:
      multiply: :math:`v \mapsto A v`, symmetric and positive semidefinite (over the reals, for complex numbers).
      b: a tree of arrays, in at least float32.
      tol: one number, which may be traced.
      max_steps: a whole number, which may be traced.

    Reference: Hestenes and Stiefel, *Methods of Conjugate Gradients for Solving Linear Systems*, 1952.
    """
    square = _square(b)
    enough = jnp.asarray(tol, square.dtype) ** 2 * square

    def going(it: _Iterate) -> Array:
        return (it.square > enough) & (it.steps < max_steps)

    def step(it: _Iterate) -> _Iterate:
        product = multiply(it.direction)
        curvature = jnp.real(tree.vdot(it.direction, product)).astype(square.dtype)
        usable = curvature > 0
        length = jnp.where(usable, it.square / jnp.where(usable, curvature, 1), 0)
        x = tree.add_scale(it.x, length, it.direction)
        residual = tree.add_scale(it.residual, -length, product)
        new = jnp.where(usable, _square(residual), 0)
        direction = tree.add_scale(residual, new / it.square, it.direction)
        return _Iterate(x, residual, direction, new, it.steps + 1)

    start = _Iterate(tree.zeros_like(b), b, b, square, jnp.zeros((), jnp.int32))
    end = lax.while_loop(going, step, start)
    return end.x, end.steps


def _square(x: Tree) -> Array:
    return tree.norm(x, squared=True)
