"""The ``@schedule`` decorator, and what schedules' parameters may be."""

import itertools
from collections.abc import Callable
from typing import Annotated, Any, Concatenate, ParamSpec, cast

import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain.core.hyper import ABSTRACT, Number, Schedule, value_at
from gradchain.core.value import define
from gradchain.signatures import public

P = ParamSpec("P")


@public
def schedule(function: Callable[Concatenate[Array, P], Any]) -> Callable[P, Schedule]:
    """Turn ``f(count, ...)`` into a constructor of schedules: its other parameters become the schedule's parameters.

    The function receives ``count`` as a floating-point array of any shape, at least 0, and its parameters as arrays or
    Python numbers (those that are schedules are evaluated first). It must use ``where`` instead of ``if`` on both. In
    float32, integer counts above 2**24 are rounded. To start a schedule that late, use
    :func:`~gradchain.join_schedules`, which subtracts the start from the integer count.

    Example:
      >>> @schedule
      ... def halving(count, init_value: Hyper, every: PositiveSteps):
      ...     return init_value * 0.5 ** jnp.floor(count / every)
      >>> halving(0.1, every=100)(250)
      Array(0.025, dtype=float32)
    """
    return _defined(function, lambda count: jnp.asarray(count, float))


def counted(function: Callable[Concatenate[Array, P], Any]) -> Callable[P, Schedule]:
    """As :func:`schedule`, but whole counts stay whole: differences from them are taken by :func:`since`."""
    return _defined(function, as_count)


def _defined(function: Callable[..., Any], convert: Callable[[Any], Array]) -> Any:
    def call(self: Schedule, count: Any) -> Array:
        count = convert(count)
        fields = {name: value_at(value, count) if kind.data else value for name, kind, value in self.fields()}
        return jnp.asarray(function(count, **fields), float)

    return define(function, Schedule, {"__call__": call})


def as_count(count: Any) -> Array:
    """Return a count as an array, of the widest enabled integers if it is whole, else of the widest floats."""
    count = jnp.asarray(count)
    return count.astype(int if jnp.issubdtype(count.dtype, jnp.integer) else float)


def ordered(*names: str) -> Callable[[Callable[P, Schedule]], Callable[P, Schedule]]:
    """Check that the named fields don't decrease, as far as they are concrete numbers, whenever one is set."""

    def checked(self: Schedule) -> Schedule:
        check_order(self.name, {name: getattr(self, name) for name in names})
        return self

    def decorate(constructor: Callable[P, Schedule]) -> Callable[P, Schedule]:
        cast(Any, constructor).Value.checked = checked
        return constructor

    return decorate


def check_order(where: str, numbers: dict[str, Any]) -> None:
    """Raise ``ValueError`` if neighbours among ``numbers`` decrease. Traced numbers and schedules pass."""
    items = [(k, v) for k, v in numbers.items() if not isinstance(v, (Schedule, *ABSTRACT))]
    for (name, low), (next_name, high) in itertools.pairwise(items):
        if not np.all(np.asarray(low) <= np.asarray(high)):
            raise ValueError(f"{where}: {next_name} must be at least {name}, got {next_name}={high!r}, {name}={low!r}")


STEPS = Number("Steps", "[0, inf)")
Steps = Annotated[Any, STEPS]
"""A length or a position in updates: finite, at least 0; need not be whole."""
PositiveSteps = Annotated[Any, Number("PositiveSteps", "(0, inf)")]
"""A length in updates, above 0."""
