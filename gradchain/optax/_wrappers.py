"""Optax's other transforms around transforms: lookahead's pairs, flat parameters, measurements."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradchain import tree
from gradchain.core.foreign import Child, Children, as_transform
from gradchain.core.transform import Part
from gradchain.core.value import register
from gradchain.optax._around import Around, Inner
from gradchain.optax._base import GradientTransformation, stateless
from gradchain.optax._states import EmptyState, LookaheadParams, LookaheadState, MonitorState, SnapshotState
from gradchain.optax._transforms import ema
from gradchain.tree import Tree

__all__ = [
    "LookaheadParams",
    "LookaheadState",
    "MonitorState",
    "SnapshotState",
    "flatten",
    "lookahead",
    "measure_with_ema",
    "monitor",
    "snapshot",
]


@register
class Lookahead(Inner):
    """See :func:`lookahead`."""

    name = "lookahead"
    child = "fast_optimizer"
    state_field = "fast_state"
    fast_optimizer: Child
    sync_period: Any
    slow_step_size: Any
    reset_state: bool = False

    def init(self, params: Tree) -> LookaheadState:
        fast = getattr(params, "fast", None)
        if fast is None:
            logging.getLogger(__name__).warning("lookahead: params has no attribute fast, and is taken to be all fast")
            fast = params
        return LookaheadState(self.fast_optimizer.init(fast), jnp.zeros((), jnp.int32))

    def step(self, updates: Tree, state: Any, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
        updates, fast = self.fast_optimizer.step(updates, state.fast_state, params.fast, {})
        updates = tree.cast_like(updates, params.fast)
        syncs = state.steps_since_sync == self.sync_period - 1
        ahead = jax.tree.map(lambda f, u, s: f + u - s, params.fast, updates, params.slow)
        slow = jax.tree.map(lambda d: jnp.where(syncs, self.slow_step_size * d, 0), ahead)
        quick = jax.tree.map(lambda u, d: u - jnp.where(syncs, (1 - self.slow_step_size) * d, 0), updates, ahead)
        if self.reset_state:
            fast = tree.where(syncs, self.fast_optimizer.init(params.fast), fast)
        return LookaheadParams(quick, slow), LookaheadState(fast, (state.steps_since_sync + 1) % self.sync_period)

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        return super().parts(state, getattr(params, "fast", params))


def lookahead(fast_optimizer: Any, sync_period: int, slow_step_size: Any, reset_state: bool = False) -> Any:
    """Optax's form of :func:`gradchain.lookahead`: ``update`` gets and returns pairs, a :class:`LookaheadParams`."""
    if sync_period < 1:
        raise ValueError(f"lookahead: Synchronization period must be >= 1, got sync_period={sync_period}")
    return Lookahead(as_transform(fast_optimizer), sync_period, slow_step_size, reset_state)


@register
class Flat(Around):
    """See :func:`flatten`."""

    name = "flatten"
    inner: Child

    def init(self, params: Tree) -> Any:
        return self.inner.init(_flat(params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        new, state = self.inner.step(_flat(updates), state, None if params is None else _flat(params), extra)
        leaves, treedef = jax.tree.flatten(updates)
        pieces = jnp.split(new, np.cumsum([np.size(x) for x in leaves])[:-1])
        return treedef.unflatten([x.reshape(np.shape(old)) for x, old in zip(pieces, leaves, strict=True)]), state

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        return [Part("", self.inner, state, None if params is None else _flat(params))]


def _flat(tree: Tree) -> jax.Array:
    """Return all arrays as one vector."""
    return jnp.concatenate([jnp.reshape(x, -1) for x in jax.tree.leaves(tree)])


def flatten(inner: Any) -> Any:
    """Give a transform all arrays as one vector; its state is of that vector."""
    return Flat(as_transform(inner))


def snapshot(measure_name: str, measure: Callable[[Tree], Tree]) -> Any:
    """Keep a measurement of the updates that pass by, under a name (see :func:`gradchain.snapshot`)."""

    def init(params: Tree) -> SnapshotState:
        return SnapshotState({measure_name: measure(params)})

    def update(updates: Tree, state: SnapshotState, params: Tree | None = None) -> tuple[Tree, SnapshotState]:
        return updates, SnapshotState({measure_name: measure(updates)})

    return GradientTransformation(init, update)


@register
class Monitor(Around):
    """See :func:`monitor`."""

    name = "monitor"
    measures: Children
    labels: tuple[str, ...]

    def init(self, params: Tree) -> MonitorState:
        return MonitorState({}, tuple(tx.init(params) for tx in self.measures))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        results = [
            tx.step(updates, own, params, extra) for tx, own in zip(self.measures, state.measure_states, strict=True)
        ]
        measured = {label: x for label, (x, _) in zip(self.labels, results, strict=True)}
        return updates, MonitorState(measured, tuple(own for _, own in results))

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        states = [None] * len(self.labels) if state is None else state.measure_states
        named = zip(self.labels, self.measures, states, strict=True)
        return [Part(label, tx, own, params) for label, tx, own in named]


def monitor(measures: Mapping[str, Any]) -> Any:
    """Keep measurements of the updates that pass by: functions of them, or transforms whose updates they are."""
    found = {name: _measuring(measure) if callable(measure) else measure for name, measure in measures.items()}
    return Monitor(tuple(map(as_transform, found.values())), tuple(found))


def _measuring(measure: Callable[[Tree], Tree]) -> Any:
    return stateless(lambda updates, params: measure(updates))


@register
class Averaged(Around):
    """See :func:`measure_with_ema`."""

    name = "measure_with_ema"
    average: Child
    measure: Callable[..., Any]

    def init(self, params: Tree) -> Any:
        return EmptyState(), self.average.init(self.measure(params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        nothing, own = state
        measured, own = self.average.step(self.measure(updates), own, None, extra)
        return measured, (nothing, own)

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        return [Part("", self.average, None if state is None else state[1], None)]


def measure_with_ema(
    measure: Callable[[Tree], Tree], decay: Any, debias: bool = True, accumulator_dtype: Any = None
) -> Any:
    """Measure the updates, and average the measurements (:func:`gradchain.ema`): for :func:`monitor`."""
    return Averaged(ema(decay, debias, accumulator_dtype), measure)
