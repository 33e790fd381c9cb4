"""Kullback-Leibler divergences of predicted from given distributions."""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradchain.eager import custom_jvp
from gradchain.losses._arguments import Axis, axes_of, mask_of, pair
from gradchain.signatures import public


@public
def kl_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis | None = -1, where: ArrayLike | None = None
) -> Array:
    r"""Return the Kullback-Leibler divergence :math:`\sum_j t_j (\log t_j - \log q_j)`.

    A target of 0 adds 0 whatever is predicted, with derivative 0 in :math:`t` (where Optax has NaN); a prediction of 0
    for a positive target is infinite.

    Args:
      log_predictions: :math:`\log q`, of a floating-point dtype, finite or :math:`-\infty`.
      targets: :math:`t`, the given probabilities, at least 0, of the same shape.
      axis: the axis, or axes, of the distribution; None for all.
      where: booleans, which elements to include: of the inputs' shape, with sizes of 1 to broadcast along an axis, or
        of the result's shape.

    Returns:
      The divergences, of the inputs' shape without ``axis``: 0 where no element is included.

    Raises:
      ValueError: if the shapes don't fit, or an axis doesn't exist.
      TypeError: if the predictions aren't floating-point or ``where`` isn't boolean.

    Reference: Kullback and Leibler, *On Information and Sufficiency*, 1951.
    """
    name = "kl_divergence"
    log_q, t, dtype = pair(name, log_predictions=log_predictions, targets=targets)
    axes, include = _included(name, log_q, axis, where)
    return _total(_share(jnp.where(include, t, 0), log_q), axes).astype(dtype)


@public
def kl_divergence_with_log_targets(
    log_predictions: ArrayLike, log_targets: ArrayLike, axis: Axis | None = -1, where: ArrayLike | None = None
) -> Array:
    r"""Return :func:`kl_divergence` for targets given by their logarithms, :math:`\sum_j e^{l_j} (l_j - \log q_j)`.

    Args:
      log_predictions: :math:`\log q`, of a floating-point dtype, finite or :math:`-\infty`.
      log_targets: :math:`l = \log t`, likewise, of the same shape.
      axis: the axis, or axes, of the distribution; None for all.
      where: booleans, which elements to include: as in :func:`kl_divergence`.

    Returns:
      The divergences, of the inputs' shape without ``axis``: 0 where no element is included.

    Raises:
      ValueError: if the shapes don't fit, or an axis doesn't exist.
      TypeError: if the predictions aren't floating-point or ``where`` isn't boolean.
    """
    name = "kl_divergence_with_log_targets"
    log_q, log_t, dtype = pair(name, log_predictions=log_predictions, log_targets=log_targets)
    axes, include = _included(name, log_q, axis, where)
    return _total(_share_of_log(jnp.where(include, log_t, -math.inf), log_q), axes).astype(dtype)


@public
def generalized_kl_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis | None = -1, where: ArrayLike | None = None
) -> Array:
    r"""Return the Kullback-Leibler divergence of weights that need not sum to one.

    .. math:: \sum_j t_j (\log t_j - \log q_j) + q_j - t_j

    It is the Bregman divergence of :math:`t \log t - t`, at least 0, and 0 only for :math:`q = t`.

    Args:
      log_predictions: :math:`\log q`, of a floating-point dtype, finite or :math:`-\infty`.
      targets: :math:`t \ge 0`, of the same shape.
      axis: the axis, or axes, to sum over; None for all.
      where: booleans, which elements to include: as in :func:`kl_divergence`.

    Returns:
      The divergences, of the inputs' shape without ``axis``: 0 where no element is included.

    Raises:
      ValueError: if the shapes don't fit, or an axis doesn't exist.
      TypeError: if the predictions aren't floating-point or ``where`` isn't boolean.

    Reference: Bregman, *The Relaxation Method of Finding the Common Point of Convex Sets*, 1967.
    """
    name = "generalized_kl_divergence"
    log_q, t, dtype = pair(name, log_predictions=log_predictions, targets=targets)
    axes, include = _included(name, log_q, axis, where)
    log_q, t = jnp.where(include, log_q, -math.inf), jnp.where(include, t, 0)
    return _total(_generalized_share(t, log_q), axes).astype(dtype)


def _included(name: str, x: Array, axis: Axis | None, where: ArrayLike | None) -> tuple[tuple[int, ...], Array]:
    axes = axes_of(name, axis, x.ndim, "predictions")
    return axes, mask_of(name, where, x.shape, axes, "predictions")


# Derivatives take logarithms and exponentials anew: that moves less memory than storing them.
@jax.checkpoint
def _share(t: Array, log_q: Array) -> Array:
    return _product(t, _log(t), log_q)


@jax.checkpoint
def _share_of_log(log_t: Array, log_q: Array) -> Array:
    return _product(jnp.exp(log_t), log_t, log_q)


@custom_jvp
def _generalized_share(t: Array, log_q: Array) -> Array:
    """Return t (r + exp(-r) - 1), r = log t - log q, without negative rounding errors near r = 0; q for t = 0."""
    r = _log(t) - log_q
    near = jnp.abs(r) < 1
    small = jnp.maximum(jnp.where(near, r, 0) + jnp.expm1(-jnp.where(near, r, 0)), 0)
    return jnp.where(near & (t != 0), t * small, _product(t, _log(t), log_q) + (jnp.exp(log_q) - t))


@_generalized_share.defjvp
def _generalized_share_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (t, log_q), (dt, dlog_q) = primals, tangents
    finite = log_q != -math.inf
    log_ratio = jnp.where(finite, _log(t) - jnp.where(finite, log_q, 0), 0)
    return _generalized_share(t, log_q), jnp.where(t == 0, -1, log_ratio) * dt + (jnp.exp(log_q) - t) * dlog_q


def _log(t: Array) -> Array:
    return jnp.log(jnp.where(t == 0, 1, t))


@custom_jvp
def _product(t: Array, log_t: Array, log_q: Array) -> Array:
    """Return t (log t - log q): 0 for a target of 0, infinite for a positive one that is impossible."""
    return jnp.where(t == 0, 0, t * (log_t - log_q))


@_product.defjvp
def _product_jvp(primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    """Leave infinities out. The slope in the predictions is -t, whatever they are: it needn't read them."""
    (t, log_t, log_q), (dt, dlog_t, dlog_q) = primals, tangents
    finite = (t != 0) & (log_q != -math.inf)
    log_ratio = jnp.where(finite, log_t, 0) - jnp.where(finite, log_q, 0)
    return _product(*primals), log_ratio * dt + t * (dlog_t - dlog_q)


def _total(shares: Array, axes: tuple[int, ...]) -> Array:
    """Return their sum, with derivative 0 where that is infinite."""
    total = jnp.sum(shares, axes)
    return jnp.where(total == math.inf, math.inf, total)
