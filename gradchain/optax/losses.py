"""Losses in Optax's conventions, made of :mod:`gradchain.losses`.

Where those refuse shapes that differ, these broadcast as Optax's do; they take any numbers for weights, and count a
negative label from the last class. As there, ``0 * log(0)`` is 0 and no derivative of finite input is NaN.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradchain import losses
from gradchain.losses import (
    binary_dice_loss,
    ctc_loss,
    ctc_loss_with_forward_probs,
    dice_loss,
    l2_loss,
    multiclass_generalized_dice_loss,
    ntxent,
    squared_error,
)
from gradchain.losses._arguments import Axis, axes_of, floating, without
from gradchain.numerics import compute_dtype
from gradchain.optax._deprecated import deprecated
from gradchain.signatures import public

__all__ = [
    "binary_dice_loss",
    "convex_kl_divergence",
    "cosine_distance",
    "cosine_similarity",
    "ctc_loss",
    "ctc_loss_with_forward_probs",
    "dice_loss",
    "generalized_kl_divergence",
    "hinge_loss",
    "huber_loss",
    "kl_divergence",
    "kl_divergence_with_log_targets",
    "l2_loss",
    "log_cosh",
    "make_fenchel_young_loss",
    "multiclass_generalized_dice_loss",
    "multiclass_hinge_loss",
    "multiclass_perceptron_loss",
    "multiclass_sparsemax_loss",
    "ntxent",
    "perceptron_loss",
    "poly_loss_cross_entropy",
    "ranking_softmax_loss",
    "safe_softmax_cross_entropy",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "smooth_labels",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "sparsemax_loss",
    "squared_error",
    "triplet_margin_loss",
]


def _both(where: str, **arrays: ArrayLike) -> list[Array]:
    """Return floating-point arrays, broadcast together."""
    return _together(where, **{name: floating(where, name, x) for name, x in arrays.items()})


def _with_labels(where: str, logits: ArrayLike, labels: ArrayLike) -> list[Array]:
    """Return floating-point logits and labels of any dtype, broadcast together."""
    return _together(where, logits=floating(where, "logits", logits), labels=jnp.asarray(labels))


def _together(where: str, **arrays: Array) -> list[Array]:
    try:
        return list(jnp.broadcast_arrays(*arrays.values()))
    except ValueError:
        shapes = " and ".join(f"{name} {x.shape}" for name, x in arrays.items())
        raise TypeError(f"{where}: the shapes must fit each other, got {shapes}") from None


def _included(where: ArrayLike | None, shape: tuple[int, ...], axis: Axis | None = None) -> Array | None:
    """Return which elements take part, in the given shape; ``axis`` is put in if the mask lacks it."""
    if where is None:
        return None
    mask = jnp.asarray(where, bool)
    if axis is not None and mask.ndim != len(shape):
        mask = jnp.expand_dims(mask, axis)
    return jnp.broadcast_to(mask, shape)


# Differences between numbers


@public
def huber_loss(predictions: ArrayLike, targets: ArrayLike | None = None, *, delta: ArrayLike = 1.0) -> Array:
    """Return a loss that is quadratic below ``delta`` and linear above: see :func:`gradchain.losses.huber_loss`.

    ``delta`` may be any number, and anything that broadcasts with the predictions.
    """
    errors = floating("huber_loss", "predictions", predictions)
    errors = errors if targets is None else errors - jnp.asarray(targets)
    size = jnp.abs(errors)
    quadratic = jnp.minimum(size, delta)
    return 0.5 * jnp.square(quadratic) + delta * (size - quadratic)


@public
def log_cosh(predictions: ArrayLike, targets: ArrayLike | None = None) -> Array:
    """Return the logarithm of the hyperbolic cosine of the error: see :func:`gradchain.losses.log_cosh`."""
    errors = floating("log_cosh", "predictions", predictions)
    return losses.log_cosh(errors if targets is None else errors - jnp.asarray(targets))


@public
def cosine_similarity(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis | None = -1,
    where: ArrayLike | None = None,
) -> Array:
    """Return the cosine of the angle between vectors: see :func:`gradchain.losses.cosine_similarity`.

    ``where`` broadcasts against the predictions from the last axis on, as for :func:`jax.numpy.sum`.
    """
    p, t = _both("cosine_similarity", predictions=predictions, targets=targets)
    return losses.cosine_similarity(p, t, epsilon=_clipped(epsilon), axis=axis, where=_included(where, p.shape))


@public
def cosine_distance(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis | None = -1,
    where: ArrayLike | None = None,
) -> Array:
    """Return one minus :func:`cosine_similarity`."""
    p, t = _both("cosine_distance", predictions=predictions, targets=targets)
    return losses.cosine_distance(p, t, epsilon=_clipped(epsilon), axis=axis, where=_included(where, p.shape))


def _clipped(epsilon: ArrayLike) -> ArrayLike:
    """Return 0 for a negative bound of a norm, which has no effect."""
    return max(epsilon, 0.0) if isinstance(epsilon, int | float) else epsilon


# Two classes


@public
def sigmoid_binary_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Return binary cross-entropies: see :func:`gradchain.losses.sigmoid_binary_cross_entropy`."""
    x, y = _with_labels("sigmoid_binary_cross_entropy", logits, labels)
    return losses.sigmoid_binary_cross_entropy(x, y.astype(x.dtype))


