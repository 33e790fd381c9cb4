"""Rules that constrain the weights after the update. Each returns an update to add, so that it composes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradchain import tree as trees
from gradchain.core.evaluation import constraint
from gradchain.core.hyper import Mask, NonNegative
from gradchain.core.rule import elementwise, leafwise, treewise
from gradchain.core.spec import At, Slot, Slots
from gradchain.numerics import divide, safe_norm
from gradchain.tree import Tree

RADIUS = Slot(lambda w, hyper: safe_norm(w), real=True, nonnegative=True)


@constraint("bounds")
@leafwise(slots={"radius": RADIUS}, param=True)
def keep_norm(g: Array, slot: Slots, at: At, mask: Mask | None = None):
    r"""Keep each array on the sphere that it starts on: :math:`u = \rho\,\frac{w + g}{\|w + g\|_2} - w`.

    :math:`\rho = \|w_0\|_2`, so that rounding errors don't add up. Put it last, after the learning rate, where :math:`w
    + g` are the new weights. An array that starts at zero is not constrained. Together with
    :func:`scale_by_trust_ratio`, which makes the step a fraction of the same norm, it is the *hyperball* form of any
    optimizer, in place of weight decay:

      >>> chain(scale_by_adam(), scale_by_trust_ratio(), scale_by_learning_rate(0.01), keep_norm())

    Args:
      mask: a tree of bools like the parameters (or a prefix of it), or a function from parameters to one; where it is
        False, updates pass unchanged. Usually only matrices are constrained.

    Reference: Wen et al., *Fantastic Pretraining Optimizers and Where to Find Them II: Hyperball Optimization*, 2026.
    """
    new = at.param + g
    size = safe_norm(new)
    fixed = (slot.radius > 0) & (size > 0)
    shrink = slot.radius / jnp.where(fixed, size, 1)
    return jnp.where(fixed, shrink * g + (shrink - 1) * at.param, g), slot(radius=slot.radius)


@leafwise(param=True)
def limit_update_ratio(
    g: Array,
    slot: Slots,
    at: At,
    max_ratio: NonNegative = 0.01,
    min_ratio: NonNegative = 0.0,
    min_norm: NonNegative = 1e-3,
    mask: Mask | None = None,
):
    r"""Keep the ratio of each array's update to the array itself, in norm, between a floor and a cap.

    .. math:: u = \frac{\min(\max(r, a), b)}{r}\,g, \qquad r = \frac{\|g\|_2}{\max(\|w\|_2, c)}

    Put it after the learning rate. It adjusts only steps that are unusually long or short; with equal floor and cap it
    is :func:`scale_by_trust_ratio`. A zero update stays zero.

    Args:
      max_ratio: the cap :math:`b`; ``inf`` for none.
      min_ratio: the floor :math:`a`; where the cap is lower, the cap applies.
      min_norm: :math:`c \ge 0`, so that arrays that start at zero can change.
      mask: where to limit; see :func:`keep_norm`.

    Reference: the ratio is that of You et al., *Large Batch Training of Convolutional Networks*, 2017.
    """
    size, step = safe_norm(at.param, min_norm), safe_norm(g)
    wanted = jnp.minimum(jnp.maximum(step, min_ratio * size), max_ratio * size)
    return g * jnp.where(wanted == step, 1, divide(wanted, step))


@elementwise(param=True)
def add_cautious_decayed_weights(
    g: Array, slot: Slots, at: At, weight_decay: NonNegative = 0.0, mask: Mask | None = None
):
    r"""Decay only the weights that the update brings nearer to zero anyway: :math:`u = g + \lambda\,[g w \ge 0]\,w`.

    Put it where :func:`add_decayed_weights` goes: before the learning rate, where updates still point uphill. Decay
    then never works against the optimizer, which minimises the loss itself and not a penalised loss. For complex
    numbers the condition is :math:`\mathrm{Re}(\bar g w) \ge 0`.

    Args:
      weight_decay: :math:`\lambda \ge 0`, or a schedule.
      mask: which parameters to decay; see :func:`keep_norm`.

    Reference: Chen et al., *Cautious Weight Decay*, 2025, algorithm 1.
    """
    agrees = jnp.real(jnp.conj(g) * at.param) >= 0
    return g + weight_decay * jnp.where(agrees, at.param, 0)


@constraint("bounds")
@treewise(param=True)
def project(updates: Tree, slot: Slots, at: At, projection: Callable[[Any], Any]):
    r"""Keep the parameters in a set by projecting the updated parameters onto it. Put it last in a chain.

    .. math:: u = P(w + g) - w

    So ``chain(sgd(0.1), project(projection_simplex))`` is the projected gradient method, and every other optimizer has
    a projected form in the same way. The parameters then satisfy the constraint up to the rounding of their dtype. They
    may start outside the set: the first update moves them into it. With
    :func:`~gradchain.projections.projection_non_negative` it is equivalent to :func:`keep_params_nonnegative`.

    For an adaptive optimizer this is the nearest point in the Euclidean norm, not in the norm of its preconditioner:
    the constraint holds, but the iterates may converge to a point other than the constrained optimum.

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
