"""What is computed once in several updates, and kept in between."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer

from gradchain import tree
from gradchain.signatures import public
from gradchain.tree import Tree


@public
def due(count: Array, every: Any, turn: tuple[Any, Any] | None = None) -> Array:
    r"""Return whether something is computed anew at this update: one boolean.

    .. math:: k = 0 \quad\text{or}\quad \left(k + \left\lfloor i\,T / n \right\rfloor\right) \bmod T = 0

    Without ``turn``, all arrays are due at updates 0, :math:`T`, :math:`2 T`, ... With it, each has its turn, so that
    no update takes much longer than the others; at update 0 all are due.

    Args:
      count: :math:`k`, the number of updates so far: ``at.count`` in a rule, 0 on the first.
      every: :math:`T`, a whole number of at least 1. It may be traced, so that a change compiles nothing.
      turn: :math:`(i, n)`, the number of this array, from 0, and how many there are: ``at.turn`` in a rule.
    """
    if turn is None:
        return count % every == 0
    index, number = turn
    return (count == 0) | ((count + index * every // number) % every == 0)


@public
def refresh(due: Any, make: Callable[[], Tree], old: Tree, *, finite: bool = False) -> Tree:
    """Return ``make()`` if it is due, and ``old`` if not, without computing it then.

    Under a trace it is a ``lax.cond``, compiled once for all updates; eagerly an ``if``. Under ``vmap`` with a count
    for each member, as in a sweep, JAX computes both sides for all members: each update then costs as much as one that
    is due.

    Args:
      due: one boolean, from :func:`due`.
      make: returns a tree like ``old``, of the same shapes and dtypes.
      old: what was computed last.
      finite: keep ``old`` where what ``make`` returns holds a NaN or an infinity.

    Example:
      >>> root = matrices.refresh(matrices.due(9, 10), lambda: 2 * jnp.eye(2), jnp.eye(2))
      >>> print(root[0])
      [1. 0.]
    """

    def new() -> Tree:
        made = make()
        if not finite:
            return made
        sound = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(made)]
        return tree.where(functools.reduce(jnp.logical_and, sound, jnp.asarray(True)), made, old)

    if isinstance(due, Tracer):
        return lax.cond(due, new, lambda: old)
    return new() if due else old
