"""Scalar and array numerics that rules are written with: averages, debiasing, safe roots, dtype rules.

Everything here works on one array, for real and complex dtypes, and is finite in value and derivative at zero.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from gradchain.eager import custom_jvp, fused, is_traced
from gradchain.signatures import public

FEW = 2**14
"""Up to how many float32 numbers a CPU adds up the squares of in float64, which takes four times as long for many."""


@public
def compute_dtype(*dtypes: DTypeLike) -> np.dtype[Any]:
    """Return the dtype that a rule computes in: the promotion of ``dtypes``, and at least float32.

    All floating-point dtypes below 32 bits become ``float32``; ``float64`` and complex dtypes stay what they are.
    """
    return _compute_dtype(*dtypes)


@functools.lru_cache(maxsize=256)  # it is asked for every array, where nothing is compiled in every step
def _compute_dtype(*dtypes: DTypeLike) -> np.dtype[Any]:
    named = [jnp.dtype(d) for d in dtypes]
    wide = [d for d in named if not (jnp.issubdtype(d, jnp.floating) and d.itemsize < 4)]
    with jax.numpy_dtype_promotion("standard"):  # "strict" refuses to tell
        return np.dtype(functools.reduce(jnp.promote_types, wide, jnp.dtype(jnp.float32)))


@public
def real_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype of the real part: ``complex64`` gives ``float32``, a real dtype itself."""
    return _real_dtype(dtype)


@functools.lru_cache(maxsize=64)
def _real_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    return np.dtype(jnp.finfo(dtype).dtype)


@public
def abs_sq(x: ArrayLike) -> Array:
    r"""Return :math:`|x|^2` elementwise, real for complex ``x``.

    For complex input it is :math:`\Re(x)^2 + \Im(x)^2`: no square root is taken, so its derivative exists at 0.
    """
    x = x if isinstance(x, Array) else jnp.asarray(x)
    if jnp.iscomplexobj(x):
        return jnp.square(x.real) + jnp.square(x.imag)
    return jnp.square(x)


@public
def bounded(x: Array, terms: int = 1, power: int = 2) -> Array:
    r"""Return ``x``, clipped to a bound below which squares stay finite.

    .. math:: |x| \le b = (2^{124} / n)^{1 / p} \;\text{ in float32}, \qquad (2^{1020} / n)^{1 / p} \;\text{ in float64}

    So that one huge gradient doesn't make a second moment infinite, and its weight stand still for ever: up to
    8 :math:`n` of the powers can be added. Infinities are clipped, too, and NaNs stay; guards around a rule see both
    before it does. A complex number's parts are clipped each by themselves.

    Args:
      x: an array, of float32 or wider.
      terms: :math:`n`, how many powers are added up; :math:`b` is rounded down to a power of 2.
      power: :math:`p`, 2 for squares.
    """

    def part(x: Array) -> Array:
        bound = _bound(x.dtype, terms, power)
        return jnp.clip(x, -bound, bound)

    return by_parts(part, x)


@public
def bounded_square(norm: Array, square: Array, terms: int = 1) -> tuple[Array, Array]:
    r"""Return (factor, square): what shrinks a vector to a norm whose square is finite, and that square.

    As :func:`bounded`, but the direction stays what it is. The factor is 1 up to :math:`(2^{124} / n)^{1/2}`.

    Args:
      norm: the vector's norm.
      square: its square, as far as that is finite.
      terms: :math:`n`, how many such squares are added up.
    """
    bound = _bound(norm.dtype, terms, 2)
    return shrink_factor(norm, bound), jnp.where(norm > bound, bound * bound, square)