@public
def sigmoid_focal_loss(
    logits: ArrayLike, labels: ArrayLike, *, alpha: ArrayLike | None = None, gamma: ArrayLike = 2.0
) -> Array:
    """Return the binary cross-entropy with less weight on easy examples.

    See :func:`gradchain.losses.sigmoid_focal_loss`. All arguments broadcast.
    """
    x, y = _with_labels("sigmoid_focal_loss", logits, labels)
    shape = jnp.broadcast_shapes(x.shape, jnp.shape(alpha if alpha is not None else 0), jnp.shape(gamma))
    x, y = jnp.broadcast_to(x, shape), jnp.broadcast_to(y, shape).astype(x.dtype)
    loss = losses.sigmoid_focal_loss(x, y, gamma=gamma if jnp.ndim(gamma) == 0 else jnp.broadcast_to(gamma, shape))
    if alpha is None:
        return loss
    weight = jnp.asarray(alpha)
    return (weight * y + (1 - weight) * (1 - y)) * loss


@public
def hinge_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> Array:
    """Return a support vector machine's loss for targets -1 and 1: see :func:`gradchain.losses.hinge_loss`."""
    return jnp.maximum(0, 1 - jnp.asarray(predictor_outputs) * jnp.asarray(targets))


@public
def perceptron_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> Array:
    """Return the perceptron's loss for targets -1 and 1: see :func:`gradchain.losses.perceptron_loss`."""
    outputs, signs = jnp.asarray(predictor_outputs), jnp.asarray(targets)
    if outputs.shape != signs.shape:
        raise ValueError(
            f"perceptron_loss: the shapes must be equal, got predictor_outputs {outputs.shape} and targets "
            f"{signs.shape}"
        )
    return jnp.maximum(0, -outputs * signs)


@public
def sparsemax_loss(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Return the sparsemax loss of binary predictions: see :func:`gradchain.losses.sparsemax_loss`."""
    return losses.sparsemax_loss(*_with_labels("sparsemax_loss", logits, labels))


# Many classes


@public
def softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, axis: Axis | None = -1, where: ArrayLike | None = None
) -> Array:
    """Return cross-entropies with given probabilities: see :func:`gradchain.losses.softmax_cross_entropy`."""
    x, y = _with_labels("softmax_cross_entropy", logits, labels)
    return losses.softmax_cross_entropy(x, y, axis, _included(where, x.shape, axis))


@public
def safe_softmax_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Return :func:`softmax_cross_entropy` over the last axis, which is as safe."""
    return losses.safe_softmax_cross_entropy(*_with_labels("safe_softmax_cross_entropy", logits, labels))


@public
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike, labels: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    """Return cross-entropies with true classes: see :func:`gradchain.losses.softmax_cross_entropy_with_integer_labels`.

    A negative label counts from the last class. With ``where``, the label's own class needn't be included: its logit is
    compared with the classes that are.
    """
    name = "softmax_cross_entropy_with_integer_labels"
    x, y = floating(name, "logits", logits), jnp.asarray(labels)
    if not isinstance(axis, int | tuple):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"{name}: axis must be an int or a tuple of ints, got {axis!r}")
    include = None if where is None else _classes_last(_included(where, x.shape, axis), axes_of(name, axis, x.ndim))
    x = _classes_last(x, axes_of(name, axis, x.ndim))
    if jnp.issubdtype(y.dtype, jnp.integer):
        y = jnp.where(y < 0, y + x.shape[-1], y)
    if y.ndim == x.ndim - 1:
        shape = jnp.broadcast_shapes(y.shape, x.shape[:-1])
        x, y = jnp.broadcast_to(x, (*shape, x.shape[-1])), jnp.broadcast_to(y, shape)
    if include is None:
        return losses.softmax_cross_entropy_with_integer_labels(x, y)
    return _among(x, y, jnp.broadcast_to(include, x.shape))


