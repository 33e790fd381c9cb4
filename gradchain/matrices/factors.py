"""Gram matrices, their inverse roots, and spectral norms."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gradchain.core.value import Choice
from gradchain.eager import custom_jvp
from gradchain.linear_algebra import matrix_inverse_pth_root
from gradchain.numerics import abs_sq, compute_dtype, divide, magnitude, real_dtype, sqrt
from gradchain.signatures import public

SIDE = Choice("rows", "columns")
METHOD = Choice("eigh", "newton")


@public
def gathered(x: Array, order: int = 2) -> Array:
    """Return matrices ``(..., m, n)`` of which no device has just a part, for what can't work on parts.

    The batch axes stay spread as they are, so that each device has the whole of its own matrices and no other. On mesh
    axes that are automatic, this is a constraint for the compiler, which would otherwise gather again for each product.

    Args:
      x: an array of at least ``order`` axes.
      order: how many axes an array has, without those of batches.
    """
    whole = [None] * order
    sharding = jax.typeof(x).sharding
    mesh, batch = sharding.mesh, sharding.spec[: x.ndim - order]
    if sharding.spec[x.ndim - order :] != (*whole,):
        x = jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(*batch, *whole)))
    if isinstance(x, Tracer) and mesh.size > 1 and AxisType.Auto in mesh.axis_types:
        free = [PartitionSpec.UNCONSTRAINED] * len(batch)
        x = lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*free, *whole)))
    return x


def spread_like(x: Array, other: Array) -> Array:
    """Return what was made of gathered matrices as another array lies, on mesh axes that are explicit."""
    sharding = jax.typeof(other).sharding
    return x if jax.typeof(x).sharding.spec == sharding.spec else jax.sharding.reshard(x, sharding)


@public
def gram(x: Array, side: Literal["rows", "columns"] = "rows") -> Array:
    r"""Return the Gram matrices :math:`X X^*` of the rows or :math:`X^* X` of the columns.

    Products have the highest precision, since those of lower one spoil small eigenvalues. A gradient whose squares
    could overflow is clipped before: ``numerics.bounded(g, g.size)``.

    Args:
      x: an array ``(..., m, n)``, real or complex.
      side: ``"rows"`` for ``(..., m, m)``, ``"columns"`` for ``(..., n, n)``.
    """
    x = x.astype(compute_dtype(x.dtype))
    adjoint = jnp.conj(x.mT)
    pair = (x, adjoint) if SIDE.normalize("gram: side", side) == "rows" else (adjoint, x)
    return jnp.matmul(*pair, precision="highest")


@public
def inverse_root(
    a: Array,
    p: Any,
    *,
    ridge: Any = 1e-6,
    shift: Any = 0.0,
    method: Literal["eigh", "newton"] = "eigh",
) -> Array:
    r"""Return :math:`(A + (\epsilon \lambda + \delta) I)^{-1/p}` of positive semidefinite matrices.

    :math:`\lambda` is the largest eigenvalue of each matrix. Eigenvalues that rounding has made negative count as 0.
    Where nothing is added (:math:`\epsilon \lambda + \delta = 0`) the result is the root of the pseudo-inverse:
    eigenvalues below :math:`n \lambda` times the dtype's precision count as 0, and their inverse roots are 0. So a zero
    matrix gives zeros, unless :math:`\delta > 0`. Matrices are scaled first, and may be as small or as large as the
    dtype allows.

    Args:
      a: :math:`A`, an array ``(..., n, n)``, symmetric (Hermitian).
      p: the root, above 0: 2 for the inverse square root, 4 for Shampoo's of two sides. A whole number for Newton's
        method.
      ridge: :math:`\epsilon \ge 0`, relative. Above the dtype's precision it bounds the condition number by
        :math:`1/\epsilon`, and what rounding makes of a singular matrix's zero eigenvalues hardly matters.
      shift: :math:`\delta \ge 0`, absolute.
      method: ``"eigh"`` decomposes; ``"newton"`` iterates products of real matrices
        (:func:`gradchain.matrix_inverse_pth_root`), which is faster on accelerators, needs a ridge well above the
        dtype's precision, and takes :math:`\lambda` for its estimate by power iteration.

    Returns:
      An array like ``a``, in at least float32.

    Raises:
      ValueError: if the last two axes differ, ``p`` isn't above 0 (or whole), or the method is unknown.
      TypeError: for complex matrices and Newton's method.

    Example:
      >>> print(matrices.inverse_root(jnp.diag(jnp.array([4.0, 0.25])), 2, ridge=0.0))
      [[0.5 0. ]
       [0.  2. ]]

    References:
      Gupta, Koren and Singer, *Shampoo: Preconditioned Stochastic Tensor Optimization*, 2018.
      Higham, *Functions of Matrices*, 2008, chapter 7.
    """
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ValueError(f"inverse_root: needs square matrices (..., n, n), got shape {a.shape}")
    if not isinstance(p, Tracer) and np.any(np.asarray(p) <= 0):
        raise ValueError(f"inverse_root: p must be above 0, got {p!r}")
    newton = METHOD.normalize("inverse_root: method", method) == "newton"
    if newton and jnp.iscomplexobj(a):
        raise TypeError("inverse_root: Newton's method is for real matrices; use method='eigh'")
    a = a.astype(compute_dtype(a.dtype))
    if a.size == 0:
        return a
    real = real_dtype(a.dtype)
    size = jnp.max(magnitude(a), axis=(-2, -1), keepdims=True)
    size = jnp.where(size < jnp.finfo(real).tiny, 1, size)
    exponent = -1 / jnp.asarray(p, real)
    root = _newton_root if newton else _eigh_root
    return root(a / size, p, exponent, jnp.asarray(ridge, real), shift / size) * size**exponent


def _eigh_root(a: Array, _: Any, exponent: Array, ridge: Array, shift: Array) -> Array:
    return _eigh_power(a, exponent, ridge, shift[..., 0])


class Powers(NamedTuple):
    """Eigenvalues x of matrices to which something was added, and their powers; 0 where x counts as 0."""

    vectors: Array
    largest: Array
    values: Array
    powers: Array
    kept: Array


def _powers(a: Array, exponent: Array, ridge: Array, shift: Array) -> Powers:
    values, vectors = jnp.linalg.eigh(a)
    values = jnp.maximum(values, 0)
    largest = values[..., -1:]
    added = ridge * largest + shift
    least = a.shape[-1] * jnp.finfo(values.dtype).eps * largest
    kept = (values > least) | (added > 0)
    values = jnp.where(kept, values + added, 1)
    return Powers(vectors, largest, values, jnp.where(kept, values**exponent, 0), kept)


def _with_eigenvalues(vectors: Array, values: Array) -> Array:
    return _product(vectors * values[..., None, :], jnp.conj(vectors.mT))


@custom_jvp
def _eigh_power(a: Array, exponent: Array, ridge: Array, shift: Array) -> Array:
    found = _powers(a, exponent, ridge, shift)
    return _with_eigenvalues(found.vectors, found.powers)


@_eigh_power.defjvp
def _eigh_power_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Take the derivative by divided differences, which stay finite where eigenvalues are equal.

    Higham 2008, theorem 3.11: for A = Q diag(x) Q*, f(A)' = Q (D o (Q* A' Q)) Q*, D = (f(x_i) - f(x_j)) / (x_i - x_j).
    """
    (_, exponent, ridge, _), (da, dexponent, dridge, dshift) = primals, tangents
    vectors, largest, values, powers, kept = _powers(*primals)
    logs, quotients = jnp.log(values), powers / values
    inside = _product(jnp.conj(vectors.mT), _product(da, vectors))
    ratio = logs[..., :, None] - logs[..., None, :]
    equal = ratio == 0
    rise = jnp.where(equal, exponent, jnp.expm1(exponent * ratio) / jnp.where(equal, 1, jnp.expm1(ratio)))
    one_sided = quotients[..., :, None] + quotients[..., None, :]
    both = kept[..., :, None] & kept[..., None, :]
    differences = jnp.where(both, rise * quotients[..., None, :], one_sided)
    dadded = ridge * jnp.real(inside[..., -1:, -1]) + dridge * largest + dshift
    along = exponent * quotients * dadded + powers * logs * dexponent
    dpower = _product(vectors, _product(differences * inside, jnp.conj(vectors.mT)))
    return _with_eigenvalues(vectors, powers), dpower + _with_eigenvalues(vectors, along)


