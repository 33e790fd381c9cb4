"""Cross-entropies of logits against probabilities or labels, plain and with more weight on hard examples."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradchain.eager import custom_jvp
from gradchain.losses._arguments import (
    ANY,
    FRACTION,
    NON_NEGATIVE,
    Axis,
    axes_of,
    class_labels,
    floating,
    mask_of,
    number,
    pair,
    pick,
    without,
)
from gradchain.losses._softmax import log_total, sum_relative
from gradchain.signatures import public


@public
def sigmoid_binary_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    r"""Return the binary cross-entropy of independent predictions, element by element.

    .. math:: -y \log \sigma(x) - (1 - y) \log(1 - \sigma(x)) = y \log(1 + e^{-x}) + (1 - y) \log(1 + e^x)

    Args:
      logits: :math:`x`, finite, of any shape and floating-point dtype.
      labels: :math:`y`, the probability of the positive class in [0, 1], or a label 0 or 1 of any real dtype; of the
        same shape.

    Returns:
      An array of the same shape.

    Raises:
      ValueError: if the shapes differ.
      TypeError: if the logits aren't floating-point.
    """
    x, y, dtype = pair("sigmoid_binary_cross_entropy", logits=logits, labels=labels)
    return _yes_or_no(x, y).astype(dtype)


@custom_jvp
def _yes_or_no(x: Array, y: Array) -> Array:
    """Return the cross-entropy with a single logarithm, whose argument a certain prediction doesn't round."""
    return (1 - y) * jnp.maximum(x, 0) + y * jnp.maximum(-x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@_yes_or_no.defjvp
def _yes_or_no_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """Keep the slope's digits, and its own slope at 0."""
    (x, y), (dx, dy) = primals, tangents
    return _yes_or_no(x, y), ((1 - y) * jax.nn.sigmoid(x) - y * jax.nn.sigmoid(-x)) * dx - x * dy


@public
def sigmoid_focal_loss(
    logits: ArrayLike, labels: ArrayLike, *, alpha: ArrayLike | None = None, gamma: ArrayLike = 2.0
) -> Array:
    r"""Return the binary cross-entropy with less weight on predictions that are already right.

    .. math:: \alpha_t\, (1 - p_t)^\gamma \left(-y \log p - (1 - y) \log(1 - p)\right), \qquad p = \sigma(x),

    with :math:`1 - p_t = (1 - y)\, p + y\, (1 - p)` and :math:`\alpha_t = \alpha y + (1 - \alpha)(1 - y)`. The power is
    taken through its logarithm, with derivative 0 where :math:`1 - p_t` is 0.

    Args:
      logits: :math:`x`, finite, of any shape and floating-point dtype.
      labels: :math:`y` in [0, 1], of the same shape and any real dtype.
      alpha: the weight :math:`\alpha` in [0, 1] of positives against negatives, a number or an array that fits the
        logits' shape; None for no weights.
      gamma: :math:`\gamma \ge 0`, likewise; 0 gives the plain cross-entropy.

    Returns:
      An array of the same shape.

    Raises:
      ValueError: if shapes don't fit, or ``alpha`` or ``gamma`` is out of range (where it isn't traced).
      TypeError: if the logits aren't floating-point.

    Reference: Lin, Goyal, Girshick, He and Dollár, *Focal Loss for Dense Object Detection*, 2017.
    """
    name = "sigmoid_focal_loss"
    x, y, dtype = pair(name, logits=logits, labels=labels)
    gamma = number(name, "gamma", gamma, NON_NEGATIVE, x.shape)
    wrong = (1 - y) * jax.nn.sigmoid(x) + y * jax.nn.sigmoid(-x)
    weight = jnp.where(wrong == 0, 0, jnp.exp(gamma * jnp.log(jnp.where(wrong == 0, 1, wrong))))
    if alpha is not None:
        yes = number(name, "alpha", alpha, FRACTION, x.shape)
        weight = weight * (yes * y + (1 - yes) * (1 - y))
    return (weight * sigmoid_binary_cross_entropy(x, y)).astype(dtype)


@public
def softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, axis: Axis | None = -1, where: ArrayLike | None = None
) -> Array:
    r"""Return the cross-entropy between predicted and given probabilities of classes.

    .. math:: -\sum_j y_j \log p_j, \qquad p_j = e^{x_j} \Big/ \sum_i e^{x_i}

    A logit of :math:`-\infty` is a class of probability 0: with label 0 it contributes nothing (Optax returns NaN),
    with a positive label the loss is infinite.

    Args:
      logits: :math:`x`, of a floating-point dtype, finite or :math:`-\infty`; for example ``(batch, classes)``.
      labels: :math:`y`, the given probabilities, at least 0, of the same shape.
      axis: the axis, or axes, of the classes; None for all.
      where: booleans, which elements to include: of the logits' shape, with sizes of 1 to broadcast along an axis, or
        of the result's shape. The others are left out of :math:`p` and of the sum.

    Returns:
      The losses, of the logits' shape without ``axis``: 0 where no element is included.

    Raises:
      ValueError: if the shapes don't fit, or an axis doesn't exist.
      TypeError: if the logits aren't floating-point or ``where`` isn't boolean.
    """
    terms = _Terms.of("softmax_cross_entropy", logits, labels, axis, where)
    return terms.cross_entropy().astype(terms.dtype)


