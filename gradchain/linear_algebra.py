"""Linear algebra by iteration: dominant eigenvalues, inverse roots, least squares with nonnegative solutions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.typing import ArrayLike

from gradchain import tree
from gradchain.numerics import compute_dtype, divide, real_dtype
from gradchain.signatures import public
from gradchain.tree import Tree
from gradchain.tree.construction import narrowed


class Power(NamedTuple):
    """The iteration ``v, A v, v' A v``."""

    vector: Tree
    image: Tree
    eigenvalue: Array
    steps: Array


@public
def power_iteration(
    matrix: ArrayLike | Callable[[Tree], Tree],
    *,
    v0: Tree | None = None,
    num_iters: ArrayLike = 100,
    error_tolerance: ArrayLike = 1e-6,
    precision: lax.Precision = lax.Precision.HIGHEST,
    key: Array | None = None,
) -> tuple[Array, Tree]:
    r"""Return the eigenvalue of largest magnitude and its eigenvector, by repeated multiplication.

    .. math:: v \leftarrow A v / \|A v\|_2 \quad\text{until}\quad
        \|A v - \lambda v\|_2 \le \mathrm{tol}\,|\lambda|, \quad \lambda = v^* A v

    It takes about :math:`\log(1/\mathrm{tol}) / \log(|\lambda_1 / \lambda_2|)` iterations, and doesn't converge where
    two eigenvalues of different sign or phase are equally large. A zero matrix has eigenvalue 0 (Optax returns NaN).

    The eigenvalue is differentiable with respect to what ``matrix`` is made of, for symmetric (Hermitian) matrices:
    :math:`d\lambda = v^* \, dA \, v`. The eigenvector is returned as a constant.

    Args:
      matrix: :math:`A`, a square matrix, or a function that multiplies a vector (any tree) by it.
      v0: the first vector; needed with a function. By default uniform in [-1, 1].
      num_iters: the largest number of iterations.
      error_tolerance: the relative residual to stop at.
      precision: of the product with a matrix.
      key: PRNG key for the default ``v0``; by default ``jax.random.PRNGKey(0)``.

    Returns:
      ``(eigenvalue, eigenvector)``: a number in at least float32, and a tree like ``v0`` of norm 1.

    Raises:
      ValueError: if ``matrix`` is a function and ``v0`` is missing, or an array that isn't a square matrix.

    Reference: Golub and Van Loan, *Matrix Computations*, 4th edition, 2013, section 7.3.1.
    """
    multiply, start = _operator(matrix, v0, precision, key)

    def body(now: Power) -> Power:
        vector = _unit(now.image, now.vector)
        image = lax.stop_gradient(multiply(vector))
        return Power(vector, image, tree.vdot(vector, image), now.steps + 1)

    def unfinished(now: Power) -> Array:
        residual = tree.norm(jax.tree.map(lambda z, v: z - now.eigenvalue * v, now.image, now.vector))
        return (residual > error_tolerance * jnp.abs(now.eigenvalue)) & (now.steps < num_iters)

    image = lax.stop_gradient(multiply(start))
    first = Power(start, image, tree.vdot(start, image), jnp.zeros((), jnp.int32))
    last = lax.while_loop(unfinished, body, first)
    vector = _unit(last.image, last.vector)
    return tree.vdot(vector, multiply(vector)), vector


def _operator(
    matrix: ArrayLike | Callable[[Tree], Tree], v0: Tree | None, precision: lax.Precision, key: Array | None
) -> tuple[Callable[[Tree], Tree], Tree]:
    """Return the multiplication by ``matrix``, and the first vector, of norm 1, both in at least float32."""
    if callable(matrix):
        if v0 is None:
            raise ValueError("power_iteration: v0 is needed where matrix is a function")
        start = jax.tree.map(lambda x: jnp.asarray(x, compute_dtype(jnp.result_type(x))), v0)
        return matrix, _unit(start, start)
    array = _square("power_iteration", matrix)
    if v0 is None:
        key = jax.random.PRNGKey(0) if key is None else key
        v0 = jax.random.uniform(key, array.shape[-1:], real_dtype(array.dtype), -1.0, 1.0)
    start = jnp.asarray(v0, compute_dtype(array.dtype, jnp.result_type(v0)))
    return lambda v: jnp.matmul(array, v, precision=precision), _unit(start, start)


