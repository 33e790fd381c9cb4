"""Adam with one thing changed: another norm, another second moment, another correction.

As in :mod:`~gradchain.transforms.adaptive`, the update is 0 where its denominator is 0, which only happens with
``eps=0``.
"""

import math
from typing import Any

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Decay, DType, NonNegative
from gradchain.core.rule import elementwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.numerics import abs_sq, bounded, debias_nesterov, decaying_max, divide, ema, root_plus, sqrt
from gradchain.transforms.adaptive import SECOND_MOMENT


@elementwise(slots={"mu": Slot(), "nu": SECOND_MOMENT}, debiased=("b1",))
def scale_by_adamax(g: Array, slot: Slots, at: At, b1: Decay = 0.9, b2: Decay = 0.999, eps: NonNegative = 1e-8):
    r"""Divide Adam's first moment by a decaying maximum of absolute gradients: Adam in the infinity norm.

    .. math::
        \mu_k = \beta_1 \mu_{k-1} + (1 - \beta_1)\,g_k, \qquad
        \nu_k = \max(\beta_2 \nu_{k-1}, |g_k| + \epsilon), \qquad
        u_k = \frac{\mu_k / (1 - \beta_1^k)}{\nu_k}

    The maximum needs no bias correction. :math:`\epsilon` is where PyTorch and Optax have it; the paper has none.

    Args:
      b1: :math:`\beta_1` in [0, 1).
      b2: :math:`\beta_2` in [0, 1).
      eps: :math:`\epsilon \ge 0`.

    Reference: Kingma and Ba, *Adam: A Method for Stochastic Optimization*, 2015, algorithm 2.
    """
    mu = ema(slot.mu, g, b1)
    nu = decaying_max(slot.nu, g, b2, eps)
    return divide(mu / at.weight_sum("b1"), nu, eps == 0), slot(mu=mu, nu=nu)


@elementwise(slots={"mu": Slot(dtype="mu_dtype"), "nu": SECOND_MOMENT, "nu_max": SECOND_MOMENT}, debiased=("b1", "b2"))
def scale_by_amsgrad(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
):
    r"""Divide Adam's first moment by the root of the largest second moment so far, so that steps can't grow again.

    .. math::
        \hat\nu_k = \max(\hat\nu_{k-1}, \nu_k / (1 - \beta_2^k)), \qquad
        u_k = \frac{\mu_k / (1 - \beta_1^k)}{\sqrt{\hat\nu_k + \bar\epsilon} + \epsilon}

    with :math:`\mu` and :math:`\nu` as in :func:`scale_by_adam`. The paper corrects neither moment; PyTorch takes the
    maximum of the uncorrected second moment and corrects that.

    Args:
      b1: :math:`\beta_1` in [0, 1).
      b2: :math:`\beta_2` in [0, 1).
      eps: :math:`\epsilon \ge 0`.
      eps_root: :math:`\bar\epsilon \ge 0`.
      mu_dtype: dtype of the stored first moment; by default the parameter's, and at least float32.
      bias_correction_mu: divide the first moment by :math:`1 - \beta_1^k`.
      bias_correction_nu: divide the second moment by :math:`1 - \beta_2^k` before the maximum.

    Reference: Reddi et al., *On the Convergence of Adam and Beyond*, 2018, algorithm 2.
    """
    g = bounded(g)
    mu = ema(slot.mu, g, b1)
    nu = ema(slot.nu, abs_sq(g), b2)
    nu_max = jnp.maximum(slot.nu_max, nu / at.weight_sum("b2") if bias_correction_nu else nu)
    mu_hat = mu / at.weight_sum("b1") if bias_correction_mu else mu
    return divide(mu_hat, root_plus(nu_max, eps_root, eps), eps == 0), slot(mu=mu, nu=nu, nu_max=nu_max)


@elementwise(slots={"mu": Slot(), "nu": SECOND_MOMENT}, debiased=("b1", "b2"))
def scale_by_belief(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
    *,
    nesterov: bool = False,
):
    r"""Divide Adam's first moment by the root mean square of the gradients' distance from that moment.

    .. math::
        \mu_k = \beta_1 \mu_{k-1} + (1 - \beta_1)\,g_k, \quad
        \nu_k = \beta_2 \nu_{k-1} + (1 - \beta_2)\,|g_k - \mu_k|^2 + \bar\epsilon, \quad
        u_k = \frac{\mu_k / (1 - \beta_1^k)}{\sqrt{\nu_k / (1 - \beta_2^k)} + \epsilon}

    :math:`\bar\epsilon` is added to the stored average, so it accumulates, as in the paper. Where gradients are close
    to their moving average, steps are long.

    Args:
      b1: :math:`\beta_1` in [0, 1).
      b2: :math:`\beta_2` in [0, 1).
      eps: :math:`\epsilon \ge 0`, outside the root.
      eps_root: :math:`\bar\epsilon \ge 0`.
      nesterov: look ahead along the first moment as :func:`scale_by_adam` does.

    Reference: Zhuang et al., *AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients*, 2020,
    algorithm 2.
    """
    g = bounded(g)
    mu = ema(slot.mu, g, b1)
    nu = ema(slot.nu, abs_sq(g - mu), b2) + eps_root
    weight = at.weight_sum("b1")
    mu_hat = debias_nesterov(mu, g, b1, weight, at.weight_sum("b1", ahead=1)) if nesterov else mu / weight
    return divide(mu_hat, sqrt(nu / at.weight_sum("b2")) + eps, eps == 0), slot(mu=mu, nu=nu)


