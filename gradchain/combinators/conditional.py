"""Transforms that act on some steps only."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gradchain import tree
from gradchain.combinators._around import one_boolean
from gradchain.core.combinator import combinator
from gradchain.core.foreign import Child
from gradchain.core.transform import Transform, both, check_state
from gradchain.core.value import register
from gradchain.numerics import safe_increment
from gradchain.tree import Tree


class ConditionalState(NamedTuple):
    """State of :func:`conditionally_transform` and :func:`conditionally_mask`."""

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    """How many updates there were, whether or not the condition held."""
    held: Array
    """Whether the condition held on the last one."""
    inner_state: Any


@register
class Conditional(Transform):
    """What both conditional transforms share."""

    inner: Child
    should_transform_fn: Callable[..., Any]
    forward_extra_args: bool = False

    def init(self, params: Tree) -> ConditionalState:
        return ConditionalState(jnp.zeros((), jnp.int32), jnp.zeros((), bool), self.inner.init(params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, ConditionalState._fields)
        holds = self.should_transform_fn(state.count, **(extra if self.forward_extra_args else {}))
        holds = one_boolean(f"{self.name}: should_transform_fn", holds)
        new, inner_state = self.inner.step_where(holds, updates, state.inner_state, params, extra)
        return self.otherwise(holds, new, updates), ConditionalState(safe_increment(state.count), holds, inner_state)

    def otherwise(self, holds: Array, new: Tree, updates: Tree) -> Tree:
        """Return the updates, given those that are zeros unless the condition ``holds``, and the incoming ones."""
        raise TypeError(f"{type(self).__name__} must define otherwise")


@combinator
class conditionally_transform(Conditional):
    """Apply a transform on some steps, and pass updates unchanged on the others.

    On the other steps the state of ``inner``, its counts included, doesn't change. Both outcomes are computed and one
    is selected, which is also what Optax's ``cond`` becomes under ``vmap``.

    Args:
      inner: any transform.
      should_transform_fn: ``f(count) -> bool``, with 0 on the first update; traceable.
      forward_extra_args: call it as ``f(count, **extra)`` with the extra arguments of ``update``.

    Example:
      >>> tx = chain(conditionally_transform(clip_by_global_norm(1.0), lambda count: count < 1000), adam(1e-3))
    """

    def otherwise(self, holds: Array, new: Tree, updates: Tree) -> Tree:
        return tree.where(holds, new, updates)

    def emitted(self, before: Any, after: Any) -> Any:
        inner = super().emitted(before, after)
        return True if inner is True else inner | ~after.held


@combinator
class conditionally_mask(Conditional):
    """Apply a transform on some steps, and make updates 0 on the others.

    On the other steps the state of ``inner``, its counts included, doesn't change.

    Args:
      inner: any transform.
      should_transform_fn: ``f(count) -> bool``, with 0 on the first update; traceable.
      forward_extra_args: call it as ``f(count, **extra)`` with the extra arguments of ``update``.

    Example:
      >>> tx = conditionally_mask(adam(1e-3), lambda count, value: value > 0.1, forward_extra_args=True)
      >>> updates, state = tx.update(grads, state, params, value=loss)
    """

    @property
    def skips(self) -> bool:
        return True

    def otherwise(self, holds: Array, new: Tree, updates: Tree) -> Tree:
        return new

    def emitted(self, before: Any, after: Any) -> Any:
        return both(after.held, super().emitted(before, after))
