"""Optax's guards and conditions, and ``MultiSteps``: both outcomes are computed, and one is selected."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from gradchain import tree
from gradchain.combinators import guards
from gradchain.core.foreign import Child, as_transform
from gradchain.core.transform import both
from gradchain.core.value import register
from gradchain.numerics import compute_dtype, safe_increment
from gradchain.optax import tree as optax_tree
from gradchain.optax._around import Inner
from gradchain.optax._base import GradientTransformation
from gradchain.optax._states import (
    ApplyIfFiniteState,
    ConditionallyMaskState,
    ConditionallyTransformState,
    MultiStepsState,
)
from gradchain.tree import Tree

__all__ = [
    "ApplyIfFiniteState",
    "ConditionFn",
    "ConditionallyMaskState",
    "ConditionallyTransformState",
    "MultiSteps",
    "MultiStepsState",
    "ShouldSkipUpdateFunction",
    "apply_if_finite",
    "conditionally_mask",
    "conditionally_transform",
    "skip_large_updates",
    "skip_not_finite",
]


class ConditionFn(Protocol):
    """The type of ``should_transform_fn``."""

    def __call__(self, step: ArrayLike, **extra_args: Any) -> ArrayLike:  # pyright: ignore[reportReturnType]
        """Return whether to transform this step."""


class ShouldSkipUpdateFunction(Protocol):
    """The type of ``should_skip_update_fn``."""

    def __call__(self, updates: Tree, gradient_step: ArrayLike, params: Tree | None) -> tuple[ArrayLike, Tree]:  # pyright: ignore[reportReturnType]
        """Return (skip, information to keep in the state)."""


@register
class Conditional(Inner):
    """What both conditional transforms share."""

    inner: Child
    should_transform_fn: Callable[..., Any]
    forward_extra_args: bool = False

    def init(self, params: Tree) -> Any:
        return self._state(self.inner.init(params), jnp.zeros((), jnp.int32))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        holds = jnp.asarray(self.should_transform_fn(state.step, **(extra if self.forward_extra_args else {})))
        holds = holds.astype(bool)
        new, inner = self.inner.step_where(holds, updates, state.inner_state, params, extra)
        return self._otherwise(holds, new, updates), self._state(inner, safe_increment(state.step))

    def _state(self, inner: Any, step: Array) -> Any:
        raise NotImplementedError

    def _otherwise(self, holds: Array, new: Tree, updates: Tree) -> Tree:
        raise NotImplementedError


@register
class ConditionallyTransform(Conditional):
    """See :func:`conditionally_transform`."""

    name = "conditionally_transform"

    def _state(self, inner: Any, step: Array) -> ConditionallyTransformState:
        return ConditionallyTransformState(inner, step)

    def _otherwise(self, holds: Array, new: Tree, updates: Tree) -> Tree:
        return tree.where(holds, new, updates)


@register
class ConditionallyMask(Conditional):
    """See :func:`conditionally_mask`."""

    name = "conditionally_mask"

    def _state(self, inner: Any, step: Array) -> ConditionallyMaskState:
        return ConditionallyMaskState(step, inner)

    def _otherwise(self, holds: Array, new: Tree, updates: Tree) -> Tree:
        return new


def conditionally_transform(inner: Any, should_transform_fn: ConditionFn, forward_extra_args: bool = False) -> Any:
    """Optax's signature of :func:`gradchain.conditionally_transform`."""
    return ConditionallyTransform(as_transform(inner), should_transform_fn, forward_extra_args)


def conditionally_mask(inner: Any, should_transform_fn: ConditionFn, forward_extra_args: bool = False) -> Any:
    """Optax's signature of :func:`gradchain.conditionally_mask`."""
    return ConditionallyMask(as_transform(inner), should_transform_fn, forward_extra_args)


