"""Losses of a difference between numbers, element by element; and of the angle between vectors."""

import math
from collections.abc import Callable

import jax
import jax.core
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from gradchain.eager import custom_jvp
from gradchain.losses._arguments import NON_NEGATIVE, Axis, axes_of, floating, mask_of, number, pair
from gradchain.numerics import compute_dtype, divide, into_range, safe_norm, sqrt
from gradchain.signatures import public


def _errors(where: str, predictions: ArrayLike, targets: ArrayLike | None) -> tuple[Array, jnp.dtype]:
    if targets is None:
        array = floating(where, "predictions", predictions)
        return array.astype(compute_dtype(array.dtype)), array.dtype
    first, second, dtype = pair(where, predictions=predictions, targets=targets)
    return first - second, dtype


@public
def squared_error(predictions: ArrayLike, targets: ArrayLike | None = None) -> Array:
    r"""Return :math:`(p - t)^2`, element by element.

    Args:
      predictions: :math:`p`, of any shape and floating-point dtype.
      targets: :math:`t`, of the same shape; zeros if it is None.

    Returns:
      An array of the same shape; its mean is the mean squared error.

    Raises:
      ValueError: if the shapes differ.
      TypeError: if the predictions aren't floating-point.
    """
    errors, dtype = _errors("squared_error", predictions, targets)
    return jnp.square(errors).astype(dtype)


@public
def l2_loss(predictions: ArrayLike, targets: ArrayLike | None = None) -> Array:
    r"""Return :math:`\tfrac12 (p - t)^2`, element by element, whose derivative is the error itself.

    Args:
      predictions: :math:`p`, of any shape and floating-point dtype.
      targets: :math:`t`, of the same shape; zeros if it is None.

    Returns:
      An array of the same shape.

    Raises:
      ValueError: if the shapes differ.
      TypeError: if the predictions aren't floating-point.
    """
    errors, dtype = _errors("l2_loss", predictions, targets)
    return (0.5 * jnp.square(errors)).astype(dtype)


@public
def huber_loss(predictions: ArrayLike, targets: ArrayLike | None = None, *, delta: ArrayLike = 1.0) -> Array:
    r"""Return a loss that is quadratic for small errors and linear for large ones.

    .. math:: \tfrac12 e^2 \;\text{ for } |e| \le \delta, \qquad \delta\,(|e| - \tfrac12 \delta) \;\text{ beyond},
        \qquad e = p - t

    Its derivative is the error, clipped to :math:`[-\delta, \delta]`.

    Args:
      predictions: :math:`p`, of any shape and floating-point dtype.
      targets: :math:`t`, of the same shape; zeros if it is None.
      delta: :math:`\delta > 0`, finite, one number or an array of the predictions' shape.

    Returns:
      An array of the predictions' shape.

    Raises:
      ValueError: if shapes differ, or ``delta`` is out of range (where it isn't traced).
      TypeError: if the predictions aren't floating-point.

    Reference: Huber, *Robust Estimation of a Location Parameter*, 1964.
    """
    errors, dtype = _errors("huber_loss", predictions, targets)
    delta = jnp.asarray(delta, errors.dtype)
    if delta.shape not in ((), errors.shape):
        raise ValueError(f"huber_loss: delta must be a number or of shape {errors.shape}, got shape {delta.shape}")
    if not isinstance(delta, jax.core.Tracer) and not jnp.all((delta > 0) & (delta < math.inf)):
        raise ValueError(f"huber_loss: delta must be in (0, inf), got {delta}")
    size = jnp.abs(errors)
    quadratic = jnp.minimum(size, delta)
    return (0.5 * jnp.square(quadratic) + delta * (size - quadratic)).astype(dtype)


@public
def log_cosh(predictions: ArrayLike, targets: ArrayLike | None = None) -> Array:
    r"""Return :math:`\log \cosh (p - t)`, a smooth alternative to the Huber loss.

    It is about :math:`\tfrac12 e^2` for small errors and :math:`|e| - \log 2` for large ones; its derivative is
    :math:`\tanh e`. It is evaluated as :math:`\log(1 + 2 \sinh^2 \tfrac e2)`, which in float32 has a relative error of
    at most 1e-6, even for small errors; the difference of logarithms in Optax has no correct digits below :math:`e =
    10^{-4}`.

    Args:
      predictions: :math:`p`, of any shape and floating-point dtype.
      targets: :math:`t`, of the same shape; zeros if it is None.

    Returns:
      An array of the same shape.

    Raises:
      ValueError: if the shapes differ.
      TypeError: if the predictions aren't floating-point.
    """
    errors, dtype = _errors("log_cosh", predictions, targets)
    return _log_cosh(errors).astype(dtype)


