"""Backtracking: shorter and shorter steps until the value has decreased enough."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from gradchain.combinators._weights import zeros
from gradchain.core.combinator import combinator
from gradchain.core.hyper import Count, NonNegative, Number, Positive
from gradchain.core.transform import apply_updates, scalar_dtype
from gradchain.eager import is_traced
from gradchain.linesearch.base import (
    LineSearch,
    Progress,
    Search,
    is_over,
    next_guess,
    number,
    repeat,
    stored,
    tell_value,
    trial,
)
from gradchain.linesearch.wolfe import DecreaseFraction, Growth
from gradchain.numerics import safe_increment
from gradchain.tree import Tree

Shrinkage = Annotated[Any, Number("Shrinkage", "(0, 1)")]
"""A factor between 0 and 1."""


class BacktrackingLinesearchInfo(NamedTuple):
    """What a search by :func:`scale_by_backtracking_linesearch` found."""

    num_linesearch_steps: Array
    """How many trials were evaluated, int32."""
    decrease_error: Array
    """By how much the last trial misses the condition of decrease; infinite if there was none."""


class ScaleByBacktrackingLinesearchState(NamedTuple):
    """State of :func:`scale_by_backtracking_linesearch`."""

    learning_rate: Array
    """The last step that was accepted, 1 at first."""
    value: Array
    """The value at the point that was reached."""
    grad: Tree
    """The gradient there, with ``store_grad``; else ``None``."""
    info: BacktrackingLinesearchInfo
    retry: Array
    """After a search that had too few trials: where the next one begins; else 0."""
    searches: Array
    """How many searches there were."""


class Memory(NamedTuple):
    """What the search remembers."""

    value: Array
    slope: Array
    c1: Array
    factor: Array
    atol: Array
    rtol: Array
    most: Array
    error: Array
    """By how much the last trial misses the condition."""


@combinator
class scale_by_backtracking_linesearch(LineSearch):
    r"""Scale updates by a step length that decreases the loss enough: Armijo's condition, by shorter and shorter steps.

    .. math:: f(w + t u) \le (1 + \delta) f(w) + c_1 t\,\mathrm{Re}\langle \nabla f(w), u\rangle + \epsilon

    for the incoming update :math:`u`. The first trial is somewhat longer than the last step; each further one is
    shorter by a factor. Trials cost a value and no gradient, so that this is the search for mini-batches: one that asks
    for small curvature, too, fits the batch.

    If no trial has decrease, or if the update doesn't lead downhill, the parameters stay where they are. Optax takes
    the last trial then; and after a search in which no trial was finite its steps stay 0 for ever. Here the next search
    goes on with shorter steps.

    ``update`` needs ``params`` and the extra arguments ``value``, ``grad`` and ``value_fn``, the loss as a function of
    the parameters; for complex parameters ``grad`` is the conjugate of JAX's gradient. Other extra arguments that
    ``value_fn`` names are handed to it.

    Args:
      max_backtracking_steps: how often the step may be shortened, so that there are up to one trial more.
      slope_rtol: :math:`c_1` in [0, 1).
      decrease_factor: what a step is multiplied by to shorten it, in (0, 1).
      increase_factor: what the last step is multiplied by for the first trial; ``math.inf`` begins each search with
        ``max_learning_rate``.
      max_learning_rate: the longest first trial.
      atol: :math:`\epsilon \ge 0`.
      rtol: :math:`\delta \ge 0`.
      store_grad: compute the gradient, too, where the search ends, and keep it in the state for
        :func:`value_and_grad_from_state`. It costs no further value, and is computed once; under ``vmap`` at each
        trial.
      verbose: print why a search has failed.

    Example:
      >>> tx = chain(scale(-1.0), scale_by_backtracking_linesearch(15))
      >>> value, grad = jax.value_and_grad(loss_fn)(params, batch)
      >>> updates, state = tx.update(
      ...     grad, state, params, value=value, grad=grad, value_fn=loss_fn, batch=batch
      ... )

    References: Nocedal and Wright, *Numerical Optimization*, 2006, algorithm 3.1; Vaswani et al., *Painless Stochastic
    Gradient*, 2019.
    """

    max_backtracking_steps: Count
    slope_rtol: DecreaseFraction = 1e-4
    decrease_factor: Shrinkage = 0.8
    increase_factor: Growth = 1.5
    max_learning_rate: Positive = 1.0
    atol: NonNegative = 0.0
    rtol: NonNegative = 0.0
    store_grad: bool = False
    verbose: bool = False

    State = ScaleByBacktrackingLinesearchState

    def init(self, params: Tree) -> ScaleByBacktrackingLinesearchState:
        dtype = scalar_dtype(params)
        return ScaleByBacktrackingLinesearchState(
            learning_rate=number(1, dtype),
            value=number(jnp.inf, dtype),
            grad=zeros(self.name, params) if self.store_grad else None,
            info=BacktrackingLinesearchInfo(number(0, jnp.int32), number(jnp.inf, dtype)),
            retry=number(0, dtype),
            searches=number(0, jnp.int32),
        )

    def begin(self, state: Any, value: Array, slope: Array) -> Search:
        dtype = state.value.dtype
        value, slope = value.astype(dtype), slope.astype(dtype)
        growth, longest = self.at("increase_factor", state), self.at("max_learning_rate", state)
        guess = jnp.minimum(growth * state.learning_rate, longest)
        c1, factor, atol, rtol = (self.at(name, state) for name in ("slope_rtol", "decrease_factor", "atol", "rtol"))
        most, never = self.at("max_backtracking_steps", state) + 1, jnp.zeros((), bool)
        own = Memory(value, slope, c1, factor, atol, rtol, most, jnp.full((), jnp.inf, dtype))
        return Search(
            step=jnp.where(state.retry > 0, state.retry, guess),
            taken=jnp.zeros((), dtype),
            keep=never,
            done=never,
            failed=~(jnp.isfinite(value) & jnp.isfinite(slope) & (slope < 0)),
            count=jnp.zeros((), jnp.int32),
            own=own,
        )

    def tell(self, search: Search, value: Array, slope: Array) -> Search:
        own: Memory = search.own
        value = value.astype(own.value.dtype)
        error = jnp.maximum(value - (1 + own.rtol) * own.value - search.step * own.c1 * own.slope, 0)
        error = jnp.where(jnp.isfinite(value), error, jnp.inf)
        done, count = error <= own.atol, search.count + 1
        return Search(
            step=jnp.where(done, search.step, own.factor * search.step),
            taken=jnp.where(done, search.step, search.taken),
            keep=done,
            done=done,
            failed=~done & (count >= own.most),
            count=count,
            own=own._replace(error=error),
        )

    def end(self, state: Any, search: Search, value: Array, grad: Tree) -> ScaleByBacktrackingLinesearchState:
        return ScaleByBacktrackingLinesearchState(
            learning_rate=jnp.where(search.done, search.taken, state.learning_rate),
            value=number(value, state.value.dtype),
            grad=stored(grad, state.grad) if self.store_grad else None,
            info=BacktrackingLinesearchInfo(search.count, search.own.error),
            retry=jnp.where(search.done, 0, next_guess(search, state.retry)),
            searches=safe_increment(state.searches),
        )

    def _run(self, function: Any, params: Tree, direction: Tree, progress: Progress) -> Progress:
        """Evaluate values alone, and the gradient, if it is asked for, where the search ends."""
        nothing = jnp.zeros_like(progress.value)

        def at(move: Tree) -> Any:
            return function(apply_updates(params, move))

        def value_turn(now: Progress) -> Progress:
            return tell_value(self, now, at(trial(params, direction, now.search.step)), nothing)

        def gradient_turn(now: Progress) -> Progress:
            value, pull = jax.vjp(at, trial(params, direction, now.search.step))
            told = tell_value(self, now, value, nothing)

            def gradient() -> Tree:
                return jax.tree.map(jnp.conj, pull(jnp.ones_like(value))[0])

            if is_traced(told):
                return told._replace(grad=lax.cond(told.search.keep, gradient, lambda: now.grad))
            return told._replace(grad=gradient()) if told.search.keep else told

        if not self.store_grad:
            progress = progress._replace(grad=None)
        return repeat(gradient_turn if self.store_grad else value_turn, is_over, progress, params, direction)

    def explain(self, search: Search) -> None:
        if self.verbose:
            jax.debug.callback(_explain, search)


def _explain(search: Search) -> None:
    """Print why a search has failed."""
    own: Memory = search.own
    if search.failed:
        why = f"no trial of {search.count} had decrease; the last misses it by {own.error}"
        why = why if own.slope < 0 else "the updates don't lead downhill, so that nothing was evaluated"
        print(f"scale_by_backtracking_linesearch: value {own.value}, slope {own.slope}: {why}", flush=True)
