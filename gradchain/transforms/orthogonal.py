"""Updates whose singular values are about 1: the direction of steepest descent in the spectral norm."""

from collections.abc import Callable
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain import numerics
from gradchain.core.hyper import Decay, DType, NonNegative
from gradchain.core.rule import leafwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Choice
from gradchain.matrices.orthogonal import Coefficients, Preconditioning, Steps, orthogonalize
from gradchain.matrices.views import DimensionNumbers, MuonDimensionNumbers, view
from gradchain.numerics import abs_sq, divide, ema, safe_norm, sqrt
from gradchain.signatures import public


class MomentumKind(Choice):
    """How gradients are added up; static. Elsewhere a number is called so, which is the decay."""

    def normalize(self, where: str, value: Any) -> Any:
        if isinstance(value, int | float):
            raise TypeError(
                f"{where} must be one of {', '.join(map(repr, self.words))}, got {value}; its decay is beta={value}"
            )
        return super().normalize(where, value)


Momentum = Annotated[str, MomentumKind("debiased", "average", "sum")]
"""How gradients are added up."""


@public
def orthogonalize_via_newton_schulz(
    x: Array,
    ns_coeffs: Any,
    ns_steps: int | None = None,
    preconditioning: str | None = None,
    eps: Any = 1e-8,
    dimension_numbers: MuonDimensionNumbers | None = None,
) -> Array:
    r"""Drive the singular values of an array's matrices towards 1: :func:`gradchain.matrices.orthogonalize`.

    The result has the dtype of ``x``, though half precision is computed in float32. Apart from ``eps``, the result
    doesn't depend on the scale of ``x``; in Optax, ``"aol"`` and ``"schatten"`` underflow for small matrices.

    Args:
      x: a matrix, or an array with dimension numbers; real or complex.
      ns_coeffs: the name of a set, :math:`(a, b, c)`, or one such row for each step.
      ns_steps: number of steps; ``None`` for one for each row, five for a single row.
      preconditioning: how ``x`` is scaled first: ``"frobenius"``, ``"spectral"``, ``"schatten"`` or ``"aol"``; ``None``
        for what goes with the coefficients.
      eps: added to the norm.
      dimension_numbers: which axes are rows and columns, and blocks of them. Other axes are batch axes.

    Raises:
      ValueError: if ``x`` isn't a matrix and no dimension numbers are given, or if a row of coefficients doesn't have
        three entries.

    Reference: Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024.
    """
    seen = view(x.shape, dimension_numbers, where="orthogonalize_via_newton_schulz")
    return seen.map(_orthogonalizer(ns_coeffs, ns_steps, preconditioning, eps), x).astype(x.dtype)


def _orthogonalizer(coefficients: Any, steps: Any, preconditioning: Any, eps: Any) -> Callable[[Array], Array]:
    """Return the iteration with its options."""
    return lambda x: orthogonalize(x, coefficients, steps, preconditioning, eps)


@leafwise()
def orthogonalize_updates(
    g: Array,
    slot: Slots,
    at: At,
    ns_coeffs: Coefficients = "standard",
    ns_steps: Steps = None,
    *,
    preconditioning: Preconditioning = None,
    eps: NonNegative = 1e-8,
    weight_dimension_numbers: DimensionNumbers | None = None,
):
    r"""Replace each matrix by (nearly) the closest one with orthonormal rows or columns: :math:`u \approx U V^*`.

    This is :func:`scale_by_muon` without its momentum, to be put behind any other: ``chain(trace(0.95, nesterov=True),
    orthogonalize_updates("polar_express"), scale_by_shape(), scale_by_learning_rate(0.02))``. See
    :func:`gradchain.matrices.orthogonalize` for the iteration.

    Args:
      ns_coeffs: coefficients of the iteration; see :func:`scale_by_muon`. Static.
      ns_steps: number of steps. Static.
      preconditioning: how matrices are scaled before the iteration.
      eps: added to the norm that matrices are divided by.
      weight_dimension_numbers: how arrays are seen as matrices; see :func:`scale_by_muon`.

    Reference: Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024.
    """
    return view(g.shape, weight_dimension_numbers).map(_orthogonalizer(ns_coeffs, ns_steps, preconditioning, eps), g)


def _momentum(g: Array, old: Array, at: At, beta: Any, form: str, nesterov: bool) -> tuple[Array, Array]:
    """Return the momentum to orthogonalise, and the one to keep."""
    if form == "sum":
        mu = g + beta * old
        return (g + beta * mu if nesterov else mu), mu
    mu = ema(old, g, beta)
    if form == "average":
        return (ema(mu, g, beta) if nesterov else mu), mu
    weight = at.weight_sum("beta")
    if nesterov:
        return numerics.debias_nesterov(mu, g, beta, weight, at.weight_sum("beta", ahead=1)), mu
    return mu / weight, mu


