"""What transforms around one other have in common."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from gradchain import tree
from gradchain.core.transform import Part, Transform
from gradchain.numerics import safe_increment
from gradchain.tree import Tree


def one_boolean(where: str, value: Any) -> Array:
    """Return ``value`` as an array, after checking that it is one boolean."""
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.bool_):
        raise TypeError(f"{where} must return one boolean, got {jnp.result_type(value)} of shape {jnp.shape(value)}")
    return jnp.asarray(value)


def counted(emitted: Any, count: Array) -> Array:
    """Return the next count of updates, after a step that ``emitted`` one or not."""
    return where(emitted, safe_increment(count), count)


def where(emitted: Any, new: Tree, old: Tree) -> Tree:
    """Return what is ``new`` after a step that emitted an update, else what is ``old``."""
    return new if emitted is True else tree.where(emitted, new, old)


def check_own_gradients(where: str, tx: Transform) -> None:
    """Raise ``ValueError`` if updates of ``tx`` may be made of other gradients than the present one."""
    if tx.collects:
        raise ValueError(
            f"{where}: it compares each update with the gradient that it is made of, but accumulate inside makes one "
            f"of several gradients; put it around: accumulate({where}(...), every)"
        )


class OneChild(Transform):
    """A transform around one other, whose state it keeps in the field that is called after it."""

    child: ClassVar[str] = "inner"
    """The name of the field that holds it."""

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        child_state = None if state is None else getattr(state, f"{self.child}_state")
        return [Part("", getattr(self, self.child), child_state, params)]


class Around(OneChild):
    """A transform around one other, ``inner``."""

    inner: Transform

    def step_where(
        self, condition: Array, updates: Tree, inner_state: Any, params: Tree | None, extra: dict[str, Any]
    ) -> tuple[Tree, Any]:
        """Return the inner (updates, state) where ``condition`` holds, else zeros and the state as it is.

        Both are computed: under ``vmap`` a ``cond`` would be too. The inner transform sees zeros where its result is
        dropped, so that no NaN in it reaches a derivative.
        """
        seen = tree.where(condition, updates, tree.zeros_like(updates))
        new, new_state = self.inner.step(seen, inner_state, params, extra)
        return tree.where(condition, new, tree.zeros_like(new)), tree.where(condition, new_state, inner_state)
