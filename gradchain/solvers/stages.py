"""A transform taken apart for the solver's loop: what makes a direction, and what chooses the length of the step."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gradchain.combinators.chain import Chain, NamedChain
from gradchain.core.transform import Transform
from gradchain.core.value import register
from gradchain.linesearch.base import LineSearch, Search
from gradchain.transforms.scaling import identity
from gradchain.tree import Tree


@register
class FullStep(LineSearch):
    """What stands for the search of a transform that has none: it takes every update as it is."""

    name = "full_step"

    def init(self, params: Tree) -> tuple[()]:
        return ()

    def begin(self, state: Any, value: Array, slope: Array) -> Search:
        no = jnp.zeros((), bool)
        return Search(jnp.ones_like(value), jnp.zeros_like(value), no, no, no, jnp.zeros((), jnp.int32), ())

    def tell(self, search: Search, value: Array, slope: Array) -> Search:
        yes = jnp.ones((), bool)
        return search._replace(taken=search.step, keep=yes, done=yes, count=search.count + 1)

    def end(self, state: Any, search: Search, value: Array, grad: Tree) -> Any:
        return state


class Stages(NamedTuple):
    """A transform whose last stage is a line search, or any other one with a :class:`FullStep`."""

    whole: Transform
    before: Transform
    search: LineSearch

    @property
    def has_search(self) -> bool:
        """Whether the step's length is searched for."""
        return not isinstance(self.search, FullStep)

    def apart(self, state: Any) -> tuple[Any, Any]:
        """Return the states of ``before`` and ``search`` from the state of ``whole``."""
        if not self.has_search:
            return state, ()
        states = [own for _, own in _flatten(self.whole, state)]
        place = self._place()
        return tuple(states[:place]), states[place]

    def together(self, before: Any, search: Any) -> Any:
        """Return the state of ``whole``; what stands behind the search has none."""
        if not self.has_search:
            return before
        behind = len(_flatten(self.whole)) - self._place() - 1
        return _nest(self.whole, iter([*before, search, *[identity.State()] * behind]))

    def _place(self) -> int:
        return len(self.before.parts())


def take_apart(tx: Transform) -> Stages:
    """Return the stages of a transform.

    Raises:
      ValueError: if a stage after a search changes the updates, since the search's value would be of another point.
    """
    stages = [stage for stage, _ in _flatten(tx)]
    searches = [i for i, stage in enumerate(stages) if isinstance(stage, LineSearch)]
    if not searches:
        return Stages(tx, tx, FullStep())
    first = searches[0]
    if changing := [stage for stage in stages[first + 1 :] if not isinstance(stage, identity.Value)]:
        raise ValueError(
            f"minimize: {changing[0].name} stands behind {stages[first].name} and would change the step that the "
            f"search has evaluated; put {changing[0].name} before the search"
        )
    search = stages[first]
    assert isinstance(search, LineSearch)
    return Stages(tx, Chain(tuple(stages[:first])), search)


def _flatten(tx: Transform, state: Any = None) -> list[tuple[Transform, Any]]:
    """Return the stages of a chain, those of chains inside it in their places, with their states."""
    if not isinstance(tx, Chain | NamedChain):
        return [(tx, state)]
    return [pair for part in tx.parts(state) for pair in _flatten(part.transform, part.state)]


def _nest(tx: Transform, states: Iterator[Any]) -> Any:
    """Return the states of a chain's flattened stages as they are nested."""
    if isinstance(tx, NamedChain):
        return {name: _nest(stage, states) for name, stage in zip(tx.names, tx.stages, strict=True)}
    return tuple(_nest(stage, states) for stage in tx.stages) if isinstance(tx, Chain) else next(states)
