"""Bounds on updates and parameters, and the removal of NaNs."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from gradchain.core.evaluation import constraint
from gradchain.core.hyper import NonNegative, Positive
from gradchain.core.rule import elementwise, leafwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Kind
from gradchain.numerics import by_parts, clamp, divide, quotient, safe_root_mean_squares, shrink_factor, unitwise_norm
from gradchain.tree import global_norm


@elementwise()
def clip(g: Array, slot: Slots, at: At, max_delta: NonNegative):
    r"""Clip each element to :math:`[-\delta, \delta]`; real and imaginary parts are clipped separately.

    Args:
      max_delta: :math:`\delta \ge 0`.
    """
    return clamp(g, max_delta)


@elementwise(whole=global_norm)
def clip_by_global_norm(g: Array, slot: Slots, at: At, max_norm: NonNegative):
    r"""Scale all updates down together if their global norm exceeds a bound: :math:`u = g \min(1, c / \|g\|_2)`.

    The norm is taken over all arrays, in at least float32. Clipping is a multiplication by one scalar, which XLA fuses
    with the operations that follow. A NaN anywhere makes all updates NaN. If the norm is infinite (an infinite
    gradient, or a norm above 3.4e38 in float32), finite updates become 0 and infinite ones NaN, as in Optax.

    Args:
      max_norm: :math:`c \ge 0`; with 0 all updates become 0.

    Reference: Pascanu et al., *On the difficulty of training Recurrent Neural Networks*, 2013, algorithm 1.
    """
    return g * shrink_factor(at.whole, max_norm).astype(at.dtype)


@elementwise(whole=global_norm)
def normalize_by_update_norm(g: Array, slot: Slots, at: At, scale_factor: NonNegative = 1.0, eps: NonNegative = 1e-6):
    r"""Scale all updates together to a given global norm: :math:`u = c\,g / (\|g\|_2 + \epsilon)`.

    The norm is taken over all arrays, in at least float32.

    Args:
      scale_factor: :math:`c \ge 0`.
      eps: :math:`\epsilon \ge 0`; with 0, zero updates stay zero.

    Reference: Hazan et al., *Beyond Convexity: Stochastic Quasi-Convex Optimization*, 2015, algorithm 1.
    """
    return g * divide(scale_factor, at.whole + eps).astype(at.dtype)


@leafwise()
def clip_by_block_rms(g: Array, slot: Slots, at: At, threshold: Positive):
    r"""Bound each array's root mean square: :math:`u = g / \max(1, \mathrm{rms}(g) / d)`.

    Args:
      threshold: :math:`d > 0`.

    Reference: Shazeer and Stern, *Adafactor: Adaptive Learning Rates with Sublinear Memory Cost*, 2018, section 6.
    """
    return quotient(g, jnp.maximum(1, safe_root_mean_squares(g) / threshold))


class UnitAxes(Kind):
    """Axes of an array, as :func:`~gradchain.numerics.unitwise_norm` takes them, or one of some words; static."""

    def __init__(self, *words: str):
        self.words = words
        self.label = " | ".join(["int", "tuple[int, ...]", *map(repr, words), "None"])

    def normalize(self, where: str, value: Any) -> Any:
        axes = value if isinstance(value, list | tuple) else (value,)
        free = value is None or (isinstance(value, str) and value in self.words)
        if not (free or all(type(axis) is int for axis in axes)):  # pyright: ignore[reportUnknownVariableType]
            words = "".join(f", {word!r}" for word in self.words)
            raise TypeError(f"{where} must be an axis, a tuple of axes{words} or None, got {value!r}")
        return tuple(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType]

    def check(self, where: str, shape: tuple[int, ...], value: Any) -> None:
        if self.words and value is None:
            return
        axes = None if value in self.words else value
        try:
            jax.eval_shape(lambda x: unitwise_norm(x, axes), jax.ShapeDtypeStruct(shape, jnp.float32))
        except ValueError as error:
            raise ValueError(f"{where} has shape {shape}, which axis={value!r} doesn't fit: {error}") from None


@leafwise(param=True)
def adaptive_grad_clip(
    g: Array,
    slot: Slots,
    at: At,
    clipping: NonNegative,
    eps: NonNegative = 1e-3,
    axis: Annotated[int | tuple[int, ...] | None, UnitAxes()] = None,
):
    r"""Scale the gradient of each output unit down if its norm exceeds a fraction of the norm of the unit's weights.

    .. math:: u_i = g_i \min\left(1, \frac{\lambda \max(\|w_i\|_2, \epsilon)}{\|g_i\|_2}\right)

    This is exact; Optax divides by :math:`\max(\|g_i\|_2, 10^{-6})`.

    Args:
      clipping: :math:`\lambda \ge 0`; the paper uses 0.01 to 0.16.
      eps: :math:`\epsilon \ge 0`, so that weights that start at zero can change.
      axis: the axes that a unit's weights extend along; by default as in
        :func:`~gradchain.numerics.unitwise_norm`.

    Raises:
      ValueError: from ``init``, if an array lacks one of these axes.

    Reference: Brock et al., *High-Performance Large-Scale Image Recognition Without Normalization*, 2021, equation 3.
    """
    bound = clipping * jnp.maximum(unitwise_norm(at.param, axis), eps)
    return g * shrink_factor(unitwise_norm(g, axis), bound)


@constraint("bounds")
@elementwise(param=True)
def keep_params_nonnegative(g: Array, slot: Slots, at: At):
    r"""Keep every parameter at or above 0: :math:`u = \max(g, -w)`. Put it last in a chain.

    NaNs stay NaN. Real and imaginary parts are each kept nonnegative.
    """
    return by_parts(lambda g, w: jnp.where(w + g < 0, -w, g), g, at.param)


@leafwise(slots={"found_nan": Slot(init=lambda p, hyper: jnp.any(jnp.isnan(p) & False))})
def zero_nans(g: Array, slot: Slots, at: At):
    """Replace NaNs by 0; ``found_nan`` in the state says, for each array, whether the last update had any.

    Infinities stay. Placed before an optimizer, it keeps a single bad value from spreading, but hides the cause.
    """
    bad = jnp.isnan(g)
    return jnp.where(bad, 0, g), slot(found_nan=jnp.any(bad))
