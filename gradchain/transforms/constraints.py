"""Rules that constrain the weights after the update. Each returns an update to add, so that it composes."""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from gradchain import tree as trees
from gradchain.core.evaluation import constraint
from gradchain.core.hyper import Fraction, Mask, NonNegative, NumberOrWord
from gradchain.core.rule import elementwise, leafwise, treewise
from gradchain.core.spec import At, Slot, Slots
from gradchain.numerics import bounded, divide, quotient, safe_norm, unitwise_norm
from gradchain.transforms.clipping import UnitAxes
from gradchain.tree import Tree

RADIUS = Annotated[Any, NumberOrWord("Positive", "(0, inf)", "initial", "present")]


def _at_radius(g: Array, w: Array, radius: Array) -> Array:
    """Return the update that leads to ``w + g`` scaled to a norm; ``g`` where the norm or the sum is 0."""
    size = safe_norm(w + g)
    fixed = (radius > 0) & (size > 0)
    shrink = radius / jnp.where(fixed, size, 1)
    return jnp.where(fixed, shrink * g + (shrink - 1) * w, g)


def _radial(g: Array, w: Array) -> tuple[Array, Array, Array]:
    r"""Return :math:`\|w\|`, :math:`w / \|w\|` (0 for 0), and the length of ``g`` along it."""
    size = safe_norm(w)
    direction = quotient(w, jnp.where(size == 0, 1, size))
    return size, direction, jnp.sum(jnp.real(jnp.conj(direction) * bounded(g, g.size, 1)))


def _first_norm(w: Array, hyper: Any) -> Any:
    return safe_norm(w) if isinstance(hyper.radius, str) and hyper.radius == "initial" else ()


@constraint("bounds")
@leafwise(slots={"radius": Slot(_first_norm, real=True, nonnegative=True)}, param=True)
def keep_norm(g: Array, slot: Slots, at: At, radius: RADIUS = "initial", mask: Mask | None = None):
    r"""Keep each array on a sphere: :math:`u = \rho\,\frac{w + g}{\|w + g\|_2} - w`.

    Put it last, after the learning rate, where :math:`w + g` are the new weights. Together with
    :func:`scale_by_trust_ratio`, which makes the step a fraction of the same norm, it is the *hyperball* form of any
    optimizer, in place of weight decay:

      >>> chain(scale_by_adam(), scale_by_trust_ratio(), scale_by_learning_rate(0.01), keep_norm())

    Norms are those of whole arrays; for layers stacked in one array, put :func:`per_layer` around it.

    Args:
      radius: the norm :math:`\rho` to keep. ``"initial"`` is the one that the array starts with; it is in the state, so
        that rounding errors don't add up, and an array that starts at zero is not constrained. ``"present"`` is the
        norm before each update, :math:`\|w\|_2`; an array that starts at zero takes its first step freely, and keeps
        the norm that it has then. A number above 0, or a schedule, is the same for all arrays: the first update leads
        there.
      mask: a tree of bools like the parameters (or a prefix of it), or a function from parameters to one; where it is
        False, updates pass unchanged. Usually only matrices are constrained.

    Reference: Wen et al., *Fantastic Pretraining Optimizers and Where to Find Them II: Hyperball Optimization*, 2026.
    """
    if isinstance(radius, str):
        target = slot.radius if radius == "initial" else safe_norm(at.param)
    else:
        target = jnp.asarray(radius, jnp.real(g).dtype)
    return _at_radius(g, at.param, target), slot


@leafwise(param=True)
def pin_norm(g: Array, slot: Slots, at: At, mask: Mask | None = None):
    r"""Let the norm of each array change only by the part of the update that is parallel to the array.

    .. math:: u = \rho\,\frac{w + g}{\|w + g\|_2} - w, \qquad
        \rho = \|w\|_2 + \frac{\Re\langle w, g \rangle}{\|w\|_2}

    A step at right angles to the weights makes their norm grow in the second order, which is what weight decay usually
    works against; here it doesn't. Put it after the learning rate. Where :math:`\rho` isn't above 0, and for arrays
    that are zero, the update passes unchanged.

    Args:
      mask: where to apply it; see :func:`keep_norm`.

    Reference: Jordan et al., *modded-nanogpt*, track 3, 2026, where the target is called the radius pin.
    """
    g = bounded(g, g.size, 1)
    size, _, along = _radial(g, at.param)
    return _at_radius(g, at.param, size + along)


