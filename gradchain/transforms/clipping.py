"""Bounds on updates, and the removal of what isn't a number."""

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import NonNegative
from gradchain.core.rule import elementwise, leafwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.tree import global_norm


@elementwise()
def clip(g: Array, slot: Slots, at: At, max_delta: NonNegative):
    r"""Clip each number to :math:`[-\delta, \delta]`; a complex number's real and imaginary parts each by themselves.

    Args:
      max_delta: :math:`\delta \ge 0`.
    """
    if jnp.iscomplexobj(g):
        return jnp.clip(g.real, -max_delta, max_delta) + 1j * jnp.clip(g.imag, -max_delta, max_delta)
    return jnp.clip(g, -max_delta, max_delta)


@elementwise(whole=global_norm)
def clip_by_global_norm(g: Array, slot: Slots, at: At, max_norm: NonNegative):
    r"""Shrink all updates together where their common norm is above a bound: :math:`u = g \min(1, c / \|g\|_2)`.

    The norm runs over all arrays, in at least float32. One scalar factor is multiplied in, so that XLA
    fuses it with what follows. A NaN anywhere makes all updates NaN. If the norm is infinite (an infinite gradient, or
    squares that overflow, from about 1e19 in float32), finite updates become 0 and infinite ones NaN, as in Optax.

    Args:
      max_norm: :math:`c \ge 0`; with 0 all updates become 0.

    Reference: Pascanu et al., *On the difficulty of training Recurrent Neural Networks*, 2013, algorithm 1.
    """
    fits = at.whole <= max_norm
    return g * jnp.where(fits, 1, max_norm / jnp.where(fits, 1, at.whole)).astype(at.dtype)


@leafwise(slots={"found_nan": Slot(init=lambda p, hyper: jnp.any(jnp.isnan(p) & False))})
def zero_nans(g: Array, slot: Slots, at: At):
    """Replace NaNs by 0; the state's ``found_nan`` tells for each array whether the last update had any.

    Infinities stay. In front of an optimizer it keeps one bad number from spreading, but hides its cause.
    """
    bad = jnp.isnan(g)
    return jnp.where(bad, 0, g), slot(found_nan=jnp.any(bad))
