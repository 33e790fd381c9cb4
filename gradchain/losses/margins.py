"""Losses of margins: perceptrons, support vector machines, and the sparsemax, with two classes or many."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradchain.losses._arguments import class_labels, floating, pair, pick
from gradchain.numerics import compute_dtype
from gradchain.projections import projection_simplex
from gradchain.signatures import public


@public
def perceptron_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> Array:
    r"""Return :math:`\max(0,\, -y f)`, element by element.

    Args:
      predictor_outputs: :math:`f`, the decision function, of any shape and floating-point dtype.
      targets: :math:`y`, -1 or 1, of the same shape.

    Returns:
      An array of the same shape.

    Raises:
      ValueError: if the shapes differ.
      TypeError: if the outputs aren't floating-point.

    Reference: Rosenblatt, *The Perceptron*, 1958.
    """
    outputs, signs, dtype = pair("perceptron_loss", predictor_outputs=predictor_outputs, targets=targets)
    return jnp.maximum(0, -outputs * signs).astype(dtype)


@public
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


@public
def sparsemax_loss(logits: ArrayLike, labels: ArrayLike) -> Array:
    r"""Return the sparsemax loss of binary predictions, element by element.

    .. math:: \tfrac14 (\operatorname{clip}(z, -1, 1) + 1)^2 + \max(z - 1,\, 0), \qquad z = -x \text{ for yes, } x
        \text{ for no}

    It is 0 from a margin of 1 on, as the hinge loss is, and smooth.

    Args:
      logits: :math:`x`, of any shape and floating-point dtype.
      labels: 0 for no, 1 (or any other nonzero value) for yes, of the same shape.

    Returns:
      An array of the same shape and the logits' dtype.

    Raises:
      ValueError: if the shapes differ.
      TypeError: if the logits aren't floating-point.

    Reference: Blondel, Martins and Niculae, *Learning with Fenchel-Young Losses*, 2020, section 4.4.
    """
    x, y, _ = pair("sparsemax_loss", logits=logits, labels=labels)
    z = jnp.where(y != 0, -x, x)
    loss = jnp.where(z < 1, jnp.square(jnp.clip(z, -1, 1) + 1) / 4, z)
    return loss.astype(jnp.result_type(logits))


@public
def multiclass_perceptron_loss(scores: ArrayLike, labels: ArrayLike) -> Array:
    r"""Return by how much the highest score exceeds that of the true class, :math:`\max_j s_j - s_y`.

    A label that names no class gives NaN with a zero gradient, since a compiled function can't raise. (Optax then
    returns :math:`\max_j s_j`.)

    Args:
      scores: :math:`s`, of a floating-point dtype and shape ``(..., classes)``, finite or :math:`-\infty`.
      labels: :math:`y`, of an integer dtype and the scores' shape without its last axis.

    Returns:
      The losses, of the labels' shape.

    Raises:
      ValueError: if the shapes don't fit.
      TypeError: if the scores aren't floating-point or the labels not integers.

    Reference: Collins, *Discriminative Training Methods for Hidden Markov Models*, 2002.
    """
    s = _Scores.of("multiclass_perceptron_loss", scores, labels)
    return s.finish(jnp.max(s.all, -1) - s.own)


@public
def multiclass_hinge_loss(scores: ArrayLike, labels: ArrayLike) -> Array:
    r"""Return by how much the true class fails to exceed all others by 1.

    .. math:: \max_j \left(s_j + [j \ne y]\right) - s_y

    Scores are taken relative to that of the true class before 1 is added, so that large scores lose no precision. A
    label that names no class gives NaN with a zero gradient.

    Args:
      scores: :math:`s`, of a floating-point dtype and shape ``(..., classes)``, finite or :math:`-\infty`.
      labels: :math:`y`, of an integer dtype and the scores' shape without its last axis.

    Returns:
      The losses, of the labels' shape.

    Raises:
      ValueError: if the shapes don't fit.
      TypeError: if the scores aren't floating-point or the labels not integers.

    Reference: Crammer and Singer, *On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines*, 2001.
    """
    s = _Scores.of("multiclass_hinge_loss", scores, labels)
    return s.finish(jnp.maximum(0, jnp.max(jnp.where(s.true, -math.inf, s.all), -1) - s.own + 1))


@public
def multiclass_sparsemax_loss(scores: ArrayLike, labels: ArrayLike) -> Array:
    r"""Return the loss whose derivative is the sparsemax of the scores less the one-hot label.

    .. math:: \langle p, s \rangle - s_y + \tfrac12 (1 - \|p\|^2), \qquad
        p = \operatorname{argmin}_{q \in \text{simplex}} \|q - s\|

    It is 0 as soon as the true class exceeds all others by 1. A label that names no class gives NaN with a zero
    gradient.

    Args:
      scores: :math:`s`, of a floating-point dtype and shape ``(..., classes)``, finite or :math:`-\infty`. (Optax
        takes exactly one leading axis.)
      labels: :math:`y`, of an integer dtype and the scores' shape without its last axis.

    Returns:
      The losses, of the labels' shape.

    Raises:
      ValueError: if the shapes don't fit.
      TypeError: if the scores aren't floating-point or the labels not integers.

    Reference: Martins and Astudillo, *From Softmax to Sparsemax: A Sparse Model of Attention and Multi-Label
    Classification*, 2016, section 3.2.
    """
    s = _Scores.of("multiclass_sparsemax_loss", scores, labels)
    margins = jnp.where(s.true, 0, s.all - s.own[..., None])
    p = jnp.vectorize(projection_simplex, signature="(n)->(n)")(margins)
    margins = jnp.where(margins == -math.inf, 0, margins)
    return s.finish(jnp.sum(p * (margins + (1 - p) / 2), -1))


class _Scores(NamedTuple):
    """Scores of all classes and of the true one, 0 where that is impossible."""

    all: Array
    own: Array
    true: Array
    valid: Array
    impossible: Array
    dtype: jnp.dtype

    @classmethod
    def of(cls, where: str, scores: ArrayLike, labels: ArrayLike) -> "_Scores":
        narrow = floating(where, "scores", scores)
        if narrow.ndim == 0:
            raise ValueError(f"{where}: scores must have an axis of classes, got a number")
        s = narrow.astype(compute_dtype(narrow.dtype))
        index, valid = class_labels(where, labels, s.shape[:-1], s.shape[-1], "scores without their last axis")
        own = pick(narrow, index).astype(s.dtype)
        true = index[..., None] == jnp.arange(s.shape[-1]).reshape((1,) * index.ndim + (-1,))
        impossible = own == -math.inf
        return cls(s, jnp.where(impossible, 0, own), true, valid, impossible, narrow.dtype)

    def finish(self, loss: Array) -> Array:
        """Return the loss: infinite for a true class of score minus infinity, NaN where there is none."""
        loss = jnp.where(self.impossible, math.inf, loss)
        return jnp.where(self.valid, loss, math.nan).astype(self.dtype)
