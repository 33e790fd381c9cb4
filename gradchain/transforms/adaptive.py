"""Rules that divide each gradient element by a running estimate of its size.

Where that estimate is 0 (only with ``eps=0``, and zero gradients so far), the update is 0.
"""

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Decay, DType, NonNegative
from gradchain.core.rule import elementwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.eager import full_like
from gradchain.numerics import abs_sq, bounded, debias_nesterov, divide, ema, real_dtype, root_plus, sqrt

SECOND_MOMENT = Slot(real=True, nonnegative=True)
SUMMED = 2**24
"""For how many gradients too large to be squared there is room in a sum over all updates."""
SCALED_SECOND_MOMENT = SECOND_MOMENT._replace(
    init=lambda p, hyper: full_like(p, hyper.initial_scale, real_dtype(p.dtype)),
)


def _root(nu: Array, eps: NonNegative, eps_in_sqrt: bool) -> Array:
    return sqrt(nu + eps) if eps_in_sqrt else sqrt(nu) + eps


@elementwise(
    slots={
        "sum_of_squares": SECOND_MOMENT._replace(
            init=lambda p, hyper: full_like(p, hyper.initial_accumulator_value, real_dtype(p.dtype))
        )
    }
)
def scale_by_rss(g: Array, slot: Slots, at: At, initial_accumulator_value: NonNegative = 0.1, eps: NonNegative = 1e-7):
    r"""Divide by the root of the sum of all squared gradients so far: AdaGrad's scaling.

    .. math:: s_k = s_{k-1} + |g_k|^2, \qquad u_k = g_k / \sqrt{s_k + \epsilon}, \qquad u_k = 0 \text{ where } s_k = 0

    PyTorch's ``Adagrad`` adds :math:`\epsilon` outside the root instead.

    Args:
      initial_accumulator_value: :math:`s_0 \ge 0`.
      eps: :math:`\epsilon \ge 0`.

    Reference: Duchi et al., *Adaptive Subgradient Methods for Online Learning and Stochastic Optimization*, 2011,
    figure 1 (diagonal).
    """
    g = bounded(g, SUMMED)
    s = slot.sum_of_squares + abs_sq(g)
    return divide(g, sqrt(s + eps), eps == 0), slot(sum_of_squares=s)


@elementwise(slots={"nu": SCALED_SECOND_MOMENT}, debiased=("decay",))
def scale_by_rms(
    g: Array,
    slot: Slots,
    at: At,
    decay: Decay = 0.9,
    eps: NonNegative = 1e-8,
    initial_scale: NonNegative = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
):
    r"""Divide by the root of the moving average of squared gradients: RMSprop's scaling.

    .. math:: \nu_k = \beta\,\nu_{k-1} + (1 - \beta)\,|g_k|^2, \qquad
        u_k = \frac{g_k}{\sqrt{\nu_k + \epsilon}} \;\text{ or }\; \frac{g_k}{\sqrt{\nu_k} + \epsilon}

    :math:`\epsilon` is inside the root, as in TensorFlow and Optax; PyTorch and Hinton's lecture have it outside
    (``eps_in_sqrt=False``). The state is the same either way.

    Args:
      decay: :math:`\beta` in [0, 1).
      eps: :math:`\epsilon \ge 0`.
      initial_scale: :math:`\nu_0 \ge 0`.
      eps_in_sqrt: whether :math:`\epsilon` is inside the square root.
      bias_correction: use :math:`\nu_k / (1 - \beta^k)`, as Adam does.

    Reference: Hinton, *Neural Networks for Machine Learning*, lecture 6e, 2012.
    """
    g = bounded(g)
    nu = ema(slot.nu, abs_sq(g), decay)
    nu_hat = nu / at.weight_sum("decay") if bias_correction else nu
    return divide(g, _root(nu_hat, eps, eps_in_sqrt), eps == 0), slot(nu=nu)


@elementwise(slots={"e_g": SECOND_MOMENT, "e_x": SECOND_MOMENT})
def scale_by_adadelta(g: Array, slot: Slots, at: At, rho: Decay = 0.9, eps: NonNegative = 1e-6):
    r"""Scale by the ratio of the root mean squares of past updates and of gradients; needs no learning rate.

    .. math::
        E^g_k = \rho E^g_{k-1} + (1 - \rho)\,|g_k|^2, \quad
        u_k = \frac{\sqrt{E^x_{k-1} + \epsilon}}{\sqrt{E^g_k + \epsilon}}\,g_k, \quad
        E^x_k = \rho E^x_{k-1} + (1 - \rho)\,|u_k|^2

    :math:`\epsilon` sets the size of the first steps; with 0 the parameters never move.

    Args:
      rho: :math:`\rho` in [0, 1).
      eps: :math:`\epsilon \ge 0`.

    Reference: Zeiler, *ADADELTA: An Adaptive Learning Rate Method*, 2012, algorithm 1.
    """
    g = bounded(g)
    e_g = ema(slot.e_g, abs_sq(g), rho)
    update = sqrt(slot.e_x + eps) * divide(g, sqrt(e_g + eps), eps == 0)
    return update, slot(e_g=e_g, e_x=ema(slot.e_x, abs_sq(update), rho))


