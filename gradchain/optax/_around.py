"""What Optax's transforms around others have in common."""

from typing import Any

import jax

from gradchain.combinators.steering import StaticArguments
from gradchain.core.transform import Part
from gradchain.optax._shown import OptaxLike
from gradchain.tree import Tree


class Around(OptaxLike):
    """A transform whose updates may have another structure than the parameters, as Optax's may."""

    def matched(self, params: Tree | None, updates: Tree) -> Tree | None:
        return params


class Inner(Around):
    """A transform around one, whose state is in the field ``state_field`` of its own; what has no state shows none."""

    child = "inner"
    state_field = "inner_state"

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        inner = None if state is None else getattr(state, self.state_field)
        return [Part("", getattr(self, self.child), inner, params)]


def static(value: Any) -> StaticArguments:
    """Return a tree or function as one hashable object."""
    return StaticArguments({"value": value})


def all_equal(x: Tree, y: Tree) -> bool:
    """Whether two trees have the same structure."""
    return jax.tree.structure(x) == jax.tree.structure(y)
