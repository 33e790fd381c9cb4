"""Monitoring a run: measurements kept in the state, and everything worth logging in one flat dict."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gradchain import tree
from gradchain.combinators._reports import Reports
from gradchain.combinators._weights import check_arrays, widened, widened_inexact
from gradchain.core.combinator import combinator
from gradchain.core.foreign import Child, Children, as_transform
from gradchain.core.hyper import Decay, DType
from gradchain.core.hyperparams import hyperparams, walk
from gradchain.core.rule import Rule
from gradchain.core.transform import Part, Transform, apply_updates, check_state, lacks_params
from gradchain.core.value import register
from gradchain.numerics import safe_increment
from gradchain.signatures import public
from gradchain.transforms.momentum import ema
from gradchain.tree import Tree
from gradchain.tree.state import numbered


@register
class Measure(Transform):
    """A function of the updates as a transform without state, which returns whatever the function does."""

    name = "measure"
    function: Callable[[Any], Any]

    def init(self, params: Tree) -> tuple[()]:
        return ()

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        return self.function(updates), ()


@register
class MeasureWithEma(Transform):
    """See :func:`measure_with_ema`."""

    name = "measure_with_ema"
    measure: Callable[[Any], Any]
    average: Child

    def _measured(self, updates: Tree) -> Tree:
        return widened(self.measure(updates))

    def init(self, params: Tree) -> Any:
        return self.average.init(tree.zeros_like(jax.eval_shape(self._measured, params)))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        return self.average.step(self._measured(updates), state, None, extra)

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        return [Part("", self.average, state, None)]

    def __repr__(self) -> str:
        decay, debias, dtype = (value for _, _, value in self.average.fields())
        return f"measure_with_ema({self.measure!r}, {decay!r}, debias={debias!r}, accumulator_dtype={dtype!r})"


@public
def measure_with_ema(
    measure: Callable[[Any], Any], decay: Decay, debias: bool = True, accumulator_dtype: DType | None = None
) -> Transform:
    """Return the moving average of a measurement, for :func:`monitor`.

    Args:
      measure: a function of the updates; booleans are averaged as 0 and 1.
      decay: the weight of the past, in [0, 1).
      debias: apply bias correction, since the average starts at zero.
      accumulator_dtype: dtype of the stored average.

    Example:
      >>> monitor({"share_clipped": measure_with_ema(lambda u: global_norm(u) > 1.0, 0.99)})
    """
    return MeasureWithEma(measure, ema(decay, debias, accumulator_dtype))


class MonitorState(NamedTuple):
    """State of :func:`monitor` and :func:`snapshot`."""

    measurements: dict[str, Any]
    """The last measurements by name; zeros before the first update."""
    measure_states: tuple[Any, ...]


@register
class Monitor(Reports):
    """See :func:`monitor`."""

    name = "monitor"
    names: tuple[str, ...]
    measures: Children

    @property
    def title(self) -> str:
        return ""

    def init(self, params: Tree) -> MonitorState:
        wide = widened_inexact(f"{self.name}.init", params, "parameter")
        states = tuple(measure.init(wide) for measure in self.measures)
        shapes = jax.eval_shape(lambda: self._measure(wide, states, params, {})[0])
        return MonitorState(tree.zeros_like(shapes), states)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, MonitorState._fields)
        found, states = self._measure(widened_inexact(self.name, updates), state.measure_states, params, extra)
        if jax.tree.structure(found) != jax.tree.structure(state.measurements):
            problem = tree.mismatch(found, state.measurements, "these", "those in the state")
            raise ValueError(f"{self.name}: measurements must keep their structure; {problem}")
        return updates, MonitorState(tree.cast_like(found, state.measurements), states)

    def _measure(self, updates: Tree, states: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Any, Any]:
        pairs = zip(self.measures, states, strict=True)
        results = [measure.step(updates, state, params, extra) for measure, state in pairs]
        return dict(zip(self.names, (x for x, _ in results), strict=True)), tuple(state for _, state in results)

    @property
    def skips(self) -> bool:
        return False

    @property
    def collects(self) -> bool:
        return False

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        states = [None] * len(self.measures) if state is None else state.measure_states
        return [Part(n, m, s, params) for n, m, s in zip(self.names, self.measures, states, strict=True)]

    def report(self, state: MonitorState) -> dict[str, Any]:
        found = jax.tree_util.tree_flatten_with_path(state.measurements)[0]
        return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in found}

    def __repr__(self) -> str:
        shown = (m.function if isinstance(m, Measure) else m for m in self.measures)
        return f"monitor({dict(zip(self.names, shown, strict=True))!r})"


@public
def monitor(measures: Mapping[str, Any]) -> Transform:
    """Measure the updates that pass through, and keep the latest measurements in the state; updates are unchanged.

    ``state.measurements`` has the same structure from ``init`` on, zeros at first. (In Optax it is empty until the
    first update, so that the state can't be carried through a ``scan``.) Measures see updates in at least float32.

    Args:
      measures: by name, functions of the updates that return a tree of arrays, or transforms whose updates are the
        measurement, such as :func:`measure_with_ema`.

    Example:
      >>> tx = chain(monitor({"norm": global_norm}), clip_by_global_norm(1.0), adam(1e-3))
      >>> state[0].measurements["norm"]
    """

    def of(name: str, measure: Any) -> Transform:
        if callable(getattr(measure, "init", None)):
            return as_transform(measure)
        if not callable(measure):
            raise TypeError(f"monitor: {name} must be a function of the updates or a transform, got {measure!r}")
        return Measure(measure)

    return Monitor(tuple(measures), tuple(of(name, measure) for name, measure in measures.items()))


@public
def snapshot(measure_name: str, measure: Callable[[Any], Any]) -> Transform:
    """Keep one measurement of the updates that pass through in the state: :func:`monitor` with one measure.

    Before the first update it is zero; in Optax it is then the measure of the parameters.

    Args:
      measure_name: its name in ``state.measurements``.
      measure: a function of the updates that returns a tree of arrays.
    """
    return monitor({measure_name: measure})


@public
def share_rounded_away(params: Tree, updates: Tree) -> Array:
    """Return the fraction of nonzero updates that have no effect, because the sum rounds back to the parameter.

    A bfloat16 number has 8 bits: an update below 1/256 to 1/512 of its parameter is lost. If the fraction is large,
    keep the parameters in float32, or round them stochastically.

    Args:
      params: the parameters.
      updates: what is added to them, not yet rounded to their dtypes.

    Returns:
      A number in [0, 1]; 0 where all updates are zero.
    """

    def leaf(path: Any, update: Any, param: Any) -> Array | None:
        if update is None:
            return None
        moves = jnp.asarray(update) != 0
        stays = apply_updates(param, update) == param
        return jnp.stack([jnp.sum(moves & stays, dtype=jnp.float32), jnp.sum(moves, dtype=jnp.float32)])

    counts = jax.tree.leaves(tree.map_optional(leaf, updates, params, "share_rounded_away"))
    lost, moving = sum(counts, jnp.zeros(2))
    return lost / jnp.maximum(moving, 1)


class WatchState(NamedTuple):
    """State of :func:`watch`: of the last update, zeros before the first."""

    gradient_norm: Array
    update_norm: Array
    rounded_away: Array
    changed: Array
    """How many updates, from the start on, came out different from how they went in."""
    inner_state: Any


@combinator
class watch(Reports):
    """Keep the norms of a transform's input and output in the state, for :func:`metrics`.

    Besides ``gradient_norm`` and ``update_norm`` it keeps ``rounded_away``, the fraction of the last update that was
    too small to change parameters of their dtype (:func:`share_rounded_away`), and ``changed``, the number of updates
    that the transform has modified: around a clipping rule, how many were clipped.

    Args:
      tx: any transform: a whole optimizer or a single stage.
      label: prefix of the names in :func:`metrics`, to tell several apart.

    Example:
      >>> tx = watch(chain(watch(clip_by_global_norm(1.0), "clip"), adamw(1e-3)))
    """

    tx: Child
    label: str = ""

    @property
    def title(self) -> str:
        return self.label

    def init(self, params: Tree) -> WatchState:
        check_arrays(self.name, params)
        before, after = (jnp.zeros((), tree.norm(params).dtype) for _ in range(2))
        return WatchState(before, after, jnp.zeros(()), jnp.zeros((), jnp.int32), self.tx.init(params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, WatchState._fields)
        if params is None:
            raise lacks_params(self.name)
        new, inner_state = self.tx.step(updates, state.inner_state, params, extra)
        same = [jnp.all(x == y) for x, y in zip(jax.tree.leaves(updates), jax.tree.leaves(new), strict=True)]
        changed = jnp.where(jnp.all(jnp.array(same, bool)), state.changed, safe_increment(state.changed))
        measured = tree.norm(updates), tree.norm(new), share_rounded_away(params, new)
        before, after, lost = tree.cast_like(measured, tuple(state[:3]))
        return new, WatchState(before, after, lost, changed, inner_state)

    def report(self, state: WatchState) -> dict[str, Any]:
        return dict(zip(state._fields[:-1], state[:-1], strict=True))


@public
def metrics(tx: Transform, state: Any) -> dict[str, Array]:
    """Return everything worth logging about a run, as one flat dict from name to number.

    The dict has the learning rates of the next update, under the names that :func:`hyperparams` uses; the scalars that
    rules keep, such as ``reduce_on_plateau.scale``; the counts of :func:`accumulate`, :func:`apply_if_finite` and
    :func:`skip_spikes`; norms and counts from :func:`watch`; and scalar measurements from :func:`monitor`. If a name
    occurs twice, the second ends in ``_2``.

    Args:
      tx: any transform.
      state: its state. The function is pure: call it inside a jitted step and return the dict from there, or under
        ``vmap`` for a batch of runs.

    Example:
      >>> tx = watch(apply_if_finite(adam(1e-3), 5))
      >>> list(metrics(tx, tx.init(params)))
      ['scale_by_learning_rate.learning_rate', 'gradient_norm', 'update_norm', 'rounded_away', 'changed',
       'apply_if_finite.not_finite', 'apply_if_finite.not_finite_in_a_row']
    """
    rates = {name: x for name, x in hyperparams(tx, state).items() if name.split(".")[-1] == "learning_rate"}
    scalars = {
        f"{part.name}.{name}": getattr(part.state, name)
        for part in walk(tx, state)
        if isinstance(part.transform, Rule)
        for name in part.transform.spec.scalars
    }
    found = {name: jnp.asarray(x) for name, x in (rates | scalars).items()}
    for name, x in _reported("", Part("", tx, state, None)):
        if jnp.ndim(x) == 0:
            found[numbered(name, found)] = jnp.asarray(x)
    return found


def _reported(label: str, part: Part) -> Iterator[tuple[str, Any]]:
    """Yield (name, number) for every transform in ``part`` that reports some."""
    if isinstance(part.transform, Reports):
        for name, x in part.transform.report(part.state).items():
            yield ".".join(filter(None, (label, part.transform.title, name))), x
    for child in part.transform.parts(part.state, part.params):
        yield from _reported(".".join(filter(None, (label, child.name))), child)