def _square(where: str, matrix: ArrayLike) -> Array:
    array = jnp.asarray(matrix)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ValueError(f"{where}: matrix must be a square matrix, got shape {array.shape}; for more, use jax.vmap")
    return array.astype(compute_dtype(array.dtype))


def _unit(vector: Tree, otherwise: Tree) -> Tree:
    """Return ``vector`` with norm 1 and the dtypes of ``otherwise``, which stands in for a vector of zeros."""
    largest = tree.norm(vector, ord="inf")  # the squares of very large or small numbers are no numbers
    relative = jax.tree.map(lambda x: divide(x, largest), vector)
    norm = tree.norm(relative)
    unit = tree.where(largest > 0, jax.tree.map(lambda x: divide(x, norm), relative), otherwise)
    return lax.stop_gradient(tree.cast_like(unit, otherwise))


class Newton(NamedTuple):
    """The coupled iteration for an inverse root: ``inverse`` tends to the root as ``product`` tends to the identity."""

    product: Array
    root: Array
    error: Array
    steps: Array
    improves: Array


@public
def matrix_inverse_pth_root(
    matrix: ArrayLike,
    p: ArrayLike,
    num_iters: ArrayLike = 100,
    ridge_epsilon: ArrayLike = 1e-6,
    error_tolerance: ArrayLike = 1e-6,
    precision: lax.Precision = lax.Precision.HIGHEST,
) -> tuple[Array, Array]:
    r"""Return :math:`(A + \epsilon \lambda I)^{-1/p}` of a symmetric positive semidefinite matrix.

    :math:`\lambda` is the largest eigenvalue of :math:`A`, and taken for 1e-16 where it is below. The coupled Newton
    iteration uses products of matrices only:

    .. math::
        N_k = \tfrac{p + 1}{p} I - \tfrac1p M_k, \qquad X_{k+1} = X_k N_k, \qquad M_{k+1} = N_k^p M_k

    from :math:`M_0 = \tfrac{p + 1}{2 \|A\|_F} A`; then :math:`M_k \to I` and :math:`X_k \to A^{-1/p}`. It stops
    when the error falls below its tolerance, or grows by a fifth: then the result before is the best that the dtype
    allows. Unlike in Optax, ``p`` may be any whole number above 0 (there 3 is taken for 4), float64 is computed in
    float64, a zero matrix gives a finite result, and the error is that of the root returned.

    Args:
      matrix: :math:`A`, of any size, real.
      p: the root, a whole number of at least 1.
      num_iters: the largest number of iterations.
      ridge_epsilon: :math:`\epsilon \ge 0`, relative to :math:`\lambda`. It bounds the condition number by
        :math:`1/\epsilon`, and should be well above the dtype's precision.
      error_tolerance: the largest error to stop at.
      precision: of the products.

    Returns:
      ``(root, error)``: the root in the matrix's dtype (float32 for whole numbers), and
      :math:`\max_{ij} |M - I|_{ij}`.

    Raises:
      ValueError: if ``matrix`` isn't a square matrix, or ``p`` (where it is known) isn't a whole number above 0.

    Reference: Higham, *Functions of Matrices*, 2008, equation (7.18).
    """
    array = _square("matrix_inverse_pth_root", matrix)
    if not isinstance(p, Tracer) and (np.any(np.asarray(p) < 1) or np.any(np.asarray(p) % 1)):
        raise ValueError(f"matrix_inverse_pth_root: p must be a whole number of at least 1, got {p!r}")
    if array.size == 0:
        return narrowed(array, jnp.asarray(matrix)), jnp.zeros((), array.dtype)
    power = jnp.asarray(p, array.dtype)
    size = jnp.maximum(power_iteration(array, precision=precision)[0], 1e-16)
    identity = jnp.eye(len(array), dtype=array.dtype)
    first = _newton_start(array / size + ridge_epsilon * identity, power)

    def multiply(x: Array, y: Array) -> Array:
        return jnp.matmul(x, y, precision=precision)

    def body(now: Newton) -> Newton:
        factor = ((power + 1) * identity - now.product) / power
        product = multiply(_matrix_power(factor, p, multiply), now.product)
        error = jnp.max(jnp.abs(product - identity))
        improves = error < 1.2 * now.error
        after = Newton(product, multiply(now.root, factor), error, now.steps + 1, improves)
        before = now._replace(steps=now.steps + 1, improves=improves)
        return tree.where(improves, after, before)

    last = lax.while_loop(
        lambda now: now.improves & (now.error > error_tolerance) & (now.steps < num_iters), body, first
    )
    return narrowed(last.root * size ** (-1 / power), jnp.asarray(matrix)), last.error


