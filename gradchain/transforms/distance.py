"""Step sizes from the distance travelled so far, which replaces the unknown distance to the solution."""

from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array, lax

from gradchain import tree
from gradchain.core.hyper import DType, Hyper, NonNegative, Positive
from gradchain.core.rule import leafwise, treewise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Choice
from gradchain.numerics import abs_sq, bounded_square, divide, safe_norm, sqrt
from gradchain.transforms.adaptive import SUMMED
from gradchain.tree import Tree


def _start(p: Array, hyper: Any) -> Array:
    return p


START = Slot(_start)
"""The parameters that training began with."""


@leafwise(
    slots={
        "max_dist": Slot(lambda p, hyper: hyper.reps_rel * (1 + safe_norm(p)), real=True, nonnegative=True),
        "grad_sum_of_squares": Slot(lambda p, hyper: 0 * safe_norm(p), real=True, nonnegative=True),
        "init_params": START._replace(dtype="param_dtype"),
    },
    param=True,
)
def scale_by_distance_over_gradients(
    g: Array,
    slot: Slots,
    at: At,
    reps_rel: Positive = 1e-6,
    eps: NonNegative = 1e-8,
    param_dtype: DType | None = None,
    global_scale: Hyper = 1.0,
):
    r"""Scale each array's gradient by its largest distance from the start, over the root sum of squared norms: LDoG.

    .. math::
        r_k = \max(r_{k-1}, \|w_k - w_1\|_2), \quad r_0 = r_\epsilon (1 + \|w_1\|_2), \qquad
        G_k = G_{k-1} + \|g_k\|_2^2, \qquad u_k = c\,\frac{r_k}{\sqrt{G_k + \epsilon}}\,g_k

    The layer-wise form of :func:`scale_by_dog`. Use it with an average of the parameters, as its authors do. Call
    ``init`` with the actual initial parameters, not with shapes or zeros.

    Args:
      reps_rel: :math:`r_\epsilon > 0`; 1e-4 for models with batch normalisation, else 1e-6.
      eps: :math:`\epsilon \ge 0`.
      param_dtype: dtype of the stored :math:`w_1`; by default the parameter's, and at least float32. A narrower dtype
        saves memory, but its rounding error counts as distance. (Optax's default is float32, which rounds float64 and
        can't hold complex parameters.)
      global_scale: :math:`c`; with -1 the updates point downhill, and no learning rate is needed.

    Reference: Ivgi et al., *DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule*, 2023 (L-DoG).
    """
    r = jnp.maximum(slot.max_dist, safe_norm(at.param - slot.init_params))
    factor, square = bounded_square(safe_norm(g), jnp.sum(abs_sq(g)), SUMMED)
    total = slot.grad_sum_of_squares + square
    update = global_scale * divide(r, sqrt(total + eps), eps == 0) * (g * factor)
    return update, slot(max_dist=r, grad_sum_of_squares=total, init_params=slot.init_params)


@treewise(slots={"init_params": START}, scalars={"max_dist": 0.0, "grad_sum_of_squares": 0.0}, param=True)
def scale_by_dog(
    updates: Tree,
    slot: Slots,
    at: At,
    init_value: Positive = 1e-6,
    eps: NonNegative = 1e-8,
    *,
    init_kind: Annotated[str, Choice("heuristic", "distance", "learning_rate")] = "heuristic",
):
    r"""Scale gradients by the largest distance from the start, over the root of the sum of squared gradient norms: DoG.

    .. math::
        r_k = \max(r_{k-1}, \|w_k - w_1\|_2), \qquad G_k = G_{k-1} + \|g_k\|_2^2, \qquad
        u_k = \frac{r_k}{\sqrt{G_k + \epsilon}}\,g_k

    The norms are taken over all arrays. Call ``init`` with the actual initial parameters, not with shapes or zeros.

    Args:
      init_value: sets the first step; above 0, and small enough not to diverge.
      eps: :math:`\epsilon \ge 0`.
      init_kind: what ``init_value`` is: "distance" for :math:`r_0`, "heuristic" for :math:`r_0 / (1 + \|w_1\|_2)`,
        or "learning_rate" for the factor of :math:`g_1`, with :math:`r_0 = 0`.

    Reference: Ivgi et al., *DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule*, 2023 (DoG).
    """
    r = jnp.maximum(slot.max_dist, tree.norm(tree.sub(at.param, slot.init_params)))
    if init_kind == "distance":
        r = jnp.maximum(r, init_value)
    if init_kind == "heuristic":  # r never falls, so that the start's norm is needed once
        r = lax.cond(at.t == 1, lambda: jnp.maximum(r, init_value * (1 + tree.norm(slot.init_params))), lambda: r)
    updates, square = _bounded_square(updates)
    total = slot.grad_sum_of_squares + square
    rate = divide(r, sqrt(total + eps), eps == 0)
    if init_kind == "learning_rate":
        rate = jnp.where(at.t == 1, init_value, rate)
    return tree.scale(rate, updates), slot(max_dist=r, grad_sum_of_squares=total, init_params=slot.init_params)


def _bounded_square(updates: Tree) -> tuple[Tree, Array]:
    factor, square = bounded_square(tree.norm(updates), tree.norm(updates, squared=True), SUMMED)
    return tree.scale(factor, updates), square


def _first_square(hyper: Any) -> Any:
    return hyper.eps if hyper.init_estim_sq_dist is None else hyper.init_estim_sq_dist


@treewise(
    slots={"init_params": START},
    scalars={"estim_sq_dist": _first_square, "weighted_sq_norm_grads": 0.0},
    param=True,
)
def scale_by_dowg(
    updates: Tree, slot: Slots, at: At, init_estim_sq_dist: Positive | None = None, eps: NonNegative = 1e-4
):
    r"""Scale gradients by the largest squared distance from the start, over distance-weighted gradient norms: DoWG.

    .. math::
        r_k^2 = \max(r_{k-1}^2, \|w_k - w_1\|_2^2), \qquad v_k = v_{k-1} + r_k^2 \|g_k\|_2^2, \qquad
        u_k = \frac{r_k^2}{\sqrt{v_k} + \epsilon}\,g_k

    The norms are taken over all arrays. Late gradients weigh more than in :func:`scale_by_dog`, and steps are longer.

    Args:
      init_estim_sq_dist: :math:`r_0^2 > 0`; ``None`` for :math:`\epsilon`.
      eps: :math:`\epsilon \ge 0`; above 0 if it also serves as :math:`r_0^2`, since the parameters would never move.

    Reference: Khaled et al., *DoWG Unleashed: An Efficient Universal Parameter-Free Gradient Descent Method*, 2023,
    algorithm 1.
    """
    r2 = jnp.maximum(slot.estim_sq_dist, tree.norm(tree.sub(at.param, slot.init_params), squared=True))
    updates, square = _bounded_square(updates)
    v = slot.weighted_sq_norm_grads + r2 * square
    rate = divide(r2, sqrt(v) + eps, eps == 0)
    return tree.scale(rate, updates), slot(init_params=slot.init_params, estim_sq_dist=r2, weighted_sq_norm_grads=v)