@elementwise(slots={"mu": Slot(), "nu": SCALED_SECOND_MOMENT}, debiased=("decay",))
def scale_by_stddev(
    g: Array,
    slot: Slots,
    at: At,
    decay: Decay = 0.9,
    eps: NonNegative = 1e-8,
    initial_scale: NonNegative = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
):
    r"""Divide by the moving standard deviation of the gradients: the scaling of centred RMSprop.

    .. math:: \mu_k = \beta\,\mu_{k-1} + (1 - \beta)\,g_k, \quad \nu_k = \beta\,\nu_{k-1} + (1 - \beta)\,|g_k|^2,
        \quad u_k = g_k / \sqrt{\nu_k - |\mu_k|^2 + \epsilon}

    The variance is clamped at zero where rounding would make it negative (Optax returns NaN there). With
    ``bias_correction`` the variance at the first update is exactly 0, because a single sample has none, unless
    ``initial_scale`` is positive. That update is then :math:`g / \epsilon` or :math:`g / \sqrt\epsilon`, which is huge.

    Args:
      decay: :math:`\beta` in [0, 1).
      eps: :math:`\epsilon \ge 0`.
      initial_scale: :math:`\nu_0 \ge 0`.
      eps_in_sqrt: as in :func:`scale_by_rms`.
      bias_correction: divide both averages by :math:`1 - \beta^k`.

    Reference: Graves, *Generating Sequences With Recurrent Neural Networks*, 2013, equations 38-40.
    """
    g = bounded(g)
    mu = ema(slot.mu, g, decay)
    nu = ema(slot.nu, abs_sq(g), decay)
    mu_hat, nu_hat = (mu / at.weight_sum("decay"), nu / at.weight_sum("decay")) if bias_correction else (mu, nu)
    variance = jnp.maximum(nu_hat - abs_sq(mu_hat), 0)
    return divide(g, _root(variance, eps, eps_in_sqrt), eps == 0), slot(mu=mu, nu=nu)


@elementwise(slots={"mu": Slot(dtype="mu_dtype"), "nu": SECOND_MOMENT}, debiased=("b1", "b2"))
def scale_by_adam(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    *,
    nesterov: bool = False,
):
    r"""Rescale gradients by Adam's bias-corrected moments.

    .. math::
        \mu_k = \beta_1 \mu_{k-1} + (1 - \beta_1)\,g_k, \quad \nu_k = \beta_2 \nu_{k-1} + (1 - \beta_2)\,|g_k|^2, \quad
        u_k = \frac{\mu_k / (1 - \beta_1^k)}{\sqrt{\nu_k / (1 - \beta_2^k) + \bar\epsilon} + \epsilon}

    With ``nesterov`` the numerator is
    :math:`\beta_1 \mu_k / (1 - \beta_1^{k+1}) + (1 - \beta_1)\,g_k / (1 - \beta_1^k)`.

    Args:
      b1: :math:`\beta_1` in [0, 1).
      b2: :math:`\beta_2` in [0, 1).
      eps: :math:`\epsilon \ge 0`, outside the root as in the paper.
      eps_root: :math:`\bar\epsilon \ge 0`, inside the root. Other libraries need it for finite derivatives through the
        update at zero gradients; here they are finite without it.
      mu_dtype: dtype of the stored first moment; by default the parameter's, and at least float32.
      nesterov: use NAdam's numerator, which adds Nesterov momentum. Dozat's algorithm 2 has a further factor
        :math:`\beta_2` on the second moment, which Optax, PyTorch and gradchain leave out. PyTorch also lets
        :math:`\beta_1` grow; gradchain doesn't.

    References:
      Kingma and Ba, *Adam: A Method for Stochastic Optimization*, 2015, algorithm 1.
      Dozat, *Incorporating Nesterov Momentum into Adam*, 2016, algorithm 2.
    """
    g = bounded(g)
    mu = ema(slot.mu, g, b1)
    nu = ema(slot.nu, abs_sq(g), b2)
    weight = at.weight_sum("b1")
    mu_hat = debias_nesterov(mu, g, b1, weight, at.weight_sum("b1", ahead=1)) if nesterov else mu / weight
    return divide(mu_hat, root_plus(nu / at.weight_sum("b2"), eps_root, eps), eps == 0), slot(mu=mu, nu=nu)


@elementwise(slots={"mu": Slot(dtype="mu_dtype"), "nu": SECOND_MOMENT}, debiased=("b1", "b2"))
def scale_by_laprop(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-15,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
):
    r"""Divide gradients by the root of Adam's second moment, and average what results: momentum comes last.

    .. math::
        \nu_k = \beta_2 \nu_{k-1} + (1 - \beta_2)\,|g_k|^2, \quad
        \mu_k = \beta_1 \mu_{k-1} + (1 - \beta_1)\,\frac{g_k}{\sqrt{\hat\nu_k + \bar\epsilon} + \epsilon}, \quad
        u_k = \frac{\mu_k}{1 - \beta_1^k}

    with :math:`\hat\nu_k = \nu_k / (1 - \beta_2^k)`.

    In Adam old gradients are divided by the present second moment, so that :math:`\beta_1` mustn't be much above
    :math:`\beta_2`: a large gradient that the second moment has forgotten is still in the momentum. Here each gradient
    is divided by the second moment of its own time, and :math:`|u_k| \le 1 / \sqrt{1 - \beta_2}` for any
    :math:`\beta_1`.

    Args:
      b1: :math:`\beta_1` in [0, 1).
      b2: :math:`\beta_2` in [0, 1).
      eps: :math:`\epsilon \ge 0`, outside the root.
      eps_root: :math:`\bar\epsilon \ge 0`, inside the root.
      mu_dtype: dtype of the stored momentum; by default the parameter's, and at least float32.

    Reference: Ziyin et al., *LaProp: Separating Momentum and Adaptivity in Adam*, 2020, algorithm 1.
    """
    g = bounded(g)
    nu = ema(slot.nu, abs_sq(g), b2)
    mu = ema(slot.mu, divide(g, root_plus(nu / at.weight_sum("b2"), eps_root, eps), eps == 0), b1)
    return mu / at.weight_sum("b1"), slot(mu=mu, nu=nu)
