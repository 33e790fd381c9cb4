"""Rules that lower the variance of stochastic gradients."""

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Decay, NonNegative, Positive
from gradchain.core.rule import leafwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.numerics import bounded, safe_norm, shrink_factor


@leafwise(slots={"previous_gradient": Slot(counted=True)})
def scale_by_mars(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.95,
    gamma: NonNegative = 0.025,
    max_norm: Positive = 1.0,
):
    r"""Correct each gradient by its change since the last step, then clip each array's norm: MARS, to put before Adam.

    .. math:: c_k = g_k + \gamma\,\frac{\beta_1}{1 - \beta_1}\,(g_k - g_{k-1}), \qquad
        u_k = c_k \min(1,\, m / \|c_k\|_2)

    This is the approximate form: :math:`g_{k-1}` is the last step's gradient, on the last step's batch, not the
    gradient of the last weights on the current batch, which would cost a second gradient. :math:`g_0 = g_1`. With
    :math:`\gamma = 1` and no bound, the moving average that follows gives STORM's estimator.

    Args:
      b1: :math:`\beta_1` of the moving average that follows.
      gamma: :math:`\gamma \ge 0`, the strength; 0 for none.
      max_norm: :math:`m > 0`, 1 in the paper; ``inf`` for no bound.

    Reference: Yuan et al., *MARS: Unleashing the Power of Variance Reduction for Training Large Models*, 2024,
    algorithm 2.
    """
    g = bounded(g, power=1)
    previous = jnp.where(at.t == 1, g, slot.previous_gradient)
    c = g + gamma * b1 / (1 - b1) * (g - previous)
    return c * shrink_factor(safe_norm(c), max_norm), slot(previous_gradient=jnp.array(g, copy=True))
