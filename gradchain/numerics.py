"""Scalar and array numerics that rules are written with: averages, debiasing, safe roots, dtype rules.

Everything here works on one array, for real and complex dtypes, and is finite in value and derivative at zero.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike


def compute_dtype(*dtypes: DTypeLike) -> np.dtype[Any]:
    """Return the dtype that a rule computes in: the promotion of ``dtypes``, and at least float32.

    All floating-point dtypes below 32 bits become ``float32``; ``float64`` and complex dtypes stay what they are.
    """
    named = [jnp.dtype(d) for d in dtypes]
    wide = [d for d in named if not (jnp.issubdtype(d, jnp.floating) and d.itemsize < 4)]
    return np.dtype(functools.reduce(jnp.promote_types, wide, jnp.dtype(jnp.float32)))


def real_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype of the real part: ``complex64`` gives ``float32``, a real dtype itself."""
    return np.dtype(jnp.finfo(dtype).dtype)


def abs_sq(x: ArrayLike) -> Array:
    r"""Return :math:`|x|^2` elementwise, real for complex ``x``.

    For complex input it is :math:`\Re(x)^2 + \Im(x)^2`: no square root is taken, so its derivative exists at 0.
    """
    x = jnp.asarray(x)
    if jnp.iscomplexobj(x):
        return jnp.square(x.real) + jnp.square(x.imag)
    return jnp.square(x)


def magnitude(x: Array) -> Array:
    r"""Return :math:`|x|` elementwise, real for complex ``x``, with derivative 0 at 0."""
    if not jnp.iscomplexobj(x):
        return jnp.abs(x)
    zero = x == 0
    return jnp.where(zero, 0, jnp.abs(jnp.where(zero, 1, x)))


@jax.custom_jvp
def sqrt(x: ArrayLike) -> Array:
    r"""Return :math:`\sqrt x` for real ``x``, with derivative 0 (not infinity) where ``x`` is 0.

    ``jnp.sqrt`` has an infinite derivative at zero, which turns into NaN as soon as it meets the zero derivative of
    a squared zero gradient. The value is ``jnp.sqrt``'s, bit for bit.
    """
    return jnp.sqrt(x)


@sqrt.defjvp
def _sqrt_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    positive = x > 0
    slope = jnp.where(positive, 0.5 / jnp.sqrt(jnp.where(positive, x, 1)), 0)
    return sqrt(x), slope.astype(dx.dtype) * dx


@jax.custom_jvp
def cbrt(x: Array) -> Array:
    r"""Return :math:`\sqrt[3]x` for real ``x``, with derivative 0 (not infinity) where ``x`` is 0."""
    return jnp.cbrt(x)


@cbrt.defjvp
def _cbrt_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    root, zero = cbrt(x), x == 0
    return root, jnp.where(zero, 0, 1 / (3 * jnp.where(zero, 1, root) ** 2)).astype(dx.dtype) * dx


def ema(average: Array, value: Array, decay: Any) -> Array:
    r"""Return the exponential moving average :math:`\beta m + (1 - \beta) x`.

    Args:
      average: the previous average :math:`m`.
      value: the new value :math:`x`, of the same shape.
      decay: :math:`\beta` in [0, 1]; a Python number's complement is taken in double precision.
    """
    return decay * average + (1 - decay) * value


def decaying_max(maximum: Array, value: Array, decay: Any, eps: Any) -> Array:
    r"""Return the decaying maximum of magnitudes :math:`\max(\beta m, |x| + \epsilon)`.

    Args:
      maximum: the previous maximum :math:`m`.
      value: the new value :math:`x`, of the same shape.
      decay: :math:`\beta` in [0, 1].
      eps: :math:`\epsilon \ge 0`.
    """
    return jnp.maximum(decay * maximum, magnitude(value) + eps)


