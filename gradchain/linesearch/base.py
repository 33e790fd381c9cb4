"""``LineSearch``: what a search is, and the loop in which a transform runs one."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from gradchain import tree
from gradchain.combinators._reports import Reports
from gradchain.combinators._weights import widened_inexact
from gradchain.core.extra import demand_all, demand_function, one_number, with_named_arguments
from gradchain.core.transform import apply_updates, check_state, lacks_params
from gradchain.eager import is_traced
from gradchain.tree import Tree
from gradchain.tree.alignment import without_float0

C = TypeVar("C")
EXTRA = ("value", "grad", "value_fn")
"""The extra arguments of ``update`` that every search needs."""


class Search(NamedTuple):
    """A line search under way. All leaves are single numbers."""

    step: Array
    """The trial to evaluate next."""
    taken: Array
    """The length of the best trial so far: what the step would be if the search ended now; 0 if there is none."""
    keep: Array
    """Whether the trial that was told last is the best so far."""
    done: Array
    """Whether the search has ended with an accepted trial."""
    failed: Array
    """Whether it has ended without one; ``taken`` may be positive nevertheless."""
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    """How many trials were told, int32."""
    own: Any
    """What the method remembers: a NamedTuple of numbers, its hyperparameters at this count among them."""


class Progress(NamedTuple):
    """A search, and what is known about the best point so far."""

    search: Search
    value: Array
    grad: Tree


class LineSearch(Reports):
    r"""A transform that scales the incoming updates :math:`u` by a step length :math:`t` of its own choice.

    A search is a state machine on single numbers, with :math:`\phi(t) = f(w + t u)`: ``begin`` returns the first trial,
    ``tell`` takes the value and the slope there and says what to do next, ``end`` makes the state for the next search.
    None of them sees a tree of parameters, so that any loop can drive one; ``step`` is the loop of the transform.
    """

    State: ClassVar[Any]

    def at(self, name: str, state: Any) -> Array:
        """Return a hyperparameter for the next search, in the dtype of the state's numbers."""
        return jnp.asarray(self.number(name, state.searches), state.value.dtype)

    def begin(self, state: Any, value: Array, slope: Array) -> Search:
        r"""Return a search that has evaluated nothing yet.

        Args:
          state: the transform's state.
          value: :math:`\phi(0)`.
          slope: :math:`\phi'(0) = \mathrm{Re}\langle \nabla f(w), u\rangle`. Unless it is negative, the search has
            failed already.
        """
        raise TypeError(f"{type(self).__name__} must define begin")

    def tell(self, search: Search, value: Array, slope: Array) -> Search:
        r"""Return the search after an evaluation.

        Args:
          search: the search.
          value: :math:`\phi(t)` at ``search.step``.
          slope: :math:`\phi'(t)` there; a search that goes by values alone disregards it.
        """
        raise TypeError(f"{type(self).__name__} must define tell")

    def end(self, state: Any, search: Search, value: Array, grad: Tree) -> Any:
        """Return the state after a search that has ended.

        Args:
          state: the state that it began with.
          search: the search.
          value: the value at the point that is reached: the old point, if ``search.taken`` is 0.
          grad: the gradient there, pointing uphill (for complex parameters the conjugate of JAX's).
        """
        raise TypeError(f"{type(self).__name__} must define end")

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, self.State._fields)
        if params is None:
            raise lacks_params(self.name)
        demand_all(self.name, extra, EXTRA)
        function = with_named_arguments(demand_function(self.name, extra, "value_fn"), extra, EXTRA)
        value = jnp.asarray(one_number(f"{self.name}: value", extra["value"]))
        grad = tree.match(without_float0(extra["grad"]), updates, self.name, "grad", "updates")
        wide = widened_inexact(self.name, updates)
        search = _begin(self, state, value, slope_along(grad, wide, state.value.dtype))
        progress = self._run(function, params, wide, Progress(search, value.astype(state.value.dtype), grad))
        self.explain(progress.search)
        taken = progress.search.taken
        scaled = jax.tree.map(lambda u: jnp.where(taken > 0, taken.astype(u.real.dtype) * u, 0), wide)
        return scaled, self.end(state, *progress)

    def _run(self, function: Any, params: Tree, direction: Tree, progress: Progress) -> Progress:
        """Return what is known when the search has ended."""

        def turn(progress: Progress) -> Progress:
            point = trial(params, direction, progress.search.step)
            value, grad = jax.value_and_grad(lambda move: function(apply_updates(params, move)))(point)
            return tell(self, progress, direction, value, grad)

        return repeat(turn, is_over, progress, params, direction)

    def explain(self, search: Search) -> None:
        """Print why a search has failed, if that is asked for."""

    def report(self, state: Any) -> dict[str, Any]:
        return {
            "learning_rate": state.learning_rate,
            "num_linesearch_steps": state.info.num_linesearch_steps,
            "decrease_error": state.info.decrease_error,
        }


