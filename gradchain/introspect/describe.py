"""Reports of each stage of a transform, its state, and what applies to which parameter, before anything runs."""

import dataclasses
import shutil
import textwrap
from typing import Any, Literal

import jax
import numpy as np

from gradchain.core.foreign import Child, as_transform
from gradchain.core.transform import Transform
from gradchain.introspect.paths import abstract_state, places
from gradchain.introspect.stages import HyperparameterRow, Kept, SlotRow, StageRow, shardings_of, stage_rows
from gradchain.introspect.survey import ParameterRow, Survey
from gradchain.introspect.tables import KEPT, html_table, path_table, text_table
from gradchain.signatures import public
from gradchain.tree import Tree

By = Literal["stage", "parameter"]
SIDE_BY_SIDE = 120
"""The width from which on hyperparameters and slots have columns of their own."""


@dataclasses.dataclass(frozen=True)
class Description:
    """What :func:`gradchain.describe` returns: printed it is a table of the stages, as wide as the terminal."""

    stages: tuple[StageRow, ...]
    """One for each stage that has numbers, keeps state or is a rule, in the order of the chain."""
    rows: tuple[ParameterRow, ...]
    """One for each parameter, in the order of the tree."""
    shared_bytes: int
    """State that belongs to no single parameter: counts, keys, estimates."""

    @property
    def parameters(self) -> int:
        """The number of elements in all parameters."""
        return sum(int(np.prod(row.shape)) for row in self.rows)

    @property
    def state_bytes(self) -> int:
        """All bytes of state."""
        return sum(stage.bytes for stage in self.stages)

    @property
    def bytes_per_device(self) -> int:
        """The bytes of state on each device; all of them where nothing is sharded."""
        return sum(stage.bytes_per_device for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain data: ``stages`` (a list), ``parameters`` (by path) and ``totals``."""
        return {
            "stages": [_stage_dict(stage) for stage in self.stages],
            "parameters": {
                row.path: {k: list(v) if isinstance(v, tuple) else v for k, v in row._asdict().items()}
                for row in self.rows
            },
            "totals": {
                "arrays": len(self.rows),
                "parameters": self.parameters,
                "state_bytes": self.state_bytes,
                "shared_bytes": self.shared_bytes,
                "bytes_per_device": self.bytes_per_device,
            },
        }

    def table(self, width: int | None = None, by: By = "stage") -> str:
        """Return a table in lines of at most ``width`` characters (at least 60), and the totals.

        Args:
          width: by default the terminal's.
          by: ``"stage"`` for a row for each stage: its hyperparameters (schedules now and at the end, and the least and
            the largest value where those lie in between), its slots, how many of the parameters it applies to, its
            bytes. ``"parameter"`` for a row for each parameter: its shape,
            its labels, the matrices as which rules see it, why it is one (see :func:`gradchain.hidden_matrices`), the
            transforms that apply to it, its bytes of state.
        """
        width = max(60, width or shutil.get_terminal_size().columns)
        if by == "stage":
            stacked = width < SIDE_BY_SIDE
            lines = text_table(*self._stage_cells(stacked), width, texts=1 if stacked else 2)
        elif by == "parameter":
            spared = ("shape", "transform") if any(row.seen_as for row in self.rows) else ()
            lines = path_table(*self._parameter_cells(), width, ("transform", "why"), spared)
        else:
            raise ValueError(f"table: by must be 'stage' or 'parameter', got {by!r}")
        return "\n".join([*lines, *textwrap.wrap(self._totals(), width)])

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        parameters = (
            f"<details><summary>{len(self.rows)} arrays</summary>{html_table(*self._parameter_cells())}</details>"
        )
        return f"{html_table(*self._stage_cells())}<p>{self._totals()}</p>{parameters}"

    def _totals(self) -> str:
        shared = f", {self.shared_bytes:,} of them shared" if self.shared_bytes else ""
        local = f", {self.bytes_per_device:,} on each device" if self.bytes_per_device < self.state_bytes else ""
        arrays = f"{len(self.rows)} array{'' if len(self.rows) == 1 else 's'}"
        return f"{arrays}, {self.parameters:,} numbers, {self.state_bytes:,} bytes of state{shared}{local}"

    def _stage_cells(self, stacked: bool = False) -> tuple[list[str], list[list[str]]]:
        """Return titles and cells, with hyperparameters and slots in one column if ``stacked``."""
        sharded = self.bytes_per_device < self.state_bytes
        texts = ["hyperparameters, slots"] if stacked else ["hyperparameters", "slots"]
        titles = ["stage", *texts, "arrays", "state bytes", *(["on a device"] if sharded else [])]
        rows: list[list[str]] = []
        for stage in self.stages:
            numbers, slots = map(_number_cell, stage.hyperparameters), map(_slot_cell, stage.slots)
            both = [", ".join(numbers), ", ".join(slots)]
            scope = _scope_cell(len(stage.parameters), len(self.rows))
            local = [f"{stage.bytes_per_device:,}"] if sharded else []
            rows.append([stage.name, *(["\n".join(both)] if stacked else both), scope, f"{stage.bytes:,}", *local])
        return titles, rows

    def _parameter_cells(self) -> tuple[list[str], list[list[str]]]:
        """Return titles and cells, without the columns that say nothing."""
        titles = ["path", "shape", "label", "seen as", "why", "transform", "state bytes"]
        columns = [*zip(*map(_parameter_cell, self.rows), strict=True)] or [()] * len(titles)
        kept = [i for i, title in enumerate(titles) if title not in ("label", "seen as", "why") or any(columns[i])]
        rows = [list(row) for row in zip(*(columns[i] for i in kept), strict=True)]
        return [titles[i] for i in kept], rows


@public
def describe(
    tx: Child, params: Tree, state: Any = None, *, steps: int | None = None, shardings: Any = None
) -> Description:
    """Return a report of a transform by stage and by parameter: print it before a long run.

    Only schedules are computed, so parameters may be shapes (``jax.ShapeDtypeStruct``). It is also a method:
    ``print(tx.describe(params))``.

    Args:
      tx: any transform.
      params: the parameters, or their shapes. Leaves that aren't arrays, such as the functions of an Equinox model,
        have no row; ``tx`` must mask them, as for ``init``.
      state: its state, to show the current hyperparameters; by default the initial ones are shown.
      steps: the number of updates at which the end values of schedules are taken; by default each schedule's own end,
        which isn't known for a plain callable. A minimum or maximum beyond both end values is shown too:
        ``learning_rate 0 → 0 (max 0.001)`` for a warmup.
      shardings: a tree like the state, of shardings, for the bytes on each device. By default the state's own, or, for
        slots of the parameters' shapes, those of the parameters.

    Returns:
      Tables to print, whose content is also in ``stages`` and ``rows``, in ``to_dict()``, and in totals
      (``parameters``, ``state_bytes``, ``shared_bytes``, ``bytes_per_device``). Notebooks show it as HTML.

    Raises:
      ValueError: whenever ``tx.init(params)`` raises it, such as for a label without a transform; and if ``state`` or
        ``shardings`` don't match the transform's state.

    Example:
      >>> print(describe(adam(1e-3), {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}))
    """
    tx = as_transform(tx)
    survey = Survey(params)
    abstract = abstract_state(tx, params)
    survey.visit(tx, abstract, params, "")
    leaves, found = jax.tree.leaves(abstract), places("describe", tx, abstract)
    local = _shardings(tx, abstract, state, shardings) or shardings_of(found, leaves, survey)
    stages = stage_rows(tx, abstract, survey, params, state, steps, map(Kept, found, leaves, local))
    return Description(tuple(stages), tuple(survey.rows()), survey.shared_bytes)


def _shardings(tx: Transform, abstract: Any, state: Any, shardings: Any) -> list[Any]:
    """Return the shardings of the state's leaves, ``None`` where there is none; nothing where they aren't given."""
    structure = jax.tree.structure(abstract)
    for name, tree in (("shardings", shardings), ("state", state)):
        if tree is not None and jax.tree.structure(tree) != structure:
            raise ValueError(
                f"describe: {name} must be like the state of {tx.name}: {structure}, got {jax.tree.structure(tree)}"
            )
    if shardings is not None:
        return jax.tree.leaves(shardings)
    if state is not None:
        return [getattr(x, "sharding", None) for x in jax.tree.leaves(state)]
    return []


def _stage_dict(stage: StageRow) -> dict[str, Any]:
    return {
        "name": stage.name,
        "hyperparameters": {
            row.name: {"now": row.now, "end": row.end} | _extremes(row) if row.is_schedule else row.now
            for row in stage.hyperparameters
        },
        "slots": {row.name: row._asdict() | {"dtypes": list(row.dtypes)} for row in stage.slots},
        "parameters": list(stage.parameters),
        "bytes": stage.bytes,
        "bytes_per_device": stage.bytes_per_device,
    }


def _number_cell(row: HyperparameterRow) -> str:
    end = f" → {'?' if row.end is None else _shown(row.end)}" if row.is_schedule else ""
    beyond = ", ".join(f"{name} {_shown(value)}" for name, value in _extremes(row).items())
    return f"{row.name} {_shown(row.now)}{end}{beyond and f' ({beyond})'}".replace(" ", KEPT)


def _extremes(row: HyperparameterRow) -> dict[str, float]:
    """Return by name how far a schedule goes beyond its ends."""
    beyond = {"min": row.smallest, "max": row.largest}
    return {name: value for name, value in beyond.items() if value is not None}


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _slot_cell(row: SlotRow) -> str:
    return f"{row.name}{KEPT}{'/'.join(row.dtypes)}"


def _scope_cell(size: int, total: int) -> str:
    return f"{size} of {total}" if size < total else f"all {total}" if total else "none"


def _parameter_cell(row: ParameterRow) -> list[str]:
    shape, transforms = str(row.shape).replace(",)", ")"), ", ".join(row.transforms) or "-"
    labels, size = ", ".join(row.labels), f"{row.state_bytes:,}"
    return [row.path or "(the array)", shape, labels, row.seen_as, row.why, transforms, size]
