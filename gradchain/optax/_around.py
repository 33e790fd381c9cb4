"""What Optax's transforms around others have in common."""

from typing import Any

import jax

from gradchain import tree
from gradchain.combinators.steering import StaticArguments
from gradchain.core.extra import with_value_fn
from gradchain.core.transform import Part, Transform
from gradchain.tree import Tree
from gradchain.tree.alignment import without_float0


class Around(Transform):
    """A transform whose updates may have another structure than the parameters, as Optax's may."""

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        updates = without_float0(updates)
        new, state = self.step(updates, state, params, with_value_fn(extra))
        for like in (params, updates):
            if like is not None and jax.tree.structure(new) == jax.tree.structure(like):
                return tree.cast_like(new, like), state
        return new, state


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
