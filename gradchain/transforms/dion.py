"""Orthogonal updates of a few rows or columns at a time, the others wait: Dion2."""

import functools
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from gradchain import numerics
from gradchain.core.hyper import Decay, DType, Fraction, NonNegative
from gradchain.core.rule import leafwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Kind
from gradchain.matrices.factors import gathered
from gradchain.matrices.orthogonal import Coefficients, Steps, orthogonalize
from gradchain.matrices.views import DimensionNumbers, view
from gradchain.numerics import abs_sq, divide, ema, magnitude, sqrt
from gradchain.transforms.orthogonal import with_norm


class ShareKind(Kind):
    """A share of a whole, above 0; static, since shapes depend on it."""

    label = "float"

    def normalize(self, where: str, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{where} must be a number, got {value!r}")
        if not 0 < value <= 1:
            raise ValueError(f"{where} must be in (0, 1], got {value}")
        return float(value)


def _moments(param: Array, hyper: Any) -> list[Array]:
    """Return a number for each output of each block, or none."""
    blocks = view(param.shape, hyper.weight_dimension_numbers).split(param)
    return (
        []
        if hyper.moment_decay is None
        else [jnp.sum(abs_sq(jnp.zeros_like(x)), axis=-2, keepdims=True) for x in blocks]
    )


@leafwise(slots={"mu": Slot(dtype="mu_dtype"), "nu": Slot(init=_moments, real=True, nonnegative=True)})
def scale_by_dion2(
    g: Array,
    slot: Slots,
    at: At,
    fraction: Annotated[float, ShareKind()] = 0.25,
    decay: Fraction = 0.95,
    moment_decay: Decay | None = None,
    ns_coeffs: Coefficients = "polar_express_5",
    ns_steps: Steps = None,
    eps: NonNegative = 1e-8,
    mu_dtype: DType | None = None,
    *,
    weight_dimension_numbers: DimensionNumbers | None = None,
):
    r"""Orthogonalise the largest part of what gradients add up to, and keep the rest for later: Dion2.

    .. math::
        M = \mu_{k-1} + g_k, \qquad u_k[S] = \mathrm{NewtonSchulz}(M[S]), \quad u_k = 0 \text{ elsewhere}, \qquad
        \mu_k[S] = \beta\,M[S], \quad \mu_k = M \text{ elsewhere}

    :math:`S` are the :math:`\lceil f d \rceil` of :math:`d` outputs, or of inputs where these are fewer, whose slices
    of :math:`M` have the largest sums of magnitudes. So the iteration costs a fraction of Muon's. What doesn't move in
    a step adds up until its turn comes. Each block and each matrix along batch axes has slices of its own.

    With ``moment_decay`` outputs are chosen always, and each is divided by a root mean square of its updates so far, as
    in :func:`scale_by_normuon` with ``axis="outputs"``: NorDion2.

    Args:
      fraction: :math:`f` in (0, 1], the share of slices that moves. Static.
      decay: :math:`\beta` in [0, 1], how much of what was moved remains.
      moment_decay: decay of the second moments, ``None`` for none.
      ns_coeffs: coefficients of the iteration; see :func:`gradchain.matrices.orthogonalize`. Static.
      ns_steps: number of its steps. Static.
      eps: added to the norm that matrices are divided by before the iteration, and to root mean squares.
      mu_dtype: dtype of the stored sum; by default the parameter's, and at least float32.
      weight_dimension_numbers: how arrays are seen as matrices; see :func:`scale_by_muon`.

    Reference: Ahn et al., *Dion2: A Simple Method to Shrink Matrix in Muon*, 2025.
    """
    total = numerics.bounded(g, 2**20, power=1) + slot.mu
    seen = view(g.shape, weight_dimension_numbers)
    updates, moved, nu = list[Array](), list[Array](), list[Array]()
    for i, x in enumerate(map(gathered, seen.split(total))):
        rows, columns = x.shape[-2:]
        axis = -1 if moment_decay is not None or columns <= rows else -2
        chosen = _largest(x, axis, fraction)
        part = _take(x, chosen, axis)
        u = orthogonalize(part, ns_coeffs, ns_steps, eps=eps)
        if moment_decay is not None:
            old = _take(gathered(slot.nu[i]), chosen, -1)
            new = ema(old, jnp.sum(abs_sq(u), axis=-2, keepdims=True) / max(1, rows), moment_decay)
            scaled = divide(u, sqrt(new) + eps, eps == 0)
            u = with_norm(scaled, u)
            nu.append(slot.nu[i] + _spread(slot.nu[i].shape, chosen, new - old, -1))
        updates.append(_spread(x.shape, chosen, u, axis))
        moved.append(_spread(x.shape, chosen, (1 - decay) * part, axis))
    return seen.join(updates), slot(mu=total - seen.join(moved), nu=nu)


def _largest(x: Array, axis: int, fraction: float) -> Array:
    """Return the numbers (..., k) of the slices along an axis with the largest sums of magnitudes."""
    sums = jnp.sum(magnitude(x), axis=-1 if axis == -2 else -2)
    number = min(x.shape[axis], max(1, math.ceil(fraction * x.shape[axis])))
    return jnp.argsort(-sums, axis=-1, stable=True)[..., :number]


def _take(x: Array, chosen: Array, axis: int) -> Array:
    """Return the slices along the last axis or the one before it that have these numbers, for each matrix."""
    function = functools.partial(jnp.take, axis=axis, mode="clip", unique_indices=True)
    for _ in x.shape[:-2]:
        function = jax.vmap(function)
    return function(x, chosen)


def _spread(shape: tuple[int, ...], chosen: Array, part: Array, axis: int) -> Array:
    """Return matrices of a shape that have these slices, and zeros elsewhere."""

    def function(chosen: Array, part: Array) -> Array:
        zeros = jnp.zeros(shape[-2:], part.dtype)
        at = zeros.at[:, chosen] if axis == -1 else zeros.at[chosen]
        return at.set(part, mode="promise_in_bounds", unique_indices=True)

    for _ in shape[:-2]:
        function = jax.vmap(function)
    return function(chosen, part)