@leafwise(param=True)
def brake_norm(
    g: Array,
    slot: Slots,
    at: At,
    outward: NonNegative = 0.5,
    inward: NonNegative = 1.0,
    mask: Mask | None = None,
    *,
    downhill: bool = True,
):
    r"""Scale the part of each array's update that is parallel to the array: a brake on the growth of its norm.

    .. math:: u = g - (1 - s)\,\frac{\Re\langle w, g \rangle}{\|w\|_2^2}\,w, \qquad
        s = \begin{cases} \text{outward} & \text{where the norm would grow} \ \text{inward} & \text{elsewhere}
        \end{cases}

    With both at 0 the update is projected onto the tangent of the sphere that the weights are on. The part at right
    angles isn't changed; :func:`pin_norm` removes its contribution to the norm. (Emerging-Optimizers brakes the change
    of the norm as a whole, that contribution included.) Updates of arrays that are zero pass unchanged.

    Args:
      outward: the factor :math:`s \ge 0` where the update leads away from zero.
      inward: the factor where it leads towards zero.
      mask: where to apply it; see :func:`keep_norm`.
      downhill: whether updates are those that are added to the parameters; set False before the learning rate, where
        they point uphill.

    Reference: Jordan et al., *modded-nanogpt*, track 3, 2026.
    """
    _, direction, along = _radial(g, at.param)
    grows = along > 0 if downhill else along < 0
    return g - (1 - jnp.where(grows, outward, inward)) * along * direction


@leafwise(param=True)
def limit_update_ratio(
    g: Array,
    slot: Slots,
    at: At,
    max_ratio: NonNegative = 0.01,
    min_ratio: NonNegative = 0.0,
    min_norm: NonNegative = 1e-3,
    mask: Mask | None = None,
    *,
    axis: Annotated[int | tuple[int, ...] | str | None, UnitAxes("outputs")] = None,
):
    r"""Keep the ratio of each array's update to the array itself, in norm, between a floor and a cap.

    .. math:: u = \frac{\min(\max(r, a), b)}{r}\,g, \qquad r = \frac{\|g\|_2}{\max(\|w\|_2, c)}

    Put it after the learning rate, or before it, where the bounds are those of the ratio over the rate. It adjusts only
    steps that are unusually long or short; with equal floor and cap it is :func:`scale_by_trust_ratio`. A zero update
    stays zero.

    Args:
      max_ratio: the cap :math:`b`; ``inf`` for none.
      min_ratio: the floor :math:`a`; where the cap is lower, the cap applies.
      min_norm: :math:`c \ge 0`, so that arrays that start at zero can change.
      mask: where to limit; see :func:`keep_norm`.
      axis: what a norm is taken of: ``None`` for the whole array; ``"outputs"`` for the weights of each output unit, as
        in :func:`adaptive_grad_clip`; or the axes that are summed over, which are the inputs' for one norm an output.

    Raises:
      ValueError: from ``init``, if an array lacks one of these axes.

    References:
      You et al., *Large Batch Training of Convolutional Networks*, 2017 (the ratio).
      Jordan et al., *modded-nanogpt*, track 3, 2026 (the floor for each output, 0.3825 before the learning rate).
    """
    size, step = (_norm(x, axis) for x in (at.param, g))
    size = jnp.maximum(size, min_norm)
    wanted = jnp.minimum(jnp.maximum(step, min_ratio * size), max_ratio * size)
    return g * jnp.where(wanted == step, 1, divide(wanted, step))


def _norm(x: Array, axis: Any) -> Array:
    if axis is None:
        return safe_norm(x)
    return unitwise_norm(x, None if axis == "outputs" else axis)


@elementwise(param=True)
def decay_updated_weights(
    g: Array, slot: Slots, at: At, rate: Fraction, mask: Mask | None = None, *, cautious: bool = False
):
    r"""Shrink the weights that the update leads to: :math:`u = g - \lambda\,(w + g)`.

    Put it last, after the learning rate: :math:`\lambda` is the share that each weight loses, so that decay as strong
    as that of :func:`add_decayed_weights` has the weight decay times the learning rate here, where both may be
    schedules:

      >>> rate = cosine_decay_schedule(0.02, 1000)
      >>> chain(scale_by_muon(), scale_by_learning_rate(rate), pin_norm(), decay_updated_weights(0.025 * rate))

    There it acts on the steps that are really taken: after :func:`keep_norm` or :func:`pin_norm`, which would undo an
    earlier decay.

    Args:
      rate: :math:`\lambda` in [0, 1], or a schedule.
      mask: which parameters to decay; see :func:`keep_norm`.
      cautious: decay only where the update brings the weight nearer to zero, :math:`\Re(\bar g w) \le 0`, as
        :func:`add_cautious_decayed_weights` does.

    References:
      Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2019. Chen et al., *Cautious Weight Decay*, 2025.
    """
    new = at.param + g
    decayed = jnp.where(jnp.real(jnp.conj(g) * at.param) <= 0, new, 0) if cautious else new
    return g - rate * decayed


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