@custom_jvp
def _log_cosh(x: Array) -> Array:
    """Return log(1 + 2 sinh(x/2)^2), and the straight line from 20 on, which differs by 1e-18."""
    size = jnp.abs(x)
    near = jnp.minimum(size, 20)
    grown = jnp.expm1(near)
    return jnp.log1p(grown * (grown / (2 * (grown + 1)))) + (size - near)


@_log_cosh.defjvp
def _log_cosh_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    return _log_cosh(x), jnp.tanh(x) * dx


@public
def cosine_similarity(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis | None = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Return the cosine of the angle between predicted and given vectors.

    .. math:: \frac{\langle p, t \rangle}{\max(\|p\|_2, \sqrt\epsilon)\, \max(\|t\|_2, \sqrt\epsilon)}

    A vector of zeros has similarity 0 with all others, and there a derivative of 0 unless :math:`\epsilon > 0` (Optax
    returns NaN). Norms are taken of vectors divided by their largest element, which keeps squares in range.

    Args:
      predictions: :math:`p`, of a floating-point dtype; for example ``(batch, features)``.
      targets: :math:`t`, of the same shape.
      epsilon: :math:`\epsilon \ge 0`, one number: the smallest *squared* norm to divide by, as in Optax.
      axis: the axis, or axes, of the vectors; None for all.
      where: booleans, which elements to include: of the predictions' shape, with sizes of 1 to broadcast along an axis,
        or of the result's shape.

    Returns:
      The similarities, in [-1, 1], of the predictions' shape without ``axis``: 0 where no element is included.

    Raises:
      ValueError: if the shapes don't fit, an axis doesn't exist or ``epsilon`` is negative (where it isn't traced).
      TypeError: if the predictions aren't floating-point or ``where`` isn't boolean.
    """
    return _cosine("cosine_similarity", predictions, targets, epsilon, axis, where, lambda cosine: cosine)


@public
def cosine_distance(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis | None = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Return :math:`1 - \cos\theta` for the angle between predicted and given vectors.

    Args:
      predictions: the predicted vectors, of a floating-point dtype; for example ``(batch, features)``.
      targets: the given vectors, of the same shape.
      epsilon: the smallest squared norm to divide by, at least 0: as in :func:`cosine_similarity`.
      axis: the axis, or axes, of the vectors; None for all.
      where: booleans, which elements to include: as in :func:`cosine_similarity`.

    Returns:
      The distances, in [0, 2], of the predictions' shape without ``axis``: 1 where no element is included.

    Raises:
      ValueError: if the shapes don't fit, an axis doesn't exist or ``epsilon`` is negative (where it isn't traced).
      TypeError: if the predictions aren't floating-point or ``where`` isn't boolean.
    """
    return _cosine("cosine_distance", predictions, targets, epsilon, axis, where, lambda cosine: 1 - cosine)


def _cosine(
    name: str,
    predictions: ArrayLike,
    targets: ArrayLike,
    epsilon: ArrayLike,
    axis: Axis | None,
    where: ArrayLike | None,
    finish: Callable[[Array], Array],
) -> Array:
    p, t, dtype = pair(name, predictions=predictions, targets=targets)
    axes = axes_of(name, axis, p.ndim, "predictions")
    include = mask_of(name, where, p.shape, axes, "predictions")
    shortest = sqrt(jnp.asarray(number(name, "epsilon", epsilon, NON_NEGATIVE), p.dtype))
    p, t = (jnp.where(include, x, 0) for x in (p, t))
    (p_size, p_norm), (t_size, t_norm) = (_size_and_norm(x, axes, shortest) for x in (p, t))
    # XLA would store p / p_size, which the norm's sum needs too, and the derivative: hence doubles and a checkpoint.
    product = jax.checkpoint(lambda p, t: jnp.sum((p * (2 / p_size)) * (t * (2 / t_size)), axes) / 4)
    cosine = divide(product(p, t), jnp.squeeze(p_norm * t_norm, axes))
    return finish(into_range(cosine, -1, 1)).astype(dtype)


def unit_vectors(x: Array, axes: tuple[int, ...], shortest: Array) -> Array:
    """Return vectors divided by their norm, or by ``shortest`` if that is larger; zero for zero."""
    size, norm = _size_and_norm(x, axes, shortest)
    return divide(x / size, norm)


def _size_and_norm(x: Array, axes: tuple[int, ...], shortest: Array) -> tuple[Array, Array]:
    """Return the largest element, or ``shortest``, and the norm of the vector divided by that: 0, or from 1 up."""
    size = lax.stop_gradient(jnp.maximum(jnp.max(jnp.abs(x), axes, keepdims=True, initial=0), shortest))
    size = jnp.where(size == 0, 1, size)
    return size, jnp.maximum(safe_norm(x / size, axis=axes, keepdims=True), shortest / size)