@public
def safe_softmax_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    r"""Return :func:`softmax_cross_entropy` over the last axis, with :math:`0 \log 0 = 0`.

    In gradchain that function is equally safe; this name is for code written for Optax, where it isn't.

    Args:
      logits: of a floating-point dtype, finite or :math:`-\infty`; for example ``(batch, classes)``.
      labels: the given probabilities, at least 0, of the same shape.

    Returns:
      The losses, of the logits' shape without the last axis.

    Raises:
      ValueError: if the shapes differ.
      TypeError: if the logits aren't floating-point.
    """
    terms = _Terms.of("safe_softmax_cross_entropy", logits, labels, -1, None)
    return terms.cross_entropy().astype(terms.dtype)


@public
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    label_smoothing: ArrayLike = 0.0,
) -> Array:
    r"""Return the cross-entropy between predicted probabilities of classes and the true class.

    .. math:: -(1 - \alpha) \log p_y - \frac{\alpha}{n} \sum_{j=1}^n \log p_j, \qquad
        p_j = e^{x_j} \Big/ \sum_i e^{x_i}

    This is :func:`softmax_cross_entropy` of one-hot labels, without building them. A label outside
    :math:`\{0, \dots, \text{classes} - 1\}` gives NaN with a zero gradient, since a compiled function can't raise; so
    does a negative one, which Optax counts from the last class. To leave out padded examples:
    ``where=labels >= 0``.

    Args:
      logits: :math:`x`, of a floating-point dtype, finite or :math:`-\infty`; for example ``(batch, classes)``.
      labels: :math:`y`, of an integer dtype and of the logits' shape without ``axis``.
      axis: the axis of the classes; if there are several, a label is an index into their flattened product, in the
        order given.
      where: booleans, which elements to include: as in :func:`softmax_cross_entropy`. It should include the labels'
        classes: a class left out adds nothing to the loss, which is 0 where no element is included.
      label_smoothing: :math:`\alpha` in [0, 1], a number or an array that fits the labels' shape: the share of the
        label that is spread evenly over all :math:`n` classes (those included), as :func:`smooth_labels` does.

    Returns:
      The losses, of the labels' shape.

    Raises:
      ValueError: if the shapes don't fit, an axis doesn't exist or ``label_smoothing`` is out of range (where it isn't
        traced).
      TypeError: if the logits aren't floating-point, the labels not integers or ``where`` not boolean.

    Reference for label smoothing: Szegedy et al., *Rethinking the Inception Architecture for Computer Vision*, 2016.
    """
    name = "softmax_cross_entropy_with_integer_labels"
    x = floating(name, "logits", logits)
    axes = axes_of(name, axis, x.ndim)
    include = None if where is None else _flat(mask_of(name, where, x.shape, axes), axes)
    x = _flat(x, axes)
    index, valid = class_labels(name, labels, x.shape[:-1], x.shape[-1], "logits without axis")
    smoothing = number(name, "label_smoothing", label_smoothing, FRACTION, index.shape)
    shift, relative, total = sum_relative(x, (x.ndim - 1,), include)
    loss = log_total(total)[..., 0] + (shift[..., 0] - pick(x, index).astype(total.dtype))
    if include is not None:
        loss = jnp.where(pick(include, index), loss, 0)
        valid = valid | ~jnp.any(include, -1)
    if not isinstance(smoothing, float) or smoothing:
        count = x.shape[-1] if include is None else jnp.maximum(jnp.sum(include, -1), 1)
        even = jnp.sum(relative, -1) / count - log_total(total)[..., 0]
        share = jnp.broadcast_to(jnp.asarray(smoothing, even.dtype), even.shape)
        loss = -_weighed(1 - share, -loss) - _weighed(share, even)
    return jnp.where(valid, loss, math.nan).astype(x.dtype)


