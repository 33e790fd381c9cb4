"""Adam, and a second moment made of factors, in the eigenbases of Shampoo's factors."""

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from gradchain import tree
from gradchain.core.hyper import Count, Decay, DType, NonNegative
from gradchain.core.rule import leafwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Choice, Integer
from gradchain.matrices.axes import axis_gram
from gradchain.matrices.bases import Method, track_basis
from gradchain.matrices.factors import gathered
from gradchain.matrices.frames import ByAxis, Frame, FrameNumbers, MatrixFrameNumbers, Sides, frame
from gradchain.matrices.refreshing import due, refresh
from gradchain.numerics import abs_sq, bounded, divide, ema, sqrt

Factors = Annotated[Literal["gram", "kl"], Choice("gram", "kl")]
Start = Annotated[Literal["identity", "eigh", "skip"], Choice("identity", "eigh", "skip")]


def framed(param: Array, hyper: Any) -> Frame:
    """Return the frame of a parameter."""
    return frame(param.shape, hyper.weight_dimension_numbers, hyper.block_size, "")


def zero_factors(param: Array, hyper: Any) -> list[ByAxis]:
    """Return matrices of zeros for the axes of each block that have a basis."""
    own = framed(param, hyper)

    def matrices(x: Array) -> ByAxis:
        axes = (i for i in own.axes(x, hyper.sides) if 1 < own.sizes(x)[i] <= hyper.max_dim)
        return {i: axis_gram(jnp.zeros_like(x), i, own.order) for i in axes}

    return [*map(matrices, own.blocks(param))]


def identities(param: Array, hyper: Any) -> list[ByAxis]:
    """Return identity matrices for the axes of each block that have a basis."""
    return jax.tree.map(lambda a: a + jnp.broadcast_to(jnp.eye(a.shape[-1]), a.shape), zero_factors(param, hyper))


def first_eigenvalues(param: Array, hyper: Any) -> list[ByAxis]:
    """Return equal numbers along each axis of each block, if the factors are those of KL-Shampoo."""
    own = framed(param, hyper)
    axes = range(own.order) if getattr(hyper, "factors", "kl") == "kl" else ()
    return [
        {i: jnp.zeros_like(own.mean(block.real, i)) + hyper.first_eigenvalue for i in axes}
        for block in own.blocks(param)
    ]


def followed(is_due: Any, factors: list[ByAxis], bases: list[ByAxis], ridge: Any, method: Method, sort: bool) -> Any:
    """Return bases that follow the factors, if that is due."""

    def follow(a: Array, q: Array) -> Array:
        return track_basis(gathered(a), q, ridge, method=method, sort=sort)

    return refresh(is_due, lambda: jax.tree.map(follow, factors, bases), bases) if jax.tree.leaves(bases) else bases


def begun_bases(own: Frame, blocks: list[Array], slot: Slots, at: At, start: str, sort: bool) -> list[ByAxis]:
    """Return the bases of the state, or at first the eigenvectors of the first gradient's Gram matrices."""
    if start == "identity":
        return slot.bases

    def eigenvectors(x: Array, bases: ByAxis) -> ByAxis:
        return {
            i: track_basis(gathered(axis_gram(x, i, own.order)), q, method="eigh", sort=sort) for i, q in bases.items()
        }

    return refresh(at.count == 0, lambda: [*map(eigenvectors, blocks, slot.bases)], slot.bases)


def grown_factors(own: Frame, x: Array, factors: ByAxis, bases: ByAxis, values: ByAxis, decay: Any) -> ByAxis:
    """Return the factors with one more gradient, whitened along all other axes where there are eigenvalues."""

    def gram(i: int) -> Array:
        if not values:
            return axis_gram(x, i, own.order)
        white = own.divided(own.turned(x, bases, without=i), values, without=i)
        return axis_gram(white, i, own.order) * (values[i].size / max(x.size, 1))

    return {i: ema(a, gram(i), decay) for i, a in factors.items()}


