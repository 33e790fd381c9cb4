"""Orthonormal bases that follow a matrix which changes slowly."""

from typing import Annotated, Any, Literal

import jax.numpy as jnp
from jax import Array

from gradchain.core.value import Choice
from gradchain.numerics import compute_dtype, divide, magnitude
from gradchain.signatures import public

METHOD = Choice("qr", "eigh")
Method = Annotated[Literal["qr", "eigh"], METHOD]


@public
def align_signs(vectors: Array, towards: Array) -> Array:
    r"""Return vectors turned towards others: :math:`v_j \operatorname{sign}\langle v_j, w_j \rangle`.

    Eigenvectors and singular vectors have no sign of their own (complex ones no phase), and a decomposition gives any.
    State in terms of old vectors, such as momentum, goes on with the new ones if they are aligned with the old.

    Args:
      vectors: :math:`v_j`, the columns of an array ``(..., n, k)``.
      towards: :math:`w_j`, of the same shape. A vector stays as it is where its product with :math:`w_j` is 0.
    """
    overlap = jnp.sum(jnp.conj(vectors) * towards, axis=-2, keepdims=True)
    return vectors * jnp.where(overlap == 0, 1, jnp.sign(overlap))


@public
def track_basis(
    a: Array,
    basis: Array,
    ridge: Any = 1e-5,
    *,
    method: Literal["qr", "eigh"] = "qr",
    sort: bool = True,
) -> Array:
    r"""Return an orthonormal basis nearer to the eigenvectors of symmetric (Hermitian) matrices: one step by QR.

    .. math:: Q R = (A + \epsilon \operatorname{tr}(A)\, I)\, Q_0

    This is orthogonal iteration: repeated, or with an :math:`A` that changes slowly, the basis becomes that of the
    eigenvectors, and each step costs a product and a QR decomposition instead of an eigendecomposition. It may start
    from the identity. The columns are decomposed in the order of falling Rayleigh quotients :math:`q^* A q` and then
    put back in their places, each with the sign that agrees with the old one. So what a rule keeps for each column
    (second moments) stays with it.

    Without a ridge, the null space of a singular matrix gets vectors made of rounding errors. A zero matrix leaves the
    basis as it is, and so does one whose result isn't finite.

    Args:
      a: :math:`A`, an array ``(..., n, n)``, positive semidefinite.
      basis: :math:`Q_0`, an array ``(..., n, k)`` with orthonormal columns.
      ridge: :math:`\epsilon \ge 0`, relative to the trace; above the dtype's precision.
      method: ``"qr"``, or ``"eigh"`` for the eigenvectors themselves; those of equal eigenvalues are arbitrary.
      sort: whether columns are ordered by their Rayleigh quotients and put back. Otherwise they are decomposed in the
        order in which they are, and ``"eigh"`` gives them with falling eigenvalues.

    Returns:
      An array like ``basis``, in at least float32.

    Raises:
      ValueError: if shapes don't fit, or the method is unknown.

    References:
      Golub and Van Loan, *Matrix Computations*, 4th edition, 2013, section 8.2.4.
      Vyas et al., *SOAP: Improving and Stabilizing Shampoo using Adam*, 2024, algorithm 4.
    """
    if a.ndim < 2 or a.shape[-1] != a.shape[-2] or a.shape[:-1] != basis.shape[:-1]:
        raise ValueError(f"track_basis: needs matrices (..., n, n) and (..., n, k), got {a.shape} and {basis.shape}")
    by_qr = METHOD.normalize("track_basis: method", method) == "qr"
    dtype = compute_dtype(a.dtype, basis.dtype)
    a, basis = a.astype(dtype), basis.astype(dtype)
    if basis.size == 0:
        return basis
    size = jnp.max(magnitude(a), axis=(-2, -1), keepdims=True)
    a = jnp.where(size > 0, divide(a, size), jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=dtype), a.shape))
    trace = jnp.trace(a, axis1=-2, axis2=-1).real[..., None, None]
    image = jnp.matmul(a, basis, precision="highest") + ridge * trace * basis
    quotients = jnp.sum(jnp.real(jnp.conj(basis) * image), axis=-2, keepdims=True)
    order = jnp.argsort(-quotients, axis=-1)
    if by_qr:
        new = jnp.linalg.qr(jnp.take_along_axis(image, order, axis=-1) if sort else image)[0]
    else:
        new = jnp.linalg.eigh(a)[1][..., ::-1][..., : basis.shape[-1]]
    new = jnp.take_along_axis(new, jnp.argsort(order, axis=-1), axis=-1) if sort else new
    sound = (size > 0) & jnp.all(jnp.isfinite(new), axis=(-2, -1), keepdims=True)
    return jnp.where(sound, align_signs(new, basis), basis)