def one_minus_power(base: Any, exponent: Any) -> Array:
    r"""Return :math:`1 - b^t` to full relative precision, for :math:`b` in [0, 1) and :math:`t \ge 1`.

    Evaluated as :math:`-\mathrm{expm1}(t \log b)`: the direct form loses 7e-6 relative in float32 at
    :math:`b = 0.999, t = 1`; this one stays within 4e-7 (2e-7 at :math:`t = 1`). Below
    :math:`b = 1/2` an array takes the direct form, which is exact enough there and has the right derivative at 0.

    Args:
      base: :math:`b`, a Python number (its logarithm is taken in double precision) or an array.
      exponent: :math:`t`, an array; it gives the dtype.
    """
    t = jnp.asarray(exponent)
    if isinstance(base, int | float):
        return jnp.ones_like(t) if base == 0 else -jnp.expm1(t * math.log(base))
    b = jnp.asarray(base)
    small = b < 0.5
    log_b = jnp.log1p(jnp.where(small, 0.5, b) - 1)
    return jnp.where(small, 1 - jnp.where(small, b, 0) ** t, -jnp.expm1(t * log_b))


def sum_of_weights(previous: Any, decay: Any, t: Any) -> Array:
    r"""Return the sum of the weights in a moving average after ``t`` updates, what corrects it for its start at zero.

    .. math:: W_t = \beta_t W_{t-1} + (1 - \beta_t) = 1 - \prod_{i \le t} \beta_i, \qquad W_0 = 0

    As long as the decay hasn't changed, that is :math:`1 - \beta^t`, and is evaluated so (see
    :func:`one_minus_power`): no rounding errors add up. The derivative is the recursion's in any case.

    Args:
      previous: :math:`W_{t-1}`, from the last call or 0; it gives the dtype.
      decay: :math:`\beta_t` in [0, 1), the decay that the ``t``-th update used: a number or an array.
      t: the number of updates, at least 1.
    """
    previous = jnp.asarray(previous)
    t = jnp.asarray(t, previous.dtype)
    before = jnp.where(t > 1, one_minus_power(decay, jnp.maximum(t - 1, 1)), 0)
    recursive = ema(previous, jnp.ones_like(previous), decay)
    value = jnp.where(previous == before, one_minus_power(decay, t), recursive)
    return lax.stop_gradient(value) + (recursive - lax.stop_gradient(recursive))


def debias(average: Array, decay: Any, t: Any) -> Array:
    r"""Return :math:`m_t / (1 - \beta^t)`, the moving average corrected for its start at zero.

    Args:
      average: :math:`m_t` after ``t`` updates.
      decay: :math:`\beta` in [0, 1).
      t: the number of updates, at least 1.

    Reference: Kingma and Ba, *Adam: A Method for Stochastic Optimization*, 2015, section 3.
    """
    return average / one_minus_power(decay, t)


def debias_nesterov(average: Array, value: Array, decay: Any, t: Any) -> Array:
    r"""Return Nesterov's look ahead from a moving average, corrected for its start at zero: NAdam's numerator.

    .. math:: \beta\,\frac{m_t}{1 - \beta^{t+1}} + (1 - \beta)\,\frac{x_t}{1 - \beta^t}

    Args:
      average: :math:`m_t` after ``t`` updates.
      value: :math:`x_t`, the last value that went into it.
      decay: :math:`\beta` in [0, 1).
      t: the number of updates, at least 1.

    Reference: Dozat, *Incorporating Nesterov Momentum into Adam*, 2016, algorithm 2.
    """
    return ema(debias(average, decay, t + 1), debias(value, decay, t), decay)


def shrink_factor(norm: Array, bound: Any) -> Array:
    r"""Return :math:`\min(1, c / n)`, what brings a norm :math:`n` down to a bound :math:`c`; 1 for :math:`n = 0`."""
    fits = norm <= bound
    return jnp.where(fits, 1, bound / jnp.where(fits, 1, norm))


def clamp(x: Array, bound: Any) -> Array:
    """Return ``x`` clipped to ``[-bound, bound]``; a complex number's parts each by themselves."""
    return by_parts(lambda part: jnp.clip(part, -bound, bound), x)


def divide(x: Array, y: Array, vanishes: Any = True) -> Array:
    """Return ``x / y``, and 0 where ``y`` is 0, finite in value and derivative there.

    Args:
      x: the numerator.
      y: the denominator: a root, say, that is 0 only where all gradients so far were.
      vanishes: whether ``y`` can be 0 at all. Where that is False, here or at compile time, it is a plain division.
    """
    if vanishes is False:
        return x / y
    zero = (y == 0) & vanishes
    return jnp.where(zero, 0, x / jnp.where(zero, 1, y))