def _newton_start(matrix: Array, p: Array) -> Newton:
    identity = jnp.eye(len(matrix), dtype=matrix.dtype)
    scale = (1 + p) / (2 * jnp.linalg.norm(matrix))
    product = matrix * scale
    error = jnp.max(jnp.abs(product - identity))
    return Newton(product, identity * scale ** (1 / p), error, jnp.zeros((), jnp.int32), jnp.asarray(True))


def _matrix_power(base: Array, exponent: ArrayLike, multiply: Callable[[Array, Array], Array]) -> Array:
    """Return a power of a matrix by repeated squaring; the exponent, at least 1, may be traced."""

    def body(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        result, square, left = carry
        result = jnp.where(left % 2 == 1, multiply(result, square), result)
        return result, multiply(square, square), left // 2

    start = (jnp.eye(len(base), dtype=base.dtype), base, jnp.asarray(exponent, jnp.int32))
    return lax.while_loop(lambda carry: carry[2] > 0, body, start)[0]


@public
def nnls(
    A: Array,
    b: Array,
    iters: int,
    unroll: int | bool = 1,
    L: ArrayLike | None = None,
) -> Array:
    r"""Solve the nonnegative least squares problem :math:`\min_{x \ge 0} \|A x - b\|_2`.

    Nesterov's accelerated projected gradient method, with :math:`Q = A^\top A`, :math:`q = A^\top b` and
    :math:`c_1 = 1`:

    .. math::
        x_{k+1} = \max\left(0,\; y_k - \tfrac1L (Q y_k - q)\right), \quad
        c_{k+1} = \frac{1 + \sqrt{1 + 4 c_k^2}}{2}, \quad
        y_{k+1} = x_{k+1} + \frac{c_k - 1}{c_{k+1}} (x_{k+1} - x_k)

    The squared residual is within :math:`2 L \|x_*\|^2 / (k + 1)^2` of the least. Optax starts with
    :math:`c = 0`, which makes its first iteration twice. Derivatives go through all iterations.

    Args:
      A: an :math:`m \times n` matrix.
      b: a vector of length :math:`m`, or an :math:`m \times k` matrix: one problem a column.
      iters: the number of iterations.
      unroll: how many iterations to unroll, as in ``lax.scan``.
      L: a bound on the largest eigenvalue of :math:`Q`; by default the least of its Frobenius and 1-norms.

    Returns:
      :math:`x`, of shape :math:`(n,)` or :math:`(n, k)`, in at least float32.

    Raises:
      ValueError: if the shapes don't fit.

    Reference: Polyak, *Projected gradient method for non-negative least square*, 2015.
    """
    matrix, target = jnp.asarray(A), jnp.asarray(b)
    if matrix.ndim != 2 or target.ndim not in (1, 2) or len(target) != len(matrix):
        raise ValueError(f"nnls: A must be a matrix and b have as many rows, got {matrix.shape} and {target.shape}")
    dtype = compute_dtype(matrix.dtype, target.dtype)
    matrix, target = matrix.astype(dtype), target.astype(dtype)
    normal = jnp.matmul(matrix.T, matrix, precision="highest")
    moment = jnp.matmul(matrix.T, target, precision="highest")
    bound = jnp.asarray(_largest_eigenvalue_bound(normal) if L is None else L, dtype)

    def step(carry: tuple[Array, Array, Array], _: Any) -> tuple[tuple[Array, Array, Array], None]:
        x, y, c = carry
        slope = jnp.matmul(normal, y, precision="highest") - moment
        new = jnp.maximum(0, y - divide(slope, bound))
        following = (1 + jnp.sqrt(1 + 4 * c**2)) / 2
        return (new, new + (c - 1) / following * (new - x), following), None

    zero = jnp.zeros(moment.shape, dtype)
    return lax.scan(step, (zero, zero, jnp.ones((), dtype)), length=iters, unroll=unroll)[0][0]


def _largest_eigenvalue_bound(matrix: Array) -> Array:
    sums = jnp.sum(jnp.abs(matrix), axis=0)
    return jnp.minimum(tree.norm(matrix), jnp.max(sums, initial=0))


__all__ = ["matrix_inverse_pth_root", "nnls", "power_iteration"]
