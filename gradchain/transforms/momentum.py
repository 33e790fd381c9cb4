"""Running sums and averages of gradients."""

import jax.numpy as jnp
from jax import Array

from gradchain import numerics
from gradchain.core.hyper import Decay, DType, Fraction, Hyper
from gradchain.core.rule import elementwise
from gradchain.core.spec import At, Slot, Slots


@elementwise(slots={"trace": Slot(dtype="accumulator_dtype")})
def trace(
    g: Array, slot: Slots, at: At, decay: Fraction, nesterov: bool = False, accumulator_dtype: DType | None = None
):
    r"""Accumulate gradients with geometric weights: momentum.

    .. math::
        t_k = g_k + \mu\,t_{k-1}, \qquad
        u_k = \begin{cases} t_k & \text{heavy ball}\\ g_k + \mu\,t_k & \text{Nesterov}\end{cases}

    The trace is a sum, not an average: for a constant gradient it grows to :math:`g / (1 - \mu)`. For an average use
    :func:`ema`. PyTorch's ``SGD(dampening=0)`` is the same.

    Args:
      decay: :math:`\mu` in [0, 1]; typically 0.9.
      nesterov: look ahead along the trace.
      accumulator_dtype: dtype of the stored trace; by default the parameter's, and at least float32.

    References:
      Polyak, *Some methods of speeding up the convergence of iteration methods*, 1964 (heavy ball).
      Sutskever et al., *On the importance of initialization and momentum in deep learning*, 2013, equations 1-4.
    """
    t = g + decay * slot.trace
    return g + decay * t if nesterov else t, slot(trace=t)


@elementwise(slots={"ema": Slot(dtype="accumulator_dtype")}, debiased=("decay",))
def ema(g: Array, slot: Slots, at: At, decay: Decay, debias: bool = True, accumulator_dtype: DType | None = None):
    r"""Replace gradients by their exponential moving average.

    .. math::
        m_k = \beta\,m_{k-1} + (1 - \beta)\,g_k, \qquad u_k = m_k / (1 - \beta^k) \text{ or } m_k

    Args:
      decay: :math:`\beta` in [0, 1).
      debias: divide by :math:`1 - \beta^k`, so that the first update is the first gradient.
      accumulator_dtype: dtype of the stored average; by default the parameter's, and at least float32.
    """
    m = numerics.ema(slot.ema, g, decay)
    return m / at.weight_sum("decay") if debias else m, slot(ema=m)


@elementwise(slots={"previous_gradient": Slot(counted=True)})
def scale_by_optimistic_gradient(g: Array, slot: Slots, at: At, alpha: Hyper = 1.0, beta: Hyper = 1.0):
    r"""Extrapolate from the last two gradients to the next: :math:`u_k = (\alpha + \beta)\,g_k - \beta\,g_{k-1}`.

    :math:`g_0 = g_1`, so that the first update is :math:`\alpha g_1`. It converges in games where plain gradient
    descent cycles.

    Args:
      alpha: :math:`\alpha`, the weight of the gradient.
      beta: :math:`\beta`, how far to extrapolate.

    Reference: Mokhtari et al., *A Unified Analysis of Extra-gradient and Optimistic Gradient Methods for Saddle Point
    Problems*, 2020, section 3.2.
    """
    previous = jnp.where(at.t == 1, g, slot.previous_gradient)
    return alpha * g + beta * (g - previous), slot(previous_gradient=jnp.array(g, copy=True))
