"""Label smoothing."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradchain.losses._arguments import FRACTION, Axis, axes_of, floating, mask_of, number
from gradchain.numerics import compute_dtype
from gradchain.signatures import public


@public
def smooth_labels(
    labels: ArrayLike, alpha: ArrayLike, *, axis: Axis | None = -1, where: ArrayLike | None = None
) -> Array:
    r"""Return labels mixed with the uniform distribution, :math:`(1 - \alpha)\, y + \alpha / n`.

    Args:
      labels: :math:`y`, probabilities of classes, of a floating-point dtype; for example ``(batch, classes)``.
      alpha: :math:`\alpha` in [0, 1], a number or an array that fits the labels' shape.
      axis: the axis, or axes, of the classes; None for all.
      where: booleans, which classes count in :math:`n`: of the labels' shape, with sizes of 1 to broadcast along an
        axis, or of the labels' shape without ``axis``. The others are smoothed like the rest: give the loss the same
        ``where``. Where none counts, :math:`n` is taken as 1 (by Optax as 0, which gives infinity).

    Returns:
      An array of the labels' shape and dtype.

    Raises:
      ValueError: if shapes don't fit, an axis doesn't exist or ``alpha`` is out of range (where it isn't traced).
      TypeError: if the labels aren't floating-point or ``where`` isn't boolean.

    Reference: Szegedy et al., *Rethinking the Inception Architecture for Computer Vision*, 2016, section 7.
    """
    name = "smooth_labels"
    y = floating(name, "labels", labels)
    axes = axes_of(name, axis, y.ndim, "labels")
    include = mask_of(name, where, y.shape, axes, "labels")
    mixed = number(name, "alpha", alpha, FRACTION, y.shape)
    classes = jnp.maximum(jnp.sum(include, axes, keepdims=True), 1)
    return ((1 - mixed) * y.astype(compute_dtype(y.dtype)) + mixed / classes).astype(y.dtype)
