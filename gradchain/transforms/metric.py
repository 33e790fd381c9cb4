"""Orthogonal updates in a metric of rows and columns, which follows how large their momentum is."""

from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Decay, NonNegative, Number, Real
from gradchain.core.rule import leafwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.matrices.orthogonal import Coefficients, Preconditioning, Steps, orthogonalize
from gradchain.matrices.views import DimensionNumbers, view
from gradchain.numerics import abs_sq, bounded, divide, ema
from gradchain.transforms.orthogonal import with_norm


def _energies(x: Array) -> dict[int, Array]:
    """Return mean squares of the rows of matrices, and of their columns."""
    rows, columns = x.shape[-2:]
    squares = abs_sq(x)
    return {0: jnp.sum(squares, axis=-1) / max(columns, 1), 1: jnp.sum(squares, axis=-2) / max(rows, 1)}


def _no_energies(param: Array, hyper: Any) -> list[dict[int, Array]]:
    return [_energies(jnp.zeros_like(x)) for x in view(param.shape, hyper.weight_dimension_numbers).split(param)]


def _metric(energies: Array, exponent: Any, bound: Any) -> Array:
    """Return powers of numbers relative to the geometric mean of those that aren't 0, within bounds."""
    there = energies > 0
    logs = jnp.log(jnp.where(there, energies, 1))
    mean = divide(jnp.sum(logs, axis=-1, keepdims=True), jnp.sum(there, axis=-1, keepdims=True))
    return jnp.where(there, jnp.clip(jnp.exp(exponent * (logs - mean)), 1 / bound, bound), 1 / bound)


@leafwise(slots={"energies": Slot(init=_no_energies, real=True, nonnegative=True)})
def orthogonalize_in_metric(
    g: Array,
    slot: Slots,
    at: At,
    ns_coeffs: Coefficients = "standard",
    ns_steps: Steps = None,
    decay: Decay = 0.95,
    exponent: NonNegative = 0.25,
    bound: Annotated[Real, Number("Bound", "[1, inf)")] = 2.0,
    *,
    preconditioning: Preconditioning = None,
    eps: NonNegative = 1e-8,
    weight_dimension_numbers: DimensionNumbers | None = None,
):
    r"""Orthogonalise momentum in a metric in which rows and columns that are often large count more: IsoMuon's step.

    .. math::
        r_k = \beta r_{k-1} + (1 - \beta)\,\overline{|x_k|^2}, \qquad
        a_k = \min\!\left(\max\!\left((r_k / \tilde r_k)^\lambda, 1/c\right), c\right), \\
        D_k = A_k^{-1/2}\,\mathrm{NewtonSchulz}\!\left(A_k^{-1/2} x_k B_k^{-1/2}\right) B_k^{-1/2}, \qquad
        u_k = D_k\,\frac{\sqrt{\min(m, n)}}{\|D_k\|}

    with the incoming :math:`x_k`, the means of its rows' squares, their geometric mean :math:`\tilde r_k`, and
    :math:`A_k = \operatorname{diag}(a_k)`; :math:`B_k` is the same of the columns. The norm is that of a matrix with
    orthonormal rows or columns. With ``exponent=0`` this is :func:`orthogonalize_updates`.

    It takes the place of that rule, behind a momentum and before the scale for shapes:

      >>> chain(ema(0.95), orthogonalize_in_metric("converging"), scale_by_shape(), scale_by_learning_rate(0.02))

    These are the statistics of EMP, which its authors credit with half of IsoMuon's gain. IsoMuon's own are variances
    over the micro-batches of a step, which no update holds. Don't put it behind :func:`whiten_momentum` or SOAP, which
    have a metric of their own.

    Rows and columns of zeros have :math:`a = 1/c`, and don't count in the geometric mean. Each block and each matrix
    along batch axes has a metric of its own.

    Args:
      ns_coeffs: coefficients of the iteration; see :func:`scale_by_muon`. Static.
      ns_steps: number of steps. Static.
      decay: :math:`\beta`, that of the mean squares.
      exponent: :math:`\lambda \ge 0`.
      bound: :math:`c \ge 1`, finite.
      preconditioning: how matrices are scaled before the iteration.
      eps: added to the norm that matrices are divided by.
      weight_dimension_numbers: how arrays are seen as matrices; see :func:`scale_by_muon`.
    """
    seen = view(g.shape, weight_dimension_numbers)
    xs = seen.split(bounded(g, g.size))
    energies = [
        {axis: ema(old[axis], new, decay) for axis, new in _energies(x).items()}
        for x, old in zip(xs, slot.energies, strict=True)
    ]

    def direction(x: Array, h: dict[int, Array]) -> Array:
        rows, columns = (_metric(h[axis], exponent, bound) ** -0.5 for axis in (0, 1))
        metric = rows[..., :, None] * columns[..., None, :]
        return with_norm(orthogonalize(x * metric, ns_coeffs, ns_steps, preconditioning, eps) * metric, None)

    return seen.join([direction(x, h) for x, h in zip(xs, energies, strict=True)]), slot(energies=energies)
