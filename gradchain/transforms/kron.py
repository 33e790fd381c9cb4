"""Directions whitened by triangular factors that are fitted by gradient descent: PSGD."""

import math
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from gradchain import numerics
from gradchain.core.hyper import Decay, DType, Fraction, Key, NonNegative, Positive
from gradchain.core.rule import leafwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Choice, Integer
from gradchain.matrices.axes import along_axes, axis_gram
from gradchain.matrices.factors import gathered
from gradchain.matrices.frames import Frame, FrameNumbers, frame
from gradchain.matrices.refreshing import refresh
from gradchain.numerics import abs_sq, divide, ema, magnitude, sqrt
from gradchain.schedules import exponential_decay

MEMORY = Choice("one_diagonal", "smart_one_diagonal", "all_diagonal")
RARER = exponential_decay(1.0, 1000, math.exp(-1), 500, end_value=0.03)
"""The probability of an update: 1 for 500 updates, then falling by a factor e each 1,000, down to 0.03."""


def whiten(x: Array, v: Array, factors: list[Array], rate: Any = 0.1) -> list[Array]:
    r"""Return factors that whiten one array better: a step down E[x* P x + v* P^-1 v], P being the product of Q_i* Q_i.

    Args:
      x: an array of at least one axis: the momentum.
      v: standard normal numbers of its shape.
      factors: for each axis of length n an upper triangular Q_i ``(n, n)``, or a diagonal ``(n,)``.
      rate: how far to go, in (0, 1].
    """
    order = x.ndim
    a = along_axes(x, dict(enumerate(factors)), order)
    b = v
    for axis, q in enumerate(factors):
        b = _solved(q, b, axis)
    a, b = (numerics.bounded(y, 2 * y.size) for y in (a, b))
    return [_fitted(q, a, b, axis, rate) for axis, q in enumerate(factors)]


def _solved(q: Array, b: Array, axis: int) -> Array:
    """Return Q^-* times an array along an axis."""
    moved = jnp.moveaxis(b, axis, 0)
    rows = moved.reshape(len(q), -1)
    solved = solve_triangular(q, rows, trans="C") if q.ndim == 2 else rows / jnp.conj(q)[:, None]
    return jnp.moveaxis(solved.reshape(moved.shape), 0, axis)


def _fitted(q: Array, a: Array, b: Array, axis: int, rate: Any) -> Array:
    if q.ndim == 1:
        others = tuple(i for i in range(a.ndim) if i != axis)
        first, second = (jnp.sum(abs_sq(y), axis=others) for y in (a, b))
        return q - divide(rate * (first - second), jnp.max(first + second)) * q
    first, second = (axis_gram(y, axis, a.ndim) for y in (a, b))
    step = divide(jnp.triu(first - second), _norm(first + second))
    return q - rate * jnp.matmul(step, q, precision="highest")


def _norm(a: Array) -> Array:
    """Return a lower bound on the norm of a positive semidefinite matrix: two power steps from its longest column."""
    size = lax.stop_gradient(jnp.max(magnitude(a)))
    a = divide(a, size)
    longest = a[:, jnp.argmax(jnp.sum(abs_sq(a), axis=0))]
    once = jnp.matmul(a, longest, precision="highest")
    twice = jnp.matmul(a, once, precision="highest")
    return size * sqrt(divide(jnp.sum(abs_sq(twice)), jnp.sum(abs_sq(once))))


def evening(factors: list[Array]) -> Array:
    """Return by what to multiply factors so that their largest entries are equal, and their product stays."""
    sizes = jnp.stack([jnp.max(magnitude(q)) for q in factors])
    logs = jnp.log(jnp.where(sizes > 0, sizes, 1))
    return jnp.exp(jnp.mean(logs) - logs)


def precondition(x: Array, factors: list[Array]) -> Array:
    """Return Q_1* Q_1 ... Q_n* Q_n x, each along its axis."""
    for axis, q in enumerate(factors):
        adjoint = jnp.conj(q.mT) if q.ndim == 2 else jnp.conj(q)
        if q.ndim == 1:
            steps = [q * adjoint]
        elif len(q) ** 2 < x.size:  # the product costs less than a second multiplication
            steps = [jnp.matmul(adjoint, q, precision="highest")]
        else:
            steps = [q, adjoint]
        for step in steps:
            x = along_axes(x, {axis: step}, x.ndim)
    return x


