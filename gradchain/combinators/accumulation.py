"""One step of an optimizer on several micro-batches."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import Array

from gradchain import tree
from gradchain.combinators._around import one_boolean
from gradchain.combinators._reports import Reports
from gradchain.core.combinator import combinator
from gradchain.core.extra import demand_number
from gradchain.core.foreign import Child
from gradchain.core.hyper import Count, DType
from gradchain.core.transform import both, check_state, scalar_dtype
from gradchain.numerics import compute_dtype, safe_increment
from gradchain.signatures import public
from gradchain.transforms.accumulation import accumulate_gradient
from gradchain.tree import Tree
from gradchain.tree.alignment import inexact, same_leaves


class AccumulateState(NamedTuple):
    """State of :func:`accumulate`."""

    mini_step: Array
    """How many micro-steps have gone into the running mean."""
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    """How many updates were emitted; what a schedule of ``every`` sees."""
    weight: Array
    """The total weight in the running mean."""
    value: Array
    """The running mean, or sum, of the extra argument ``value``; 0 where there is none."""
    acc_grads: Any
    """The running mean, or sum."""
    inner_state: Any
    emitted: Array
    """Whether the last step emitted an update, which a guard inside may have left out."""
    skipped: Array
    """How many micro-steps were skipped."""
    skip_state: Any
    """What ``should_skip_update_fn`` returned last, besides its decision."""


@combinator
class accumulate(Reports):
    """Accumulate the gradients of several micro-steps, and take one step with their mean: Optax's ``MultiSteps``.

    ``every`` micro-steps make one *round*. On all steps but the last of each round updates are 0, and the state of
    ``tx``, its counts and schedules included, doesn't change. ``accumulate(tx, 1)`` is equivalent to ``tx``.
    :func:`has_updated` tells whether the last step emitted an update.

    Micro-batches of different sizes are weighted by the extra argument ``weight``, 1 by default:
    ``update(grads, state, params, weight=len(batch))``. The training loops pass it; where it is their number of
    ``examples``, a sum isn't weighted by it.

    ``tx`` sees the round as one step: ``value`` is the mean (or sum) of the round's values with the gradients' weights,
    ``weight`` is the total, and ``grad`` is the accumulated gradient, if the incoming updates are the gradient
    (otherwise ``grad`` isn't passed on, unless ``every`` is 1). Functions of the parameters, such as ``value_fn``, and
    other extra arguments can't be averaged: ``tx`` receives those of the last micro-step, which refer to its
    micro-batch only.

    A round that is incomplete when training ends is lost, unless :func:`flush` makes a step of it. Stages *after*
    ``accumulate`` in a chain see zeros between rounds, and count them as updates; put them inside.

    Differences from Optax: for half-precision parameters, ``tx`` receives the accumulated gradient in float32. A NaN
    affects only its own round (Optax multiplies the accumulator by 0, so that a NaN stays forever); to keep it out of
    that round's update as well, skip the micro-step, or wrap ``tx`` in :func:`apply_if_finite`. There is no ``cond``,
    so the cost is the same under ``vmap``.

    Args:
      tx: any transform.
      every: micro-steps in a round; a number (which may be traced) or a schedule that is given the number of rounds so
        far. Fractions are rounded up.
      use_grad_mean: step with the mean; if False, with the sum.
      should_skip_update_fn: ``f(updates, count, params) -> (skip, info)``, such as :func:`skip_not_finite`. A skipped
        micro-step doesn't count; ``info``, of fixed structure, is kept as ``state.skip_state``.
      accumulator_dtype: dtype of the stored mean; by default the parameter's, and at least float32.

    Raises:
      ValueError: if ``tx`` takes per-example gradients (:func:`dpsgd`).

    Example:
      >>> tx = accumulate(adam(1e-3), every=4, should_skip_update_fn=skip_not_finite)
    """

    tx: Child
    every: Count
    use_grad_mean: bool = True
    should_skip_update_fn: Callable[..., Any] | None = None
    accumulator_dtype: DType | None = None

    def checked(self) -> Self:
        if self.tx.per_example:
            raise ValueError(
                f"accumulate: {self.tx!r} bounds the gradient of each example, which their means no longer show; "
                "give it those of the whole batch, computed in slices if memory is short: "
                "training.microbatch(per_example_gradients, size, combine='concatenate')"
            )
        return self

    @property
    def _mean(self) -> Any:
        return accumulate_gradient(self.use_grad_mean, self.accumulator_dtype)

    def init(self, params: Tree) -> AccumulateState:
        zero = jnp.zeros((), jnp.int32)
        acc = self._mean.init(inexact(params)).acc
        skip_state = self._skip(tree.zeros_like(inexact(params)), zero, params)[1]
        return AccumulateState(
            mini_step=zero,
            count=jnp.zeros_like(zero),
            weight=jnp.zeros((), jnp.float32),
            value=jnp.zeros((), scalar_dtype(params)),
            acc_grads=acc,
            inner_state=self.tx.init(params),
            emitted=jnp.zeros((), bool),
            skipped=jnp.zeros_like(zero),
            skip_state=jax.tree.map(lambda x: jnp.array(x, jnp.result_type(x), copy=True), skip_state),
        )

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, AccumulateState._fields)
        weight = self._weight(extra)
        total = state.weight + weight
        numbers = {"weight": weight, "total": total}
        mean, (acc,) = self._mean.step(updates, accumulate_gradient.State(state.acc_grads), params, numbers)
        value, extra = self._of_the_round(updates, mean, state.value, extra, numbers)
        skip, skip_state = self._skip(updates, state.count, params)
        full = state.mini_step + 1 >= self.number("every", state.count)
        emit = full & ~skip
        new, inner_state = self.tx.step_where(emit, mean, state.inner_state, params, extra)
        sums = (safe_increment(state.mini_step), total, value, acc)
        sums = tree.where(skip, (state.mini_step, state.weight, state.value, state.acc_grads), sums)
        return new, self._next(state, emit, sums, inner_state)._replace(
            skipped=jnp.where(skip, safe_increment(state.skipped), state.skipped),
            skip_state=jax.tree.map(lambda x, old: jnp.asarray(x).astype(old.dtype), skip_state, state.skip_state),
        )

    def finish(
        self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]
    ) -> tuple[Tree, AccumulateState]:
        """Return the update of the round so far, and the state after it; zeros, and the state, before its first step.

        ``updates`` are zeros; what comes in isn't counted.
        """
        check_state(self.name, state, AccumulateState._fields)
        emit = state.mini_step > 0
        sums = (state.mini_step, state.weight, state.value, state.acc_grads)
        mean = jax.tree.map(lambda x, like: x.astype(compute_dtype(like.dtype)), state.acc_grads, updates)
        weight = jnp.where(state.weight == state.mini_step, 1, state.weight)
        extra = {"value": state.value, **extra, "weight": weight}
        new, inner_state = self.tx.step_where(emit, mean, state.inner_state, params, extra)
        return new, self._next(state, emit, sums, inner_state)

    def _next(self, state: AccumulateState, emit: Array, sums: Any, inner_state: Any) -> AccumulateState:
        """Return the next state, in which a round begins anew if this one was handed on."""
        mini_step, weight, value, acc = tree.where(emit, tree.zeros_like(sums), sums)
        return state._replace(
            mini_step=mini_step,
            count=jnp.where(emit, safe_increment(state.count), state.count),
            weight=weight,
            value=value,
            acc_grads=acc,
            inner_state=inner_state,
            emitted=jnp.asarray(both(emit, self.tx.emitted(state.inner_state, inner_state))),
        )

    def _weight(self, extra: dict[str, Any]) -> Array:
        """Return the weight of a micro-step. Training loops count ``examples``, by which a sum isn't weighted."""
        counts = self.use_grad_mean or "examples" not in extra
        return jnp.asarray(demand_number(self.name, {"weight": 1} | extra, "weight") if counts else 1, jnp.float32)

    def _of_the_round(
        self, updates: Tree, mean: Tree, value: Array, extra: dict[str, Any], numbers: dict[str, Array]
    ) -> tuple[Array, dict[str, Any]]:
        """Return the round's ``value`` so far, and the extra arguments as those of the whole round."""
        extra = extra | ({"weight": numbers["total"]} if "weight" in extra else {})
        if "grad" in extra and jax.tree.structure(extra["grad"]) == jax.tree.structure(updates):
            alone = isinstance(self.every, int | float) and self.every <= 1
            extra["grad"] = mean if same_leaves(extra["grad"], updates) else extra["grad"] if alone else None
        if extra.get("value") is None:
            return value, extra
        now = jnp.asarray(demand_number(self.name, extra, "value"), value.dtype)
        value, _ = self._mean.step(now, accumulate_gradient.State(value), None, numbers)
        return value, extra | {"value": value}

    def _skip(self, updates: Tree, count: Array, params: Tree | None) -> tuple[Array, Any]:
        if self.should_skip_update_fn is None:
            return jnp.zeros((), bool), ()
        skip, skip_state = self.should_skip_update_fn(updates, count, params)
        return one_boolean(f"{self.name}: should_skip_update_fn", skip), skip_state

    @property
    def skips(self) -> bool:
        return True

    @property
    def collects(self) -> bool:
        return True

    def emitted(self, before: Any, after: Any) -> Any:
        return after.emitted

    def report(self, state: AccumulateState) -> dict[str, Any]:
        return {"skipped": state.skipped, "emitted": state.count}


@public
def has_updated(state: Any) -> Array:
    """Return whether the last step emitted an update, in a ``state`` with :func:`accumulate` at any depth.

    False before the first update. Where several are side by side, it tells whether any of them emitted. A micro-step
    that was skipped right after a round is no update; Optax's method of this name returns True there.

    Raises:
      ValueError: if there is no :func:`accumulate` in the state.
    """

    found = [x.emitted for x in accumulations(state)]
    if not found:
        raise ValueError("has_updated: there is no accumulate in this state")
    return jnp.any(jnp.stack(found), axis=0)


def accumulations(state: Any) -> list[AccumulateState]:
    """Return the states of accumulations in a state, without those inside them."""

    def is_accumulate(x: Any) -> bool:
        return isinstance(x, AccumulateState)

    return [x for x in jax.tree.leaves(state, is_leaf=is_accumulate) if is_accumulate(x)]
