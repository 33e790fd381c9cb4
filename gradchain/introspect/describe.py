"""What a transform does with each parameter, as a table: its label, the rules that apply, the bytes of state."""

import dataclasses
import shutil
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from gradchain.combinators.labels import path_name
from gradchain.combinators.routing import Partition
from gradchain.core.foreign import as_transform
from gradchain.core.rule import Rule
from gradchain.core.transform import Part, Transform
from gradchain.tree import Tree, flatten_optional, overlay

COLUMNS = ("path", "shape", "label", "transform", "state bytes")
GAP = "  "


class ParameterRow(NamedTuple):
    """What :func:`gradchain.describe` says about one parameter."""

    path: str
    """As ``encoder/layers/0/kernel``."""
    shape: tuple[int, ...]
    dtype: str
    labels: tuple[str, ...]
    """The label in each partition that reaches it, a nested one's after its parent's: ``outer.inner``."""
    transforms: tuple[str, ...]
    """The names of the rules that apply to it, in order."""
    state_bytes: int


@dataclasses.dataclass(frozen=True)
class Description:
    """What :func:`gradchain.describe` returns: printed it is a table as wide as the terminal."""

    rows: tuple[ParameterRow, ...]
    """One for each parameter, in the order of the tree."""
    shared_bytes: int
    """State that belongs to no single parameter: counts, keys, estimates."""

    @property
    def parameters(self) -> int:
        """The number of numbers in all parameters."""
        return sum(int(np.prod(row.shape)) for row in self.rows)

    @property
    def state_bytes(self) -> int:
        """All bytes of state."""
        return sum(row.state_bytes for row in self.rows) + self.shared_bytes

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return the rows as dicts, by path."""
        return {row.path: row._asdict() for row in self.rows}

    def table(self, width: int | None = None) -> str:
        """Return the table, in lines of at most ``width`` characters (at least 60); by default the terminal's."""
        width = max(60, width or shutil.get_terminal_size().columns)
        lines = _layout([_cells(row) for row in self.rows], width)
        shared = f", {self.shared_bytes:,} of them shared" if self.shared_bytes else ""
        arrays = f"{len(self.rows)} array{'' if len(self.rows) == 1 else 's'}"
        total = f"{arrays}, {self.parameters:,} numbers, {self.state_bytes:,} bytes of state{shared}"
        return "\n".join([*lines, *textwrap.wrap(total, width)])

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return self.table()


def describe(tx: Any, params: Tree) -> Description:
    """Return what a transform does with each parameter: print it to see which gets what.

    Nothing is computed: parameters may be shapes (``jax.ShapeDtypeStruct``).

    Args:
      tx: any transform.
      params: the parameters, or their shapes. Leaves that are no arrays, such as an Equinox model's functions, have no
        row; ``tx`` must leave them out, as it must in ``init``.

    Returns:
      A table to print, with the same as ``rows`` (path, shape, dtype, labels, transforms, state bytes), ``as_dict()``,
      and totals (``parameters``, ``state_bytes``, ``shared_bytes``).

    Raises:
      ValueError: what ``tx.init(params)`` raises, such as for a label without a transform.

    Example:
      >>> print(describe(adam(1e-3), {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}))
    """
    tx = as_transform(tx)
    survey = Survey(params)
    arrays = jax.tree.map(lambda x: x if _is_array(x) else None, params)
    state = jax.eval_shape(lambda arrays: tx.init(overlay(arrays, params)), arrays)
    survey.visit(tx, state, params, "")
    return Description(tuple(survey.rows()), survey.shared_bytes)


