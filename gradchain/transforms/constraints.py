"""Constraints on parameters: any optimizer becomes a projected one."""

from collections.abc import Callable
from typing import Any

import jax

from gradchain import tree as trees
from gradchain.core.rule import treewise
from gradchain.core.spec import At, Slots
from gradchain.tree import Tree


@treewise(param=True)
def project(updates: Tree, slot: Slots, at: At, projection: Callable[[Any], Any]):
    r"""Keep the parameters in a set: project the point that the update leads to. Stands last in a chain.

    .. math:: u = P(w + g) - w

    So ``chain(sgd(0.1), project(projection_simplex))`` is the projected gradient method, and every other optimizer
    has its projected form likewise. The parameters then fulfil the constraint up to the rounding of their dtype. They
    may start outside: the first update leads into the set. With
    :func:`~gradchain.projections.projection_non_negative` it does what :func:`keep_params_nonnegative` does.

    For an adaptive optimizer this is the nearest point in the Euclidean norm, not in that of its preconditioner:
    the constraint holds, but it may converge to another point than the constrained optimum.

    Args:
      projection: :math:`P`, a function of the whole tree of parameters (in at least float32) that returns a tree like
        it: one of :mod:`gradchain.projections`, with its other arguments bound by ``functools.partial`` or a lambda.
        Transforms are equal if their functions are the same object.

    Raises:
      ValueError: if the projection changes the tree's structure or shapes (at the update).

    Example:
      >>> ball = functools.partial(projections.projection_l2_ball, scale=2.0)
      >>> tx = chain(sgd(0.1, momentum=0.9), project(ball))

    Reference: Goldstein, *Convex Programming in Hilbert Space*, 1964; Levitin and Polyak, *Constrained minimization
    methods*, 1966.
    """
    nearest = trees.match(projection(trees.add(at.param, updates)), updates, "project", "the projection", "updates")
    return jax.tree.map(lambda new, w: new - w, nearest, at.param)
