"""What searches for both conditions of Wolfe have in common: the conditions, the state, and the first trial."""

from typing import Annotated, Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import Array

from gradchain.combinators._weights import zeros
from gradchain.core.hyper import Number
from gradchain.core.transform import scalar_dtype
from gradchain.core.value import Choice
from gradchain.linesearch.base import LineSearch, Search, next_guess, number, stored
from gradchain.numerics import safe_increment
from gradchain.signatures import public
from gradchain.tree import Tree

DecreaseFraction = Annotated[Any, Number("DecreaseFraction", "[0, 1)")]
"""The fraction of the decrease that the slope predicts: in [0, 1)."""
Growth = Annotated[Any, Number("Growth", "[1, inf]")]
"""A factor of at least 1."""
Guess = Annotated[str, Choice("one", "keep", "slope")]
"""How a search chooses its first trial."""


@public
class ZoomLinesearchInfo(NamedTuple):
    """What a search with slopes found: :func:`scale_by_zoom_linesearch`, :func:`scale_by_hager_zhang_linesearch`."""

    num_linesearch_steps: Array
    """How many trials were evaluated, int32."""
    decrease_error: Array
    """By how much the step that was taken misses the condition of decrease; infinite if no trial was possible."""
    curvature_error: Array
    """By how much it misses the condition of curvature."""


class WolfeState(NamedTuple):
    """State of a search for both conditions."""

    learning_rate: Array
    """The step that was taken, 0 if there was none."""
    value: Array
    """The value at the point that was reached."""
    grad: Tree
    """The gradient there."""
    info: ZoomLinesearchInfo
    guess: Array
    """Where the next search may begin: at the last step, or, after a search without one, where that has ended."""
    slope: Array
    """The slope at the start of the last search."""
    searches: Array
    """How many searches there were."""


class Point(NamedTuple):
    """A trial: its length, and value and slope there."""

    step: Array
    value: Array
    slope: Array


class Errors(NamedTuple):
    """By how much a trial misses the conditions, at least 0."""

    decrease: Array
    curvature: Array


class Line(NamedTuple):
    """Where a search starts, and what it asks for."""

    value: Array
    slope: Array
    c1: Array
    c2: Array
    noise: Array
    """By how much a value may exceed the first one under the approximate condition; -1 where that isn't used."""
    most: Array
    """How many trials there may be."""

    @property
    def start(self) -> Point:
        return Point(jnp.zeros_like(self.value), self.value, self.slope)

    def errors(self, trial: Point) -> Errors:
        """Return by how much a trial misses each condition; infinite where its value or slope isn't finite."""
        decrease = trial.value - self.value - self.c1 * trial.step * self.slope
        flat = trial.slope - (2 * self.c1 - 1) * self.slope
        approximate = jnp.maximum(flat, trial.value - self.value - self.noise)
        decrease = jnp.where(self.noise >= 0, jnp.minimum(approximate, decrease), decrease)
        curvature = jnp.abs(trial.slope) - self.c2 * jnp.abs(self.slope)
        return Errors(*(jnp.where(is_finite(trial), jnp.maximum(x, 0), jnp.inf) for x in (decrease, curvature)))


class Best(NamedTuple):
    """The lowest value of a trial with decrease, infinite before there is one."""

    value: Array
    errors: Errors
    """The errors of that trial; before, those of the last one."""

    def after(self, trial: Point, errors: Errors, is_best: Array) -> "Best":
        """Return what is best after another trial."""
        value = jnp.where(is_best, trial.value, self.value)
        return Best(value, select(is_best | jnp.isinf(self.value), errors, self.errors))


def is_finite(trial: Point) -> Array:
    """Return whether value and slope are finite."""
    return jnp.isfinite(trial.value) & jnp.isfinite(trial.slope)


def select(condition: Array, x: Any, y: Any) -> Any:
    """Return ``x`` where the condition holds, else ``y``: NamedTuples of numbers."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), x, y)


class WolfeSearch(LineSearch):
    """A search for a step with decrease and small curvature.

    Subclasses have the fields ``max_linesearch_steps``, ``slope_rtol``, ``curv_rtol``, ``approx_dec_rtol`` and
    ``initial_guess_strategy``, and define ``memory`` and ``tell``.
    """

    def checked(self) -> Self:
        c1, c2 = self._field("slope_rtol"), self._field("curv_rtol")
        if isinstance(c1, float) and isinstance(c2, float) and c2 <= c1:
            raise ValueError(
                f"{self.name}: curv_rtol must be above slope_rtol, or no step may meet both conditions;"
                f" got curv_rtol={c2} and slope_rtol={c1}"
            )
        return self

    def init(self, params: Tree) -> Any:
        dtype = scalar_dtype(params)
        info = ZoomLinesearchInfo(number(0, jnp.int32), number(jnp.inf, dtype), number(jnp.inf, dtype))
        last = {"guess": number(1, dtype), "slope": number(0, dtype), "searches": number(0, jnp.int32)}
        return self.State(number(1, dtype), number(jnp.inf, dtype), zeros(self.name, params), info, **last)

    def _field(self, name: str) -> Any:
        """Return a field that subclasses declare, each in its own order."""
        return getattr(self, name)

    def begin(self, state: Any, value: Array, slope: Array) -> Search:
        dtype = state.value.dtype
        eps = max(float(jnp.finfo(x).eps) for x in (dtype, jnp.promote_types(value.dtype, jnp.bfloat16)))
        value, slope = value.astype(dtype), slope.astype(dtype)
        noise = jnp.full((), -1, dtype)
        if self._field("approx_dec_rtol") is not None:
            noise = jnp.maximum(self.at("approx_dec_rtol", state), 8 * eps) * jnp.abs(value)
        c1, c2, most = (self.at(name, state) for name in ("slope_rtol", "curv_rtol", "max_linesearch_steps"))
        line = Line(value, slope, c1, c2, noise, most)
        downhill = (slope < 0) & is_finite(line.start)
        none, never = jnp.zeros((), dtype), jnp.zeros((), bool)
        best = Best(none + jnp.inf, Errors(none + jnp.inf, none + jnp.inf))
        step, own = self.prepare(line, best, self._guess(state, slope), state)
        return Search(step, none, never, never, ~downhill, jnp.zeros((), jnp.int32), own)

    def prepare(self, line: Line, best: Best, guess: Array, state: Any) -> tuple[Array, Any]:
        """Return the first trial and what the method remembers, which has the fields ``line`` and ``best``."""
        raise TypeError(f"{type(self).__name__} must define prepare")

    def _guess(self, state: Any, slope: Array) -> Array:
        last = jnp.where(state.learning_rate > 0, state.learning_rate, state.guess)
        strategy = self._field("initial_guess_strategy")
        if strategy == "one":
            return jnp.ones_like(last)
        if strategy == "keep":
            return last
        return last * jnp.where(state.slope < 0, jnp.minimum(10, state.slope / slope), 1)

    def end(self, state: Any, search: Search, value: Array, grad: Tree) -> Any:
        best, tried = search.own.best, search.count > 0
        return self.State(
            learning_rate=search.taken,
            value=number(value, state.value.dtype),
            grad=stored(grad, state.grad),
            info=ZoomLinesearchInfo(search.count, *best.errors),
            guess=next_guess(search, state.guess),
            slope=jnp.where(tried, search.own.line.slope, state.slope),
            searches=safe_increment(state.searches),
        )