def number(x: Any, dtype: Any) -> Array:
    """Return one number in memory of its own, as states keep them."""
    return jnp.array(x, dtype, copy=True)


def next_guess(search: Search, before: Array) -> Array:
    """Return the step that was taken; where there was none, the trial that would have come next, if any came at all.

    So a search that had too few trials goes on, as long as the direction stays the same.
    """
    further = (search.count > 0) & (search.step > 0) & jnp.isfinite(search.step)
    return jnp.where(search.taken > 0, search.taken, jnp.where(further, search.step, before))


def stored(grad: Tree, like: Tree) -> Tree:
    """Return a gradient in the structure and dtypes of the one that a state keeps, in memory of its own."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree.cast_like(tree.overlay(grad, like), like))


def slope_along(grad: Tree, direction: Tree, dtype: Any) -> Array:
    r"""Return :math:`\mathrm{Re}\langle \mathrm{grad}, u\rangle`, for a gradient that points uphill."""
    # Of the gradient times the gradient over its norm, XLA would make a square over the norm, which may overflow: the
    # choice between equals keeps it from that.
    apart = jax.tree.map(lambda u: jnp.where(u == 0, 0, u), direction)
    return tree.vdot(grad, apart).real.astype(dtype)


@jax.jit
def trial(params: Tree, direction: Tree, step: Array) -> Tree:
    """Return the updates that lead to a trial, rounded as the transform's own are."""
    return tree.cast_like(jax.tree.map(lambda u: step.astype(u.real.dtype) * u, direction), params)


@jax.jit
def _begin(tx: LineSearch, state: Any, value: Array, slope: Array) -> Search:
    return tx.begin(state, value, slope)


@jax.jit
def tell(tx: LineSearch, progress: Progress, direction: Tree, value: Array, grad: Tree) -> Progress:
    """Return the progress after JAX's value and gradient at the trial."""
    grad = jax.tree.map(jnp.conj, grad)
    told = tell_value(tx, progress, value, slope_along(grad, direction, progress.value.dtype))
    return told._replace(grad=tree.where(told.search.keep, grad, progress.grad))


@jax.jit
def tell_value(tx: LineSearch, progress: Progress, value: Array, slope: Array) -> Progress:
    """Return the progress after a trial's value and slope, with the gradient that it had."""
    search, value = tx.tell(progress.search, value, slope), value.astype(progress.value.dtype)
    return Progress(search, jnp.where(search.keep, value, progress.value), progress.grad)


def is_over(progress: Progress) -> Array:
    """Return whether the search has ended."""
    return progress.search.done | progress.search.failed


def repeat(turn: Callable[[C], C], is_over: Callable[[C], Array], now: C, *known: Tree) -> C:
    """Take turns until it is over.

    Outside a trace this is a loop in Python, which compiles nothing anew, whatever function is minimised: a compiled
    loop would have to be compiled for each function that a caller makes, or to take for granted that a function which
    it has seen before still closes over the same data.
    """
    known_traced = is_traced(known)
    while not (known_traced or is_traced(now)):
        if is_over(now):
            return now
        now = turn(now)
    return lax.while_loop(lambda now: ~is_over(now), turn, now)