def _newton_root(a: Array, p: Any, _: Array, ridge: Array, shift: Array) -> Array:
    tolerance = max(a.shape[-1], 8) * float(jnp.finfo(a.dtype).eps)

    def one(matrix: Array, shift: Array) -> Array:
        shifted = matrix + shift * jnp.eye(len(matrix), dtype=a.dtype)
        root, _ = matrix_inverse_pth_root(shifted, p, ridge_epsilon=ridge, error_tolerance=tolerance)
        return jnp.where(jnp.any(shifted != 0), root, 0)

    return jax.vmap(one)(a.reshape(-1, *a.shape[-2:]), shift.reshape(-1, 1, 1)).reshape(a.shape)


@public
def spectral_norm(x: Array, vector: Array | None = None, steps: int = 1) -> tuple[Array, Array]:
    r"""Return lower bounds on the largest singular values, by power iteration from a vector that is kept.

    .. math:: v \leftarrow X^* X v / \|X^* X v\|_2, \qquad \sigma \approx \|X v\|_2

    A rule that keeps :math:`v` in a slot needs one step at each update: the matrix changes little from one to the next.
    Where there is no vector, or it is zero (as slots start), or :math:`X v = 0`, it begins with the row of the largest
    norm, so that the bound is never below that norm. A zero matrix has norm 0, and gives a zero vector.

    The norm is differentiable; the vector is a constant.

    Args:
      x: an array ``(..., m, n)``, real or complex.
      vector: :math:`v`, an array ``(..., n)``; of any length but 0.
      steps: the number of multiplications by :math:`X^* X`.

    Returns:
      ``(norm, vector)``: real numbers ``(...)`` and vectors ``(..., n)`` of norm 1, to give at the next call.

    Raises:
      ValueError: if shapes don't fit.

    Example:
      >>> norm, vector = matrices.spectral_norm(jnp.array([[3.0, 0.0], [4.0, 0.0], [0.0, 2.0]]))
      >>> print(norm, vector)
      5.0 [1. 0.]

    Reference: Golub and Van Loan, *Matrix Computations*, 4th edition, 2013, section 8.2.
    """
    x = jnp.asarray(x)
    if x.ndim < 2 or (vector is not None and vector.shape != (*x.shape[:-2], x.shape[-1])):
        vectors = "" if vector is None else f" and vectors of shape {vector.shape}"
        raise ValueError(f"spectral_norm: needs matrices (..., m, n) and vectors (..., n), got {x.shape}{vectors}")
    x = x.astype(compute_dtype(x.dtype))
    if x.size == 0:
        return jnp.zeros(x.shape[:-2], real_dtype(x.dtype)), jnp.zeros((*x.shape[:-2], x.shape[-1]), x.dtype)
    size = lax.stop_gradient(jnp.max(magnitude(x), axis=(-2, -1), keepdims=True))
    unit = divide(x, size)
    fixed = lax.stop_gradient(unit)
    longest = jnp.argmax(_norm(fixed, -1), axis=-2, keepdims=True)
    first = _unit(jnp.conj(jnp.take_along_axis(fixed, longest, axis=-2)).mT, 0)
    v = first if vector is None else _unit(lax.stop_gradient(vector)[..., None].astype(x.dtype), first)
    adjoint = jnp.conj(fixed.mT)
    v = lax.fori_loop(0, steps, lambda _, v: _unit(_product(adjoint, _product(fixed, v)), first), v)
    return (_norm(_product(unit, v), -2) * size)[..., 0, 0], v[..., 0]


def _product(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision="highest")


def _norm(x: Array, axis: int) -> Array:
    """Return norms along an axis, for numbers of moderate size."""
    return sqrt(jnp.sum(abs_sq(x), axis=axis, keepdims=True))


def _unit(v: Array, otherwise: Any) -> Array:
    """Return columns ``(..., n, 1)`` with norm 1; ``otherwise`` in the place of zeros."""
    norm = _norm(v, -2)
    return jnp.where(norm > 0, divide(v, norm), otherwise)