@public
def poly_loss_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike = 2.0,
    axis: Axis | None = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Return the cross-entropy plus a multiple of the probability given to the wrong classes.

    .. math:: -\sum_j y_j \log p_j + \epsilon \sum_j y_j (1 - p_j)

    This is Poly-1: the cross-entropy is :math:`\sum_k (1 - p)^k / k`, and :math:`\epsilon` changes the weight of its
    first term. :math:`1 - p_j` is taken from the logarithm, so that it keeps its digits where :math:`p_j` is near 1.

    Args:
      logits: :math:`x`, of a floating-point dtype, finite or :math:`-\infty`; for example ``(batch, classes)``.
      labels: :math:`y`, the given probabilities, at least 0, of the same shape.
      epsilon: :math:`\epsilon`, one number: 2 for classes of images and -1 for detection in the paper.
      axis: the axis, or axes, of the classes; None for all.
      where: booleans, which elements to include: as in :func:`softmax_cross_entropy`.

    Returns:
      The losses, of the logits' shape without ``axis``: 0 where no element is included.

    Raises:
      ValueError: if the shapes don't fit, or an axis doesn't exist.
      TypeError: if the logits aren't floating-point or ``where`` isn't boolean.

    Reference: Leng et al., *PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions*, 2022.
    """
    name = "poly_loss_cross_entropy"
    terms = _Terms.of(name, logits, labels, axis, where)
    first = -jnp.sum(terms.labels * jnp.expm1(terms.relative - terms.log_total), terms.axes)
    return (terms.cross_entropy() + number(name, "epsilon", epsilon, ANY) * first).astype(terms.dtype)


class _Terms(NamedTuple):
    """What the losses of probabilities over classes are sums of; the log-probability is ``relative - log_total``."""

    relative: Array
    log_total: Array
    labels: Array
    """0 where a class doesn't take part."""
    axes: tuple[int, ...]
    dtype: jnp.dtype

    @classmethod
    def of(
        cls, name: str, logits: ArrayLike, labels: ArrayLike, axis: Axis | None, where: ArrayLike | None
    ) -> "_Terms":
        """Check the arguments."""
        x, y, dtype = pair(name, logits=logits, labels=labels)
        axes = axes_of(name, axis, x.ndim)
        include = None if where is None else mask_of(name, where, x.shape, axes)
        _, relative, total = sum_relative(x, axes, include)
        return cls(relative, log_total(total), y if include is None else jnp.where(include, y, 0), axes, dtype)

    def cross_entropy(self) -> Array:
        """Return minus the sum of labels times log-probabilities; infinity for a label on an impossible class.

        The normaliser is taken out of the sum: its derivative then needs no sum of its own.
        """
        given = jnp.sum(self.labels, self.axes)
        return jnp.squeeze(self.log_total, self.axes) * given - jnp.sum(_weighed(self.labels, self.relative), self.axes)


@custom_jvp
def _weighed(y: Array, log: Array) -> Array:
    """Return ``y * log``, and 0 for a label of 0 on an impossible class."""
    return jnp.where(y == 0, 0, y * log)


@_weighed.defjvp
def _weighed_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """Leave infinities out. The slope in the logarithm is the label, whatever it is: it needn't be read again."""
    (y, log), (dy, dlog) = primals, tangents
    return _weighed(y, log), jnp.where(log == -math.inf, 0, log) * dy + y * dlog


def _flat(x: Array, axes: tuple[int, ...]) -> Array:
    """Move ``axes`` to the end and flatten them to one."""
    moved = jnp.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
    return moved.reshape(*without(x.shape, axes), math.prod(x.shape[a] for a in axes))