def _classes_last(x: Any, axes: tuple[int, ...]) -> Array:
    """Move the axes of the classes to the end and flatten them to one."""
    moved = jnp.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
    return moved.reshape(*without(x.shape, axes), math.prod(x.shape[a] for a in axes))


def _among(x: Array, labels: Array, include: Array) -> Array:
    """Return the labels' loss among the included classes, 0 where there is none."""
    any_included = jnp.any(include, -1)
    first = jnp.argmax(include, -1)
    loss = losses.softmax_cross_entropy_with_integer_labels(x, first, where=include)
    own, other = (jnp.take_along_axis(x, i[..., None], -1)[..., 0] for i in (labels, first))
    difference = jnp.where(labels == first, 0, other - own)
    return jnp.where(any_included, loss + difference, 0)


@public
def poly_loss_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike = 2.0,
    axis: Axis | None = -1,
    where: ArrayLike | None = None,
) -> Array:
    """Return the cross-entropy plus the wrong classes' probability.

    See :func:`gradchain.losses.poly_loss_cross_entropy`; ``epsilon`` may be anything that broadcasts with the result.
    """
    x, y = _both("poly_loss_cross_entropy", logits=logits, labels=labels)
    include = _included(where, x.shape)
    if jnp.ndim(epsilon) == 0:
        return losses.poly_loss_cross_entropy(x, y, epsilon=epsilon, axis=axis, where=include)
    plain, more = (losses.poly_loss_cross_entropy(x, y, epsilon=e, axis=axis, where=include) for e in (0.0, 1.0))
    return plain + epsilon * (more - plain)


@public
def multiclass_hinge_loss(scores: ArrayLike, labels: ArrayLike) -> Array:
    """Return by how much the true class fails to exceed the others by 1.

    See :func:`gradchain.losses.multiclass_hinge_loss`. For a label that names no class it is the highest score plus 1.
    """
    return _by_class(losses.multiclass_hinge_loss, scores, labels, 1.0)


@public
def multiclass_perceptron_loss(scores: ArrayLike, labels: ArrayLike) -> Array:
    """Return by how much the highest score exceeds the true class's.

    See :func:`gradchain.losses.multiclass_perceptron_loss`. For a label that names no class it is the highest score.
    """
    return _by_class(losses.multiclass_perceptron_loss, scores, labels, 0.0)


def _by_class(loss: Callable[..., Array], scores: ArrayLike, labels: ArrayLike, margin: float) -> Array:
    s, y = jnp.asarray(scores), jnp.asarray(labels).astype(int)
    s = s.astype(jnp.promote_types(s.dtype, jnp.result_type(float)))
    shape = jnp.broadcast_shapes(s.shape[:-1], y.shape)
    s, y = jnp.broadcast_to(s, (*shape, s.shape[-1])), jnp.broadcast_to(y, shape)
    valid = (y >= 0) & (y < s.shape[-1])
    return jnp.where(valid, loss(s, jnp.where(valid, y, 0)), jnp.max(s, -1) + margin)


@public
def multiclass_sparsemax_loss(scores: ArrayLike, labels: ArrayLike) -> Array:
    """Return the loss whose derivative is the sparsemax less the label.

    See :func:`gradchain.losses.multiclass_sparsemax_loss`. A negative label counts from the last class, and one that
    names no class stands for the nearest that does.
    """
    s, y = jnp.asarray(scores), jnp.asarray(labels)
    s, classes = s.astype(jnp.promote_types(s.dtype, jnp.result_type(float))), s.shape[-1]
    return losses.multiclass_sparsemax_loss(s, jnp.clip(jnp.where(y < 0, y + classes, y), 0, classes - 1))


# Distributions


@public
def kl_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis | None = -1, where: ArrayLike | None = None
) -> Array:
    """Return Kullback-Leibler divergences: see :func:`gradchain.losses.kl_divergence`."""
    q, t = _both("kl_divergence", log_predictions=log_predictions, targets=targets)
    return losses.kl_divergence(q, t, axis, _included(where, q.shape))


