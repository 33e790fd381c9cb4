"""``least_squares``: nonlinear least squares by Levenberg and Marquardt's method."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from gradchain import tree
from gradchain.arguments import as_arrays, check_whole, described
from gradchain.compiled import Compiled
from gradchain.core.hyper import Number, at_scalar
from gradchain.core.transform import scalar_dtype
from gradchain.signatures import public
from gradchain.solvers.levenberg_marquardt import Arrays, Dense, MatrixFree, Tolerances, levenberg_marquardt
from gradchain.solvers.solution import CONVERGED, Solution
from gradchain.tree import Tree, show_path
from gradchain.tree.alignment import T

METHODS = ("auto", "dense", "cg")
MOST_PARAMETERS, MOST_NUMBERS = 500, 10**7
"""Up to which ``"auto"`` takes the dense method: parameters, and numbers in the Jacobian."""
DEFAULTS = {4: (1e-4, 1e-8, 1e-5), 8: (1e-8, 1e-15, 1e-12)}
"""gtol, ftol and xtol for numbers of 4 and 8 bytes."""
NUMBERS = (
    *(Number(name, "[0, inf)") for name in ("gtol", "ftol", "xtol")),
    Number("damping", "(0, inf)"),
    Number("cg_tol", "(0, 1)"),
)


class LeastSquaresState(NamedTuple):
    """The state in a solution of :func:`least_squares`."""

    damping: Array
    r""":math:`\lambda` after the last step."""


class _Recipe(NamedTuple):
    """What a compiled run depends on besides its arrays."""

    residuals: Callable[..., Any]
    has_aux: bool
    method: str
    rows: int


@public
def least_squares(
    residuals: Callable[..., Any],
    params: T,
    *,
    args: tuple[Any, ...] = (),
    has_aux: bool = False,
    method: Literal["auto", "dense", "cg"] = "auto",
    max_steps: int = 1000,
    gtol: Any = None,
    ftol: Any = None,
    xtol: Any = None,
    damping: Any = 1e-3,
    max_cg_steps: int = 50,
    cg_tol: Any = 0.1,
    history: bool = False,
) -> Solution[T]:
    r"""Minimise the sum of squares of residuals: fit a curve, calibrate a model, solve a system of equations.

    .. math::
        F(w) = \frac12 \|r(w)\|^2, \qquad
        (J^\top J + \lambda D^2)\,d = -J^\top r, \qquad w \leftarrow w + d \text{ if } F \text{ falls}

    :math:`J` is the Jacobian of the residuals, :math:`D` a diagonal. For :math:`\lambda = 0` it is Gauss and Newton's
    step, for a large one a short step downhill. A step is taken if it brings more than
    :math:`10^{-4}` of the decrease that linear residuals would; then the damping shrinks, by up to 3 where
    the model was right, and else it grows (Nielsen 1999). Each step evaluates the residuals once, and the Jacobian
    where it was taken.

    The dense method factors :math:`J D^{-1}` by Householder's QR and never forms :math:`J^\top J`, which would halve
    the digits. :math:`D` holds the largest norms so far of the columns of :math:`J` (Moré 1978), so that it doesn't
    matter in which units the parameters are. :math:`J` is computed by forward differentiation, or in reverse if there
    are fewer residuals than parameters. The method ``"cg"`` needs no matrix: it solves for the step by conjugate
    gradients on products with :math:`J` and its transpose, to a relative :math:`\min(\mathrm{cg\_tol}, \sqrt{\|J^\top
    r\| / \|J_0^\top r_0\|})`; its :math:`D` is the same for all parameters.

    It is a pure function: it may be jitted, and mapped over starts or data sets,
    ``jax.vmap(lambda y: least_squares(residuals, params, args=(x, y)))(ys)``, where each round evaluates the residuals
    once for the whole batch. It compiles once for each function and shape; ``args`` are no constants. Forward-mode
    derivatives pass through the iteration.

    The run ends where one of these tests holds, in this order; ``reason`` says which.

    ============== =====================================================================================
    ``gradient``   the residuals' part that the parameters can change, to first order, is no more than
                   ``gtol`` of them: :math:`\|Q^\top r\| \le \mathrm{gtol}\,\|r\|` for
                   :math:`J = Q R` (Bates and Watts's relative offset). For ``"cg"``
                   :math:`\|J^\top r\| \le \mathrm{gtol}\,\sigma \|r\|`, :math:`\sigma` the size of :math:`J`
                   along the gradient
    ``value``      a step has changed :math:`F` by no more than ``ftol`` of it, and no more was predicted
    ``step``       :math:`\|D d\| \le \mathrm{xtol}\,\|D w\|` for a step that was taken
    ``precision``  no step changes the parameters any more, or eight in a row could gain nothing that
                   the dtype resolves; not counted as converged
    ============== =====================================================================================

    The tests of value and step apply only to steps that aren't made short by the damping. Otherwise the reason is
    ``max_steps``, or ``not_finite`` where the residuals at the start, or their derivatives, aren't finite; later such
    points are stepped back from.

    Args:
      residuals: ``residuals(params, *args)`` returns an array or a tree of arrays, model minus data, say, of any
        shapes. Divide them by the data's standard deviations to weight them. Complex residuals count with their real
        and imaginary parts, and so do complex parameters.
      params: the start: a tree of floating-point or complex arrays. In half precision it is computed in float32, at
        points that are rounded to the parameters' dtypes.
      args: further arguments of ``residuals``: trees of arrays, such as the data.
      has_aux: whether ``residuals`` returns a pair (residuals, auxiliary output).
      method: ``"dense"``, ``"cg"`` or ``"auto"``: dense for up to 500 parameters and 10 million numbers in the
        Jacobian.
      max_steps: the largest number of steps, taken or not.
      gtol: at least 0; by default 1e-8 in float64 and 1e-4 in float32.
      ftol: at least 0; by default 1e-15 and 1e-8.
      xtol: at least 0; by default 1e-12 and 1e-5.
      damping: the first :math:`\lambda > 0`, relative to the squares of the columns of :math:`J`. A larger one, such as
        1, starts with shorter steps, for bad starts.
      max_cg_steps: the most products with :math:`J^\top J` for a step of the method ``"cg"``.
      cg_tol: how exactly that method solves for a step, in (0, 1).
      history: whether to return the course of the run.

    Returns:
      A :class:`Solution`: ``value`` is :math:`F`, ``grad`` is :math:`J^\top r`, ``steps`` counts all steps that were
      tried, ``evals`` evaluations of the residuals. ``history`` holds arrays of length ``max_steps`` by name:
      value, grad_norm, damping and evals (so far) after each step, NaN after the end.

    Raises:
      TypeError: if the residuals are a single number (a sum of squares, say), or not inexact.
      ValueError: for numbers out of range, or no residuals or parameters at all.

    Example:
      >>> x = jnp.array([0.0, 1.0, 2.0, 3.0])
      >>> y = 3.0 * jnp.exp(-0.5 * x)
      >>> fit = least_squares(lambda p: p["a"] * jnp.exp(-p["k"] * x) - y, {"a": 1.0, "k": 1.0})
      >>> print(f"{fit.params['a']:.3f} {fit.params['k']:.3f} {fit.converged}")
      3.000 0.500 True

    References:
      Moré, *The Levenberg-Marquardt Algorithm: Implementation and Theory*, 1978.
      Nielsen, *Damping Parameter in Marquardt's Method*, 1999.
      Bates and Watts, *A Relative Offset Orthogonality Convergence Criterion for Nonlinear Least Squares*, 1981.
    """
    check_whole("max_steps", max_steps)
    check_whole("max_cg_steps", max_cg_steps)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    params = as_arrays(params)
    shapes = jax.eval_shape(residuals, params, *args)
    _check_residuals(shapes[0] if has_aux else shapes, params)
    dtype = scalar_dtype((params, shapes[0] if has_aux else shapes))
    defaults = DEFAULTS[min(scalar_dtype(params).itemsize, dtype.itemsize)]
    given = [default if x is None else x for x, default in zip((gtol, ftol, xtol), defaults, strict=True)]
    numbers = [_number(kind, x, dtype) for kind, x in zip(NUMBERS, (*given, damping, cg_tol), strict=True)]
    tolerances = Tolerances(numbers[0], numbers[1], numbers[2], max_steps)
    recipe = _Recipe(residuals, has_aux, method, max_steps if history else 0)
    return _SOLVE(recipe, params, args, tolerances, *numbers[3:], max_cg_steps)


def _check_residuals(shapes: Any, params: Tree) -> None:
    """Raise an error unless residuals of these shapes can be squared and summed."""
    leaves = jax.tree_util.tree_flatten_with_path(shapes)[0]
    for path, x in leaves:
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            raise TypeError(f"residuals returns {x.dtype} at {show_path(path)}, expected floating-point numbers")
    if len(leaves) == 1 and not leaves[0][1].ndim:
        raise TypeError(
            "residuals returns one number; least_squares wants the residuals themselves, an array or a tree of "
            "arrays, and not the sum of their squares; minimize takes that"
        )
    if not sum(x.size for _, x in leaves) or not tree.size(params):
        raise ValueError(f"there must be parameters and residuals, got {described(params)} and {shapes}")


def _number(kind: Number, value: Any, dtype: Any) -> Array:
    """Return an argument that is one number, checked where it is known."""
    value = at_scalar(kind.label, kind.normalize(kind.label, value), None)
    return jnp.asarray(value, dtype)


def _solve(
    recipe: _Recipe,
    params: Tree,
    args: tuple[Any, ...],
    tolerances: Tolerances,
    damping: Array,
    cg_tol: Array,
    max_cg_steps: Any,
) -> Solution[Any]:
    """Solve in real numbers of one dtype, and return the solution in the parameters' form."""
    dtype = damping.dtype

    def fun(x: Arrays) -> tuple[Arrays, Any]:
        result = recipe.residuals(_from_real(x, params), *args)
        r, aux = result if recipe.has_aux else (result, None)
        return _to_real(r, dtype), aux

    start = _to_real(params, dtype)
    size = sum(x.size for x in jax.eval_shape(lambda x: fun(x)[0], start))
    dense = tree.size(start) <= MOST_PARAMETERS and tree.size(start) * size <= MOST_NUMBERS
    dense = dense if recipe.method == "auto" else recipe.method == "dense"
    method = Dense(start, size) if dense else MatrixFree(start, max_cg_steps, cg_tol)
    run = levenberg_marquardt(
        fun, start, lambda x: _to_real(_from_real(x, params), dtype), method, damping, tolerances, recipe.rows
    )
    gradient = method.gradient(run.model)
    return Solution(
        params=_from_real(run.point.x, params),
        value=run.point.value,
        grad=_from_real(gradient, params),
        aux=run.point.aux,
        converged=jnp.asarray(functools.reduce(jnp.logical_or, [run.reason == why for why in CONVERGED])),
        reason=run.reason,
        steps=run.steps,
        evals=run.steps + 1,
        state=LeastSquaresState(run.damping),
        history=run.history,
        grad_norm=tree.norm(gradient, "inf").astype(dtype),
        first_grad_norm=run.first_gradient,
        predicted=run.proposal.predicted,
    )


_SOLVE = Compiled(_solve)


def _to_real(x: Tree, dtype: Any) -> Arrays:
    """Return a tree's arrays as real ones of one dtype, those of complex numbers in two parts."""
    parts = [(a.real, a.imag) if jnp.iscomplexobj(a) else (a,) for a in map(jnp.asarray, jax.tree.leaves(x))]
    return [part.astype(dtype) for both in parts for part in both]


def _from_real(parts: Arrays, like: Tree) -> Tree:
    """Return a tree like ``like``, in its dtypes, of what ``_to_real`` made."""
    remaining = iter(parts)

    def leaf(x: Array) -> Array:
        part = next(remaining)
        return (lax.complex(part, next(remaining)) if jnp.iscomplexobj(x) else part).astype(x.dtype)

    return jax.tree.map(leaf, like)
