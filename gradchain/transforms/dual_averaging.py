"""Steps from the initial parameters, along the weighted sum of all gradients."""

from jax import Array

from gradchain.core.hyper import Fraction, NonNegative
from gradchain.core.rule import elementwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.numerics import abs_sq, bounded, cbrt, divide, sqrt
from gradchain.transforms.adaptive import SECOND_MOMENT, SUMMED


@elementwise(
    slots={
        "grad_sum_sq": SECOND_MOMENT._replace(counted=True),
        "s": Slot(counted=True),
        "x0": Slot(lambda p, hyper: p),
    },
    param=True,
)
def scale_by_madgrad(
    g: Array, slot: Slots, at: At, learning_rate: NonNegative, momentum: Fraction = 0.9, eps: NonNegative = 1e-6
):
    r"""Move towards the point that the weighted sum of all gradients leads to from the initial parameters: MADGRAD.

    .. math::
        \lambda_k = (\eta + \epsilon) \sqrt k, \quad
        s_k = s_{k-1} + \lambda_k g_k, \quad
        \nu_k = \nu_{k-1} + \lambda_k |g_k|^2, \quad
        z_k = x_0 - \frac{s_k}{\nu_k^{1/3} + \epsilon}, \quad
        u_k = (1 - \mu)(z_k - w_k)

    with :math:`x_0` the parameters that ``init`` saw. The update includes the learning rate and the sign: add it to the
    parameters unchanged. :math:`\epsilon` is added to the rate too, as in the authors' code, so that the parameters
    move even at a rate of 0. Weight decay has to come before this stage: changes that later stages make to the
    parameters are gradually undone. (Optax computes :math:`\sqrt k` in float32, even for float64 parameters.)

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule.
      momentum: :math:`\mu` in [0, 1]; the paper's :math:`c` is :math:`1 - \mu`.
      eps: :math:`\epsilon \ge 0`.

    Reference: Defazio and Jelassi, *Adaptivity without Compromise: A Momentumized, Adaptive, Dual Averaged Gradient
    Method for Stochastic Optimization*, 2021, algorithm 1.
    """
    g = bounded(g, SUMMED)
    weight = (learning_rate + eps) * sqrt(at.t)
    s = slot.s + weight * g
    nu = slot.grad_sum_sq + weight * abs_sq(g)
    z = slot.x0 - divide(s, cbrt(nu) + eps, eps == 0)
    return (1 - momentum) * (z - at.param), slot(grad_sum_sq=nu, s=s, x0=slot.x0)