def _initial_moment(p: Array, hyper: Any) -> Array:
    return jnp.full_like(p, hyper.initial_accumulator_value)


def _initial_second_moment(p: Array, hyper: Any) -> Array:
    return _initial_moment(jnp.real(p), hyper)


@elementwise(
    slots={"mu": Slot(_initial_moment), "nu": SECOND_MOMENT._replace(init=_initial_second_moment)},
    debiased=("b1", "b2"),
)
def scale_by_yogi(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-3,
    eps_root: NonNegative = 0.0,
    initial_accumulator_value: NonNegative = 1e-6,
):
    r"""Rescale gradients by Adam's moments, where the second changes by an amount that depends on the gradient alone.

    .. math::
        \nu_k = \nu_{k-1} - (1 - \beta_2)\,\mathrm{sign}(\nu_{k-1} - |g_k|^2)\,|g_k|^2, \qquad
        u_k = \frac{\mu_k / (1 - \beta_1^k)}{\sqrt{\nu_k / (1 - \beta_2^k) + \bar\epsilon} + \epsilon}

    with :math:`\mu` as in :func:`scale_by_adam`. When gradients become small, :math:`\nu` falls slowly, while Adam's
    decays exponentially. Both moments are bias-corrected as if they started at zero, though they start at
    ``initial_accumulator_value``. Optax does the same.

    Args:
      b1: :math:`\beta_1` in [0, 1).
      b2: :math:`\beta_2` in [0, 1).
      eps: :math:`\epsilon \ge 0`.
      eps_root: :math:`\bar\epsilon \ge 0`.
      initial_accumulator_value: first value of both moments, at least 0.

    Reference: Zaheer et al., *Adaptive Methods for Nonconvex Optimization*, 2018, algorithm 2.
    """
    g = bounded(g)
    mu = ema(slot.mu, g, b1)
    size = abs_sq(g)
    nu = slot.nu - (1 - b2) * jnp.sign(slot.nu - size) * size
    root = sqrt(nu / at.weight_sum("b2") + eps_root)
    return divide(mu / at.weight_sum("b1"), root + eps, eps == 0), slot(mu=mu, nu=nu)


def _missing_coth(x: Array) -> Array:
    r"""Return :math:`M(x) = 1 + 1/x - \coth x` for :math:`x \ge 0`; by its series up to 0.3, where terms cancel."""
    small = x < 0.3
    y = jnp.where(small, x, 0) ** 2
    series = 1 / 3 - y * (1 / 45 - y * (2 / 945 - y * (1 / 4725 - y * (2 / 93555 - y * 1382 / 638512875))))
    large = jnp.where(small, 1, x)
    return jnp.where(small, 1 - x * series, 1 / large + 2 * jnp.exp(-2 * large) / jnp.expm1(-2 * large))


def _effective_length(b2: Any, t: Array) -> tuple[Array, Array]:
    r"""Return RAdam's :math:`\rho_t` and :math:`\rho_\infty`.

    With :math:`\beta_2 = e^{-2y}` and :math:`M(x) = 1 + 1/x - \coth x` it is :math:`\rho_t = t\,M(ty) + 1 - M(y)`: the
    paper's difference of two numbers near 2000, of which a few units remain, would lose four digits.
    """
    if isinstance(b2, int | float):
        b2, log_b2 = max(float(b2), 1e-37), math.log(max(float(b2), 1e-37))
    else:
        b2 = jnp.maximum(b2, 1e-37)
        log_b2 = jnp.where(b2 < 0.5, jnp.log(b2), jnp.log1p(jnp.maximum(b2, 0.5) - 1))
    y = jnp.asarray(-log_b2 / 2, t.dtype)
    return t * _missing_coth(t * y) + 1 - _missing_coth(y), jnp.asarray((1 + b2) / (1 - b2), t.dtype)


