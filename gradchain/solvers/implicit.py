"""Derivatives of a minimum with respect to what the function depends on, and what is said where they are missing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from gradchain import tree
from gradchain.combinators.complex_parts import join_parts, split_parts
from gradchain.solvers.objective import Objective
from gradchain.solvers.solution import Solution
from gradchain.tree import Tree

MOST_PRODUCTS = 1000


def implicit(objective: Objective, solve: Callable[[Tree], Solution[Any]], params: Tree) -> Solution[Any]:
    r"""Return what ``solve`` finds, with the derivatives of an exact minimum.

    .. math:: \dot w = -(\nabla^2 f)^{-1}\, \partial_\theta \nabla f\, \dot\theta

    Complex parameters are taken as pairs of real ones, in which the Hessian is symmetric.

    Args:
      objective: the function, and the arguments that there are derivatives by; what it closes over is among them.
      solve: the solver.
      params: the start.
    """
    alone, inputs = jax.closure_convert(solve, params)
    solution = alone(*lax.stop_gradient((params, *inputs)))

    def gradient(parts: Tree) -> Tree:
        return jax.grad(lambda parts: objective.value(join_parts(parts)))(parts)

    start = split_parts(solution.params)
    found = join_parts(lax.custom_root(gradient, start, lambda _, parts: parts, _solve_symmetric))
    point = objective(found)
    return solution._replace(params=found, value=point.value, aux=point.aux)


def _solve_symmetric(matvec: Callable[[Tree], Tree], b: Tree) -> Tree:
    """Solve a symmetric positive definite system by conjugate gradients, up to the root of the machine precision."""
    eps = max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(b))

    def by_cg(matvec: Callable[[Tree], Tree], b: Tree) -> Tree:
        most = min(10 * tree.size(b), MOST_PRODUCTS)
        return jax.scipy.sparse.linalg.cg(matvec, b, tol=eps**0.5, maxiter=most)[0]

    return lax.custom_linear_solve(matvec, b, by_cg, symmetric=True)


def forward_only(values: Any) -> Any:
    """Return values as they are; reverse-mode derivatives through them are an error that says what to do."""

    def leaf(x: Array) -> Array:
        return _forward_only.bind(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x

    return jax.tree.map(leaf, values)


def _refuse(cotangent: Any, x: Any) -> Any:
    raise TypeError(
        "minimize: reverse-mode derivatives can't go back through its steps; with implicit=True they are those of the "
        "solution: minimize(fun, params, args=(theta,), implicit=True)"
    )


_forward_only = Primitive("forward_only")
_forward_only.def_impl(lambda x: x)
_forward_only.def_abstract_eval(lambda x: x)
mlir.register_lowering(_forward_only, lambda _, x: [x])
batching.defvectorized(_forward_only)
ad.deflinear2(_forward_only, _refuse)
