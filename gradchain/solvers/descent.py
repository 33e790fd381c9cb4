"""The loop of :func:`minimize`: one evaluation an iteration, whatever the transform and its line search."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gradchain import tree
from gradchain.core.extra import with_value_fn
from gradchain.core.transform import apply_updates
from gradchain.linesearch.base import Search, slope_along
from gradchain.numerics import compute_dtype, divide
from gradchain.solvers.objective import Objective, Point
from gradchain.solvers.solution import Reason, Solution, first_that_holds, noted
from gradchain.solvers.stages import Stages
from gradchain.tree import Tree

PATIENCE = 20
"""After how many steps in a row without progress a run has reached the precision of its dtype."""
TRIALS_BELOW_RESOLUTION = 4
"""How many trials a search gets that can gain less than the value resolves; the first may have to grow that long."""
STILL = 50
"""After how many steps in a row that haven't moved the parameters a run ends; regions of trust shrink meanwhile."""


class Limits(NamedTuple):
    """The numbers that end a run; they may be traced."""

    gtol: Any
    ftol: Any
    xtol: Any
    max_steps: Any
    max_evals: Any


class Counts(NamedTuple):
    """What is counted along a run, int32 all."""

    steps: Array
    """Steps taken; -1 until the start is evaluated."""
    evals: Array
    stalls: Array
    """Steps in a row without progress that the value or the gradient could show."""
    small: Array
    """Steps in a row that changed the value by no more than ``ftol``."""
    fails: Array
    """Searches in a row that found no better point."""
    still: Array
    """Steps in a row that left the parameters where they were."""


class Numbers(NamedTuple):
    """What is remembered of the point where a search began."""

    value: Array
    size: Array
    """What the test of the gradient looks at."""
    least: Array
    """The least such number since the value has fallen."""
    slope: Array
    hope: Array
    """What the first trial would gain if the function were linear."""
    noise: Array
    """The decrease below which the value tells nothing: from its own rounding, and from that of the parameters."""


class Run(NamedTuple):
    """Where the loop stands."""

    params: Tree
    """Where the search began."""
    updates: Tree
    """Its direction."""
    search: Search
    over: Array
    """Whether the search has ended."""
    kept: Point
    """The best point that the search has found, where it began included."""
    numbers: Numbers
    state: tuple[Any, Any]
    best: Point
    """The lowest point that the run has stood on."""
    counts: Counts
    first_size: Array
    predicted: Array
    reason: Array
    history: dict[str, Array] | None