@functools.lru_cache(maxsize=256)
def _bound(dtype: DTypeLike, terms: int, power: int) -> float:
    return 2.0 ** ((_exponent(dtype) - 4 - math.ceil(math.log2(max(terms, 1)))) // power)


def _exponent(dtype: DTypeLike) -> int:
    """Return the binary exponent of a dtype's largest number: 128 for float32."""
    return int(jnp.finfo(dtype).maxexp)


@public
def magnitude(x: Array) -> Array:
    r"""Return :math:`|x|` elementwise, real for complex ``x``, with derivative 0 at 0."""
    if not jnp.iscomplexobj(x):
        return jnp.abs(x)
    zero = x == 0
    return jnp.where(zero, 0, jnp.abs(jnp.where(zero, 1, x)))


@custom_jvp
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


@custom_jvp
def cbrt(x: Array) -> Array:
    r"""Return :math:`\sqrt[3]x` for real ``x``, with derivative 0 (not infinity) where ``x`` is 0."""
    return jnp.cbrt(x)


@cbrt.defjvp
def _cbrt_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    root, zero = cbrt(x), x == 0
    return root, jnp.where(zero, 0, 1 / (3 * jnp.where(zero, 1, root) ** 2)).astype(dx.dtype) * dx


@public
def ema(average: Array, value: Array, decay: Any) -> Array:
    r"""Return the exponential moving average :math:`\beta m + (1 - \beta) x`.

    Args:
      average: the previous average :math:`m`.
      value: the new value :math:`x`, of the same shape.
      decay: :math:`\beta` in [0, 1]; a Python number's complement is taken in double precision.
    """
    return _weighted(average, value, decay, 1 - decay)


@fused
def _weighted(x: Array, y: Array, share: Any, rest: Any) -> Array:
    return share * x + rest * y


@public
@fused
def plus_multiple(x: Array, factor: Any, y: Array) -> Array:
    r"""Return :math:`x + a y`, where nothing is compiled as one operation and not two.

    Args:
      x: an array.
      factor: :math:`a`, a number or an array.
      y: an array.
    """
    return x + factor * y


@public
@fused
def root_plus(x: Array, eps_root: Any, eps: Any) -> Array:
    r"""Return :math:`\sqrt{x + \bar\epsilon} + \epsilon`, the denominator of Adam's step, as one operation.

    Args:
      x: a second moment, real and at least 0; at 0 the root's derivative is 0.
      eps_root: :math:`\bar\epsilon \ge 0`.
      eps: :math:`\epsilon \ge 0`.
    """
    return sqrt(x + eps_root) + eps


@public
def decaying_max(maximum: Array, value: Array, decay: Any, eps: Any) -> Array:
    r"""Return the decaying maximum of magnitudes :math:`\max(\beta m, |x| + \epsilon)`.

    Args:
      maximum: the previous maximum :math:`m`.
      value: the new value :math:`x`, of the same shape.
      decay: :math:`\beta` in [0, 1].
      eps: :math:`\epsilon \ge 0`.
    """
    return jnp.maximum(decay * maximum, magnitude(value) + eps)


@public
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


@public
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
    t, array = jnp.asarray(t, previous.dtype), jnp.asarray(decay, previous.dtype)
    return _sum_of_weights(decay if isinstance(decay, int | float) else None, previous, array, t)


@functools.partial(custom_jvp, nondiff_argnums=(0,))
def _sum_of_weights(constant: float | None, previous: Array, decay: Array, t: Array) -> Array:
    """Return the sum for a decay that is a Python number (``constant``, too) or an array."""
    b = decay if constant is None else constant
    constant_sum, total = one_minus_power(b, t), ema(previous, jnp.ones_like(previous), b)
    unchanged = jnp.abs(total - constant_sum) <= 8 * jnp.finfo(previous.dtype).eps * constant_sum  # but for rounding
    return jnp.where(unchanged, constant_sum, total)


@_sum_of_weights.defjvp
def _sum_of_weights_jvp(constant: float | None, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (previous, decay, t), (dprevious, ddecay, _) = primals, tangents
    return _sum_of_weights(constant, previous, decay, t), decay * dprevious + (previous - 1) * ddecay


@public
def debias_nesterov(average: Array, value: Array, decay: Any, weight: Array, weight_ahead: Array) -> Array:
    r"""Return Nesterov's look ahead from a moving average, corrected for its start at zero: NAdam's numerator.

    .. math:: \beta\,\frac{m_t}{W_{t+1}} + (1 - \beta)\,\frac{x_t}{W_t}, \qquad
        W_t = 1 - \beta^t \text{ for a constant decay}

    Args:
      average: :math:`m_t` after ``t`` updates.
      value: :math:`x_t`, the last value that went into it.
      decay: :math:`\beta` in [0, 1).
      weight: :math:`W_t`, the sum of the weights in the average (see :func:`sum_of_weights`).
      weight_ahead: :math:`W_{t+1}`, that after one more update.

    Reference: Dozat, *Incorporating Nesterov Momentum into Adam*, 2016, algorithm 2.
    """
    return ema(average / weight_ahead, value / weight, decay)


@public
def quotient(x: ArrayLike, y: Array) -> Array:
    """Return ``x / y`` with a derivative that doesn't square ``y``, which overflows above 1e19 in float32.

    Args:
      x: the numerator, real or complex.
      y: the denominator, not 0: a norm, say, or a count.
    """
    dtype = jnp.result_type(x, y)
    counts = not jnp.issubdtype(jnp.result_type(y), jnp.inexact)  # whose tangents have no arithmetic
    return _quotient(jnp.asarray(x, dtype), jnp.asarray(y, dtype) if counts else y)


@custom_jvp
def _quotient(x: Array, y: Array) -> Array:
    return x / y


@_quotient.defjvp
def _quotient_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, y), (dx, dy) = primals, tangents
    ratio = _quotient(x, y)
    return ratio, _quotient(dx - ratio * dy, y)


@public
def shrink_factor(norm: Array, bound: Any) -> Array:
    r"""Return :math:`\min(1, c / n)`, what brings a norm :math:`n` down to a bound :math:`c`; 1 for :math:`n = 0`."""
    fits = norm <= bound
    return jnp.where(fits, 1, quotient(bound, jnp.where(fits, 1, norm)))


@public
def clamp(x: Array, bound: Any) -> Array:
    """Return ``x`` clipped to ``[-bound, bound]``; a complex number's parts each by themselves."""
    return by_parts(lambda part: jnp.clip(part, -bound, bound), x)


@custom_jvp
def into_range(x: Array, low: Any, high: Any) -> Array:
    """Return ``x``, which lies in a range but for rounding, clipped to it; the derivative stays that of ``x``."""
    return jnp.clip(x, low, high)


@into_range.defjvp
def _into_range_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    return into_range(*primals), tangents[0]


@public
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
    return jnp.where(zero, 0, quotient(x, jnp.where(zero, 1, y)))


@public
@jax.jit
def safe_increment(count: ArrayLike) -> Array:
    """Return ``count + 1``, staying at the dtype's largest value instead of wrapping around."""
    count = jnp.asarray(count)
    if jnp.issubdtype(count.dtype, jnp.integer):
        top: Any = jnp.iinfo(count.dtype).max
    else:
        top = jnp.finfo(count.dtype).max
    return jnp.where(count < top, count + jnp.ones((), count.dtype), count)


@public
def safe_norm(
    x: ArrayLike,
    min_norm: ArrayLike = 0.0,
    ord: int | float | str | None = None,
    axis: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
) -> Array:
    r"""Return :math:`\max(\|x\|, m)` with a finite derivative (0) where :math:`\|x\|` is smaller.

    It is computed in at least float32, where Optax's norm of float16 numbers above 256 is infinite. Norms are right
    between 1e-30 and 1e34 in float32, though squares of such numbers vanish or overflow.

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
        return jnp.maximum(_root_of_squares(x, axis, keepdims, 1), min_norm)

    def norm(y: Array, keepdims: bool) -> Array:
        size = lax.stop_gradient(jnp.max(magnitude(y), axis=axis, keepdims=True, initial=0))
        ordinary = (size == 0) | ((size > 2.0**-20) & (size < 2.0**20)) | ~jnp.isfinite(size) | (ord == 0)
        size = jnp.where(ordinary, 1, size)
        result = jnp.linalg.norm(y / size, ord=ord, axis=axis, keepdims=keepdims)
        return result * size.reshape(result.shape)

    beyond = norm(x, True) > min_norm
    inner = norm(jnp.where(beyond, x, 1), keepdims)
    return jnp.where(beyond.reshape(inner.shape), inner, min_norm)


@public
def safe_root_mean_squares(x: ArrayLike, min_rms: ArrayLike = 0.0) -> Array:
    r"""Return :math:`\max(\sqrt{\tfrac1n \sum_i |x_i|^2}, m)` with a finite derivative (0) at ``x = 0``.

    It is computed in at least float32, where Optax's mean of float16 numbers above 256 is infinite, and is right from
    1e-30 to 1e34 there.

    Args:
      x: an array, real or complex; without elements its root mean square is 0.
      min_rms: :math:`m \ge 0`, the smallest value returned.
    """
    x = jnp.asarray(x)
    x = x.astype(compute_dtype(x.dtype))
    return jnp.maximum(_root_of_squares(x, None, False, max(x.size, 1)), min_rms)


@functools.partial(custom_jvp, nondiff_argnums=(1, 2, 3))
def _root_of_squares(x: Array, axis: Any, keepdims: bool, count: int) -> Array:
    """Return the root of the sum of squares over some axes, divided by ``count``."""

    def sums(x: Array, unit: Array | float) -> Array:
        return _sum_of_squares(x, unit, axis, keepdims)

    return root_in_range(sums, x, real_dtype(x.dtype), x.size, x.dtype, count)


@functools.partial(fused, static_argnums=(2, 3))
def _sum_of_squares(x: Array, unit: Array | float, axis: Any, keepdims: bool) -> Array:
    """Return the sum over some axes of the squares of ``x / unit``."""
    scale = 1 / unit
    y = x * jnp.expand_dims(scale, _axes(axis, x.ndim)) if jnp.ndim(scale) and not keepdims else x * scale
    return jnp.sum(abs_sq(y), axis=axis, keepdims=keepdims)


def _axes(axis: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    axes = range(ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    return tuple(i % ndim for i in axes)


@_root_of_squares.defjvp
def _root_of_squares_jvp(
    axis: Any, keepdims: bool, count: int, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    """Divide by the root before multiplying, so that nothing overflows; the derivative at 0 is 0."""
    (x,), (dx,) = primals, tangents
    root = _root_of_squares(x, axis, True, count)
    slope = jnp.conj(quotient(x, jnp.where(root == 0, 1, root))) * (dx / count)
    return root if keepdims else jnp.squeeze(root, axis), jnp.sum(jnp.real(slope), axis=axis, keepdims=keepdims)


@public
def root_in_range(
    sums: Callable[[Any, Array | float], Array],
    elements: Any,
    result_dtype: DTypeLike,
    size: int,
    dtype: DTypeLike,
    count: int = 1,
) -> Array:
    r"""Return :math:`\sqrt{s / n}` for a sum of squares, or an array of them, that may overflow or nearly vanish.

    Such a sum is taken once more, of the elements divided by a power of two. On a CPU that is a loop, of no turn where
    all sums are in range: ``vmap`` leaves it a loop where it would make a condition compute both its sides. But a loop
    takes XLA as long to compile as a dozen kernels, so the squares of few float32 numbers are added up in float64,
    which has the range. Elsewhere the host, and each of several devices, would wait for each loop, so that the sums for
    large, small and ordinary elements are computed together, in one pass over them.

    Args:
      sums: returns the sum of squares of the elements, divided by a given number, or the sums by an array of them, in
        the elements' own dtype, as far as that is float32 or wider.
      elements: a tree of arrays.
      result_dtype: the dtype of what it returns.
      size: how many squares are added up.
      dtype: the dtype they are computed in.
      count: :math:`n`.
    """
    squares = _Squares(sums, elements, size, dtype)
    if not is_traced(elements) and (looked_at := squares.looked_at()) is not None:
        total, unit = looked_at
    elif jax.default_backend() != "cpu" or jax.device_count() > 1:
        total, unit = squares.together()
    elif size <= FEW and result_dtype == jnp.float32:
        return squares.root_in_double(count, result_dtype)
    else:
        total, unit = squares.again_if_needed()
    root = jnp.sqrt(total if count == 1 else total / count)
    return root if unit is None else root * unit


class _Squares(NamedTuple):
    """A sum of squares, or an array of them, that may overflow or nearly vanish; see ``root_in_range``.

    The sum in another unit is that of the elements divided by the unit.
    """

    sums: Callable[[Any, Array | float], Array]
    elements: Any
    size: int
    dtype: DTypeLike

    @property
    def least(self) -> float:
        """The smallest sum that is exact to the dtype's rounding."""
        info = jnp.finfo(self.dtype)
        return max(self.size, 1) * float(info.tiny) / float(info.eps)

    @property
    def most(self) -> float:
        """The largest sum that is finite."""
        return float(jnp.finfo(self.dtype).max)

    @property
    def power(self) -> float:
        """A unit in which no finite element's square overflows."""
        return 2.0 ** (_exponent(self.dtype) // 2 - 2)

    @property
    def opaque(self) -> Any:
        """The elements, hidden from XLA, which squares a unit by itself where it knows them: that overflows."""
        return lax.optimization_barrier(self.elements)

    def units(self, total: Array) -> Array:
        """Return the unit for each sum; one that really is 0 is below the least, too, and stays 0."""
        power = self.power
        unit = jnp.where(total < self.least, 1 / power, jnp.where(total > self.most, power, 1))
        return unit.astype(total.dtype)

    def again_if_needed(self) -> tuple[Array, Array]:
        """Return (sum, unit), the sum taken once more by a loop, which has no turn where all sums are in range."""
        opaque = self.opaque
        total = self.sums(opaque, 1.0)
        unit = self.units(total)

        def again(_: Any) -> tuple[Array, Array]:
            return jnp.zeros((), bool), self.sums(opaque, unit)

        return lax.while_loop(lambda state: state[0], again, (jnp.any(unit != 1), total))[1], unit

    def together(self) -> tuple[Array, Array]:
        """Return (sum, unit), of sums in three units that are all taken in one pass."""
        opaque, power, total = self.opaque, self.power, self.sums(self.elements, 1.0)
        large, small, unit = self.sums(opaque, power), self.sums(opaque, 1 / power), self.units(total)
        return jnp.where(unit > 1, large, jnp.where(unit < 1, small, total)), unit

    def looked_at(self) -> tuple[Array, Array | None] | None:
        """Return (sum, unit), where the host can look at the sum; no unit stands for 1."""
        total = self.sums(self.elements, 1.0)
        if isinstance(total, Tracer):  # of constants in a program
            return None
        sums_are = total if total.ndim else np.asarray(total)  # an array may be spread over several hosts
        if ((sums_are >= self.least) & (sums_are <= self.most)).all():
            return total, None
        unit = self.units(total)
        return self.sums(self.elements, unit), unit

    def root_in_double(self, count: int, dtype: DTypeLike) -> Array:
        """Return the root of the sum, divided by ``count``, of squares in float64, in another dtype."""
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda x: x.astype(complex if jnp.iscomplexobj(x) else float), self.elements)
            return jnp.sqrt(self.sums(wide, 1.0) / count).astype(dtype)


@public
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


@public
def by_parts(function: Callable[..., Any], *arrays: Array) -> Any:
    """Apply a function of real arrays; to complex ones' real and imaginary parts, each by themselves.

    Args:
      function: takes as many arrays as are given, and returns an array or a tree of them.
      *arrays: all real or all complex.
    """
    if not jnp.iscomplexobj(arrays[0]):
        return function(*arrays)
    return jax.tree.map(lax.complex, function(*(x.real for x in arrays)), function(*(x.imag for x in arrays)))