def grown_and_followed(
    own: Frame, blocks: list[Array], slot: Slots, is_due: Any, decay: Any, ridge: Any, method: Method = "qr"
) -> tuple[list[ByAxis], Any]:
    """Return Gram factors with one more gradient, and bases that follow them if that is due."""
    each = zip(blocks, slot.factors, slot.bases, strict=True)
    factors = [grown_factors(own, x, a, q, {}, decay) for x, a, q in each]
    return factors, followed(is_due, factors, slot.bases, ridge, method, True)


def eigenvalues(own: Frame, p: Array, values: ByAxis, decay: Any, floor: Any, ridge: Any) -> ByAxis:
    """Return KL-Shampoo's eigenvalues with one more gradient, which is in terms of the bases."""

    def along(i: int, d: Array) -> Array:
        new = ema(d, own.mean(abs_sq(own.divided(p, values, without=i)), i), decay)
        return jnp.maximum(new, jnp.maximum(floor, ridge * jnp.sum(new, axis=-1, keepdims=True) / max(d.shape[-1], 1)))

    return {i: along(i, d) for i, d in values.items()}


def begun(own: Frame, x: Array, values: ByAxis) -> ByAxis:
    """Return eigenvalues, those that are all zero replaced by the root mean square of the gradient."""
    first = sqrt(own.mean(abs_sq(x)))[..., None]
    return {i: jnp.where(jnp.max(d, axis=-1, keepdims=True, initial=0) > 0, d, first) for i, d in values.items()}


def one_where(first: Any, values: list[ByAxis]) -> list[ByAxis]:
    """Return ones at first, and later the eigenvalues."""
    return jax.tree.map(lambda d: jnp.where(first, 1, d), values)


