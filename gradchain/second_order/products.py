"""Products of curvature matrices with vectors, without the matrices: the Hessian's and the generalised Gauss-Newton."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from gradchain import tree
from gradchain.arguments import as_arrays
from gradchain.core.extra import one_number
from gradchain.signatures import public
from gradchain.tree import Tree


@public
def hvp(fun: Callable[[Tree], Array], params: Tree, v: Tree) -> Tree:
    r"""Return the Hessian of a function times a vector, as a tree.

    .. math:: \nabla^2 f(w)\,v = \lim_{h \to 0} \frac{\nabla f(w + h v) - \nabla f(w)}{h}

    It is the derivative of the gradient along :math:`v` (forward over reverse), takes about as long as two
    gradients, and never forms the matrix.

    Complex numbers: :math:`\nabla f` is the gradient as gradchain's transforms take it, which points uphill: the
    conjugate of what ``jax.grad`` returns. So :math:`\Re\langle v, \nabla^2 f\,v\rangle` is the second derivative of
    :math:`f` along :math:`v`, as for real numbers. The product is linear in :math:`v` over the reals only.

    Args:
      fun: :math:`f`, a function of the parameters that returns one real number.
      params: :math:`w`, a tree of inexact arrays.
      v: a tree of the same structure and shapes; it is cast to the parameters' dtypes.

    Returns:
      A tree like ``params``, in its dtypes.

    Raises:
      ValueError: if ``v`` doesn't fit ``params``, or ``fun`` returns an array with axes.
      TypeError: if ``params`` aren't inexact, ``v`` is complex where they are real, or ``fun`` doesn't return a real
        number.

    Example:
      >>> quadratic = lambda w: w["x"] ** 2 + 3 * w["x"] * w["y"]
      >>> product = hvp(quadratic, {"x": 1.0, "y": 1.0}, {"x": 1.0, "y": 0.0})
      >>> print(product["x"], product["y"])
      2.0 3.0

    Reference: Pearlmutter, *Fast Exact Multiplication by the Hessian*, 1994.
    """
    params, v = _alike("hvp", params, v)
    gradient = jax.grad(lambda w: one_number("hvp: the result of fun", fun(w)))
    return tree.conj(jax.jvp(gradient, (params,), (v,))[1])


@public
def ggn_product(model: Callable[[Tree], Tree], outer: Callable[[Tree], Array], params: Tree, v: Tree) -> Tree:
    r"""Return the generalised Gauss-Newton matrix of ``outer(model(params))`` times a vector, as a tree.

    .. math:: G v = J^\top\, \nabla^2 \ell(z)\, J v, \qquad z = m(w), \quad J = \frac{\partial m}{\partial w}

    It is the Hessian of :math:`\ell(m(w))` without the curvature of the model, and equals it where the model is linear.
    If :math:`\ell` is convex in the outputs (squares, cross-entropy), :math:`G` is positive semidefinite, which the
    Hessian of a network isn't. For :math:`\ell(z) = \frac12 \|z\|^2`, it is Gauss and Newton's :math:`J^\top J`. One
    product takes about as long as two gradients.

    Complex numbers: as for :func:`hvp`, :math:`\Re\langle v, G v\rangle` is the second derivative of
    :math:`\ell` along :math:`J v`; :math:`J^\top` is the adjoint.

    Args:
      model: :math:`m`, a function from parameters to outputs: an array or a tree, of the whole batch.
      outer: :math:`\ell`, a function from outputs to one real number.
      params: :math:`w`, a tree of inexact arrays.
      v: a tree of the same structure and shapes; it is cast to the parameters' dtypes.

    Returns:
      A tree like ``params``, in its dtypes.

    Raises:
      ValueError: if ``v`` doesn't fit ``params``, or ``outer`` returns an array with axes.
      TypeError: if ``params`` aren't inexact, ``v`` is complex where they are real, or ``outer`` doesn't return a real
        number.

    Example:
      >>> model = lambda w: jnp.stack([w["x"] * w["y"], w["y"]])
      >>> squares = lambda z: 0.5 * jnp.sum(z**2)
      >>> product = ggn_product(model, squares, {"x": 2.0, "y": 3.0}, {"x": 1.0, "y": 0.0})
      >>> print(product["x"], product["y"])
      9.0 6.0

    Reference: Schraudolph, *Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent*, 2002.
    """
    params, v = _alike("ggn_product", params, v)
    return linearized_ggn(model, outer, params)[1](v)


def linearized_ggn(
    model: Callable[[Tree], Tree], outer: Callable[[Tree], Array], params: Tree
) -> tuple[Tree, Callable[[Tree], Tree]]:
    """Return (the model's outputs, the multiplication by the matrix of ``ggn_product``).

    The model is evaluated and linearised once, for any number of products.
    """
    outputs, forward = jax.linearize(model, params)
    backward = jax.linear_transpose(forward, params)
    slope = jax.linearize(jax.grad(lambda z: one_number("ggn_product: the result of outer", outer(z))), outputs)[1]

    def multiply(v: Tree) -> Tree:
        return tree.conj(backward(slope(forward(v)))[0])

    return outputs, multiply


def linearized_gradient(fun: Callable[[Tree], Array], params: Tree) -> tuple[Tree, Callable[[Tree], Tree]]:
    """Return (the gradient, the multiplication by the Hessian), as ``hvp`` has them, of one linearisation."""
    gradient, multiply = jax.linearize(jax.grad(fun), params)
    return tree.conj(gradient), lambda v: tree.conj(multiply(v))


def inner(x: Tree, y: Tree, dtype: Any) -> Array:
    r"""Return :math:`\Re\langle x, y\rangle`."""
    return tree.vdot(x, y).real.astype(dtype)


def _alike(where: str, params: Tree, v: Tree) -> tuple[Any, Any]:
    """Return both as arrays, ``v`` in the structure and the dtypes of ``params``."""
    params = as_arrays(params, f"{where}: params")
    try:
        return params, tree.cast_like(tree.match(v, params, where, "v", "params"), params)
    except TypeError as error:
        raise TypeError(f"{where}: v {error}") from None