class Survey:
    """Goes through a transform's parts, and notes for each parameter what applies to it."""

    def __init__(self, params: Tree):
        self.params = dict(_arrays(params))
        self.labels: dict[str, list[str]] = {path: [] for path in self.params}
        self.transforms: dict[str, list[str]] = {path: [] for path in self.params}
        self.bytes = dict.fromkeys(self.params, 0)
        self.shared_bytes = 0

    def rows(self) -> Iterator[ParameterRow]:
        """Yield what was noted."""
        for path, x in self.params.items():
            names = tuple(self.labels[path]), tuple(self.transforms[path])
            yield ParameterRow(path, tuple(x.shape), str(x.dtype), *names, self.bytes[path])

    def visit(self, tx: Transform, state: Any, params: Tree, label: str) -> None:
        """Note what ``tx`` does with its share of the parameters."""
        if params is None:  # it sees none of them: what a measurement keeps
            self.shared_bytes += _size(state)
            return
        children = tx.parts(state, params)
        if isinstance(tx, Rule) and not children:
            self.note_rule(tx, state, params)
        else:
            self.note_state(state, params, children)
        if not children:
            for path in dict.fromkeys(map(self.owner, self.active(tx, params))):
                self.transforms[path].append(tx.name)
        for child in children:
            below = label
            if isinstance(tx, Partition):
                below = f"{label}.{child.name}" if label else child.name
                self.relabel(child.params, label, below)
            self.visit(child.transform, child.state, child.params, below)

    def active(self, tx: Transform, params: Tree) -> Iterator[str]:
        """Yield the paths of the arrays that a transform without parts applies to."""
        arrays = dict(_arrays(params))
        if isinstance(tx, Rule) and arrays:
            pairs = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda x: x is None)[0]
            chosen = tx.active(params, len(pairs))
            arrays = {path_name(path): x for (path, x), on in zip(pairs, chosen, strict=True) if on}
        yield from arrays

    def owner(self, path: str) -> str:
        """Return the path of the parameter that a path leads to, or to a part of: a complex array's real one, say."""
        while path not in self.params:
            path = path.rpartition("/")[0]
        return path

    def relabel(self, params: Tree, old: str, new: str) -> None:
        """Replace a partition's label by that of a partition inside it."""
        for path in dict.fromkeys(self.owner(path) for path, _ in _arrays(params)):
            self.labels[path] = [label for label in self.labels[path] if label != old] + [new]

    def note_rule(self, rule: Rule, state: Any, params: Tree) -> None:
        """Count a rule's slots to their parameters, and the rest of its state to none."""
        pairs, treedef = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda x: x is None)
        total = _size(state)
        for name in rule.spec.slots:
            for (path, _), slot in zip(pairs, treedef.flatten_up_to(getattr(state, name)), strict=True):
                if size := _size(slot):
                    self.bytes[self.owner(path_name(path))] += size
                    total -= size
        self.shared_bytes += total

    def note_state(self, state: Any, params: Tree, children: list[Part]) -> None:
        """Count trees like the parameters to these, and the rest, but for the children's states, to none."""
        if any(state is child.state for child in children):
            return
        own, treedef = flatten_optional(params)
        leaves = jax.tree.leaves(state)
        alike = jax.tree.structure(state) == jax.tree.structure(params)
        if alike and (treedef.num_nodes > 1 or [x.shape for x in leaves] == [x.shape for x in own]):
            for (path, _), x in zip(_arrays(params), leaves, strict=True):
                self.bytes[self.owner(path)] += _size(x)
        elif leaves:
            inner = jax.tree.leaves(state, is_leaf=lambda x: x is not state)
            if inner[0] is state:
                self.shared_bytes += _size(state)
            else:
                for node in inner:
                    self.note_state(node, params, children)


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _arrays(params: Tree) -> Iterator[tuple[str, Any]]:
    for path, x in jax.tree_util.tree_flatten_with_path(params)[0]:
        if _is_array(x):
            yield path_name(path), x


def _size(state: Any) -> int:
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(state))


def _cells(row: ParameterRow) -> list[str]:
    shape, transforms = str(row.shape).replace(",)", ")"), ", ".join(row.transforms) or "-"
    return [row.path or "(the array)", shape, ", ".join(row.labels), transforms, f"{row.state_bytes:,}"]


def _layout(rows: list[list[str]], width: int) -> list[str]:
    """Return the lines of a table, and of a legend of the transforms where their lists are too long for it."""
    if not any(row[2] for row in rows):
        rows = [row[:2] + row[3:] for row in rows]
    titles = [title for title in COLUMNS if title != "label" or (rows and len(rows[0]) == len(COLUMNS))]
    legend: list[str] = []
    if sum(_widths([titles, *rows])) + len(GAP) * (len(titles) - 1) > width:
        names = {text: f"({i})" for i, text in enumerate(dict.fromkeys(row[-2] for row in rows), 1)}
        rows = [[*row[:-2], names[row[-2]], row[-1]] for row in rows]
        legend = [f"{name} {text}" for text, name in names.items()]
    widths = _widths([titles, *rows])
    widths[0] = max(10, min(widths[0], width - sum(widths[1:]) - len(GAP) * (len(titles) - 1)))
    lines = [_line(row, widths) for row in (titles, ["-" * size for size in widths], *rows)]
    return lines + [line for text in legend for line in textwrap.wrap(text, width, subsequent_indent="    ")]


def _widths(rows: list[list[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _line(row: list[str], widths: list[int]) -> str:
    path = row[0]
    if len(path) > widths[0]:
        half = (widths[0] - 1) // 2
        path = f"{path[:half]}…{path[half + 1 - widths[0] :]}"
    middle = [f"{cell:<{size}}" for cell, size in zip(row[1:-1], widths[1:-1], strict=True)]
    return GAP.join([f"{path:<{widths[0]}}", *middle, f"{row[-1]:>{widths[-1]}}"])