@leafwise(
    slots={
        "mu": Slot(dtype="mu_dtype"),
        "nu": Slot(real=True, nonnegative=True),
        "factors": Slot(init=zero_factors, exact=True),
        "bases": Slot(init=identities, exact=True),
        "eigenvalues": Slot(init=first_eigenvalues, real=True, nonnegative=True, exact=True),
    },
    debiased=("b1", "b2"),
    turn=True,
)
def scale_by_soap(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.95,
    b2: Decay = 0.95,
    eps: NonNegative = 1e-8,
    shampoo_beta: Decay = 0.95,
    update_interval: Count = 10,
    mu_dtype: DType | None = None,
    *,
    stagger: bool = False,
    factors: Factors = "gram",
    sides: Sides = "both",
    block_size: Annotated[int, Integer(1)] | None = None,
    max_dim: Annotated[int, Integer(1)] = 10_000,
    weight_dimension_numbers: FrameNumbers | None = None,
    ridge: NonNegative = 1e-5,
    first_eigenvalue: NonNegative = 0.0,
    eigenvalue_floor: NonNegative = 0.0,
    debias: bool = True,
    start: Start = "identity",
    current: bool = False,
    method: Method = "qr",
    sort: bool = True,
):
    r"""Apply Adam in the eigenbases of Shampoo's factors: SOAP.

    .. math::
        p_k = Q_L^* g_k Q_R, \qquad
        \mu_k = \beta_1 \mu_{k-1} + (1 - \beta_1)\,g_k, \qquad
        \nu_k = \beta_2 \nu_{k-1} + (1 - \beta_2)\,|p_k|^2, \\
        u_k = Q_L \left[\frac{Q_L^* \hat\mu_k Q_R}{\sqrt{\hat\nu_k} + \epsilon}\right] Q_R^*, \qquad
        L_k = \beta L_{k-1} + (1 - \beta)\,g_k g_k^*, \qquad
        R_k = \beta R_{k-1} + (1 - \beta)\,g_k^* g_k

    :math:`Q_L` and :math:`Q_R` follow the eigenvectors of :math:`L` and :math:`R`: at the first update and at each
    ``update_interval``-th after it, one step of :func:`gradchain.matrices.track_basis` brings them nearer. They begin
    as identities, so that the first update is Adam's. A gradient is projected on the bases that the gradients before it
    made. If it were projected on bases that it had already turned, a direction could have momentum without a second
    moment, and get a huge update. A relative ridge decides the bases where the factors are singular, as at least one is
    for a matrix that isn't square. So updates change little if gradients do, in any shape, and no eigendecomposition is
    needed. The original begins with that of the first gradient, and makes no update then; ``start`` and the options
    after it reproduce this and other implementations.

    With ``update_interval=1`` the bases follow best; 10 costs less time. A refresh takes a product and a QR
    decomposition for each side, an update eight products of the matrix with a square one. In a sweep JAX computes the
    refresh at every update for all runs: there ``update_interval=1`` costs the same, and is better.

    The state holds the momentum and the second moment, as large as the parameter, and four square matrices, two for
    each side: six numbers per parameter in all for a square matrix. :func:`store` may keep ``mu`` and ``nu`` in fewer
    bits; it leaves bases and factors as they are.

    Vectors and scalars get Adam's updates. To bound the root mean square of an update, put :func:`clip_by_block_rms`
    behind this stage.

    Args:
      b1: :math:`\beta_1`, the decay of the momentum.
      b2: :math:`\beta_2`, the decay of the second moment.
      eps: :math:`\epsilon`, added outside the root.
      shampoo_beta: :math:`\beta`, the decay of the factors; 0.9 to 0.99.
      update_interval: updates from one refresh of the bases to the next.
      mu_dtype: dtype of the stored momentum.
      stagger: refresh the bases of different arrays at different updates, so that no update takes much longer than the
        others. At the first one, all are refreshed.
      factors: ``"gram"``, as above, or ``"kl"`` for those of :func:`scale_by_kl_shampoo`. Static.
      sides: which axes of a matrix have a basis: ``"both"``, its ``"rows"`` (inputs), its ``"columns"`` (outputs), or
        the ``"smaller"`` one of each block, which costs less than half of both where a matrix isn't square. Static.
      block_size: the most rows and columns of a block with bases of its own; ``None`` for whole matrices. Static.
      max_dim: axes that are longer have no basis. Static.
      weight_dimension_numbers: how arrays are seen as matrices: :class:`MuonDimensionNumbers` for all, a tree of them
        (or a prefix) like the parameters, or a function from parameters to one. Axes that they don't name, such as
        layers, are batches of matrices. ``"axes"`` in their place gives each axis of an array a basis, whatever its
        order: a vector one, a kernel of a convolution four.
      ridge: relative to the trace of a factor; above the dtype's precision.
      first_eigenvalue: where the eigenvalues of ``"kl"`` begin; 0 for the root mean square of the first gradient.
      eigenvalue_floor: what they are at least.
      debias: divide the moments by the sums of their weights.
      start: ``"identity"``; ``"eigh"`` for the eigenvectors of the first gradient's Gram matrices; ``"skip"`` for the
        original's, where the first gradient goes into the factors alone, and makes no update. Static.
      current: put each gradient in the factors, and refresh the bases, before it is projected.
      method: ``"qr"``, or ``"eigh"`` to compute eigenvectors at each refresh. Static.
      sort: see :func:`gradchain.matrices.track_basis`.

    Raises:
      ValueError: from ``init``, for an array of more than two axes without dimension numbers.

    References:
      Vyas et al., *SOAP: Improving and Stabilizing Shampoo using Adam*, 2024.
      Lin et al., *Understanding and Improving Shampoo and SOAP via Kullback-Leibler Minimization*, 2025 (``"kl"``).
    """
    own = frame(g.shape, weight_dimension_numbers, block_size, "scale_by_soap")
    g = bounded(g, g.size)
    blocks = own.blocks(g)
    is_due = due(at.count, update_interval, at.turn if stagger else None)
    active = (at.count > 0) | (start != "skip")
    values = [begun(own, x, d) for x, d in zip(blocks, slot.eigenvalues, strict=True)]
    bases = begun_bases(own, blocks, slot, at, start, sort)
    grown = [
        grown_factors(own, x, a, q, d, shampoo_beta)
        for x, a, q, d in zip(blocks, slot.factors, bases, one_where(~active, values), strict=True)
    ]
    bases = followed(is_due, grown, bases, ridge, method, sort) if current else bases
    turned = [own.turned(x, q) for x, q in zip(blocks, bases, strict=True)]
    mu = jnp.where(active, ema(slot.mu, g, b1), slot.mu)
    nu = jnp.where(active, ema(slot.nu, own.seen.join([abs_sq(p) for p in turned]), b2), slot.nu)
    mu_hat, nu_hat = mu, nu
    if debias:
        ahead = -1 if start == "skip" else 0
        mu_hat, nu_hat = (x / jnp.where(active, at.weight_sum(b, ahead), 1) for x, b in ((mu, "b1"), (nu, "b2")))
    updates = [
        own.turned_back(divide(own.turned(m, q), sqrt(v) + eps, eps == 0), q)
        for m, v, q in zip(own.blocks(mu_hat), own.blocks(nu_hat), bases, strict=True)
    ]
    new_values = [
        eigenvalues(own, p, d, shampoo_beta, eigenvalue_floor, ridge) for p, d in zip(turned, values, strict=True)
    ]
    return jnp.where(active, own.seen.join(updates), 0), slot(
        mu=mu,
        nu=nu,
        factors=grown,
        bases=bases if current else followed(is_due, grown, bases, ridge, method, sort),
        eigenvalues=tree.where(active, new_values, slot.eigenvalues),
    )


