"""Losses for classes: margins, and cross-entropies of logits against probabilities or labels."""

import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradchain.losses._arguments import floating, pair, same_shape
from gradchain.numerics import compute_dtype

Axis = int | tuple[int, ...]


def hinge_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> Array:
    r"""Return :math:`\max(0,\, 1 - y f)`, the loss of a support vector machine, element by element.

    Args:
      predictor_outputs: :math:`f`, the decision function, of any shape and floating-point dtype.
      targets: :math:`y`, -1 or 1, of the same shape.

    Returns:
      An array of the same shape.

    Raises:
      ValueError: if the shapes differ.
      TypeError: if the outputs aren't floating-point.
    """
    outputs, signs, dtype = pair("hinge_loss", predictor_outputs=predictor_outputs, targets=targets)
    return jnp.maximum(0, 1 - outputs * signs).astype(dtype)


def sigmoid_binary_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    r"""Return the cross-entropy of independent yes-or-no predictions, element by element.

    .. math:: -y \log \sigma(x) - (1 - y) \log(1 - \sigma(x)) = y \log(1 + e^{-x}) + (1 - y) \log(1 + e^x)

    Args:
      logits: :math:`x`, finite, of any shape and floating-point dtype.
      labels: :math:`y`, the probability of yes in [0, 1], or a label 0 or 1 of any real dtype; of the same shape.

    Returns:
      An array of the same shape.

    Raises:
      ValueError: if the shapes differ.
      TypeError: if the logits aren't floating-point.
    """
    x, y, dtype = pair("sigmoid_binary_cross_entropy", logits=logits, labels=labels)
    return (y * jax.nn.softplus(-x) + (1 - y) * jax.nn.softplus(x)).astype(dtype)


def softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, axis: Axis | None = -1, where: ArrayLike | None = None
) -> Array:
    r"""Return the cross-entropy between predicted and given probabilities of classes.

    .. math:: -\sum_j y_j \log p_j, \qquad p_j = e^{x_j} \Big/ \sum_i e^{x_i}

    A logit of :math:`-\infty` is a class of probability 0: with label 0 it adds nothing (Optax returns NaN), with a
    positive label the loss is infinite.

    Args:
      logits: :math:`x`, of a floating-point dtype, finite or :math:`-\infty`; for example ``(batch, classes)``.
      labels: :math:`y`, the given probabilities, at least 0, of the same shape.
      axis: the axis, or axes, of the classes; None for all.
      where: booleans, which elements take part: of the logits' shape, with sizes of 1 where one value serves a whole
        axis, or of the result's shape. The others count neither in :math:`p` nor in the sum.

    Returns:
      The losses, of the logits' shape without ``axis``: 0 where no element takes part.

    Raises:
      ValueError: if the shapes don't fit, or an axis doesn't exist.
      TypeError: if the logits aren't floating-point or ``where`` isn't boolean.
    """
    name = "softmax_cross_entropy"
    x, y, dtype = pair(name, logits=logits, labels=labels)
    axes = _axes(name, axis, x.ndim)
    include = _mask(name, where, x.shape, axes)
    possible = include & (x != -math.inf)
    log_p = jnp.where(possible, _log_softmax(x, axes, possible), 0)
    impossible = jnp.any(include & ~possible & (y != 0), axes)
    loss = -jnp.sum(jnp.where(possible, y * log_p, 0), axes)
    return jnp.where(impossible, math.inf, loss).astype(dtype)


