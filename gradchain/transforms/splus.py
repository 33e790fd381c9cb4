"""Signs in the eigenbases of Shampoo's factors."""

from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Count, Decay, DType, NonNegative
from gradchain.core.rule import leafwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Integer
from gradchain.matrices.bases import METHOD
from gradchain.matrices.frames import SIDES, ByAxis, Frame, FrameNumbers, frame
from gradchain.matrices.refreshing import due
from gradchain.numerics import bounded, ema, magnitude
from gradchain.transforms.soap import followed, grown_factors, identities, zero_factors


def signs(own: Frame, p: Array, floor: Any) -> Array:
    """Return the signs of what isn't small beside the largest element of the same array."""
    axes = tuple(range(p.ndim - own.order, p.ndim))
    size = magnitude(p)
    return jnp.where(size > floor * jnp.max(size, axis=axes, keepdims=True, initial=0), jnp.sign(p), 0)


@leafwise(
    slots={"mu": Slot(dtype="mu_dtype"), "factors": Slot(init=zero_factors), "bases": Slot(init=identities)},
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
    sides: Annotated[str, SIDES] = "both",
    block_size: Annotated[int, Integer(1)] | None = None,
    max_dim: Annotated[int, Integer(1)] = 10_000,
    weight_dimension_numbers: FrameNumbers | None = None,
    floor: NonNegative = 1e-5,
    ridge: NonNegative = 1e-5,
    vector_scale: NonNegative = 1e-3,
    method: Annotated[str, METHOD] = "qr",
):
    own = frame(g.shape, weight_dimension_numbers, block_size, "scale_by_splus")
    g = bounded(g, g.size)
    mu = ema(slot.mu, g, b1)

    def direction(m: Array, bases: ByAxis) -> Array:
        scale = own.order / max(sum(m.shape[m.ndim - own.order :]), 1) if own.order else vector_scale
        return scale * own.turned_back(signs(own, own.turned(m, bases), floor), bases)

    updates = [direction(m, q) for m, q in zip(own.seen.split(mu), slot.bases, strict=True)]
    blocks = zip(own.seen.split(g), slot.factors, slot.bases, strict=True)
    factors = [grown_factors(own, x, a, q, {}, shampoo_beta) for x, a, q in blocks]
    is_due = due(at.count, update_interval, at.turn if stagger else None)
    bases = followed(is_due, factors, slot.bases, ridge, method, True)
    return own.seen.join(updates), slot(mu=mu, factors=factors, bases=bases)