@register
class ApplyIfFinite(Inner):
    """See :func:`apply_if_finite`."""

    name = "apply_if_finite"
    inner: Child
    max_consecutive_errors: int

    def init(self, params: Tree) -> ApplyIfFiniteState:
        zeros = [jnp.zeros((), jnp.int32) for _ in range(2)]
        return ApplyIfFiniteState(zeros[0], jnp.ones((), bool), zeros[1], self.inner.init(params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        finite = guards.count_not_finite(updates) == 0
        in_a_row = jnp.where(finite, 0, safe_increment(state.notfinite_count))
        takes = finite | (in_a_row > self.max_consecutive_errors)
        new, inner = self.inner.step_where(takes, updates, state.inner_state, params, extra)
        total = jnp.where(finite, state.total_notfinite, safe_increment(state.total_notfinite))
        return new, ApplyIfFiniteState(in_a_row, finite, total, inner)

    @property
    def skips(self) -> bool:
        return True

    def emitted(self, before: Any, after: Any) -> Any:
        takes = after.last_finite | (after.notfinite_count > self.max_consecutive_errors)
        return both(takes, super().emitted(before, after))


def apply_if_finite(inner: Any, max_consecutive_errors: int) -> Any:
    """Optax's signature of :func:`gradchain.apply_if_finite`."""
    return ApplyIfFinite(as_transform(inner), max_consecutive_errors)


def skip_not_finite(updates: Tree, gradient_step: ArrayLike, params: Tree | None) -> tuple[Array, Tree]:
    """Optax's signature of :func:`gradchain.skip_not_finite`."""
    return guards.skip_not_finite(updates, gradient_step, params)


def skip_large_updates(
    updates: Tree, gradient_step: ArrayLike, params: Tree | None, max_squared_norm: ArrayLike
) -> tuple[Array, Tree]:
    """Optax's signature of :func:`gradchain.skip_large_updates`."""
    squared = optax_tree.norm(updates, squared=True)
    skip = ~(squared < max_squared_norm)
    return skip, {"should_skip": skip, "norm_squared": squared}


@register
class Accumulate(Inner):
    """The transform of :class:`MultiSteps`."""

    name = "MultiSteps"
    state_field = "inner_opt_state"
    inner: Child
    every_k_schedule: Any
    use_grad_mean: bool
    should_skip_update_fn: Any
    accumulator_dtype: Any

    def init(self, params: Tree) -> MultiStepsState:
        step = jnp.zeros((), jnp.int32)
        return MultiStepsState(
            mini_step=jnp.zeros_like(step),
            gradient_step=step,
            inner_opt_state=self.inner.init(params),
            acc_grads=tree.zeros_like(params, dtype=self.accumulator_dtype),
            skip_state=self._skip(tree.zeros_like(params), step, params)[1],
        )

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        schedule: Any = self.every_k_schedule
        every: Any = schedule(state.gradient_step) if callable(schedule) else schedule
        skip, skip_state = self._skip(updates, state.gradient_step, params)
        acc = jax.tree.map(lambda g, a: self._sum(g, a, state.mini_step), updates, state.acc_grads)
        full = state.mini_step == every - 1
        emit = full & ~skip
        seen = jax.tree.map(lambda a, g: a.astype(g.dtype), acc, updates)
        new, inner = self.inner.step_where(emit, seen, state.inner_opt_state, params, extra)
        kept = jax.tree.map(lambda a, old: jnp.where(full, 0, a).astype(old.dtype), acc, state.acc_grads)
        return new, MultiStepsState(
            mini_step=jnp.where(skip, state.mini_step, safe_increment(state.mini_step) % every).astype(jnp.int32),
            gradient_step=jnp.where(emit, safe_increment(state.gradient_step), state.gradient_step),
            inner_opt_state=inner,
            acc_grads=tree.where(skip, state.acc_grads, kept),
            skip_state=skip_state,
        )

    def _sum(self, g: Array, acc: Array, count: Array) -> Array:
        """Return the mean, or the sum, with one more gradient in it."""
        acc = acc.astype(compute_dtype(g.dtype, acc.dtype))
        return acc + (g - acc) / (count + 1).astype(acc.real.dtype) if self.use_grad_mean else acc + g

    def _skip(self, updates: Tree, step: Array, params: Tree | None) -> tuple[Array, Any]:
        if self.should_skip_update_fn is None:
            return jnp.zeros((), bool), ()
        skip, skip_state = self.should_skip_update_fn(updates, step, params)
        if (skip.dtype, skip.shape) != (jnp.bool_, ()):
            raise ValueError(
                f"MultiSteps: should_skip_update_fn must return one boolean scalar array first, got {skip.dtype} of "
                f"shape {skip.shape}"
            )
        return skip, skip_state

    @property
    def skips(self) -> bool:
        return True

    @property
    def collects(self) -> bool:
        return True

    def emitted(self, before: Any, after: Any) -> Any:
        return after.gradient_step != before.gradient_step


class MultiSteps:
    """Optax's class for :func:`gradchain.accumulate`: one update for the gradients of several micro-steps."""

    def __init__(
        self,
        opt: Any,
        every_k_schedule: int | Callable[[Any], Any],
        use_grad_mean: bool = True,
        should_skip_update_fn: ShouldSkipUpdateFunction | None = None,
        accumulator_dtype: DTypeLike | None = jnp.float32,
    ):
        dtype = None if accumulator_dtype is None else jnp.dtype(accumulator_dtype)
        self._opt = as_transform(opt)
        self._tx = Accumulate(self._opt, every_k_schedule, use_grad_mean, should_skip_update_fn, dtype)

    @property
    def inner_opt(self) -> Any:
        """The transform that gets the accumulated gradients."""
        return self._opt

    def init(self, params: Any) -> MultiStepsState:
        """Return the first state."""
        return self._tx.init(params)

    def update(
        self, updates: Tree, state: MultiStepsState, params: Tree | None = None, **extra_args: Any
    ) -> tuple[Tree, MultiStepsState]:
        """Return (updates, state); updates are zeros on all micro-steps but the last of a round."""
        return self._tx.update(updates, state, params, **extra_args)

    def has_updated(self, state: Any) -> Array:
        """Return whether the last micro-step was the last of a round."""
        return jnp.logical_and(state.mini_step == 0, state.gradient_step > 0)

    def gradient_transformation(self) -> Any:
        """Return the transform itself."""
        return self._tx if type(self) is MultiSteps else GradientTransformation(self.init, self.update)