class Descent(NamedTuple):
    """What the loop runs: none of it changes along the way."""

    objective: Objective
    stages: Stages
    limits: Limits
    project: Callable[[Tree], Tree] | None
    callback: Callable[[Solution[Any]], Any] | None
    rows: int
    """The length of the history; 0 for none."""
    unit_start: bool
    """Whether the first direction is divided by its length, so that the first trial has length 1."""

    def solve(self, params: Tree, state: Any) -> Solution[Any]:
        """Run the loop to its end."""
        run = lax.while_loop(lambda run: run.reason == Reason.running, self._evaluate, self._start(params, state))
        return self._solution(run)

    def _start(self, params: Tree, state: Any) -> Run:
        """Return a run whose first iteration evaluates the start, so that the loop holds the only evaluation."""
        params = params if self.project is None else self.project(params)
        point, before, search = self.objective.blank(params), *self.stages.apart(state)
        zero, none, dtype = jnp.zeros_like(point.value), jnp.zeros((), jnp.int32), point.value.dtype
        begun = self.stages.search.begin(search, zero, zero - 1)._replace(step=zero, taken=zero)
        wide = jax.tree.map(lambda x: jnp.zeros_like(x, dtype=compute_dtype(x.dtype)), params)
        names = ("value", "grad_norm", "step_size", "evals") if self.rows else ()
        return Run(
            params, wide, begun, jnp.zeros((), bool), point, Numbers(*[zero] * 6), (before, search), point,
            Counts(none - 1, none, none, none, none, none), zero, zero, none,
            {name: jnp.full(self.rows, jnp.nan, dtype) for name in names} or None,
        )  # fmt: skip

    def _evaluate(self, run: Run) -> Run:
        """Evaluate the next trial; where that ends the search, take the point and begin the next search."""
        point = self.objective(self._trial(run))
        slope = slope_along(point.grad, run.updates, point.value.dtype)
        first, evals = run.counts.steps < 0, run.counts.evals + 1
        search = tree.where(first, run.search, self.stages.search.tell(run.search, point.value, slope))
        late = (search.count >= TRIALS_BELOW_RESOLUTION) & (run.counts.steps > 0)
        hopeless = late & (run.numbers.hope <= run.numbers.noise)
        over = search.done | search.failed | hopeless | first | (evals >= self.limits.max_evals)
        run = run._replace(
            search=search._replace(failed=over & ~search.done),
            over=over,
            kept=tree.where(first | search.keep, point, run.kept),
            counts=run.counts._replace(evals=evals),
        )
        return lax.while_loop(self._is_between, self._advance, run)

    def _trial(self, run: Run) -> Tree:
        move = jax.tree.map(lambda u: run.search.step.astype(u.real.dtype) * u, run.updates)
        params = apply_updates(run.params, move)
        return params if self.project is None else self.project(params)

    def _is_between(self, run: Run) -> Array:
        """Return whether one search is over and another one is to begin."""
        return run.over & (run.reason == Reason.running)

    def _advance(self, run: Run) -> Run:
        """Take the point that the search has found, test it, and begin the next search."""
        active, taken = self._is_between(run), self._take(run)
        if self.callback is not None:
            shown = self._solution(taken, running=True)
            flag = jax.ShapeDtypeStruct((), bool)  # which is used: what isn't may be left out of the program
            stop = jax.pure_callback(self._call_back, flag, active, shown, vmap_method="sequential")
            taken = taken._replace(reason=jnp.where(stop & (taken.reason == 0), Reason.callback, taken.reason))
        return lax.cond(taken.reason == Reason.running, self._begin, lambda run: run, taken)

    def _call_back(self, active: Any, solution: Solution) -> Any:
        return np.asarray(bool(active) and self.callback is not None and bool(self.callback(solution)))

    def _take(self, run: Run) -> Run:
        """Return the run at the point that its search has found, with the reason to end there, if there is one."""
        point, search, old, first = run.kept, run.search, run.numbers, run.counts.steps < 0
        size = self.objective.size(point, self.project)
        length = tree.norm(tree.sub(point.params, run.params), jnp.inf).astype(size.dtype)
        gain = jnp.where(length > 0, -old.slope * search.taken, 0)
        ended = self.stages.search.end(run.state[1], search, point.value, point.grad)
        hope = jnp.where(run.counts.fails > 0, jnp.minimum(old.hope, run.predicted), old.hope)
        falls = first | (point.value < run.best.value - self.objective.eps * jnp.abs(run.best.value))
        progress = falls | (size <= 0.9 * old.least)
        run = run._replace(
            state=(run.state[0], tree.where(first, run.state[1], ended)),
            best=tree.where(first | (point.value < run.best.value), point, run.best),
            counts=self._counted(run, length, progress),
            first_size=jnp.where(first, size, run.first_size),
            predicted=jnp.where(length > 0, gain, hope),
            numbers=old._replace(size=size, least=jnp.where(falls, size, jnp.minimum(size, old.least))),
        )
        return run._replace(reason=self._reason(run, length), history=self._noted(run))

    def _counted(self, run: Run, length: Array, progress: Array) -> Counts:
        counts, search, old, value = run.counts, run.search, run.numbers, run.kept.value
        largest = jnp.maximum(jnp.abs(value), jnp.abs(old.value))
        still = length == 0  # a step that was refused shows nothing
        small = search.done & ~still & (jnp.abs(old.value - value) <= self.limits.ftol * largest)
        new = Counts(
            counts.steps + 1,
            counts.evals,
            jnp.where(progress, 0, counts.stalls + 1),
            jnp.where(small, counts.small + 1, 0),
            jnp.where(still, counts.fails + (search.count > 0), 0),
            jnp.where(still, counts.still + 1, 0),
        )
        start = counts._replace(steps=counts.steps + 1)
        return tree.where(counts.steps < 0, start, new)

    def _reason(self, run: Run, length: Array) -> Array:
        """Return why the run ends at the point just taken: the first of the tests that holds."""
        counts, limits, point, searches = run.counts, self.limits, run.kept, self.stages.has_search
        size, later = run.numbers.size, run.counts.steps > 0
        stuck = counts.still >= STILL
        exhausted = (counts.fails >= 2) | stuck
        at_noise = (counts.stalls >= PATIENCE) | (exhausted & (run.predicted <= run.numbers.noise))
        gtol = jnp.where(jnp.isnan(limits.gtol), self.objective.gtol * run.first_size, limits.gtol)
        short = (length > 0) & (length <= limits.xtol * tree.norm(point.params, jnp.inf))
        tests: dict[Any, Array] = {
            Reason.not_finite: ~(jnp.isfinite(point.value) & jnp.isfinite(size)),
            Reason.gradient: size <= gtol,
            Reason.value: (limits.ftol > 0) & (counts.small >= 2),
            Reason.step: (limits.xtol > 0) & later & run.search.done & short,
            Reason.precision: at_noise if searches else stuck,
            Reason.linesearch: searches & exhausted,
            Reason.max_steps: counts.steps >= limits.max_steps,
            Reason.max_evals: counts.evals >= limits.max_evals,
        }
        return first_that_holds(tests)

    def _noted(self, run: Run) -> dict[str, Array] | None:
        row = {
            "value": run.kept.value,
            "grad_norm": run.numbers.size,
            "step_size": run.search.taken,
            "evals": run.counts.evals,
        }
        return noted(run.history, run.counts.steps - 1, row)

    def _begin(self, run: Run) -> Run:
        """Return the run with the next direction and a search along it."""
        params, value, grad, _ = point = run.kept
        extra = with_value_fn({"value": value, "grad": grad, "value_fn": self.objective.value})
        updates, before = self.stages.before.step(grad, run.state[0], params, extra)
        updates = jax.tree.map(lambda u, like: u.astype(like.dtype), updates, run.updates)
        if self.unit_start:
            length = tree.norm(updates)
            divided = jax.tree.map(lambda u: divide(u, length.astype(u.real.dtype)), updates)
            updates = tree.where(run.counts.steps == 0, divided, updates)
        slope = slope_along(grad, updates, value.dtype)
        search = self.stages.search.begin(run.state[1], value.astype(self.objective.shapes.value.dtype), slope)
        return run._replace(
            params=params,
            updates=updates,
            search=search,
            over=search.done | search.failed,
            kept=point,
            numbers=run.numbers._replace(value=value, slope=slope, hope=-slope * search.step, noise=self._noise(point)),
            state=(before, run.state[1]),
        )

    def _noise(self, point: Point) -> Array:
        """Return what rounding the value, and rounding each parameter, may change the value by."""
        own = 8 * self.objective.eps * jnp.abs(point.value)
        terms = [jnp.abs(g) for g in jax.tree.leaves(point.grad)], [jnp.abs(w) for w in jax.tree.leaves(point.params)]
        moved = jnp.finfo(self.objective.dtype).eps * tree.vdot(*terms).astype(own.dtype)
        return own + jnp.where(jnp.isfinite(moved), moved, 0)

    def _solution(self, run: Run, running: bool = False) -> Solution[Any]:
        """Return what was found: the last point if the run has converged, or goes on, and else the best."""
        converged = (run.reason >= Reason.gradient) & (run.reason <= Reason.step)
        params, value, grad, aux = point = run.kept if running else tree.where(converged, run.kept, run.best)
        return Solution(
            params, value, grad, aux, converged, run.reason, run.counts.steps, run.counts.evals,
            None if running else self.stages.together(*run.state), None if running else run.history,
            self.objective.size(point, self.project), run.first_size, run.predicted,
        )  # fmt: skip
