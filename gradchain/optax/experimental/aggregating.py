"""Optax's aggregators: what turns the gradients of single examples into updates, with their mean and variance."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradchain.core.value import register
from gradchain.numerics import safe_increment
from gradchain.optax import tree_utils
from gradchain.optax._base import (
    Functions,
    GradientTransformation,
    GradientTransformationExtraArgs,
    Pair,
    TransformType,
    identity,
    init_empty_state,
    with_extra_args_support,
)
from gradchain.optax._combining import chain
from gradchain.signatures import public

__all__ = [
    "AccumulateAvgUpdatesState",
    "Aggregator",
    "AggregatorUpdateFn",
    "PerElementMeanAndSumSqDiffGradsState",
    "PerElementMeanAndVarianceEMAState",
    "accumulate_avg_updates",
    "add_mean_variance_to_opt",
    "average_incrementally_updates",
    "average_per_element_updates",
    "get_batch_size_from_per_elt_updates",
    "get_per_element_mean_and_sum_sq_diff_grads",
    "get_unbiased_mean_and_variance_ema",
    "process",
    "track_per_element_mean_and_variance_with_ema",
]

PerElementUpdates = Any
AggregatedUpdates = Any
MaybeAxis = int | Sequence[int] | None


class AggregatorUpdateFn(Protocol):
    """The type of an aggregator's ``update``: its updates have one or more axes that the parameters lack."""

    def __call__(
        self, per_elt_updates: PerElementUpdates, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[AggregatedUpdates, Any]:  # pyright: ignore[reportReturnType]
        """Return (updates, state)."""


@register
class Aggregating(Pair):
    """Two functions that make an aggregator: see :class:`Aggregator`."""

    name = "Aggregator"

    @property
    def per_example(self) -> bool:
        return True


class AggregatorType(TransformType):
    """Makes an aggregator of two functions."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return Aggregating(Functions(*args, **kwargs), True)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Aggregating)


class Aggregator(GradientTransformationExtraArgs, metaclass=AggregatorType):
    """A transform that turns updates of single examples into those of the batch: ``Aggregator(init, update)``."""


def _aggregator(init: Any, update: Any) -> Any:
    return cast(Any, Aggregator)(init, update)


def _map(function: Any, *trees: Any) -> Any:
    return jax.tree.map(function, *trees)


@public
def process(preprocessor: Any, aggregator: Any, postprocessor: Any, aggregator_has_aux: bool = False) -> Any:
    """Apply a transform to the updates of single examples, aggregate them, and apply a transform to the result.

    Args:
      preprocessor: gets the updates with their axes of examples.
      aggregator: an :class:`Aggregator`, or a transform of averages that accumulates them. Where its state has a field
        ``ready``, the last transform waits until it is true, and updates are 0 until then.
      postprocessor: gets the aggregated updates.
      aggregator_has_aux: whether the aggregator returns a pair of updates and a dict of arguments for the last.
    """
    before, middle, after = (with_extra_args_support(tx) for tx in (preprocessor, aggregator, postprocessor))

    def init(params: Any) -> Any:
        return before.init(params), middle.init(params), after.init(params)

    def update(updates: Any, states: Any, params: Any = None, **extra_args: Any) -> Any:
        first, second, third = states
        updates, first = before.update(updates, first, _if_alike(updates, params), **extra_args)
        aggregated, second = middle.update(updates, second, params, **extra_args)
        if aggregator_has_aux:
            aggregated, aux = aggregated
            extra_args = {**extra_args, **aux}
        updates, third = jax.lax.cond(
            tree_utils.tree_get(second, "ready", True),
            lambda g, state: after.update(g, state, params, **extra_args),
            lambda g, state: (tree_utils.tree_zeros_like(g), state),
            aggregated,
            third,
        )
        return updates, (first, second, third)

    if isinstance(aggregator, Aggregator):
        return _aggregator(init, update)
    return cast(Any, GradientTransformationExtraArgs)(init, update)


def _if_alike(updates: Any, params: Any) -> Any:
    """Return the parameters if the updates have their shapes, else ``None``."""
    shapes = [[jnp.shape(x) for x in jax.tree.leaves(tree)] for tree in (updates, params)]
    return params if shapes[0] == shapes[1] else None


@public
def average_per_element_updates(per_elt_axis: int | Sequence[int] = 0) -> Any:
    """Average the updates over the axis, or axes, of examples."""
    axes = _axes(per_elt_axis)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        return _map(lambda x: jnp.mean(x, axes), updates), state

    return _aggregator(init_empty_state, update)


def _axes(per_elt_axis: int | Sequence[int]) -> int | tuple[int, ...]:
    return per_elt_axis if isinstance(per_elt_axis, int) else tuple(per_elt_axis)


class AccumulateAvgUpdatesState(NamedTuple):
    """The state of :func:`accumulate_avg_updates`."""

    micro_step: Array
    ready: Array
    avg_grad: Any


@public
def accumulate_avg_updates(accumulation_steps: int) -> Any:
    """Average the updates of so many steps; updates are 0 in between.

    Raises:
      ValueError: if ``accumulation_steps`` is below 1.
    """
    if accumulation_steps < 1:
        raise ValueError(f"accumulate_avg_updates: accumulation_steps must be at least 1, got {accumulation_steps}")
    if accumulation_steps == 1:
        return identity()

    def init(params: Any) -> AccumulateAvgUpdatesState:
        return AccumulateAvgUpdatesState(jnp.asarray(0), jnp.asarray(False), tree_utils.tree_zeros_like(params))

    def update(updates: Any, state: AccumulateAvgUpdatesState, params: Any = None) -> Any:
        step = state.micro_step + 1
        mean = _map(lambda u, m: m + (u - m) / step, updates, state.avg_grad)
        ready = step == accumulation_steps
        zeros = tree_utils.tree_zeros_like(mean)
        kept = tree_utils.tree_where(ready, zeros, mean)
        new_state = AccumulateAvgUpdatesState(jnp.where(ready, 0, step), ready, kept)
        return tree_utils.tree_where(ready, mean, zeros), new_state

    return cast(Any, GradientTransformation)(init, update)


@public
def average_incrementally_updates(per_elt_axis: MaybeAxis, accumulation_steps: int) -> Any:
    """Average the updates over examples (unless ``per_elt_axis`` is None), and then over steps."""
    if per_elt_axis is None:
        return accumulate_avg_updates(accumulation_steps)
    average, accumulate = average_per_element_updates(per_elt_axis), accumulate_avg_updates(accumulation_steps)

    def init(params: Any) -> Any:
        return average.init(params), accumulate.init(params)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        updates, first = average.update(updates, state[0], params)
        updates, second = accumulate.update(updates, state[1], params)
        return updates, (first, second)

    return _aggregator(init, update)


@public
def get_batch_size_from_per_elt_updates(per_elt_updates: Any, per_elt_axis: int | list[int]) -> int:
    """Return the number of examples.

    Raises:
      ValueError: if arrays differ in it.
    """
    axes = (per_elt_axis,) if isinstance(per_elt_axis, int) else tuple(per_elt_axis)
    sizes = [math.prod(x.shape[i] for i in axes) for x in jax.tree.leaves(per_elt_updates)]
    if any(size != sizes[0] for size in sizes):
        raise ValueError(f"all updates must have equally many examples, got {sizes}")
    return sizes[0]


class PerElementMeanAndSumSqDiffGradsState(NamedTuple):
    """The state of :func:`get_per_element_mean_and_sum_sq_diff_grads` over several steps."""

    micro_step: Array
    ready: Array
    mean_grads: Any
    sum_sq_diff_grads: Any


def _mean_and_squares(updates: Any, axes: int | tuple[int, ...]) -> tuple[Any, Any]:
    """Return the mean over examples, and the sum of squares of what differs from it."""
    mean = _map(lambda x: jnp.mean(x, axes), updates)
    squares = _map(lambda x: jnp.sum(jnp.square(x - jnp.mean(x, axes, keepdims=True)), axes), updates)
    return mean, squares


@public
def get_per_element_mean_and_sum_sq_diff_grads(
    per_elt_axis: int | Sequence[int] = 0, accumulation_steps: int = 1
) -> Any:
    r"""Return the updates' mean, with the sum of squares :math:`\sum_i (g_i - \bar g)^2` and the number of examples.

    It returns a pair, whose second part is a dict of ``sum_sq_diff_grads`` and ``sample_size``: for :func:`process`
    with ``aggregator_has_aux``. Over several steps both are merged, and are 0 until the last.
    """
    axes = _axes(per_elt_axis)

    def at_once(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        mean, squares = _mean_and_squares(updates, axes)
        return (mean, _aux(squares, get_batch_size_from_per_elt_updates(updates, per_elt_axis))), state  # pyright: ignore[reportArgumentType]

    def init(params: Any) -> PerElementMeanAndSumSqDiffGradsState:
        zeros = tree_utils.tree_zeros_like(params)
        return PerElementMeanAndSumSqDiffGradsState(jnp.zeros((), jnp.int32), jnp.asarray(False), zeros, zeros)

    def update(updates: Any, state: PerElementMeanAndSumSqDiffGradsState, params: Any = None, **extra_args: Any) -> Any:
        size = get_batch_size_from_per_elt_updates(updates, per_elt_axis)  # pyright: ignore[reportArgumentType]
        own_mean, own_squares = _mean_and_squares(updates, axes)
        step = state.micro_step + 1
        gap = _map(jnp.subtract, own_mean, state.mean_grads)
        mean = _map(lambda m, d: m + d / step, state.mean_grads, gap)
        weight = state.micro_step * size / step
        squares = _map(lambda s, own, d: s + own + weight * jnp.square(d), state.sum_sq_diff_grads, own_squares, gap)
        ready = step == accumulation_steps
        result = (mean, _aux(squares, size * step))
        nothing = tree_utils.tree_zeros_like((mean, squares))
        kept = tree_utils.tree_where(ready, nothing, (mean, squares))
        new_state = PerElementMeanAndSumSqDiffGradsState(jnp.where(ready, 0, step), ready, *kept)
        return tree_utils.tree_where(ready, result, tree_utils.tree_zeros_like(result)), new_state

    return _aggregator(init_empty_state, at_once) if accumulation_steps == 1 else _aggregator(init, update)


def _aux(squares: Any, size: Any) -> dict[str, Any]:
    return {"sum_sq_diff_grads": squares, "sample_size": size}


class PerElementMeanAndVarianceEMAState(NamedTuple):
    """The state of :func:`track_per_element_mean_and_variance_with_ema`."""

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    ema_decay: Array
    mean_grads_ema: Any
    variance_grads_ema: Any


@public
def track_per_element_mean_and_variance_with_ema(ema_decay: ArrayLike = 0.9) -> Any:
    r"""Keep moving averages of the updates and of their variance, :math:`\sum_i (g_i - \bar g)^2 / (n - 1)`.

    The updates pass unchanged. ``update`` needs ``sum_sq_diff_grads`` and ``sample_size`` by name.
    """

    def init(params: Any) -> PerElementMeanAndVarianceEMAState:
        zeros = tree_utils.tree_zeros_like(params)
        return PerElementMeanAndVarianceEMAState(jnp.zeros((), jnp.int32), jnp.asarray(ema_decay), zeros, zeros)

    def update(
        updates: Any,
        state: PerElementMeanAndVarianceEMAState,
        params: Any = None,
        *,
        sum_sq_diff_grads: Any,
        sample_size: Any,
        **extra_args: Any,
    ) -> Any:
        def average(new: Any, old: Any) -> Any:
            return _map(lambda x, m: (1.0 - ema_decay) * x + ema_decay * m, new, old)

        variance = tree_utils.tree_scale(1 / (sample_size - 1), sum_sq_diff_grads)
        return updates, state._replace(
            count=safe_increment(state.count),
            mean_grads_ema=average(updates, state.mean_grads_ema),
            variance_grads_ema=average(variance, state.variance_grads_ema),
        )

    return cast(Any, GradientTransformationExtraArgs)(init, update)


@public
def get_unbiased_mean_and_variance_ema(state: Any) -> tuple[Any, Any]:
    """Return the bias-corrected averages that :func:`track_per_element_mean_and_variance_with_ema` keeps in a state.

    Raises:
      ValueError: if there are none.
    """
    found = tree_utils.tree_get(state, "PerElementMeanAndVarianceEMAState")
    if found is None:
        raise ValueError("the state has no PerElementMeanAndVarianceEMAState; see add_mean_variance_to_opt")

    def corrected(average: Any) -> Any:
        return _map(lambda x: x / (1 - found.ema_decay**found.count), average)

    return corrected(found.mean_grads_ema), corrected(found.variance_grads_ema)


@public
def add_mean_variance_to_opt(
    opt: Any, ema_decay: ArrayLike = 0.9, per_elt_axis: int | list[int] = 0, accumulation_steps: int = 1
) -> Any:
    """Average the gradients of single examples for an optimizer, and track their mean and variance."""
    return process(
        identity(),
        get_per_element_mean_and_sum_sq_diff_grads(per_elt_axis, accumulation_steps),
        chain(track_per_element_mean_and_variance_with_ema(ema_decay), opt),
        aggregator_has_aux=True,
    )