def probe(key: Array, x: Array) -> Array:
    """Return standard normal numbers like an array."""
    return jax.random.normal(key, x.shape, x.dtype)


def _diagonal(shape: tuple[int, ...], hyper: Any) -> list[bool]:
    """Return which axes have diagonal factors."""
    short = len(shape) < hyper.min_ndim_triangular or hyper.memory_save_mode == "all_diagonal"
    diagonal = [short or n == 1 or n > hyper.max_size_triangular for n in shape]
    *_, second, largest = (0, 0, *sorted(shape))
    smart = hyper.memory_save_mode == "smart_one_diagonal" and largest > second
    if smart or hyper.memory_save_mode == "one_diagonal":
        diagonal[max(range(len(shape)), key=lambda i: shape[i])] = True
    return diagonal


def _frame(shape: tuple[int, ...], dims: Any) -> Frame:
    return frame(shape, "axes" if dims is None and len(shape) < 2 else dims, None, "scale_by_kron")


def _first_factors(param: Array, hyper: Any) -> list[list[Array]]:
    seen, order = _frame(param.shape or (1,), hyper.weight_dimension_numbers)
    scale = hyper.init_scale ** (1 / order)

    def first(x: Array, axis: int, diagonal: bool) -> Array:
        others = tuple(i for i in range(-order, 0) if i != axis - order)
        if diagonal:
            return jnp.zeros_like(jnp.sum(x, axis=others)) + scale
        n = x.shape[axis - order]
        zeros = jnp.zeros_like(axis_gram(x, axis, order))
        return zeros + scale * jnp.expand_dims(jnp.eye(n, dtype=zeros.dtype), tuple(range(zeros.ndim - 2)))

    return [
        [first(x, axis, diagonal) for axis, diagonal in enumerate(_diagonal(x.shape[-order:], hyper))]
        for x in (gathered(x, order) for x in seen.split(param.reshape(param.shape or (1,))))
    ]


