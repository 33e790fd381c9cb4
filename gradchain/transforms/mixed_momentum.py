"""Adam's scaling with a momentum that mixes recent and old gradients.

As in :mod:`~gradchain.transforms.adaptive`, the update is 0 where its denominator is 0, which only happens with
``eps=0``.
"""

from jax import Array

from gradchain.core.hyper import Decay, DType, Hyper, NonNegative
from gradchain.core.rule import elementwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.numerics import abs_sq, bounded, divide, ema, root_plus
from gradchain.transforms.adaptive import SECOND_MOMENT

FIRST_MOMENT = Slot(dtype="mu_dtype")


@elementwise(slots={"m1": FIRST_MOMENT, "m2": FIRST_MOMENT, "nu": SECOND_MOMENT}, debiased=("b1", "b2"))
def scale_by_ademamix(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    b3: Decay = 0.9999,
    alpha: Hyper = 6.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
):
    r"""Divide the sum of a fast and a very slow average of gradients by the root of Adam's second moment.

    .. math::
        m^{(1)}_k &= \beta_1 m^{(1)}_{k-1} + (1 - \beta_1)\,g_k, \quad
        m^{(2)}_k = \beta_3 m^{(2)}_{k-1} + (1 - \beta_3)\,g_k, \quad
        \nu_k = \beta_2 \nu_{k-1} + (1 - \beta_2)\,|g_k|^2 \\
        u_k &= \frac{m^{(1)}_k / (1 - \beta_1^k) + \alpha\,m^{(2)}_k}
        {\sqrt{\nu_k / (1 - \beta_2^k) + \bar\epsilon} + \epsilon}

    The slow average isn't bias-corrected, so it comes in gradually. The paper lets :math:`\beta_3` and
    :math:`\alpha` grow as well: pass :func:`linear_half_life_schedule` from :math:`\beta_1` to :math:`\beta_3`, and
    :func:`linear_schedule` from 0 to :math:`\alpha`. ``mu_dtype`` applies to both averages and never to :math:`\nu` (in
    Optax :math:`\nu` starts in that dtype too).

    Args:
      b1: :math:`\beta_1` in [0, 1), decay of the fast average.
      b2: :math:`\beta_2` in [0, 1), decay of the average of squares.
      b3: :math:`\beta_3` in [0, 1), decay of the slow average, or a schedule.
      alpha: :math:`\alpha`, the weight of the slow average, or a schedule; the paper uses 4 to 10.
      eps: :math:`\epsilon \ge 0`.
      eps_root: :math:`\bar\epsilon \ge 0`.
      mu_dtype: dtype of the stored averages of gradients; by default the parameter's, and at least float32.

    Reference: Pagliardini et al., *The AdEMAMix Optimizer: Better, Faster, Older*, 2024, algorithm 1.
    """
    g = bounded(g)
    m1 = ema(slot.m1, g, b1)
    m2 = ema(slot.m2, g, b3)
    nu = ema(slot.nu, abs_sq(g), b2)
    mixed = m1 / at.weight_sum("b1") + alpha * m2
    return divide(mixed, root_plus(nu / at.weight_sum("b2"), eps_root, eps), eps == 0), slot(m1=m1, m2=m2, nu=nu)


@elementwise(slots={"m": Slot(), "n": SECOND_MOMENT}, debiased=("b2",))
def scale_by_simplified_ademamix(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.99,
    b2: Decay = 0.95,
    alpha: Hyper = 0.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
):
    r"""Divide one momentum, plus a multiple of the current gradient, by the root of Adam's second moment.

    .. math::
        m_k = \beta_1 m_{k-1} + g_k, \quad
        n_k = \beta_2 n_{k-1} + (1 - \beta_2)\,|g_k|^2, \quad
        u_k = \frac{m_k + \alpha g_k}{\sqrt{n_k / (1 - \beta_2^k) + \bar\epsilon} + \epsilon}

    :math:`m` is a sum, not an average: with :math:`\alpha = 0` it is Adam without bias correction of the first moment,
    at :math:`1 / (1 - \beta_1)` times the learning rate. Optax squares complex gradients without taking their
    magnitude.

    Args:
      b1: :math:`\beta_1` in [0, 1).
      b2: :math:`\beta_2` in [0, 1).
      alpha: :math:`\alpha`, the extra weight of the gradient, or a schedule.
      eps: :math:`\epsilon \ge 0`.
      eps_root: :math:`\bar\epsilon \ge 0`.

    Reference: Morwani et al., *Connections between Schedule-Free Optimizers, AdEMAMix, and Accelerated SGD Variants*,
    2025.
    """
    g = bounded(g)
    m = b1 * slot.m + g
    n = ema(slot.n, abs_sq(g), b2)
    return divide(m + alpha * g, root_plus(n / at.weight_sum("b2"), eps_root, eps), eps == 0), slot(m=m, n=n)
