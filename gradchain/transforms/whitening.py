"""Momentum that is whitened before it is orthogonalised."""

from typing import Annotated

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Count, Decay, DType, NonNegative
from gradchain.core.rule import leafwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Integer
from gradchain.matrices.frames import FrameNumbers, Sides, frame
from gradchain.matrices.refreshing import due
from gradchain.numerics import abs_sq, bounded, divide, ema, sqrt
from gradchain.transforms.soap import grown_and_followed, identities, zero_factors


@leafwise(
    slots={
        "mu": Slot(dtype="mu_dtype"),
        "nu": Slot(real=True, nonnegative=True),
        "factors": Slot(init=zero_factors, exact=True),
        "bases": Slot(init=identities, exact=True),
    },
    turn=True,
)
def whiten_momentum(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.95,
    b2: Decay = 0.9,
    eps: NonNegative = 1e-8,
    shampoo_beta: Decay = 0.9,
    update_interval: Count = 1,
    mu_dtype: DType | None = None,
    *,
    nesterov: bool = True,
    stagger: bool = False,
    sides: Sides = "both",
    block_size: Annotated[int, Integer(1)] | None = None,
    max_dim: Annotated[int, Integer(1)] = 10_000,
    weight_dimension_numbers: FrameNumbers | None = None,
    ridge: NonNegative = 1e-5,
):
    r"""Divide momentum, in the eigenbases of Shampoo's factors, by root mean squares of its own.

    .. math::
        \mu_k = \beta_1 \mu_{k-1} + (1 - \beta_1)\,g_k, \qquad
        p_k = Q_L^* (\beta_1 \mu_k + (1 - \beta_1)\,g_k)\,Q_R, \\
        \nu_k = \beta_2 \nu_{k-1} + (1 - \beta_2)\,|p_k|^2, \qquad
        u_k = Q_L \left[\frac{p_k}{\max(\sqrt{\nu_k}, \epsilon)}\right] Q_R^*

    with bases as in :func:`scale_by_soap`: they follow the factors of the gradients, not of the momentum. Followed by
    :func:`orthogonalize_updates` it is *SOAP-Muon*:

      >>> chain(whiten_momentum(), orthogonalize_updates("converging"), scale_by_shape(), scale_by_learning_rate(0.02))

    In contrast to SOAP, the second moment is that of the momentum, so that the whole direction has elements of about 1,
    however small momentum is beside the gradients. Neither average is corrected for its start at zero: that is one
    factor for the whole matrix, which orthogonalisation takes away. The code of the source scales :math:`u` back to the
    size of the momentum, for the same reason without effect, and begins with the eigenvectors of the first gradient's
    Gram matrices, where the bases are identities here.

    Vectors and scalars have no bases; their momentum is divided all the same.

    Args:
      b1: :math:`\beta_1`, or a schedule.
      b2: :math:`\beta_2`, the decay of the second moment.
      eps: :math:`\epsilon \ge 0`, what roots are at least.
      shampoo_beta: decay of the factors.
      update_interval: updates from one refresh of the bases to the next.
      mu_dtype: dtype of the stored momentum.
      nesterov: look ahead along the momentum, as above; else :math:`p_k = Q_L^* \mu_k Q_R`.
      stagger: refresh the bases of different arrays at different updates.
      sides: which axes of a matrix have a basis, as in :func:`scale_by_soap`. Static.
      block_size: the most rows and columns of a block with bases of its own; ``None`` for whole matrices. Static.
      max_dim: axes that are longer have no basis. Static.
      weight_dimension_numbers: how arrays are seen as matrices, as in :func:`scale_by_soap`.
      ridge: relative to the trace of a factor.

    Raises:
      ValueError: from ``init``, for an array of more than two axes without dimension numbers.

    References:
      Vyas, *SOAP-Muon*, 2026. Results 14, 44 and 46 of the optimization track of *modded-nanogpt*, 2026.
    """
    own = frame(g.shape, weight_dimension_numbers, block_size, "whiten_momentum")
    g = bounded(g, g.size)
    mu = ema(slot.mu, g, b1)
    hats = own.blocks(ema(mu, g, b1) if nesterov else mu)
    turned = [own.turned(x, q) for x, q in zip(hats, slot.bases, strict=True)]
    nu = ema(slot.nu, own.seen.join([abs_sq(p) for p in turned]), b2)
    roots = [jnp.maximum(sqrt(v), eps) for v in own.blocks(nu)]
    us = [own.turned_back(divide(p, r), q) for p, r, q in zip(turned, roots, slot.bases, strict=True)]
    is_due = due(at.count, update_interval, at.turn if stagger else None)
    factors, bases = grown_and_followed(own, own.blocks(g), slot, is_due, shampoo_beta, ridge)
    return own.seen.join(us), slot(mu=mu, nu=nu, factors=factors, bases=bases)
