"""Sums and means of the gradients of several steps."""

from typing import Any, cast

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Count, DType, at_scalar
from gradchain.core.rule import elementwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.numerics import divide


@elementwise(slots=("grad_acc",))
def apply_every(g: Array, slot: Slots, at: At, k: Count = 1):
    r"""Sum updates and emit the sum on every ``k``-th step; in between, updates are 0.

    .. math::
        s_n = \begin{cases} g_n & n \equiv 1 \pmod k\\ s_{n-1} + g_n & \text{otherwise}\end{cases} \qquad
        u_n = \begin{cases} s_n & n \equiv 0 \pmod k\\ 0 & \text{otherwise}\end{cases}

    The other stages of the chain still run at every step: momentum before it is updated ``k`` times per sum, and
    momentum after it sees ``k - 1`` zeros in between. Wrappers that count updates (:func:`~gradchain.average_params`)
    count the sums. For one step of an optimizer on ``k`` micro-batches use :func:`~gradchain.accumulate`.

    Each sum starts from zero. In Optax, which multiplies the old sum by 0, one NaN stays forever.

    Args:
      k: emit the sum on every ``k``-th step; at least 1.
    """
    place = cast(Array, at.count) % jnp.asarray(k, jnp.int32)
    total = g + jnp.where(place == 0, 0, slot.grad_acc)
    return jnp.where(place == k - 1, total, 0), slot(grad_acc=total)


def _lets_through(self: Any, before: Any, after: Any) -> Array:
    """Return whether a step of :func:`apply_every` let its sum through (see ``Transform.emitted``)."""
    k = jnp.asarray(at_scalar(f"{self.name}: k", self.k, before.count), jnp.int32)
    return before.count % k == k - 1


apply_every.Value.skips = property(lambda self: True)  # pyright: ignore[reportAttributeAccessIssue]
apply_every.Value.emitted = _lets_through


@elementwise(slots={"acc": Slot(dtype="accumulator_dtype")}, extra=("weight", "total"))
def accumulate_gradient(
    g: Array, slot: Slots, at: At, use_grad_mean: bool = True, accumulator_dtype: DType | None = None
):
    r"""Return the weighted mean, or sum, of the gradients so far: what :func:`~gradchain.accumulate` passes on.

    .. math:: \bar g_n = \bar g_{n-1} + \frac{w_n}{w_1 + \dots + w_n} (g_n - \bar g_{n-1})

    It reads the gradient's ``weight`` and the ``total`` weight, this one included.

    Args:
      use_grad_mean: return the mean; if False, the sum of :math:`w_n g_n`.
      accumulator_dtype: dtype of the stored mean; by default the parameter's, and at least float32.

    Reference: West, *Updating mean and variance estimates: an improved method*, 1979.
    """
    weight = at.weight.astype(at.dtype)
    if use_grad_mean:
        mean = slot.acc + divide(weight, at.total.astype(at.dtype)) * (g - slot.acc)
    else:
        mean = slot.acc + weight * g
    return mean, slot(acc=mean)
