"""Losses made from a maximum: the Fenchel-Young construction."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradchain.losses._arguments import pair
from gradchain.signatures import public


@public
def make_fenchel_young_loss(max_fun: Callable[..., Any]) -> Callable[..., Array]:
    r"""Return the loss :math:`L(s, y) = \Omega^*(s) - \langle y, s \rangle` of a convex function :math:`\Omega^*`.

    Its derivative in the scores is the prediction less the target, :math:`\nabla \Omega^*(s) - y`. With
    ``jax.nn.logsumexp`` it is the softmax cross-entropy; with the expected maximum of perturbed scores, a loss for
    structured prediction. A score of :math:`-\infty` with target 0 adds nothing to the inner product.

    Args:
      max_fun: :math:`\Omega^*`, from a vector of scores to a number, for example a (smoothed) maximum.

    Returns:
      ``loss(scores, targets, *args, **kwargs)`` on floating-point scores and targets of one shape ``(..., n)``, with a
      value for each vector. It passes the other arguments on to ``max_fun``, the same for every vector (Optax takes
      none). It raises ``ValueError`` if the shapes differ or are ``()``, ``TypeError`` if the scores aren't
      floating-point.

    Example:
      >>> loss = make_fenchel_young_loss(jax.nn.logsumexp)
      >>> print(loss(jnp.array([2.0, 0.0]), jnp.array([1.0, 0.0])).round(3))
      0.127

    Reference: Blondel, Martins and Niculae, *Learning with Fenchel-Young Losses*, 2020.
    """

    def fenchel_young_loss(scores: ArrayLike, targets: ArrayLike, *args: Any, **kwargs: Any) -> Array:
        s, y, dtype = pair("fenchel_young_loss", scores=scores, targets=targets)
        if s.ndim == 0:
            raise ValueError("fenchel_young_loss: scores must be vectors, got a number")
        largest = jnp.vectorize(lambda vector: max_fun(vector, *args, **kwargs), signature="(n)->()")(s)
        inner = jnp.sum(y * jnp.where((s == -math.inf) & (y == 0), 0, s), -1)
        return (largest - inner).astype(dtype)

    return fenchel_young_loss