def _bounded(g: Array, form: str) -> Array:
    """Return a gradient whose sums stay finite."""
    return numerics.bounded(g, 2**20 if form == "sum" else 1, power=1)


@leafwise(slots={"mu": Slot(dtype="mu_dtype")}, debiased=("beta",))
def scale_by_muon(
    g: Array,
    slot: Slots,
    at: At,
    ns_coeffs: Coefficients = "standard",
    ns_steps: Steps = None,
    beta: Decay = 0.95,
    eps: NonNegative = 1e-8,
    mu_dtype: DType | None = None,
    *,
    nesterov: bool = True,
    momentum: Momentum = "debiased",
    adaptive: bool = False,
    preconditioning: Preconditioning = None,
    weight_dimension_numbers: DimensionNumbers | None = None,
):
    r"""Orthogonalise momentum: replace it by (nearly) the closest matrix with orthonormal rows or columns.

    .. math::
        \mu_k = \beta \mu_{k-1} + (1 - \beta)\,g_k, \qquad
        \hat\mu_k = \frac{\beta \mu_k}{1 - \beta^{k+1}} + \frac{(1 - \beta)\,g_k}{1 - \beta^k}, \qquad
        u_k = \mathrm{NewtonSchulz}(\hat\mu_k) \approx U V^*

    with :math:`\hat\mu_k = \mu_k / (1 - \beta^k)` without ``nesterov``. See
    :func:`gradchain.matrices.orthogonalize` for the iteration. Every direction moves equally fast, even those in which
    gradients are always small.

    Implementations differ in the momentum. This one and Optax's correct both averages for their start at zero. With
    ``momentum="average"`` they aren't corrected, as in Jordan's and PyTorch's: :math:`\hat\mu_k = \beta \mu_k + (1 -
    \beta)\,g_k`. The first update is the same; later ones differ by a few per cent, and by less than one after
    some twenty. With ``momentum="sum"`` gradients are added up, as in Dion's code: :math:`\mu_k = \beta \mu_{k-1} +
    g_k` and :math:`\hat\mu_k = \beta \mu_k + g_k`. That is the average times :math:`1 / (1 - \beta)`, so updates are
    the same but for ``eps``.

    Args:
      ns_coeffs: coefficients of the iteration: the name of a set, one row for all steps, or one for each; see
        :func:`gradchain.matrices.orthogonalize`. Static.
      ns_steps: number of steps; ``None`` for one for each row of coefficients, or five for a single one. Fewer take the
        first rows, further ones repeat the last (Optax takes the last ones, and rejects more rows than steps). Static.
      beta: :math:`\beta` in [0, 1).
      eps: added to the norm that matrices are divided by before the iteration.
      mu_dtype: dtype of the stored momentum; by default the parameter's, and at least float32.
      nesterov: look ahead along the momentum.
      momentum: ``"debiased"``, ``"average"`` or ``"sum"``, see above.
      adaptive: multiply by the dual norm :math:`\Re\langle \hat\mu_k, u_k \rangle`, about the sum of
        the momentum's singular values; separately for each matrix along batch axes (Optax takes their sum) and for each
        block.
      preconditioning: ``"frobenius"``, ``"spectral"``, ``"aol"`` or ``"schatten"``; ``None`` for what the set of
        coefficients is made for.
      weight_dimension_numbers: how arrays are seen as matrices: :class:`MuonDimensionNumbers` for all, a tree of them
        (or a prefix) like the parameters, or a function from parameters to one. ``None`` means that every array is a
        matrix. Each block and each matrix along batch axes is orthogonalised by itself.

    References:
      Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024.
      Bernstein and Newhouse, *Old Optimizer, New Norm: An Anthology*, 2024 (``adaptive``).
      Liu et al., *Muon is Scalable for LLM Training*, 2025.
    """
    hat, mu = _momentum(_bounded(g, momentum), slot.mu, at, beta, momentum, nesterov)

    def direction(x: Array) -> Array:
        u = orthogonalize(x, ns_coeffs, ns_steps, preconditioning, eps)
        return u * jnp.sum(jnp.real(jnp.conj(x) * u), axis=(-2, -1), keepdims=True) if adaptive else u

    return view(g.shape, weight_dimension_numbers).map(direction, hat), slot(mu=mu)


