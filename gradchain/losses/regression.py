"""Losses of a difference between numbers, element by element."""

import math

import jax.core
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradchain.losses._arguments import floating, pair
from gradchain.numerics import compute_dtype


def _errors(where: str, predictions: ArrayLike, targets: ArrayLike | None) -> tuple[Array, jnp.dtype]:
    if targets is None:
        array = floating(where, "predictions", predictions)
        return array.astype(compute_dtype(array.dtype)), array.dtype
    first, second, dtype = pair(where, predictions=predictions, targets=targets)
    return first - second, dtype


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


def log_cosh(predictions: ArrayLike, targets: ArrayLike | None = None) -> Array:
    r"""Return :math:`\log \cosh (p - t)`, a smooth relative of the Huber loss.

    It is about :math:`\tfrac12 e^2` for small errors and :math:`|e| - \log 2` for large ones; its derivative is
    :math:`\tanh e`. Small errors are evaluated as :math:`-\tfrac12 \log(1 - \tanh^2 e)`, right to 1e-6 of the loss in
    float32; the difference of logarithms that Optax takes has no right digits below :math:`e = 10^{-4}`.

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
    size = jnp.abs(errors)
    near = -0.5 * jnp.log1p(-jnp.square(jnp.tanh(jnp.clip(errors, -1, 1))))
    far = size + jnp.log1p(jnp.exp(-2 * size)) - math.log(2)
    return jnp.where(size < 1, near, far).astype(dtype)
