"""Dice losses: how much predicted regions of an image overlap with the true ones."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from gradchain.losses._arguments import NON_NEGATIVE, Axis, axes_of, number, pair
from gradchain.signatures import public

EPSILON = 1e-7


@public
def dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    smooth: ArrayLike = 1.0,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    apply_softmax: bool = True,
    reduction: str = "mean",
    ignore_background: bool = False,
    axis: Axis | None = None,
) -> Array:
    r"""Return one minus the overlap of predicted and given regions, class by class, reduced over the classes.

    .. math:: 1 - \frac{I_c + s}{I_c + \alpha (P_c - I_c) + \beta (T_c - I_c) + s}, \qquad
        I_c = \sum_i p_{ic} t_{ic},\; P_c = \sum_i p_{ic},\; T_c = \sum_i t_{ic}

    :math:`P_c - I_c` are false positives and :math:`T_c - I_c` false negatives; with equal weights of ½ it is the
    Dice loss, with others the Tversky loss. Without smoothing, a class that is neither predicted nor present has loss 0
    (in Optax NaN).

    Args:
      predictions: logits of a floating-point dtype and shape ``(batch, ..., classes)``. With one class they are
        logits of yes or no; the axis of size 1 may then be left out on one side.
      targets: :math:`t`, probabilities of the classes (one-hot labels), of the same shape.
      class_weights: numbers of shape ``(classes,)`` that multiply the classes' losses, before ``ignore_background``.
      smooth: :math:`s \ge 0`, one number.
      alpha: :math:`\alpha \ge 0`, one number: the weight of false positives.
      beta: :math:`\beta \ge 0`, one number: the weight of false negatives.
      apply_softmax: turn logits into :math:`p` by a softmax, or by a sigmoid if there is only one class. If False,
        predictions are probabilities, and must sum to 1 over the classes, unless there is only one.
      reduction: over classes: ``"mean"``, ``"sum"``, or ``"none"`` for a loss for each.
      ignore_background: leave out the first class, unless it is the only one.
      axis: the axis, or axes, that :math:`\sum_i` goes over; None for all but the first and the last.

    Returns:
      The losses, without the axes summed over and, unless ``reduction`` is ``"none"``, without the classes.

    Raises:
      ValueError: if the shapes don't fit, ``axis`` includes the classes (Optax then reduces over another axis), a
        number is out of range or probabilities don't add up to 1 (where they aren't traced), or ``reduction`` is
        another word.
      TypeError: if the predictions aren't floating-point.

    Reference: Milletari, Navab and Ahmadi, *V-Net*, 2016; Salehi, Erdogmus and Gholipour, *Tversky loss function for
    image segmentation using 3D fully convolutional deep networks*, 2017.
    """
    name = "dice_loss"
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'{name}: reduction must be "mean", "sum" or "none", got {reduction!r}')
    x, t, dtype = pair(name, **_with_classes(predictions, targets))
    p = _probabilities(name, x, apply_softmax)
    axes = tuple(range(1, p.ndim - 1)) if axis is None else axes_of(name, axis, p.ndim, "predictions")
    if p.ndim - 1 in axes:
        raise ValueError(f"{name}: axis must leave the last axis, of the classes, got {axis}")
    both, predicted, given = (jnp.sum(a, axes) for a in (p * t, p, t))
    s, a, b = (number(name, n, v, NON_NEGATIVE) for n, v in (("smooth", smooth), ("alpha", alpha), ("beta", beta)))
    union = both + a * (predicted - both) + b * (given - both) + s
    loss = 1 - jnp.where(union == 0, 1, (both + s) / jnp.where(union == 0, 1, union))
    if class_weights is not None:
        loss = loss * _per_class(name, jnp.asarray(class_weights, loss.dtype), loss.shape)
    return _reduced(loss[..., 1:] if ignore_background and p.shape[-1] > 1 else loss, reduction).astype(dtype)


@public
def multiclass_generalized_dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    smooth: ArrayLike = 1.0,
    apply_softmax: bool = True,
    ignore_background: bool = False,
) -> Array:
    r"""Return the mean :func:`dice_loss` with larger weights for rare classes.

    .. math:: w_c \propto \frac{1}{N_c^2 + 10^{-7}}, \qquad \sum_c w_c = \text{classes},

    :math:`N_c` being the sum of the targets of class :math:`c` in the whole batch. A class that doesn't occur in the
    batch gets nearly all the weight, as in Optax.

    Args:
      predictions: logits of a floating-point dtype and shape ``(batch, ..., classes)``.
      targets: probabilities of the classes (one-hot labels), of the same shape.
      smooth: at least 0, one number; as in :func:`dice_loss`.
      apply_softmax: turn logits into probabilities; as in :func:`dice_loss`.
      ignore_background: leave out the first class, unless it is the only one.

    Returns:
      One number, the mean over the batch and the classes.

    Raises:
      ValueError: if the shapes differ, ``smooth`` is out of range or probabilities don't add up to 1 (where they
        aren't traced).
      TypeError: if the predictions aren't floating-point.

    Reference: Sudre, Li, Vercauteren, Ourselin and Cardoso, *Generalised Dice Overlap as a Deep Learning Loss
    Function for Highly Unbalanced Segmentations*, 2017.
    """
    x, t, dtype = pair("multiclass_generalized_dice_loss", predictions=predictions, targets=targets)
    weights = 1 / (jnp.square(jnp.sum(t, range(t.ndim - 1))) + EPSILON)
    losses = dice_loss(
        x,
        t,
        class_weights=weights / jnp.sum(weights) * weights.size,
        smooth=smooth,
        apply_softmax=apply_softmax,
        reduction="none",
        ignore_background=ignore_background,
    )
    return jnp.mean(losses).astype(dtype)


@public
def binary_dice_loss(
    predictions: ArrayLike, targets: ArrayLike, *, smooth: ArrayLike = 1.0, apply_sigmoid: bool = True
) -> Array:
    """Return the :func:`dice_loss` of one region.

    Args:
      predictions: logits of yes against no, of a floating-point dtype and shape ``(batch, ...)`` or
        ``(batch, ..., 1)``.
      targets: 0 or 1, or probabilities, of either shape.
      smooth: at least 0, one number; as in :func:`dice_loss`.
      apply_sigmoid: turn logits into probabilities. If False, predictions are probabilities. (Optax then requires each
        to be 1.)

    Returns:
      The losses, of shape ``(batch,)``.

    Raises:
      ValueError: if the shapes don't fit, or ``smooth`` is out of range (where it isn't traced).
      TypeError: if the predictions aren't floating-point.

    Reference: Milletari, Navab and Ahmadi, *V-Net*, 2016.
    """
    x, t = jnp.asarray(predictions), jnp.asarray(targets)
    if x.ndim == t.ndim and x.shape[-1:] != (1,):
        x, t = x[..., None], t[..., None]
    return dice_loss(x, t, smooth=smooth, apply_softmax=apply_sigmoid)


def _with_classes(predictions: ArrayLike, targets: ArrayLike) -> dict[str, Array]:
    """Add the axis of one class where one side lacks it."""
    x, t = jnp.asarray(predictions), jnp.asarray(targets)
    x = x[..., None] if x.ndim == t.ndim - 1 else x
    return {"predictions": x, "targets": t[..., None] if t.ndim == x.ndim - 1 else t}


def _probabilities(name: str, x: Array, apply_softmax: bool) -> Array:
    if x.ndim == 0:
        raise ValueError(f"{name}: predictions must have an axis of classes, got a number")
    if apply_softmax:
        return jax.nn.sigmoid(x) if x.shape[-1] == 1 else jax.nn.softmax(x)
    if x.shape[-1] > 1 and not isinstance(x, Tracer):
        sums = jnp.sum(x, -1)
        if not jnp.allclose(sums, 1, rtol=1e-5):
            raise ValueError(f"{name}: probabilities must add up to 1, got {jnp.min(sums)} to {jnp.max(sums)}")
    return x


def _per_class(name: str, weights: Array, shape: tuple[int, ...]) -> Array:
    if weights.shape != shape[-1:]:
        raise ValueError(f"{name}: class_weights must have shape {shape[-1:]}, got {weights.shape}")
    return weights.reshape((1,) * (len(shape) - 1) + weights.shape)


def _reduced(loss: Array, reduction: str) -> Array:
    if reduction == "none":
        return loss
    return jnp.mean(loss, -1) if reduction == "mean" else jnp.sum(loss, -1)
