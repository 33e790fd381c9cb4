"""Signs in the eigenbases of Shampoo's factors."""

from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Count, Decay, DType, NonNegative
from gradchain.core.rule import leafwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Integer
from gradchain.matrices.bases import Method
from gradchain.matrices.frames import ByAxis, Frame, FrameNumbers, Sides, frame
from gradchain.matrices.refreshing import due
from gradchain.numerics import bounded, ema, magnitude
from gradchain.transforms.soap import grown_and_followed, identities, zero_factors


def signs(own: Frame, p: Array, floor: Any) -> Array:
    """Return the signs of what isn't small beside the largest element of the same array."""
    axes = tuple(range(p.ndim - own.order, p.ndim))
    size = magnitude(p)
    return jnp.where(size > floor * jnp.max(size, axis=axes, keepdims=True, initial=0), jnp.sign(p), 0)


@leafwise(
    slots={
        "mu": Slot(dtype="mu_dtype"),
        "factors": Slot(init=zero_factors, exact=True),
        "bases": Slot(init=identities, exact=True),
    },
    turn=True,
)
def scale_by_splus(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.9,
    shampoo_beta: Decay = 0.999,
    update_interval: Count = 10,
    mu_dtype: DType | None = None,
    *,
    stagger: bool = False,
    sides: Sides = "both",
    block_size: Annotated[int, Integer(1)] | None = None,
    max_dim: Annotated[int, Integer(1)] = 10_000,
    weight_dimension_numbers: FrameNumbers | None = None,
    floor: NonNegative = 1e-5,
    ridge: NonNegative = 1e-5,
    vector_scale: NonNegative = 1e-3,
    method: Method = "qr",
):
    r"""Take signs of momentum in the eigenbases of Shampoo's factors: SPlus.

    .. math::
        \mu_k = \beta_1 \mu_{k-1} + (1 - \beta_1)\,g_k, \qquad
        u_k = \frac{2}{m + n}\,Q_L \operatorname{sign}(Q_L^* \mu_k Q_R)\,Q_R^*

    for :math:`m \times n` matrices, with factors and bases as in :func:`scale_by_soap`: these begin as identities, and
    follow the factors from the first update on. All directions move equally fast, however small their gradients are, so
    that a sign has to mean something. Elements below ``floor`` times the largest of a matrix, among them those that
    rounding errors make in directions without gradients, count as zero. The authors' elements have signs in any case,
    and their bases are eigenvectors, which are arbitrary in such directions (``floor=0``, ``ridge=0`` and
    ``method="eigh"``).

    Arrays of n axes in their own bases have n over the sum of their lengths for :math:`2 / (m + n)`. Vectors and
    scalars have ``vector_scale``, and no bases.

    Args:
      b1: :math:`\beta_1`, the decay of the momentum.
      shampoo_beta: the decay of the factors.
      update_interval: updates from one refresh of the bases to the next. The authors' 100 goes with ``method="eigh"``.
      mu_dtype: dtype of the stored momentum.
      stagger: refresh the bases of different arrays at different updates, so that no update takes much longer than the
        others. At the first one, all are refreshed.
      sides: which axes of a matrix have a basis, as in :func:`scale_by_soap`. Static.
      block_size: the most rows and columns of a block with bases of its own; ``None`` for whole matrices. Static.
      max_dim: axes that are longer have no basis. Static.
      weight_dimension_numbers: how arrays are seen as matrices, as in :func:`scale_by_soap`.
      floor: relative to the largest element of each matrix.
      ridge: relative to the trace of a factor; above the dtype's precision.
      vector_scale: the size of the elements of vectors and scalars.
      method: ``"qr"``, or ``"eigh"`` to compute eigenvectors at each refresh. Static.

    Raises:
      ValueError: from ``init``, for an array of more than two axes without dimension numbers.

    Reference: Frans, Levine and Abbeel, *A Stable Whitening Optimizer for Efficient Neural Network Training*, 2025.
    """
    own = frame(g.shape, weight_dimension_numbers, block_size, "scale_by_splus")
    g = bounded(g, g.size)
    mu = ema(slot.mu, g, b1)

    def direction(m: Array, bases: ByAxis) -> Array:
        scale = own.order / max(sum(m.shape[m.ndim - own.order :]), 1) if own.order else vector_scale
        return scale * own.turned_back(signs(own, own.turned(m, bases), floor), bases)

    updates = [direction(m, q) for m, q in zip(own.blocks(mu), slot.bases, strict=True)]
    is_due = due(at.count, update_interval, at.turn if stagger else None)
    factors, bases = grown_and_followed(own, own.blocks(g), slot, is_due, shampoo_beta, ridge, method)
    return own.seen.join(updates), slot(mu=mu, factors=factors, bases=bases)