@jax.jit
def safe_increment(count: ArrayLike) -> Array:
    """Return ``count + 1``, staying at the dtype's largest value instead of wrapping around."""
    count = jnp.asarray(count)
    if jnp.issubdtype(count.dtype, jnp.integer):
        top: Any = jnp.iinfo(count.dtype).max
    else:
        top = jnp.finfo(count.dtype).max
    return jnp.where(count < top, count + jnp.ones((), count.dtype), count)


def safe_norm(
    x: ArrayLike,
    min_norm: ArrayLike = 0.0,
    ord: int | float | str | None = None,
    axis: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
) -> Array:
    r"""Return :math:`\max(\|x\|, m)` with a finite derivative (0) where :math:`\|x\|` is smaller.

    It is computed in at least float32, where Optax's norm of float16 numbers above 256 is infinite.

    Args:
      x: an array, real or complex.
      min_norm: :math:`m \ge 0`, the smallest value returned.
      ord: which norm, as in ``jnp.linalg.norm``; by default the Euclidean one, of matrices too.
      axis: the axes to sum over; all of them by default.
      keepdims: keep the summed axes with size 1.
    """
    x = jnp.asarray(x)
    x = x.astype(compute_dtype(x.dtype))
    if ord is None:
        return jnp.maximum(sqrt(jnp.sum(abs_sq(x), axis=axis, keepdims=keepdims)), min_norm)

    def norm(y: Array, keepdims: bool) -> Array:
        return jnp.linalg.norm(y, ord=ord, axis=axis, keepdims=keepdims)

    beyond = norm(x, True) > min_norm
    inner = norm(jnp.where(beyond, x, 1), keepdims)
    return jnp.where(beyond.reshape(inner.shape), inner, min_norm)


def safe_root_mean_squares(x: ArrayLike, min_rms: ArrayLike = 0.0) -> Array:
    r"""Return :math:`\max(\sqrt{\tfrac1n \sum_i |x_i|^2}, m)` with a finite derivative (0) at ``x = 0``.

    It is computed in at least float32, where Optax's mean of float16 numbers above 256 is infinite.

    Args:
      x: an array, real or complex; without elements its root mean square is 0.
      min_rms: :math:`m \ge 0`, the smallest value returned.
    """
    x = jnp.asarray(x)
    x = x.astype(compute_dtype(x.dtype))
    return jnp.maximum(sqrt(jnp.sum(abs_sq(x)) / max(x.size, 1)), min_rms)


def unitwise_norm(x: ArrayLike, axis: int | tuple[int, ...] | None = None) -> Array:
    r"""Return the Euclidean norm of each output unit's weights, broadcast to the shape of ``x``.

    Args:
      x: scalars, vectors and arrays that are vectors but for axes of size 1 count as one unit; matrices and stacks of
        them (3 axes) are summed over axis 0, kernels of convolutions (4 or 5 axes) over all axes but the last.
      axis: sum over these axes instead.

    Raises:
      ValueError: for more than 5 axes, unless ``axis`` is given.
    """
    x = jnp.asarray(x)
    if axis is None:
        if sum(size != 1 for size in x.shape) <= 1:
            axis = tuple(range(x.ndim))
        elif x.ndim <= 5:
            axis = 0 if x.ndim <= 3 else tuple(range(x.ndim - 1))
        else:
            raise ValueError(f"unitwise_norm: which axes make up a unit of shape {x.shape}? Say so with axis=")
    return jnp.broadcast_to(safe_norm(x, axis=axis, keepdims=True), x.shape)


def by_parts(function: Callable[..., Any], *arrays: Array) -> Any:
    """Apply a function of real arrays; to complex ones' real and imaginary parts, each by themselves.

    Args:
      function: takes as many arrays as are given, and returns an array or a tree of them.
      *arrays: all real or all complex.
    """
    if not jnp.iscomplexobj(arrays[0]):
        return function(*arrays)
    return jax.tree.map(lax.complex, function(*(x.real for x in arrays)), function(*(x.imag for x in arrays)))