@public
def kl_divergence_with_log_targets(
    log_predictions: ArrayLike, log_targets: ArrayLike, axis: Axis | None = -1, where: ArrayLike | None = None
) -> Array:
    """Return Kullback-Leibler divergences: see :func:`gradchain.losses.kl_divergence_with_log_targets`."""
    q, t = _both("kl_divergence_with_log_targets", log_predictions=log_predictions, log_targets=log_targets)
    return losses.kl_divergence_with_log_targets(q, t, axis, _included(where, q.shape))


@public
def generalized_kl_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis | None = -1, where: ArrayLike | None = None
) -> Array:
    """Return divergences of unnormalised distributions: see :func:`gradchain.losses.generalized_kl_divergence`."""
    q, t = _both("generalized_kl_divergence", log_predictions=log_predictions, targets=targets)
    return losses.generalized_kl_divergence(q, t, axis, _included(where, q.shape))


@public
@deprecated("generalized_kl_divergence")
def convex_kl_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis | None = -1, where: ArrayLike | None = None
) -> Array:
    """Return :func:`generalized_kl_divergence`, with a warning: this is its old name."""
    return generalized_kl_divergence(log_predictions, targets, axis, where)


@public
def smooth_labels(
    labels: ArrayLike, alpha: ArrayLike, *, axis: Axis | None = -1, where: ArrayLike | None = None
) -> Array:
    """Return labels mixed with the uniform distribution: see :func:`gradchain.losses.smooth_labels`.

    ``alpha`` may be any number or array that broadcasts.
    """
    y = floating("smooth_labels", "labels", labels)
    if where is None:
        classes: Any = math.prod(y.shape[a] for a in axes_of("smooth_labels", axis, y.ndim, "labels"))
    else:
        classes = jnp.maximum(jnp.sum(jnp.asarray(where), axis, keepdims=True), 1)
    return (1 - alpha) * y + alpha / classes


@public
def make_fenchel_young_loss(max_fun: Callable[..., Any]) -> Callable[..., Array]:
    """Make a loss of scores and targets, which broadcast: see :func:`gradchain.losses.make_fenchel_young_loss`."""
    loss = losses.make_fenchel_young_loss(max_fun)

    def fenchel_young_loss(scores: ArrayLike, targets: ArrayLike, *args: Any, **kwargs: Any) -> Array:
        return loss(*jnp.broadcast_arrays(jnp.asarray(scores), jnp.asarray(targets)), *args, **kwargs)

    return fenchel_young_loss


# Order and distance


@public
def ranking_softmax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduce_fn: Callable[..., ArrayLike] | None = jnp.mean,
) -> Array:
    """Return the cross-entropy of scores with relevance: see :func:`gradchain.losses.ranking_softmax_loss`."""
    s = floating("ranking_softmax_loss", "logits", logits)
    y = jnp.asarray(labels).astype(s.dtype)
    y = y if weights is None else (y * jnp.asarray(weights)).astype(s.dtype)
    s, y = jnp.broadcast_arrays(s, y)
    return losses.ranking_softmax_loss(s, y, where=_included(where, s.shape), reduce_fn=reduce_fn)


@public
def triplet_margin_loss(
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    axis: int = -1,
    norm_degree: ArrayLike = 2,
    margin: ArrayLike = 1.0,
    eps: ArrayLike = 1e-6,
) -> Array:
    """Return by how much the negative isn't farther than the positive.

    See :func:`gradchain.losses.triplet_margin_loss`. Differences keep their signs if ``norm_degree`` isn't even.
    """
    a, p, n = _both("triplet_margin_loss", anchors=anchors, positives=positives, negatives=negatives)
    if isinstance(norm_degree, int | float) and norm_degree > 0 and norm_degree % 2 == 0 and jnp.ndim(margin) == 0:
        return losses.triplet_margin_loss(a, p, n, axis, norm_degree, margin, eps)

    def distance(x: Array) -> Array:
        total = jnp.sum(jnp.power(x.astype(compute_dtype(x.dtype)), norm_degree), axis)
        return jnp.power(total + eps, 1 / jnp.asarray(norm_degree, total.dtype))

    return jnp.maximum(distance(a - p) - distance(a - n) + margin, 0).astype(a.dtype)
