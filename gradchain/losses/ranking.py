"""Losses of the order that scores give to the items of a list."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradchain.losses._arguments import ANY, mask_of, number, pair
from gradchain.losses.classification import softmax_cross_entropy
from gradchain.signatures import public


@public
def ranking_softmax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduce_fn: Callable[..., ArrayLike] | None = jnp.mean,
) -> Array:
    r"""Return the cross-entropy between the softmax of the scores and the items' relevance.

    .. math:: -\sum_i w_i y_i \log \frac{e^{s_i}}{\sum_j e^{s_j}}

    Args:
      logits: :math:`s`, the items' scores, of a floating-point dtype and shape ``(..., items)``, finite or
        :math:`-\infty`.
      labels: :math:`y \ge 0`, how relevant each is, of the same shape.
      where: booleans, which items to include: of the logits' shape, with sizes of 1 to broadcast along an axis, or of
        that shape without its last axis, for whole lists.
      weights: :math:`w`, a number or an array that fits the logits' shape; None for 1.
      reduce_fn: called as ``reduce_fn(losses, where=where)`` with the lists that have an item: ``jnp.mean``,
        ``jnp.sum``, or None to have one loss for each list.

    Returns:
      One loss, or one for each list; 0 for lists without items, and for a mean over none.

    Raises:
      ValueError: if the shapes don't fit.
      TypeError: if the logits aren't floating-point or ``where`` isn't boolean.

    Reference: Cao, Qin, Liu, Tsai and Li, *Learning to Rank: From Pairwise Approach to Listwise Approach*, 2007.
    """
    name = "ranking_softmax_loss"
    s, y, dtype = pair(name, logits=logits, labels=labels)
    include = mask_of(name, where, s.shape, (s.ndim - 1,))
    if weights is not None:
        y = y * number(name, "weights", weights, ANY, s.shape)
    losses = softmax_cross_entropy(s, y.astype(s.dtype), where=include)
    listed = jnp.any(include, -1)
    if reduce_fn is jnp.mean:
        return (jnp.sum(losses) / jnp.maximum(jnp.count_nonzero(listed), 1)).astype(dtype)
    reduced: Any = losses if reduce_fn is None else reduce_fn(losses, where=None if where is None else listed)
    return jnp.asarray(reduced).astype(dtype)
