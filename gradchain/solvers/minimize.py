"""``minimize``: the minimum of a function, by any transform, in one loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradchain.arguments import as_arrays, check_whole, described, is_numeric, shown
from gradchain.combinators.chain import Chain
from gradchain.compiled import Compiled
from gradchain.core.foreign import Child, as_transform
from gradchain.core.hyperparams import walk
from gradchain.core.rule import Rule
from gradchain.core.transform import Transform
from gradchain.linesearch.hager_zhang import scale_by_hager_zhang_linesearch
from gradchain.quasi_newton.lbfgs import scale_by_lbfgs
from gradchain.signatures import public
from gradchain.solvers.descent import Descent, Limits
from gradchain.solvers.implicit import forward_only, implicit
from gradchain.solvers.objective import objective_of
from gradchain.solvers.projected import NonmonotoneSearch, SpectralDirection
from gradchain.solvers.solution import Solution
from gradchain.solvers.stages import take_apart
from gradchain.transforms.scaling import negate
from gradchain.tree import Tree
from gradchain.tree.alignment import T

UNLIMITED = np.iinfo(np.int32).max


class Recipe(NamedTuple):
    """What a run is made of besides arrays; hashable, so that its compiled program is found again."""

    fun: Callable[..., Any]
    projection: Callable[[Tree], Tree] | None
    callback: Callable[[Solution[Any]], Any] | None
    has_aux: bool
    implicit: bool
    rows: int
    default: bool
    """Whether the transform is the default."""


@public
def minimize(
    fun: Callable[..., Any], params: T, tx: Child | None = None, *, args: tuple[Any, ...] = (),
    has_aux: bool = False, max_steps: int = 1000, max_evals: int | None = None, gtol: Any = None, ftol: Any = 0.0,
    xtol: Any = 0.0, projection: Callable[[Tree], Tree] | None = None, history: bool = False,
    callback: Callable[[Solution[T]], Any] | None = None, implicit: bool = False,
) -> Solution[T]:  # fmt: skip
    r"""Minimise a function of any tree of parameters, by L-BFGS or any other transform.

    The whole run is one compiled loop with one evaluation of value and gradient an iteration, trials of line searches
    included. It is pure: it may be jitted, mapped, and called inside other loops. The program is kept as long as
    ``fun`` lives, and found again for other starts, tolerances, hyperparameters and ``args`` of the same shapes; so
    hand data over as ``args``, and define ``fun`` once.

    After each step these tests are made, in this order (:class:`Reason` names them all), with :math:`s` the step:

    - ``gradient``: :math:`\max_i |g_i| \le` ``gtol``;
    - ``value``: :math:`|f_k - f_{k+1}| \le` ``ftol`` :math:`\max(|f_k|, |f_{k+1}|)`, on two steps in a row;
    - ``step``: :math:`0 < \max_i |s_i| \le` ``xtol`` :math:`\max_i |w_i|`;
    - ``precision``: what a step can gain, :math:`|\phi'(0)|\,t`, is below the resolution of the value, 8 eps
      :math:`|f|`, and no search gains it, or for 20 steps neither the value nor the gradient has become smaller;
    - ``linesearch``: two searches in a row found no better point;
    - ``max_steps``, ``max_evals``.

    Only the first three count as converged. A step of 0, which :func:`scale_by_newton_cg` takes where its model was
    wrong, passes neither ``value`` nor ``step``; fifty in a row end a run with ``precision``. In float32 runs often end
    so: the value can't be lowered any further there. The point is good as a rule, but in a badly conditioned valley it
    may be far from the minimum; ``summary`` shows how large the gradient still is. The remedy is ``jax.enable_x64``, or
    a function of smaller values: drop constants, and sum differences, not differences of sums. A start where value or
    gradient isn't finite ends with ``not_finite``; further on the search steps back from such points (a transform
    without one ends there).

    A run that doesn't converge raises no error: it returns the lowest point it has stood on. ``solution.check()``
    raises one.

    Many starts: ``jax.vmap(minimize, (None, 0))(fun, starts).best()``. A batch takes as many evaluations as its
    slowest member; the others stay where they have ended.

    Args:
      fun: ``fun(params, *args) -> value``, one real number, or ``(value, aux)`` with ``has_aux``.
      params: where to begin, a tree of floating-point or complex arrays.
      tx: a transform, Optax's too; by default L-BFGS with ``memory_size=10`` and Hager and Zhang's line search, whose
        first trial is a step of length 1. If a chain's last stage is a line search, the loop drives it. Other
        transforms take their steps as they are, :func:`adam` say, and are given ``value``, ``grad`` and ``value_fn``;
        what they evaluate by themselves isn't among ``evals``.
      args: further arguments of ``fun``, a tuple of trees of arrays.
      has_aux: whether ``fun`` returns ``(value, aux)``; ``solution.aux`` is that at the solution.
      max_steps: how many steps there may be, at least 1.
      max_evals: how many evaluations there may be, at least 1; any number by default. A search that is cut short ends
        at its best trial.
      gtol: the tolerance on the gradient's largest component, at least 0. By default it is relative to the start,
        :math:`10^{-6} \max_i |g_i(w_0)|` in float64 and :math:`10^{-4}` of it in float32, and so doesn't depend on the
        function's units; a start at the minimum itself needs a number.
      ftol: the tolerance on the change of the value, relative to it; 0 for no test.
      xtol: the tolerance on the step, relative to the largest parameter; 0 for no test.
      projection: a function from a tree to the nearest one in a convex set, such as
        :func:`~gradchain.projections.projection_non_negative`. The method is then that of spectral projected
        gradients: ``fun`` is evaluated inside the set only, and the test ``gradient`` looks at :math:`P(w - g) - w`.
      history: whether to keep the numbers of each step: ``solution.history`` is a dict of ``value``, ``grad_norm`` (the
        largest component), ``step_size`` (what the update was multiplied by) and ``evals`` (so far), arrays of length
        ``max_steps``, NaN after the end. It makes ``max_steps`` part of the program.
      callback: called on the host with a :class:`Solution`, without state and history, at the start and after each
        step; the run ends if it returns True. Under ``vmap`` it is called for each member in turn.
      implicit: whether the solution has derivatives with respect to ``args`` and all else that ``fun`` depends on,
        in forward and reverse mode, by the implicit function theorem: one linear system with the Hessian, which is
        solved by conjugate gradients. They are those at an exact minimum, so their error grows with ``gtol``; ``value``
        and ``aux`` have derivatives, too, all else has none. Without it, forward mode differentiates the steps
        themselves, and reverse mode is an error.

    Returns:
      A :class:`Solution`.

    Raises:
      TypeError: if ``params`` has anything but floating-point or complex arrays, or none; if ``fun`` doesn't return one
        real number, or a pair where it shouldn't.
      ValueError: for limits below 1 or negative tolerances; if a stage after the line search would change its step; for
        ``projection`` together with ``tx`` or ``implicit``; for a ``tx`` that needs more than ``fun``, as
        :func:`scale_by_gauss_newton` does.

    Example:
      >>> solution = minimize(lambda w: jnp.sum((w - 3.0) ** 2), jnp.zeros(2))
      >>> print(f"{solution.params[0]:.3f}", solution.converged)
      3.000 True

    References: Nocedal and Wright, *Numerical Optimization*, 2006, chapters 3 and 7; Hager and Zhang, *A New Conjugate
    Gradient Method with Guaranteed Descent and an Efficient Line Search*, 2005; Birgin, Martínez and Raydan,
    *Nonmonotone Spectral Projected Gradient Methods on Convex Sets*, 2000; Blondel et al., *Efficient and Modular
    Implicit Differentiation*, 2022.
    """
    params = as_arrays(params)
    if not jax.tree.leaves(params):
        raise TypeError("minimize: params has no arrays, expected at least one floating-point or complex array")
    if not isinstance(args, tuple):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"minimize: args must be a tuple, got {described(args)}; for one argument write args=(data,)")
    check_whole("max_steps", max_steps)
    if max_evals is not None:
        check_whole("max_evals", max_evals)
    if projection is not None and (tx is not None or implicit):
        other = "tx" if tx is not None else "implicit=True"
        raise ValueError(
            f"minimize: projection has a method of its own, and can't be combined with {other}; the transform "
            "project(...) keeps any optimizer in a set: chain(adam(0.1), project(...))"
        )
    limits = Limits(
        jnp.nan if gtol is None else _tolerance("gtol", gtol), _tolerance("ftol", ftol), _tolerance("xtol", xtol),
        max_steps, UNLIMITED if max_evals is None else max_evals,
    )  # fmt: skip
    transform = _default() if tx is None else as_transform(tx)
    if transform.per_example:
        raise ValueError(f"minimize: {transform.name} takes gradients of single examples, and fun has no batch")
    _refuse_models(transform)
    take_apart(transform)
    rows = max_steps if history else 0
    recipe = Recipe(fun, projection, callback, has_aux, implicit, rows, tx is None)
    return _compiled(recipe, params, transform, args, limits)


def _refuse_models(tx: Transform) -> None:
    """Raise ``ValueError`` if a rule in ``tx`` needs more than one function of the parameters."""
    rules = [part.transform for part in walk(tx) if isinstance(part.transform, Rule)]
    if asking := [rule.name for rule in rules if "model_fn" in rule.unlayered.spec.extra]:
        raise ValueError(
            f"minimize: {asking[0]} needs a model and a function of its outputs, and fun is both in one; for residuals "
            'write least_squares(residual_fn, params, method="cg"), for any other function scale_by_newton_cg()'
        )


def _tolerance(name: str, value: Any) -> Any:
    """Return a tolerance, after checking that it is one number, at least 0 where it is known."""
    if not is_numeric(value) or np.ndim(value) or jnp.iscomplexobj(value):
        raise TypeError(f"minimize: {name} must be one real number, got {described(value)}")
    if not isinstance(value, Tracer) and not value >= 0:
        raise ValueError(f"minimize: {name} must be at least 0, got {shown(value)}")
    return value


def _default() -> Transform:
    return Chain((scale_by_lbfgs(), negate(), scale_by_hager_zhang_linesearch()))


def _minimize(recipe: Recipe, params: Tree, tx: Transform, args: tuple[Any, ...], limits: Limits) -> Solution[Any]:
    """Run the solver. Pure."""
    recipe = Recipe(*recipe)
    objective = objective_of(recipe.fun, params, args, recipe.has_aux)
    if recipe.projection is not None:
        tx = Chain((SpectralDirection(recipe.projection), NonmonotoneSearch()))
    stages, state = take_apart(tx), tx.init(params)
    descent = Descent(
        objective, stages, limits, recipe.projection, recipe.callback, recipe.rows,
        recipe.default and recipe.projection is None,
    )  # fmt: skip

    def solve(params: Tree) -> Solution[Any]:
        return descent.solve(params, state)

    return implicit(objective, solve, params) if recipe.implicit else forward_only(solve(params))


_compiled = Compiled(_minimize)
