"""Second moments in less memory than the parameters: kept for rows and columns, not for every element."""

import functools
from collections.abc import Callable
from typing import Annotated, Any, cast

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Decay, Fraction, NonNegative, Positive
from gradchain.core.rule import leafwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Integer
from gradchain.eager import zeros_like
from gradchain.numerics import abs_sq, bounded, divide, ema, real_dtype, sqrt
from gradchain.schedules.curves import since
from gradchain.transforms.adaptive import SUMMED


def _cover(x: Array, reduce: Callable[..., Array]) -> tuple[Array, ...]:
    """Return, for each axis, ``x`` reduced over all others; ``x`` itself where it has fewer than two axes."""
    if x.ndim < 2:
        return (x,)
    return tuple(reduce(x, axis=(*range(i), *range(i + 1, x.ndim))) for i in range(x.ndim))


def _along(x: Array, axis: int, ndim: int) -> Array:
    """Return a vector as an array of ``ndim`` axes, all of size 1 but ``axis``."""
    return jnp.expand_dims(x, [i for i in range(ndim) if i != axis])


@leafwise(
    slots={
        "nu": Slot(),
        "mu": Slot(lambda p, hyper: _cover(jnp.zeros_like(jnp.real(p)), jnp.sum), real=True, nonnegative=True),
    }
)
def scale_by_sm3(g: Array, slot: Slots, at: At, b1: Decay = 0.9, b2: Fraction = 1.0, eps: NonNegative = 1e-8):
    r"""Divide by the root of a bound on AdaGrad's sum of squares, kept as one vector per axis; then average.

    .. math::
        s_k = (1 - \beta_2)\,|g_k|^2 + \beta_2 \min_i \mu_{k-1}^{(i)}, \quad
        \mu_k^{(i)} = \max_{\text{axes} \ne i} s_k, \quad
        u_k = \nu_k = \beta_1 \nu_{k-1} + (1 - \beta_1) \frac{g_k}{\sqrt{s_k + \epsilon}}

    with weight 1 in place of :math:`1 - \beta_2` for :math:`\beta_2 = 1` (a sum), and 0 for the quotient where
    :math:`s_k = 0`. Vectors and scalars are AdaGrad's. Optax fails on scalars and rejects complex parameters; here both
    work.

    Args:
      b1: :math:`\beta_1` in [0, 1), decay of the momentum.
      b2: :math:`\beta_2` in [0, 1]; the paper uses 1.
      eps: :math:`\epsilon \ge 0`.

    Reference: Anil et al., *Memory-Efficient Adaptive Optimization*, 2019, algorithm SM3-II.
    """
    g = bounded(g, SUMMED)
    vectors = slot.mu if g.ndim < 2 else [_along(v, i, g.ndim) for i, v in enumerate(slot.mu)]
    s = jnp.where(b2 == 1, 1, 1 - b2) * abs_sq(g) + b2 * functools.reduce(jnp.minimum, vectors)
    nu = ema(slot.nu, divide(g, sqrt(s + eps), eps == 0), b1)
    return nu, slot(mu=_cover(s, functools.partial(jnp.max, initial=0)), nu=nu)


def _factored_axes(shape: tuple[int, ...], factored: bool, min_dim_size_to_factor: int) -> tuple[int, int] | None:
    """Return the second longest and the longest axis, or None where the second moment isn't factored."""
    if not factored or len(shape) < 2:
        return None
    *_, second, longest = sorted(range(len(shape)), key=lambda axis: shape[axis])
    return (second, longest) if shape[second] >= max(min_dim_size_to_factor, 1) else None


def _moment_slot(name: str) -> Slot:
    """Return one of the slots ``v_row``, ``v_col`` and ``v``; each array has either the first two or the last."""

    def init(p: Array, hyper: Any) -> Array | None:
        axes = _factored_axes(p.shape, hyper.factored, hyper.min_dim_size_to_factor)
        if (name == "v") != (axes is None):
            return None
        zeros = zeros_like(p, real_dtype(p.dtype))
        return zeros if axes is None else jnp.sum(zeros, axis=axes[name == "v_row"])

    return Slot(init, real=True, nonnegative=True, counted=True)


@leafwise(slots={name: _moment_slot(name) for name in ("v_row", "v_col", "v")}, param=True)
def scale_by_factored_rms(
    g: Array,
    slot: Slots,
    at: At,
    factored: bool = True,
    decay_rate: NonNegative = 0.8,
    step_offset: NonNegative = 0,
    min_dim_size_to_factor: Annotated[int, Integer()] = 128,
    epsilon: Positive = 1e-30,
    decay_rate_fn: Callable[[Any, Any], Any] | None = None,
):
    r"""Divide by the root mean square of gradients, estimated from means over rows and over columns.

    .. math::
        r_k = \beta_k r_{k-1} + (1 - \beta_k)\,\mathrm{mean}_j(|g_{k,ij}|^2 + \epsilon), \quad
        c_k = \beta_k c_{k-1} + (1 - \beta_k)\,\mathrm{mean}_i(|g_{k,ij}|^2 + \epsilon), \quad
        u_{k,ij} = \frac{g_{k,ij}}{\sqrt{r_{k,i}\,c_{k,j} / \mathrm{mean}(r_k)}}

    with :math:`\beta_k = 1 - k^{-\gamma}` (in Optax always in float32). :math:`i` runs over the second longest axis,
    :math:`j` over the longest, and other axes are batches. Arrays without two long axes keep all squares, in ``v``;
    slots that an array doesn't use are ``None``.

    Args:
      factored: False keeps all squares for every array.
      decay_rate: :math:`\gamma \ge 0`.
      step_offset: subtracted from :math:`k` (which stays at 1 or above, where Optax gives NaN), so that the average
        restarts when training resumes at this step.
      min_dim_size_to_factor: factor only arrays whose second longest axis is at least this long.
      epsilon: :math:`\epsilon > 0`.
      decay_rate_fn: a function ``(k - 1 - step_offset, decay_rate) -> decay`` in place of
        :math:`1 - k^{-\gamma}`. Static.

    Reference: Shazeer and Stern, *Adafactor: Adaptive Learning Rates with Sublinear Memory Cost*, 2018, algorithm 4.
    """
    t = jnp.maximum(since(cast(Array, at.count), step_offset) + 1, 1).astype(at.dtype)
    fresh = t**-decay_rate if decay_rate_fn is None else 1 - decay_rate_fn(t - 1, decay_rate)
    g = bounded(g, g.size)
    size = abs_sq(g) + epsilon
    axes = _factored_axes(g.shape, factored, min_dim_size_to_factor)
    if axes is None:
        v = ema(size, slot.v, fresh)
        return g / sqrt(v), slot(v_row=None, v_col=None, v=v)
    second, longest = axes
    row = ema(jnp.mean(size, axis=longest), slot.v_row, fresh)
    col = ema(jnp.mean(size, axis=second), slot.v_col, fresh)
    mean = jnp.mean(row, axis=second - (second > longest), keepdims=True)
    row_factor = jnp.expand_dims(sqrt(mean) / sqrt(row), longest)
    return g * row_factor / jnp.expand_dims(sqrt(col), second), slot(v_row=row, v_col=col, v=None)
