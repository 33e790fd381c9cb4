"""Contrastive losses, which pull related embeddings together and push unrelated ones apart."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from gradchain.core.hyper import Number
from gradchain.losses._arguments import (
    ANY,
    NON_NEGATIVE,
    POSITIVE,
    axes_of,
    floating,
    number,
    pair,
    same_shape,
)
from gradchain.losses._softmax import log_sum_exp
from gradchain.losses.regression import unit_vectors
from gradchain.numerics import compute_dtype
from gradchain.signatures import public

DEGREE = Number("degree", "[1, inf)")


@public
def ntxent(embeddings: ArrayLike, labels: ArrayLike, temperature: ArrayLike = 0.07) -> Array:
    r"""Return the temperature-scaled cross-entropy of identifying each embedding's positives among the others.

    .. math:: \operatorname{mean}_{(i, j)\,:\, i \ne j,\, l_i = l_j} \; -\log \frac{e^{s_{ij}}}
        {e^{s_{ij}} + \sum_{k : l_k \ne l_i} e^{s_{ik}}}, \qquad s_{ij} = \cos(z_i, z_j) / T

    It is evaluated as :math:`\log(1 + e^{\operatorname{lse}_k s_{ik} - s_{ij}})`. Without a pair of equal labels the
    loss is 0 (by Optax NaN), as it is where all labels are equal, both with derivative 0.

    Args:
      embeddings: :math:`z`, of a floating-point dtype and shape ``(batch, features)``; their norms don't matter.
      labels: :math:`l`, of an integer dtype and shape ``(batch,)``: those with equal labels belong together.
      temperature: :math:`T > 0`, one number.

    Returns:
      One number, the mean over all pairs, each counted in both directions.

    Raises:
      ValueError: if the shapes don't fit, or the temperature is out of range (where it isn't traced).
      TypeError: if the embeddings aren't floating-point.

    Reference: Chen, Kornblith, Norouzi and Hinton, *A Simple Framework for Contrastive Learning of Visual
    Representations*, 2020.
    """
    z, group = floating("ntxent", "embeddings", embeddings), jnp.asarray(labels)
    if z.ndim != 2:
        raise ValueError(f"ntxent: embeddings must have shape (batch, features), got {z.shape}")
    same_shape("ntxent", {"labels": group.shape, "embeddings without features": z.shape[:1]})
    wide = z.astype(compute_dtype(z.dtype))
    shortest = jnp.sqrt(jnp.asarray(jnp.finfo(wide.dtype).eps, wide.dtype))
    unit = unit_vectors(wide, (1,), shortest)
    similar = jnp.matmul(unit, unit.T, precision="highest") / number("ntxent", "temperature", temperature, POSITIVE)
    same = group[:, None] == group[None, :]
    others = log_sum_exp(similar, (1,), ~same)
    pairs = same & ~jnp.eye(len(group), dtype=bool) & (others != -math.inf)
    gap = jnp.where(pairs, others - similar, 0)
    count = jnp.count_nonzero(same) - len(group)
    return (jnp.sum(jnp.where(pairs, jax.nn.softplus(gap), 0)) / jnp.maximum(count, 1)).astype(z.dtype)


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
    r"""Return by how much the negative fails to be farther from the anchor than the positive by a margin.

    .. math:: \max(0,\, d(a, p) - d(a, n) + m), \qquad d(x, y) = \left(\sum_i |x_i - y_i|^k + \epsilon\right)^{1/k}

    Absolute values are taken before the power, for every :math:`k`. (Optax doesn't, which is right only for even
    :math:`k`.)

    Args:
      anchors: :math:`a`, of a floating-point dtype; for example ``(batch, features)``.
      positives: :math:`p`, examples similar to the anchors, of the same shape.
      negatives: :math:`n`, dissimilar examples, of the same shape.
      axis: the axis of the features.
      norm_degree: :math:`k \ge 1`, one number; 2 is the Euclidean distance.
      margin: :math:`m`, one number.
      eps: :math:`\epsilon \ge 0`, one number; with 0, the derivative between equal points is 0.

    Returns:
      The losses, of the anchors' shape without ``axis``.

    Raises:
      ValueError: if the shapes differ, the axis doesn't exist or a number is out of range (where it isn't traced).
      TypeError: if the anchors aren't floating-point.

    Reference: Balntas, Riba, Ponsa and Mikolajczyk, *Learning Local Feature Descriptors with Triplets and Shallow
    Convolutional Neural Networks*, 2016.
    """
    name = "triplet_margin_loss"
    a, p, dtype = pair(name, anchors=anchors, positives=positives)
    _, n, other_dtype = pair(name, anchors=anchors, negatives=negatives)
    axes = axes_of(name, axis, a.ndim, "anchors")
    degree = number(name, "norm_degree", norm_degree, DEGREE)
    eps = number(name, "eps", eps, NON_NEGATIVE)
    near, far = (_distance(a - other, axes, degree, eps) for other in (p, n))
    loss = jnp.maximum(0, near - far + number(name, "margin", margin, ANY))
    return loss.astype(jnp.promote_types(dtype, other_dtype))


def _distance(difference: Array, axes: tuple[int, ...], degree: ArrayLike, eps: ArrayLike) -> Array:
    """Return the distance, from differences divided by the largest where that is above 1, and 0 at zero."""
    size = lax.stop_gradient(jnp.max(jnp.abs(difference), axes, keepdims=True, initial=1))
    total = jax.checkpoint(lambda x: jnp.sum(_power_of_magnitude(x / size, degree), axes))  # without storing x / size
    scale = jnp.squeeze(size, axes)
    return scale * _power(total(difference) + eps / scale**degree, 1 / degree)


def _power_of_magnitude(x: Array, exponent: Any) -> Array:
    if isinstance(exponent, float) and exponent == 2.0:
        return jnp.square(x)
    return _power(jnp.abs(x), exponent)


def _power(x: Array, exponent: Any) -> Array:
    """Return a power of numbers at least 0, with derivative 0 at 0."""
    return jnp.where(x == 0, 0, jnp.where(x == 0, 1, x) ** exponent)
