"""Step sizes from the loss: long enough for a linear model of the loss to reach a lower bound."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gradchain import tree
from gradchain.core.hyper import Decay, Hyper, NonNegative, TermMask
from gradchain.core.rule import elementwise, treewise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Choice
from gradchain.numerics import abs_sq, divide, ema, sqrt
from gradchain.transforms.adaptive import SECOND_MOMENT
from gradchain.tree import Tree
from gradchain.tree.arithmetic import bounded_together


def _squared_norm(updates: Tree) -> Array:
    return tree.norm(updates, squared=True)


@elementwise(whole=_squared_norm, extra=("value",))
def scale_by_polyak(
    g: Array,
    slot: Slots,
    at: At,
    f_min: Hyper = 0.0,
    max_learning_rate: NonNegative = 1.0,
    eps: NonNegative = 0.0,
    variant: Annotated[str, Choice("sps", "sps+")] = "sps",
):
    r"""Scale all updates by Polyak's step size: the loss minus its minimum, over the squared gradient norm.

    .. math:: u = \min\left(\frac{f(w) - f^*}{\|g\|_2^2 + \epsilon}, \gamma\right) g

    The loss is an extra argument: ``update(updates, state, params, value=loss)``. The loss and the gradients must come
    from the same batch, and no earlier stage may rescale the gradients. A zero gradient stays zero; Optax takes no step
    if the norm of the gradient is below 1.5e-8.

    Args:
      f_min: :math:`f^*`, the least loss or a lower bound on it. If the loss can be negative, 0 is not a valid bound;
        see ``variant``.
      max_learning_rate: :math:`\gamma \ge 0`, a bound on the step size.
      eps: :math:`\epsilon \ge 0`.
      variant: what happens where the loss is below :math:`f^*`: "sps" steps uphill, with a negative step size that has
        no bound; "sps+" takes no step, because it uses :math:`\max(f(w) - f^*, 0)` in place of :math:`f(w) - f^*`.

    References:
      Loizou et al., *Stochastic Polyak Step-size for SGD: An Adaptive Learning Rate for Fast Convergence*, 2021
      (``"sps"``: there :math:`\mathrm{SPS}_{\max}`, whose factor :math:`1/c` is 1 here).
      Garrigos et al., *Function Value Learning: Adaptive Learning Rates Based on the Polyak Stepsize and Function
      Splitting in ERM*, 2023 (``"sps+"``).
    """
    gap = jnp.asarray(at.value, at.dtype) - f_min
    if variant == "sps+":
        gap = jnp.maximum(gap, 0)
    return g * jnp.minimum(divide(gap, at.whole + eps), max_learning_rate).astype(at.dtype)


class _Model(NamedTuple):
    r"""The loss as the linear function :math:`h + \langle d, y\rangle`, and what is known of it at :math:`y = w`."""

    h: Array
    dw: Array
    r""":math:`\langle d, w\rangle`."""
    norm: Array
    r""":math:`\|d\|^2`, in the norm that the step is measured in."""
    rho: Any
    """The sum of the weights of the averages that it is made of."""
    free_dw: Any
    r"""The share of :math:`\langle d, w\rangle` that parameters without weight decay have."""
    free_norm: Any
    r"""Their share of :math:`\|d\|^2`."""


def _model(h: Array, d: Tree, direction: Tree, params: Tree, norm: Array, rho: Any, decays: Tree) -> _Model:
    """Return the model of slope ``d`` at ``params``, along which steps have ``direction``."""
    leaves = zip(*map(jax.tree.leaves, (d, direction, params, decays)), strict=True)
    free = [(d, u, w) for d, u, w, on in leaves if not on]
    shares = (_inner([d for d, _, _ in free], [x[i] for x in free]) if free else 0 for i in (2, 1))
    return _Model(h, _inner(d, params), norm, rho, *shares)


def _step_size(
    model: _Model, learning_rate: NonNegative, weight_decay: NonNegative, lower_bound: Hyper, adapted: Array | None
) -> tuple[Array, Any]:
    """Return the step size to the lower bound and the next bound, which stays what it is if ``adapted`` is None.

    The decay divides the new point by c. The model at it, times c, has c times the share of what isn't decayed.
    """
    h, dw, norm, rho, *_ = model
    c = 1 + learning_rate * weight_decay
    scaled_dw, scaled_norm = dw + (c - 1) * model.free_dw, norm + (c - 1) * model.free_norm
    bound = lower_bound
    if adapted is not None:
        low = jnp.maximum((c * h + scaled_dw) / (2 * c * rho), lower_bound)
        bound = jnp.where(c * h + scaled_dw < c * rho * adapted, low, adapted)
    above = jnp.maximum(c * (h - rho * bound) + scaled_dw, 0)
    tau = jnp.minimum(learning_rate / rho, divide(above, scaled_norm))
    return tau, lower_bound if adapted is None else jnp.maximum((h + dw - tau * norm / 2) / rho, lower_bound)


def _inner(x: Tree, y: Tree) -> Array:
    return jnp.real(tree.vdot(x, y))


def _step(tau: Array, direction: Tree, params: Tree, decay: Any, decays: Tree) -> Tree:
    """Return the proximal step with weight decay: from w to (w - tau d) / (1 + decay), turned uphill."""
    return jax.tree.map(
        lambda d, w, on: (tau * d + decay * w) / (1 + decay) if on else tau * d, direction, params, decays
    )


@treewise(
    slots={"d": Slot(counted=True)},
    scalars={"f": 0.0, "gamma": 0.0, "lb": lambda hyper: hyper.lower_bound},
    param=True,
    extra=("value",),
)
def scale_by_momo(
    updates: Tree,
    slot: Slots,
    at: At,
    learning_rate: NonNegative = 1.0,
    beta: Decay = 0.9,
    lower_bound: Hyper = 0.0,
    weight_decay: NonNegative = 0.0,
    adapt_lower_bound: bool = False,
    weight_decay_mask: TermMask | None = None,
):
    r"""Step along the averaged gradient until the averaged linear model of the loss reaches a lower bound.

    .. math::
        d_k &= \beta d_{k-1} + (1 - \beta)\,g_k, \quad
        \bar f_k = \beta \bar f_{k-1} + (1 - \beta)\,f(w_k), \quad
        \gamma_k = \beta \gamma_{k-1} + (1 - \beta) \langle g_k, w_k\rangle \\
        \tau_k &= \min\left(\alpha, \frac{\max((1 + \alpha\lambda)(\bar f_k - f^* - \gamma_k) +
        \langle d_k, w_k\rangle, 0)}{\|d_k\|_2^2}\right), \qquad
        u_k = \frac{\tau_k d_k + \alpha\lambda w_k}{1 + \alpha\lambda}

    The averages start at their first values. The loss is an extra argument:
    ``update(updates, state, params, value=loss)``. With weight decay, Optax doesn't divide :math:`\tau_k d_k`, which
    isn't the minimum of the regularised model. It also takes no step where :math:`\|d\|_2 < 1.5 \cdot 10^{-8}`.

    Args:
      learning_rate: :math:`\alpha \ge 0`, a bound on the step size, or a schedule.
      beta: :math:`\beta` in [0, 1).
      lower_bound: :math:`f^*`, a lower bound on the loss. Below it no step is taken along the gradient. If the loss can
        be negative, 0 is not a valid bound.
      weight_decay: :math:`\lambda \ge 0`. Parameters that aren't decayed make one step of length :math:`\tau_k`, which
        is again the one to the lower bound: in the fraction, their share of :math:`\langle d_k, w_k\rangle` and of
        the squared norm is multiplied by :math:`1 + \alpha\lambda`.
      adapt_lower_bound: estimate :math:`f^*` during training, never below ``lower_bound``.
      weight_decay_mask: which parameters to decay, a mask as in :func:`add_decayed_weights`; ``None`` for all.

    Reference: Schaipp et al., *MoMo: Momentum Models for Adaptive Learning Rates*, 2024, algorithm 1; the weight
    decay and the estimated bound as in the authors' code.
    """
    updates = bounded_together(updates)
    beta = jnp.where(at.t == 1, 0, beta)
    d = jax.tree.map(lambda d, g: ema(d, g, beta), slot.d, updates)
    f = ema(slot.f, jnp.asarray(at.value, at.dtype), beta)
    gamma = ema(slot.gamma, _inner(updates, at.param), beta)
    model = _model(f - gamma, d, d, at.param, tree.norm(d, squared=True), 1, weight_decay_mask)
    tau, lb = _step_size(model, learning_rate, weight_decay, lower_bound, slot.lb if adapt_lower_bound else None)
    return _step(tau, d, at.param, learning_rate * weight_decay, weight_decay_mask), slot(d=d, f=f, gamma=gamma, lb=lb)


@treewise(
    slots={"d": Slot(), "v": SECOND_MOMENT},
    scalars={"f": 0.0, "gamma": 0.0, "lb": lambda hyper: hyper.lower_bound},
    param=True,
    extra=("value",),
    debiased=("b1", "b2"),
)
def scale_by_momo_adam(
    updates: Tree,
    slot: Slots,
    at: At,
    learning_rate: NonNegative = 1e-2,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    lower_bound: Hyper = 0.0,
    weight_decay: NonNegative = 0.0,
    adapt_lower_bound: bool = False,
    weight_decay_mask: TermMask | None = None,
):
    r"""Step along Adam's direction until the averaged linear model of the loss reaches a lower bound.

    With :math:`d`, :math:`\bar f` and :math:`\gamma` as in :func:`scale_by_momo`, but started at zero,
    :math:`\rho_k = 1 - \beta_1^k` and Adam's denominators
    :math:`D_k = \sqrt{v_k / (1 - \beta_2^k)} + \epsilon`,

    .. math::
        \tau_k = \min\left(\frac{\alpha}{\rho_k}, \frac{\max((1 + \alpha\lambda)(\bar f_k - \rho_k f^* - \gamma_k) +
        \langle d_k, w_k\rangle, 0)}{\langle d_k, D_k^{-1} d_k\rangle}\right), \qquad
        u_k = \frac{\tau_k D_k^{-1} d_k + \alpha\lambda w_k}{1 + \alpha\lambda}

    Where the minimum is the first argument, this is AdamW with weight decay in proximal form. It differs from Optax as
    :func:`scale_by_momo` does.

    Args:
      learning_rate: :math:`\alpha \ge 0`, Adam's learning rate as an upper bound, or a schedule.
      b1: :math:`\beta_1` in [0, 1).
      b2: :math:`\beta_2` in [0, 1).
      eps: :math:`\epsilon \ge 0`.
      lower_bound: :math:`f^*`, a lower bound on the loss. Below it no step is taken along the gradient. If the loss can
        be negative, 0 is not a valid bound.
      weight_decay: :math:`\lambda \ge 0`. Parameters that aren't decayed make one step of length :math:`\tau_k`, which
        is again the one to the lower bound: in the fraction, their share of :math:`\langle d_k, w_k\rangle` and of
        the squared norm is multiplied by :math:`1 + \alpha\lambda`.
      adapt_lower_bound: estimate :math:`f^*` during training, never below ``lower_bound``.
      weight_decay_mask: which parameters to decay, a mask as in :func:`add_decayed_weights`; ``None`` for all.

    Reference: Schaipp et al., *MoMo: Momentum Models for Adaptive Learning Rates*, 2024, algorithm 2.
    """
    updates = bounded_together(updates)
    d = jax.tree.map(lambda d, g: ema(d, g, b1), slot.d, updates)
    v = jax.tree.map(lambda v, g: ema(v, abs_sq(g), b2), slot.v, updates)
    f = ema(slot.f, jnp.asarray(at.value, at.dtype), b1)
    gamma = ema(slot.gamma, _inner(updates, at.param), b1)
    direction = jax.tree.map(lambda d, v: divide(d, sqrt(v / at.weight_sum("b2")) + eps, eps == 0), d, v)
    norm = _inner(d, direction)
    model = _model(f - gamma, d, direction, at.param, norm, at.weight_sum("b1"), weight_decay_mask)
    tau, lb = _step_size(model, learning_rate, weight_decay, lower_bound, slot.lb if adapt_lower_bound else None)
    u = _step(tau, direction, at.param, learning_rate * weight_decay, weight_decay_mask)
    return u, slot(d=d, v=v, f=f, gamma=gamma, lb=lb)