@leafwise(
    slots={"mu": Slot(dtype="mu_dtype"), "factors": Slot(init=_first_factors, exact=True)},
    debiased=("b1",),
    random=True,
)
def scale_by_kron(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.9,
    preconditioner_rate: Fraction = 0.1,
    update_probability: Fraction = RARER,
    balance_probability: Fraction = 0.01,
    max_rms: Positive = 1.1,
    damping: NonNegative | None = None,
    init_scale: Positive = 1.0,
    key: Key = 0,
    mu_dtype: DType | None = None,
    *,
    max_size_triangular: Annotated[int, Integer(0)] = 8192,
    min_ndim_triangular: Annotated[int, Integer(0)] = 2,
    memory_save_mode: Annotated[Literal["one_diagonal", "smart_one_diagonal", "all_diagonal"], MEMORY] | None = None,
    weight_dimension_numbers: FrameNumbers | None = None,
):
    r"""Whiten momentum by a triangular factor for each axis, fitted by gradient descent: PSGD with Kronecker factors.

    .. math:: u_k = \min\left(1, \frac{c}{\mathrm{rms}(d_k)}\right)\,d_k, \qquad d_k = P_k\,\hat\mu_k, \qquad
        P_k = Q_1^* Q_1 \otimes \cdots \otimes Q_n^* Q_n

    :math:`\hat\mu_k = \mu_k / (1 - \beta_1^k)` is the moving average of gradients, and :math:`Q_i` multiplies along
    axis i. At some updates, chosen at random for each array, the factors first take a step towards those that make
    :math:`Q_1 \cdots Q_n\,\hat\mu` white, with fresh normal numbers :math:`v`:

    .. math::
        A = Q_1 \cdots Q_n\,\hat\mu_k, \qquad B = Q_1^{-*} \cdots Q_n^{-*}\,v, \qquad
        Q_i \leftarrow Q_i - \frac{\eta\,\operatorname{triu}(A_{(i)} A_{(i)}^* - B_{(i)} B_{(i)}^*)\,Q_i}
        {\|A_{(i)} A_{(i)}^* + B_{(i)} B_{(i)}^*\|_2}

    where the rows of :math:`A_{(i)}` go along axis i, and a lower bound stands for the norm. In a sweep JAX computes
    that step at every update for all runs.

    It needs no decomposition, only products and triangular solves, and no moving average of second moments.

    Args:
      b1: decay of the momentum.
      preconditioner_rate: :math:`\eta`, the rate of the factors' own descent, up to 1.
      update_probability: the probability that an array's factors are updated; a schedule by default, 1 for 500
        updates, then :math:`\max(e^{-(k - 500)/1000}, 0.03)`.
      balance_probability: the probability that at such an update the factors are first scaled to equal size, which
        leaves their product as it is.
      max_rms: :math:`c`, the largest root mean square of an update, of each matrix where there are batches of them.
      damping: of the noise that the factors see added to the momentum, relative to its mean magnitude; the square root
        of the dtype's precision is usual, ``None`` is for none.
      init_scale: the size of :math:`P^{1/2}` at first.
      key: a seed or PRNG key.
      mu_dtype: dtype of the stored momentum.
      max_size_triangular: longer axes have diagonal factors. Static.
      min_ndim_triangular: arrays with fewer axes have diagonal factors. Static.
      memory_save_mode: ``"one_diagonal"`` for a diagonal factor of the longest axis, ``"smart_one_diagonal"`` for one
        where one axis is longest, ``"all_diagonal"`` for all. Axes of length 1 have one in any case.
      weight_dimension_numbers: how arrays are seen as matrices: :class:`MuonDimensionNumbers` for all, a tree of them
        (or a prefix) like the parameters, or a function from parameters to one. Axes that they don't name, such as
        layers, are batches of matrices. ``"axes"`` in their place is for a factor of each axis, four for a kernel of a
        convolution. Without any, an array with two axes is a matrix, and a vector has one factor.

    Raises:
      ValueError: at ``init``, for an array of three axes or more for which there is neither.

    References:
      Li, *Preconditioned Stochastic Gradient Descent*, 2018.
      Pooladzandi and Li, *Curvature-Informed SGD via General Purpose Lie-Group Preconditioners*, 2024.
    """
    shape = g.shape or (1,)
    seen, order = _frame(shape, weight_dimension_numbers)
    mu = ema(slot.mu, numerics.bounded(g, 2 * g.size), b1)
    mu_hat = mu / at.weight_sum("b1")
    if not g.size:
        return mu_hat, slot(mu=mu, factors=slot.factors)
    stacks = [gathered(x, order) for x in seen.split(mu_hat.reshape(shape))]
    when, which, *keys = jax.random.split(at.key, 2 + len(stacks))

    def fitted() -> list[list[Array]]:
        balanced = jax.random.uniform(which) < balance_probability

        def one(x: Array, v: Array, old: list[Array]) -> list[Array]:
            x = x + damping * jnp.mean(magnitude(x)) * v if damping is not None else x
            scales = jnp.where(balanced, evening(old), 1)  # as if before the step, in which they cancel
            new = whiten(x, v, old, preconditioner_rate)
            return [q * scale for q, scale in zip(new, scales, strict=True)]

        return [
            _mapped(one, x.ndim - order)(x, probe(key, x), old)
            for key, x, old in zip(keys, stacks, slot.factors, strict=True)
        ]

    def update(x: Array, factors: list[Array]) -> Array:
        u = numerics.bounded(precondition(x, factors), x.size)
        return u * numerics.shrink_factor(numerics.safe_root_mean_squares(u) + 1e-6, max_rms)

    factors = refresh(jax.random.uniform(when) < update_probability, fitted, slot.factors, finite=True)
    updates = [_mapped(update, x.ndim - order)(x, some) for x, some in zip(stacks, factors, strict=True)]
    return seen.join(updates).reshape(g.shape), slot(mu=mu, factors=factors)


def _mapped(function: Any, times: int) -> Any:
    """Return a function mapped over that many leading axes of its arguments."""
    for _ in range(times):
        function = jax.vmap(function)
    return function
