"""Steps as bets on the signs of the gradients, with stakes taken from earlier winnings."""

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import NonNegative, Positive
from gradchain.core.rule import elementwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.numerics import divide, magnitude
from gradchain.transforms.adaptive import SECOND_MOMENT
from gradchain.transforms.distance import START


@elementwise(
    slots={
        "init_particles": START,
        "cumulative_gradients": Slot(),
        "scale": SECOND_MOMENT._replace(init=lambda p, hyper: jnp.full_like(jnp.real(p), hyper.eps)),
        "subgradients": SECOND_MOMENT,
        "reward": SECOND_MOMENT,
    },
    param=True,
)
def scale_by_cocob(g: Array, slot: Slots, at: At, alpha: Positive = 100.0, eps: NonNegative = 1e-8):
    r"""Move each parameter by the bet of a gambler who bets on its gradients: COCOB, without a learning rate.

    .. math::
        L_k &= \max(L_{k-1}, |g_k|), \qquad G_k = G_{k-1} + |g_k|, \qquad
        R_k = \max(R_{k-1} - g_k (w_k - w_1), 0), \qquad \theta_k = \theta_{k-1} - g_k \\
        u_k &= w_1 + \frac{\theta_k}{L_k \max(G_k + L_k, \alpha L_k)} (L_k + R_k) - w_k

    :math:`R` is what has been won so far, :math:`L` the initial stake. The update already points downhill, so no
    learning rate follows. Call ``init`` with the actual initial parameters, not with shapes or zeros. For a complex
    parameter the bets are made in the plane, with :math:`|g|` and :math:`\Re(\bar g (w - w_1))`; Optax takes a maximum
    of complex numbers, which has no meaning.

    Args:
      alpha: :math:`\alpha > 0`; the first steps have length :math:`1/\alpha`.
      eps: :math:`L_0 \ge 0`; with 0, a parameter whose gradients were all 0 so far doesn't move.

    Reference: Orabona and Tommasi, *Training Deep Networks without Learning Rates Through Coin Betting*, 2017,
    algorithm 2.
    """
    moved = at.param - slot.init_particles
    largest = jnp.maximum(slot.scale, magnitude(g))
    total = slot.subgradients + magnitude(g)
    reward = jnp.maximum(slot.reward - jnp.real(jnp.conj(g) * moved), 0)
    theta = slot.cumulative_gradients - g
    share = divide(theta, jnp.maximum(total + largest, alpha * largest), eps == 0)
    return share * (1 + divide(reward, largest, eps == 0)) - moved, slot(
        init_particles=slot.init_particles,
        cumulative_gradients=theta,
        scale=largest,
        subgradients=total,
        reward=reward,
    )
