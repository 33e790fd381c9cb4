"""Steps that shrink when the loss has stopped falling."""

import jax.numpy as jnp

from gradchain.core.hyper import Count, Fraction, NonNegative, Whole
from gradchain.core.rule import treewise
from gradchain.core.spec import At, Slots
from gradchain.tree import Tree, scale

COUNTS = {"plateau_count": 0, "cooldown_count": 0, "avg_count": 0}
VALUES = {"scale": 1.0, "best_value": 0.0, "has_best": 0.0, "avg_value": 0.0}


@treewise(scalars=VALUES | COUNTS, extra=("value",))
def reduce_on_plateau(
    updates: Tree,
    slot: Slots,
    at: At,
    factor: Fraction = 0.1,
    patience: Whole = 10,
    rtol: Fraction = 1e-4,
    atol: NonNegative = 0.0,
    cooldown: Whole = 0,
    accumulation_size: Count = 1,
    min_scale: NonNegative = 0.0,
):
    r"""Multiply updates by a scale that is reduced whenever the loss hasn't improved for a while.

    The scale starts at 1. Each mean :math:`v` of ``accumulation_size`` losses improves on the best one so far,
    :math:`v^*`, if

    .. math:: v < v^* - r\,|v^*| - a,

    and the first one always does. After ``patience`` means in a row without improvement, the scale becomes
    :math:`\max(f s, s_{\min})`, and the next ``cooldown`` means are not counted. Put it after the optimizer, and pass
    the loss: ``update(grads, state, params, value=loss)``. The current scale is ``state.scale``;
    :func:`~gradchain.metrics` lists it.

    Differences from Optax: the scale is kept in at least float32, even for half-precision parameters, whose dtype would
    round it. A NaN is no improvement, and only affects the mean that it is part of. Both tolerances may be 0. The loss
    may be negative; Optax subtracts :math:`r\,v^*`, so that a constant negative loss counts as an improvement.

    Args:
      factor: :math:`f` in [0, 1].
      patience: how many means in a row without improvement reduce the scale; 1 and 0 both reduce it after the first.
      rtol: :math:`r` in [0, 1], the improvement that counts, relative to the size of the best loss.
      atol: :math:`a \ge 0`, the absolute improvement that counts.
      cooldown: how many means aren't counted after a reduction.
      accumulation_size: how many losses are averaged: 1 for a validation loss, more for noisy losses of mini-batches.
      min_scale: :math:`s_{\min} \ge 0`.

    Example:
      >>> tx = chain(adam(1e-3), reduce_on_plateau(patience=5))
      >>> updates, state = tx.update(grads, state, params, value=loss)
    """
    avg_count = slot.avg_count + 1
    avg_value = slot.avg_value + (at.value - slot.avg_value) / avg_count
    full = avg_count >= accumulation_size
    bound = jnp.where(slot.has_best > 0, (1 - rtol * jnp.sign(slot.best_value)) * slot.best_value - atol, jnp.inf)
    improved = avg_value < bound
    cooling = slot.cooldown_count > 0
    waited = jnp.where(improved | cooling, 0, slot.plateau_count + 1)
    reduces = ~improved & ~cooling & (waited >= patience)
    reduced = jnp.maximum(jnp.where(reduces, factor, 1) * slot.scale, min_scale)
    new_scale = jnp.where(full & ~cooling, reduced, slot.scale)
    new = slot(
        scale=new_scale,
        best_value=jnp.where(full & improved, avg_value, slot.best_value),
        has_best=jnp.where(full & improved, 1, slot.has_best),
        plateau_count=jnp.where(full, jnp.where(reduces, 0, waited), slot.plateau_count),
        cooldown_count=jnp.where(
            full, jnp.where(reduces, cooldown, jnp.maximum(slot.cooldown_count - 1, 0)), slot.cooldown_count
        ),
        avg_count=jnp.where(full, 0, avg_count),
        avg_value=jnp.where(full, 0, avg_value),
    )
    return scale(new_scale, updates), new