def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike, labels: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    r"""Return the cross-entropy between predicted probabilities of classes and the true class.

    .. math:: -\log p_y, \qquad p_j = e^{x_j} \Big/ \sum_i e^{x_i}

    This is :func:`softmax_cross_entropy` of one-hot labels, without building them. A label outside
    :math:`\{0, \dots, \text{classes} - 1\}` gives NaN with a zero gradient, since a compiled function can't raise; so
    does a negative one, which Optax counts from the last class. To leave padded examples out, exclude them:
    ``where=labels >= 0``.

    Args:
      logits: :math:`x`, of a floating-point dtype, finite or :math:`-\infty`; for example ``(batch, classes)``.
      labels: :math:`y`, of an integer dtype and of the logits' shape without ``axis``.
      axis: the axis of the classes; if there are several, a label is an index into their flattened product, in the
        order given.
      where: booleans, which elements take part: as in :func:`softmax_cross_entropy`. It should include the labels'
        classes: the loss is 0 where it doesn't, and where no element takes part.

    Returns:
      The losses, of the labels' shape.

    Raises:
      ValueError: if the shapes don't fit, or an axis doesn't exist.
      TypeError: if the logits aren't floating-point, the labels not integers or ``where`` not boolean.
    """
    name = "softmax_cross_entropy_with_integer_labels"
    x, index = floating(name, "logits", logits), jnp.asarray(labels)
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(f"{name}: labels must be integers, got {index.dtype}")
    axes = _axes(name, axis, x.ndim)
    same_shape(name, {"labels": index.shape, "logits without axis": _without(x.shape, axes)})
    include = _flat(_mask(name, where, x.shape, axes), axes)
    wide = _flat(x.astype(compute_dtype(x.dtype)), axes)
    log_p = _log_softmax(wide, (wide.ndim - 1,), include & (wide != -math.inf))
    classes = wide.shape[-1]
    index = index.astype(int) if index.dtype.itemsize < 4 else index
    valid = (index >= 0) & (index < classes)
    place = jnp.where(valid, index, 0)[..., None]
    loss = jnp.where(_pick(include, place), -_pick(log_p, place), 0)
    return jnp.where(valid | ~jnp.any(include, -1), loss, math.nan).astype(x.dtype)


def _log_softmax(x: Array, axes: tuple[int, ...], possible: Array) -> Array:
    """Return log-probabilities over the ``possible`` elements, and minus infinity for the others.

    It takes logits relative to the largest, so that 1e4 loses no digits; its derivative is finite even where nothing
    is possible.
    """
    largest = jnp.max(jnp.where(possible, x, -math.inf), axes, keepdims=True, initial=-math.inf)
    shift = jax.lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0))
    relative = jnp.where(possible, x, shift) - shift
    total = jnp.sum(jnp.where(possible, jnp.exp(relative), 0), axes, keepdims=True)
    return jnp.where(possible, relative - jnp.log(jnp.where(total == 0, 1, total)), -math.inf)


def _axes(where: str, axis: Axis | None, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    given = axis if isinstance(axis, tuple) else (operator.index(axis),)
    axes = tuple(a + ndim if a < 0 else a for a in given)
    if len(set(axes)) != len(axes) or not all(0 <= a < ndim for a in axes):
        raise ValueError(f"{where}: axis must name different axes of {ndim}-dimensional logits, got {axis}")
    return axes


def _without(shape: Sequence[int], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for i, size in enumerate(shape) if i not in axes)


def _mask(name: str, where: ArrayLike | None, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """Return ``where`` in the logits' shape; all true for None."""
    if where is None:
        return jnp.ones(shape, bool)
    mask = jnp.asarray(where)
    if mask.dtype != bool:
        raise TypeError(f"{name}: where must be boolean, got {mask.dtype}")
    if mask.shape == _without(shape, axes):
        mask = jnp.expand_dims(mask, axes)
    if mask.ndim != len(shape) or any(size not in (1, full) for size, full in zip(mask.shape, shape, strict=True)):
        raise ValueError(
            f"{name}: where must have the shape of the logits or of the result, got {mask.shape} and {shape}"
        )
    return jnp.broadcast_to(mask, shape)


def _flat(x: Array, axes: tuple[int, ...]) -> Array:
    """Move ``axes`` to the end and flatten them to one."""
    moved = jnp.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
    return moved.reshape(*_without(x.shape, axes), math.prod(x.shape[a] for a in axes))


def _pick(x: Array, place: Array) -> Array:
    return jnp.take_along_axis(x, place, -1)[..., 0]