@leafwise(
    slots={
        "mu": Slot(dtype="mu_dtype"),
        "factors": Slot(init=zero_factors, exact=True),
        "bases": Slot(init=identities, exact=True),
        "eigenvalues": Slot(init=first_eigenvalues, real=True, nonnegative=True, exact=True),
    },
    debiased=("b1",),
    turn=True,
)
def scale_by_kl_shampoo(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.9,
    shampoo_beta: Decay = 0.98,
    eps: NonNegative = 1e-8,
    update_interval: Count = 10,
    mu_dtype: DType | None = None,
    *,
    stagger: bool = False,
    sides: Sides = "both",
    block_size: Annotated[int, Integer(1)] | None = None,
    max_dim: Annotated[int, Integer(1)] = 10_000,
    weight_dimension_numbers: MatrixFrameNumbers | None = None,
    ridge: NonNegative = 1e-5,
    first_eigenvalue: NonNegative = 0.0,
    eigenvalue_floor: NonNegative = 0.0,
    debias: bool = True,
    start: Start = "identity",
    lag: bool = False,
    method: Method = "qr",
    sort: bool = True,
):
    r"""Divide momentum by the roots of a second moment of two factors in their eigenbases: KL-Shampoo.

    .. math::
        L_k = \beta L_{k-1} + \tfrac{1 - \beta}{n}\,g_k Q_R D_R^{-1} Q_R^* g_k^*, \qquad
        R_k = \beta R_{k-1} + \tfrac{1 - \beta}{m}\,g_k^* Q_L D_L^{-1} Q_L^* g_k, \\
        p_k = Q_L^* g_k Q_R, \qquad
        d_{L,i} \leftarrow \beta d_{L,i} + \tfrac{1 - \beta}{n} \sum_j \frac{|p_{ij}|^2}{d_{R,j}}, \qquad
        d_{R,j} \leftarrow \beta d_{R,j} + \tfrac{1 - \beta}{m} \sum_i \frac{|p_{ij}|^2}{d_{L,i}}, \\
        u_k = Q_L \left[\frac{(Q_L^* \hat\mu_k Q_R)_{ij}}{\sqrt{d_{L,i} d_{R,j}} + \epsilon}\right] Q_R^*

    for :math:`m \times n` matrices. Each gradient is whitened along one side before it goes into the other side's
    factor, so that :math:`L \otimes R` is the second moment of this form that is nearest to the gradients' own in the
    Kullback-Leibler divergence. Bases follow the factors as in :func:`scale_by_soap`; :math:`D`, diagonal, holds the
    eigenvalues, from before the gradient where factors and eigenvalues are computed. An axis without a basis has
    eigenvalues still, and so has a vector in place of a matrix: its :math:`d` is the moving average of its squares.

    The authors begin with the eigenvectors of the first gradient's Gram matrices and eigenvalues of 0.1, and make no
    update then. Here bases are identities at first, with a relative ridge, and eigenvalues the first gradient's root
    mean square, so that updates don't depend on the scale of gradients, and change little if gradients do, in any
    shape. Unlike SOAP it keeps no second moment as large as the parameter.

    Args:
      b1: decay of the momentum.
      shampoo_beta: :math:`\beta`, the decay of factors and eigenvalues; 0.9 to 0.99.
      eps: :math:`\epsilon`, added to the root.
      update_interval: updates from one refresh of the bases to the next.
      mu_dtype: dtype of the stored momentum.
      stagger: refresh the bases of different arrays at different updates, so that no update takes much longer than the
        others. At the first one, all are refreshed.
      sides: which axes of a matrix have a basis, as in :func:`scale_by_soap`. Static.
      block_size: the most rows and columns of a block with bases of its own; ``None`` for whole matrices. Static.
      max_dim: axes that are longer have no basis. Static.
      weight_dimension_numbers: how arrays are seen as matrices, as in :func:`scale_by_soap`. Vectors need ``"axes"``.
      ridge: relative to the trace of a factor, and to the mean of the eigenvalues, which are at least that.
      first_eigenvalue: where eigenvalues begin; 0 for the root mean square of the first gradient that isn't zero.
      eigenvalue_floor: what eigenvalues are at least.
      debias: divide the momentum by the sum of its weights.
      start: as in :func:`scale_by_soap`; ``"skip"`` is the authors'. Static.
      lag: divide by the eigenvalues from before the present gradient, as the authors do.
      method: ``"qr"``, or ``"eigh"`` to compute eigenvectors at each refresh. Static.
      sort: see :func:`gradchain.matrices.track_basis`.

    Raises:
      ValueError: from ``init``, for an array that isn't a matrix and has no dimension numbers.

    Reference: Lin et al., *Understanding and Improving Shampoo and SOAP via Kullback-Leibler Minimization*, 2025.
    """
    own = frame(g.shape, weight_dimension_numbers, block_size, "scale_by_kl_shampoo")
    g = bounded(g, g.size)
    blocks = own.blocks(g)
    active = (at.count > 0) | (start != "skip")
    values = [begun(own, x, d) for x, d in zip(blocks, slot.eigenvalues, strict=True)]
    bases = begun_bases(own, blocks, slot, at, start, sort)
    factors = [
        grown_factors(own, x, a, q, d, shampoo_beta)
        for x, a, q, d in zip(blocks, slot.factors, bases, one_where(~active, values), strict=True)
    ]
    grown = [
        eigenvalues(own, own.turned(x, q), d, shampoo_beta, eigenvalue_floor, ridge)
        for x, q, d in zip(blocks, bases, values, strict=True)
    ]
    mu = jnp.where(active, ema(slot.mu, g, b1), slot.mu)
    mu_hat = mu / jnp.where(active, at.weight_sum("b1", -1 if start == "skip" else 0), 1) if debias else mu
    updates = [
        own.turned_back(own.scaled(own.turned(m, q), d, eps), q)
        for m, q, d in zip(own.blocks(mu_hat), bases, values if lag else grown, strict=True)
    ]
    is_due = due(at.count, update_interval, at.turn if stagger else None)
    return jnp.where(active, own.seen.join(updates), 0), slot(
        mu=mu,
        factors=factors,
        bases=followed(is_due, factors, bases, ridge, method, sort),
        eigenvalues=tree.where(active, grown, slot.eigenvalues),
    )
