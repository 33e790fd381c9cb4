"""``Solution``: what a solver returns, and ``Reason``: why its run ended."""

import enum
from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain.eager import is_traced
from gradchain.signatures import public
from gradchain.tree.alignment import T


@public
class Reason(enum.IntEnum):
    """Why a run of a solver ended. ``Reason(int(solution.reason)).name`` is the name.

    The first three mean that a test of convergence holds; with any other one ``solution.converged`` is False.
    """

    running = 0
    """It hasn't ended: what a callback is shown."""
    gradient = 1
    """The gradient is within ``gtol``."""
    value = 2  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    """The value has changed by no more than ``ftol`` of itself, on two steps in a row."""
    step = 3
    """The step was no longer than ``xtol`` of the parameters."""
    precision = 4
    """What a step could gain is below the resolution of the value in its dtype, and steps have stopped to gain it."""
    linesearch = 5
    """Line searches found no better point, although the slope promised one."""
    not_finite = 6
    """The value or the gradient isn't finite, at the start or after a step that no search can take back."""
    max_steps = 7
    """The steps are used up."""
    max_evals = 8
    """The evaluations are used up."""
    callback = 9
    """The callback returned True."""


CONVERGED = Reason.gradient, Reason.value, Reason.step


@public
class Solution(NamedTuple, Generic[T]):
    """What a solver found: a pytree of arrays, with leading axes where the solver was mapped over starts.

    ``print(solution.summary())`` tells in one line how the run ended.
    """

    params: T
    """The solution. Where the run hasn't converged, the point with the lowest value that it has stood on."""
    value: Array
    """The function's value there."""
    grad: T
    """The gradient there; for complex parameters the conjugate of JAX's, which points uphill."""
    aux: Any
    """The function's auxiliary output there; None without ``has_aux``."""
    converged: Array
    """Whether a test of convergence holds, a boolean."""
    reason: Array
    """Why the run ended, an int32 that :class:`Reason` names."""
    steps: Array
    """How many steps were taken."""
    evals: Array
    """How many times the function was evaluated."""
    state: Any
    """The transform's state after the last step."""
    history: dict[str, Array] | None = None
    """A dict of arrays, one number for each step (NaN after the end), or None; see the solver."""
    grad_norm: Any = None
    """What the test of the gradient looks at: the largest component's magnitude."""
    first_grad_norm: Any = None
    """The same at the start."""
    predicted: Any = None
    """What the last step would have gained if the function were linear along it."""

    def summary(self) -> str:
        """Return one line that says how the run ended; for a batch, one for each member.

        Raises:
          TypeError: inside ``jit``, where nothing is known yet.
        """
        numbers = self._numbers("summary")
        shape = np.shape(numbers["reason"])
        lines = [_line({name: x[i] for name, x in numbers.items()}) for i in np.ndindex(shape)]
        return "\n".join(f"{i}: {line}" for i, line in enumerate(lines)) if shape else lines[0]

    def check(self) -> Self:
        """Return this solution if it has converged (each member of a batch).

        Raises:
          RuntimeError: with the summary, if it hasn't.
          TypeError: inside ``jit``, where nothing is known yet.
        """
        if not np.all(self._numbers("check")["converged"]):
            raise RuntimeError(self.summary())
        return self

    def best(self) -> Self:
        """Return the member of a batch with the lowest finite value.

        Raises:
          ValueError: if this is a single solution.
        """
        axes = jnp.ndim(self.value)
        if not axes:
            raise ValueError("best chooses from a batch of solutions, and this is a single one; vmap the solver")
        lowest = jnp.argmin(jnp.where(jnp.isfinite(self.value), self.value, jnp.inf))

        def member(x: Array) -> Array:
            return jnp.reshape(x, (-1, *jnp.shape(x)[axes:]))[lowest]

        return jax.tree.map(member, self)

    def _numbers(self, asked: str) -> dict[str, Any]:
        names = "converged", "reason", "value", "steps", "evals", "grad_norm", "first_grad_norm", "predicted"
        known = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if is_traced(known):
            raise TypeError(f"{asked}() needs to know how the run ended; call it outside jit, vmap and grad")
        return {name: np.asarray(x) for name, x in known.items()}


def first_that_holds(tests: Mapping[Any, Array]) -> Array:
    """Return the first reason whose test holds, an int32; ``running`` if none does."""
    reasons = [jnp.full((), int(reason), jnp.int32) for reason in tests]
    return jnp.select([*tests.values()], reasons, jnp.full((), int(Reason.running), jnp.int32))


def noted(history: dict[str, Array] | None, place: Array, row: Mapping[str, Array]) -> dict[str, Array] | None:
    """Return a history with the numbers of one step at its place; below 0 there is none."""
    if history is None:
        return None
    return {
        name: x.at[jnp.where(place < 0, x.size, place)].set(row[name].astype(x.dtype), mode="drop")
        for name, x in history.items()
    }


_ENDINGS = {
    Reason.running: "still running",
    Reason.gradient: "converged (gradient)",
    Reason.value: "converged (value)",
    Reason.step: "converged (step)",
    Reason.precision: "no further progress in {dtype}",
    Reason.linesearch: "not converged: the line search found no better point",
    Reason.not_finite: "not converged: value or gradient not finite",
    Reason.max_steps: "not converged: max_steps reached",
    Reason.max_evals: "not converged: max_evals reached",
    Reason.callback: "stopped by the callback",
}


def _line(numbers: dict[str, Any]) -> str:
    """Return how one run ended."""
    reason, value = Reason(int(numbers["reason"])), numbers["value"]
    parts = [f"{_ENDINGS[reason].format(dtype=value.dtype)}; value {value:.6g}"]
    if "grad_norm" in numbers:
        size, first = numbers["grad_norm"], numbers.get("first_grad_norm", np.zeros(()))
        share = f" ({size / first:.1e} of the first)" if 0 < first < np.inf else ""
        parts.append(f"largest gradient {size:.2e}{share}")
    if reason in (Reason.precision, Reason.linesearch) and "predicted" in numbers:
        parts.append(f"predicted decrease {numbers['predicted'] + 0.0:.1e}")
    parts.append(f"{int(numbers['steps'])} steps, {int(numbers['evals'])} evaluations")
    return ", ".join(parts)