AVERAGED = {"outputs": lambda m, n: (-2,), "elements": lambda m, n: (), "all": lambda m, n: (-2, -1)} | {
    "longer": lambda m, n: (-2,) if n >= m else (-1,)
}
"""The axes of an m x n matrix whose squares have one average."""
AXIS = Choice(*AVERAGED)
NORM = Choice("kept", "exact", "free")


def _mean_squares(x: Array, axis: str) -> Array:
    axes = AVERAGED[axis](*x.shape[-2:])
    count = max(1, np.prod([x.shape[i] for i in axes], dtype=int)) if axis != "all" else 1
    return jnp.sum(abs_sq(x), axis=axes, keepdims=True) / count


def _second_moments(param: Array, hyper: Any) -> list[Array]:
    blocks = view(param.shape, hyper.weight_dimension_numbers).split(param)
    return [] if hyper.axis is None else [_mean_squares(jnp.zeros_like(x), hyper.axis) for x in blocks]


@leafwise(
    slots={"mu": Slot(dtype="mu_dtype"), "nu": Slot(init=_second_moments, real=True, nonnegative=True)},
    debiased=("beta", "b2"),
)
def scale_by_normuon(
    g: Array,
    slot: Slots,
    at: At,
    axis: Annotated[str, AXIS] | None = "longer",
    ns_coeffs: Coefficients = "polar_express_5",
    ns_steps: Steps = None,
    beta: Decay = 0.95,
    b2: Decay = 0.95,
    eps: NonNegative = 1e-8,
    moment_eps: NonNegative = 1e-8,
    mu_dtype: DType | None = None,
    *,
    norm: Annotated[str, NORM] = "kept",
    nesterov: bool = True,
    momentum: Momentum = "debiased",
    preconditioning: Preconditioning = None,
    weight_dimension_numbers: DimensionNumbers | None = None,
):
    r"""Orthogonalise momentum, and divide the result by root mean squares of its own: NorMuon and its relatives.

    .. math::
        X_k = \mathrm{NewtonSchulz}(\hat\mu_k), \qquad
        \nu_k = \beta_2\,\nu_{k-1} + (1 - \beta_2)\,\overline{|X_k|^2}, \qquad
        u_k = c_k\,\frac{X_k}{\sqrt{\nu_k / (1 - \beta_2^k)} + \epsilon}

    with :math:`\hat\mu_k` the momentum of :func:`scale_by_muon`, the mean :math:`\overline{|X|^2}` over an axis, and
    :math:`c_k` so that the norm is that of :math:`X_k` again. Where a matrix isn't square, only its shorter side
    becomes orthonormal; the units of the longer side get updates of different size. Here they are made equal on
    average. Each block and each matrix along batch axes is scaled by itself.

    ``axis`` says which elements share a mean:

    - ``"longer"``: each unit of the longer side, outputs where there are as many as inputs: NorMuon in the records of
      the NanoGPT benchmark, and NVIDIA's.
    - ``"outputs"``: each output: NorMuon in its paper and in Dion's code.
    - ``"elements"``: none, each element has its own: AdaMuon.
    - ``"all"``: the whole matrix, and of the gradient instead: :math:`u_k = X_k\,\|\hat\mu_k\| / \sqrt{\nu_k}` with
      :math:`\nu_k` the average of :math:`\|g_k\|^2`: NAMO. The norm isn't restored.
    - ``None``: no second moments: Muon.

    Args:
      axis: see above. Static.
      ns_coeffs: coefficients of the iteration; see :func:`scale_by_muon`. Static.
      ns_steps: number of steps. Static.
      beta: :math:`\beta` in [0, 1), the decay of the momentum.
      b2: :math:`\beta_2` in [0, 1), that of the second moments.
      eps: added to the norm that matrices are divided by before the iteration.
      moment_eps: :math:`\epsilon \ge 0`, added to root mean squares.
      mu_dtype: dtype of the stored momentum; by default the parameter's, and at least float32.
      norm: ``"kept"`` for the norm of :math:`X_k`, ``"exact"`` for that of a matrix with orthonormal rows or columns,
        :math:`\sqrt{\min(m, n)}`, as in AdaMuon; ``"free"`` for :math:`c_k = 1`.
      nesterov: look ahead along the momentum.
      momentum: as in :func:`scale_by_muon`; the second moments are corrected for their start at zero with
        ``"debiased"`` only, which makes no difference where the norm is restored.
      preconditioning: how matrices are scaled before the iteration.
      weight_dimension_numbers: how arrays are seen as matrices; see :func:`scale_by_muon`.

    References:
      Li et al., *NorMuon: Making Muon more efficient and scalable*, 2025, algorithm 1.
      Si, Zhang and Shen, *AdaMuon: Adaptive Muon Optimizer*, 2025.
      Zhang et al., *Adam Improves Muon: Adaptive Moment Estimation with Orthogonalized Momentum*, 2026 (NAMO).
    """
    g = numerics.bounded(g, g.size) if axis == "all" else _bounded(g, momentum)
    hat, mu = _momentum(g, slot.mu, at, beta, momentum, nesterov)
    seen = view(g.shape, weight_dimension_numbers)
    hats, xs = seen.split(hat), [_orthogonalizer(ns_coeffs, ns_steps, preconditioning, eps)(x) for x in seen.split(hat)]
    if axis is None:
        return seen.join(xs), slot(mu=mu, nu=[])
    of = seen.split(g) if axis == "all" else xs
    nu = [ema(old, _mean_squares(x, axis), b2) for old, x in zip(slot.nu, of, strict=True)]
    weight = at.weight_sum("b2") if momentum == "debiased" else 1.0
    us = [divide(x, sqrt(v / weight) + moment_eps, moment_eps == 0) for x, v in zip(xs, nu, strict=True)]
    if axis == "all":
        us = [u * safe_norm(x, axis=(-2, -1), keepdims=True) for u, x in zip(us, hats, strict=True)]
    elif norm != "free":
        us = [with_norm(u, x if norm == "kept" else None) for u, x in zip(us, xs, strict=True)]
    return seen.join(us), slot(mu=mu, nu=nu)


