"""The history of a run: values for each epoch, as columns, a text table or a CSV file."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gradchain.signatures import public
from gradchain.training.step import Metrics
from gradchain.tree import show_path
from gradchain.tree.alignment import is_key

Column = Any


@public
@dataclass(frozen=True, eq=False)
class History:
    """The metrics of one run, epoch by epoch, or every so many steps.

    ``history["val_loss"]`` is one column; ``table()`` and ``to_csv(path)`` show them all.
    """

    columns: Mapping[str, np.ndarray[Any, Any]]
    """By name, each of shape ``(rows,)``: ``loss``, the mean over the examples since the row before; the names in aux;
    and with a ``val_`` in front what was measured on the validation data then."""
    step_loss: np.ndarray[Any, Any]
    """The loss of every single step, of shape ``(steps,)``."""
    numbers: Sequence[int] | None = None
    """The number of each row, in ``unit``; 1, 2, ... by default."""
    unit: Literal["epoch", "step"] = "epoch"
    """What rows are numbered by: the epochs, or the steps that there were."""

    def __post_init__(self) -> None:
        if self.numbers is None:
            object.__setattr__(self, "numbers", range(1, len(self) + 1))

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        if name not in self.columns:
            raise KeyError(f"no column {name!r}; there are {', '.join(self.columns) or 'none'}")
        return self.columns[name]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def table(self, rows: int | None = None) -> str:
        """Return a text table with one line per row.

        Args:
          rows: show only this many rows, evenly spaced and including the last.
        """
        shown, numbers = evenly_spaced(len(self), rows), self.numbers or ()
        cells = [[numbers[i], *(c[i] for c in self.columns.values())] for i in shown]
        return text_table([self.unit, *self.columns], cells)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a CSV file with a header and one line per row, numbers in full precision."""
        lines = zip(self.numbers or (), *self.columns.values(), strict=True)
        write_csv(path, [self.unit, *self.columns], [list(line) for line in lines])


def named_numbers(metrics: Metrics, prefix: str = "") -> dict[str, Any]:
    """Return the loss and every number in aux by name.

    Raises:
      ValueError: if a leaf of aux isn't one number, or is called ``loss``.
    """
    named: dict[str, Any] = {f"{prefix}loss": metrics.loss}
    for path, x in jax.tree_util.tree_flatten_with_path(metrics.aux)[0]:
        if jnp.ndim(x):
            raise ValueError(
                f"aux {show_path(path)} has shape {jnp.shape(x)}; fit and sweep record aux by name, so each of its "
                "leaves must be one number, such as {'accuracy': jnp.mean(hits)}"
            )
        name = prefix + (jax.tree_util.keystr(path, simple=True, separator=".") or "aux")
        if name in named:
            raise ValueError(f"aux has a number called {name!r}, which is the loss's own name")
        named[name] = x
    return named


def mean_row(parts: Sequence[tuple[Mapping[str, Any], int]]) -> dict[str, float]:
    """Return the mean of each number over all examples; the parts are numbers by name, and of how many examples."""
    if len(parts) == 1:
        return {name: float(x) for name, x in parts[0][0].items()}
    weights = np.array([examples for _, examples in parts]) / sum(examples for _, examples in parts)
    return {name: float(weights @ np.array([row[name] for row, _ in parts], float)) for name in parts[0][0]}


def in_order(names: Iterable[str]) -> list[str]:
    """Sort column names: training before validation, the loss first in each."""
    return sorted(names, key=lambda name: (name.startswith("val_"), name.removeprefix("val_") != "loss", name))


def evenly_spaced(size: int, rows: int | None) -> Sequence[int]:
    """Return at most ``rows`` of the numbers below ``size``, evenly spaced and including the last; all if ``None``."""
    if rows is None or rows >= size:
        return range(size)
    return sorted({round(i) for i in np.linspace(size - 1, 0, rows)})


def text_table(header: Sequence[str], rows: Sequence[Sequence[Column]]) -> str:
    """Return rows of cells in aligned columns; floating-point numbers with four digits."""
    cells = [list(header), *([show_cell(x) for x in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join("  ".join(x.rjust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def show_cell(x: Column) -> str:
    """Return what a table shows of a value."""
    return f"{float(x):.4g}" if isinstance(x, float | np.floating) else str(x)


def write_csv(path: str | os.PathLike[str], header: Sequence[str], rows: Sequence[Sequence[Column]]) -> None:
    """Write a CSV file; floats as the shortest decimal that reads back as the same number.

    Of several processes only the first writes.
    """
    if jax.process_index():
        return
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([[str(x) for x in row] for row in rows])


def plain_number(x: Any) -> Any:
    """Return an array of one number as a Python number: for floats the shortest decimal that gives the same one.

    A PRNG key is returned as it is.
    """
    if is_key(x):
        return x
    value = np.asarray(x)
    return float(str(value[()])) if jnp.issubdtype(value.dtype, np.floating) else value.item()