def _rectification(b2: Any, t: Array, threshold: NonNegative) -> tuple[Array, Array]:
    """Return whether the variance of the adaptive rate is tractable, and if so the factor that holds it constant."""
    rho, limit = _effective_length(b2, t)
    tractable = (rho >= threshold) & (rho > 4)
    rho, limit = jnp.where(tractable, rho, 5), jnp.where(tractable, limit, 5)
    return tractable, sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))


@elementwise(slots={"mu": Slot(), "nu": SECOND_MOMENT}, debiased=("b1", "b2"))
def scale_by_radam(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    threshold: NonNegative = 5.0,
    *,
    nesterov: bool = False,
):
    r"""Rescale gradients by Adam's moments, with smaller steps while the second moment is estimated from few gradients.

    .. math::
        \rho_k = \rho_\infty - \frac{2 k \beta_2^k}{1 - \beta_2^k}, \quad
        \rho_\infty = \frac{2}{1 - \beta_2} - 1, \quad
        r_k = \sqrt{\frac{(\rho_k - 4)(\rho_k - 2)\,\rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2)\,\rho_k}}

    The update is :math:`r_k` times Adam's once :math:`\rho_k` reaches the threshold, and before that the bias-corrected
    first moment alone. Here :math:`\rho_k` is accurate in float32; in Optax it is off by up to 2e-4 in the first steps.
    Where a threshold below 4 would take the root of a negative number, the first moment alone is used.

    Args:
      b1: :math:`\beta_1` in [0, 1).
      b2: :math:`\beta_2` in [0, 1).
      eps: :math:`\epsilon \ge 0`, outside Adam's root.
      eps_root: :math:`\bar\epsilon \ge 0`, inside it.
      threshold: the smallest :math:`\rho_k` that is corrected; the paper's is 4 (exclusive), PyTorch's 5 (exclusive).
      nesterov: look ahead along the first moment as :func:`scale_by_adam` does.

    Reference: Liu et al., *On the Variance of the Adaptive Learning Rate and Beyond*, 2020, algorithm 2.
    """
    g = bounded(g)
    mu = ema(slot.mu, g, b1)
    nu = ema(slot.nu, abs_sq(g), b2)
    weight = at.weight_sum("b1")
    mu_hat = debias_nesterov(mu, g, b1, weight, at.weight_sum("b1", ahead=1)) if nesterov else mu / weight
    tractable, factor = _rectification(b2, at.t, threshold)
    adapted = factor * divide(mu_hat, root_plus(nu / at.weight_sum("b2"), eps_root, eps), eps == 0)
    return jnp.where(tractable, adapted, mu_hat), slot(mu=mu, nu=nu)


@elementwise(slots={"m": Slot(), "v": Slot(), "n": SECOND_MOMENT, "g": Slot()}, debiased=("b1", "b2", "b3"))
def scale_by_adan(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.98,
    b2: Decay = 0.92,
    b3: Decay = 0.99,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
):
    r"""Rescale gradients by moments that look ahead along gradient differences: a reformulation of Nesterov momentum.

    .. math::
        d_k &= g_k - g_{k-1} \;(d_1 = 0), \qquad m_k = \beta_1 m_{k-1} + (1 - \beta_1)\,g_k, \qquad
        v_k = \beta_2 v_{k-1} + (1 - \beta_2)\,d_k \\
        n_k &= \beta_3 n_{k-1} + (1 - \beta_3)\,|g_k + (1 - \beta_2)\,d_k|^2, \qquad
        u_k = \frac{\hat m_k + (1 - \beta_2)\,\hat v_k}{\sqrt{\hat n_k + \bar\epsilon} + \epsilon}

    with :math:`\hat m, \hat v, \hat n` bias-corrected. The decays are one minus the paper's.

    Args:
      b1: :math:`\beta_1` in [0, 1), decay of the average of gradients.
      b2: :math:`\beta_2` in [0, 1), decay of the average of their differences; :math:`1 - \beta_2` is also how far to
        look ahead.
      b3: :math:`\beta_3` in [0, 1), decay of the average of squares.
      eps: :math:`\epsilon \ge 0`.
      eps_root: :math:`\bar\epsilon \ge 0`.

    Reference: Xie et al., *Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models*, 2022,
    algorithm 1.
    """
    g = bounded(g)
    difference = jnp.where(at.t == 1, 0, g - slot.g)
    m = ema(slot.m, g, b1)
    v = ema(slot.v, difference, b2)
    n = ema(slot.n, abs_sq(g + (1 - b2) * difference), b3)
    ahead = m / at.weight_sum("b1") + (1 - b2) * (v / at.weight_sum("b2"))
    return divide(ahead, root_plus(n / at.weight_sum("b3"), eps_root, eps), eps == 0), slot(
        m=m, v=v, n=n, g=jnp.array(g, copy=True)
    )
