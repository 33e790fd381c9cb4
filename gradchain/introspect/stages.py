"""What each stage of a transform is and keeps: its hyperparameters now and at the end, its slots, their bytes."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.core import Tracer

from gradchain.core.foreign import Foreign
from gradchain.core.hyper import Schedule, value_at
from gradchain.core.transform import Part, Transform, count_of
from gradchain.introspect.courses import ends_at, extremes
from gradchain.introspect.paths import Place, state_parts
from gradchain.introspect.survey import Survey, active
from gradchain.tree import Tree
from gradchain.tree.alignment import bytes_of, is_array


class HyperparameterRow(NamedTuple):
    """One hyperparameter of a stage."""

    name: str
    now: Any
    """A number; of a batch its shape as text, such as ``float32[64]``."""
    end: Any
    """What a schedule ends at; ``None`` for a number, and where it isn't known."""
    is_schedule: bool
    smallest: float | None = None
    """The least value in a schedule's whole course, where that is below ``now`` and ``end``."""
    largest: float | None = None
    """The largest one, where it is above them: the peak of a warmup, say."""


class SlotRow(NamedTuple):
    """One field of a stage's state."""

    name: str
    dtypes: tuple[str, ...]
    arrays: int
    """How many arrays it holds."""
    bytes: int
    bytes_per_device: int
    """What the device with the most of them holds; all of it where nothing is sharded."""


class StageRow(NamedTuple):
    """What :func:`gradchain.describe` says about one stage."""

    name: str
    """As :func:`gradchain.hyperparams` has it, labels in front."""
    hyperparameters: tuple[HyperparameterRow, ...]
    slots: tuple[SlotRow, ...]
    parameters: tuple[str, ...]
    """The paths of the parameters that it applies to."""

    @property
    def bytes(self) -> int:
        """All bytes of its state."""
        return sum(slot.bytes for slot in self.slots)

    @property
    def bytes_per_device(self) -> int:
        """All bytes of its state on one device."""
        return sum(slot.bytes_per_device for slot in self.slots)


class Kept(NamedTuple):
    """One array of a state."""

    place: Place
    shape: Any
    sharding: Any


def stage_rows(
    tx: Transform, abstract: Any, survey: Survey, params: Tree, state: Any, steps: int | None, arrays: Iterable[Kept]
) -> Iterator[StageRow]:
    """Yield a row for each stage with numbers, state or a rule of its own.

    Args:
      tx: the transform.
      abstract: shapes and dtypes of its state.
      survey: of these parameters.
      params: the parameters, or their shapes.
      state: its state, or ``None`` for the numbers at the start.
      steps: the number of updates at the end; ``None`` for where schedules end.
      arrays: those of the state.
    """
    present = {part.name: part for part in state_parts(tx, state)}
    kept = dict[str, list[Kept]]()
    for item in arrays:
        kept.setdefault(item.place.stage, []).append(item)
    for part in state_parts(tx, abstract, params):
        own, leaf = kept.pop(part.name, []), not part.transform.parts()
        is_hidden = not leaf or (isinstance(part.transform, Foreign) and bool(jax.tree.leaves(part.state)))
        if own or part.transform.settings() or not is_hidden:
            found = survey.paths.arrays(part.params)
            names = active(part.transform, part.params, survey.paths) if leaf else [path for path, _ in found]
            numbers = _numbers(present[part.name], steps)
            yield StageRow(
                part.name, tuple(numbers), tuple(_slots(own)), tuple(dict.fromkeys(map(survey.owner, names)))
            )
    for name, own in kept.items():  # what lies in another library's state
        paths = dict.fromkeys(item.place.path for item in own if item.place.path in survey.params)
        yield StageRow(name, (), tuple(_slots(own)), tuple(paths))


def _slots(own: list[Kept]) -> Iterator[SlotRow]:
    """Yield a row for each field of a stage's state."""
    fields = dict[str, list[Kept]]()
    for item in own:
        fields.setdefault(item.place.slot, []).append(item)
    for name, items in fields.items():
        dtypes = tuple(sorted({str(item.shape.dtype) for item in items}))
        sizes = [bytes_of(item.shape) for item in items]
        local = [bytes_of(item.shape, _local_shape(item)) for item in items]
        yield SlotRow(name or "state", dtypes, len(items), sum(sizes), sum(local))


def _local_shape(item: Kept) -> tuple[int, ...]:
    return item.shape.shape if item.sharding is None else item.sharding.shard_shape(item.shape.shape)


def shardings_of(found: list[Place], abstract: list[Any], survey: Survey) -> list[Any]:
    """Return shardings for the leaves of a state: those of the parameters for what is as large, else ``None``."""
    arrays = {path: x for path, x in survey.params.items() if getattr(x, "sharding", None) is not None}
    return [
        arrays[place.path].sharding if place.path in arrays and arrays[place.path].shape == x.shape else None
        for place, x in zip(found, abstract, strict=True)
    ]


def _numbers(part: Part, steps: int | None) -> Iterator[HyperparameterRow]:
    """Yield a row for each hyperparameter of a stage, at the state's count or at the start."""
    count = count_of(part.state)
    count = jnp.zeros((), jnp.int32) if count is None else count
    declared = part.transform.settings()
    now = part.transform.settings(part.state) if part.state is not None else declared
    declared, now = _flat(declared), _flat(now)
    for name, value in declared.items():
        if value is not None:
            is_schedule, end = isinstance(value, Schedule), ends_at(value, steps)
            ends = _plain(value_at(now[name], count)), None if end is None else _plain(end)
            yield HyperparameterRow(name, *ends, is_schedule, *extremes(value, steps, ends))


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with those that are dicts by name taken apart, but no schedule."""
    found = dict[str, Any]()
    for name, value in settings.items():
        if isinstance(value, dict):
            held = cast(dict[str, Any], value)
            inner = {f"{name}.{key}": getattr(x, "numbers", x) for key, x in held.items()}
            found |= _flat(inner)
        else:
            found[name] = value
    return found


def _plain(value: Any) -> Any:
    """Return a value as a number, or its shape as text; several as a tuple."""
    if isinstance(value, tuple | dict):
        items = value.values() if isinstance(value, dict) else value
        return tuple(map(_plain, cast(Any, items)))
    if isinstance(value, Schedule) or not is_array(value):
        return value if isinstance(value, int | float) else repr(value)
    if value.shape or not jnp.issubdtype(value.dtype, jnp.number) or isinstance(value, Tracer):
        return f"{value.dtype}{list(value.shape)}"
    return value.item()