def with_norm(u: Array, x: Array | None) -> Array:
    """Return matrices with the norm of others, or that of matrices with orthonormal rows or columns."""
    wanted = min(u.shape[-2:]) ** 0.5 if x is None else safe_norm(x, axis=(-2, -1), keepdims=True)
    return u * divide(wanted, safe_norm(u, axis=(-2, -1), keepdims=True))


SCALE = Choice("original", "spectral", "none")


@leafwise()
def scale_by_shape(
    g: Array,
    slot: Slots,
    at: At,
    weight_dimension_numbers: DimensionNumbers | None = None,
    consistent_rms: NonNegative | None = None,
    *,
    scale: Annotated[str, SCALE] = "original",
):
    r"""Scale orthogonal updates by the shape of their matrix: :math:`u = s\,g`.

    .. list-table::
       :header-rows: 1

       * - form
         - :math:`s`
         - also called
       * - ``scale="original"``
         - :math:`\sqrt{\max(1, \mathrm{columns} / \mathrm{rows})}`
         - Muon's first; ``original`` in PyTorch
       * - ``scale="spectral"``
         - :math:`\sqrt{\mathrm{columns} / \mathrm{rows}}`
         - ``spectral_norm`` in Dion's code, ``unit_rms_norm`` in NVIDIA's
       * - ``consistent_rms=c``
         - :math:`c\,\sqrt{\max(\mathrm{rows}, \mathrm{columns})}`
         - ``match_rms_adamw`` in PyTorch, ``rms_norm`` in Dion's code, both with 0.2
       * - ``scale="none"``
         - 1
         -

    Rows are inputs, and columns outputs. With ``"spectral"``, a learning rate carries over from one width to another,
    and with ``"original"`` where outputs aren't fewer than inputs. With ``consistent_rms``, the root mean square of the
    elements is :math:`c`, whatever the shape. A block counts as a matrix of its own.

    Args:
      weight_dimension_numbers: which axes are rows (inputs) and columns (outputs), as in :func:`scale_by_muon`.
      consistent_rms: :math:`c \ge 0`; 0.2 is about the root mean square of AdamW's updates. It takes the place of
        ``scale``.
      scale: ``"original"``, ``"spectral"`` or ``"none"``. Static.

    References:
      Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024.
      Liu et al., *Muon is Scalable for LLM Training*, 2025, section 2.2 (``consistent_rms``).
      Bernstein, *Deriving Muon*, 2025 (``"spectral"``).
    """

    def scaled(x: Array, rows: int, columns: int) -> Array:
        if consistent_rms is not None:
            return x * (consistent_rms * max(rows, columns) ** 0.5)
        ratio = columns / max(rows, 1)
        return x * {"original": max(1, ratio), "spectral": ratio, "none": 1}[scale] ** 0.5

    seen = view(g.shape, weight_dimension_numbers)
    if seen.is_cut:
        return seen.map(lambda x: scaled(x, *x.shape[-2:]), g)
    return scaled(g, seen.rows, seen.columns)
