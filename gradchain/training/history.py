"""The history of a run: values for each epoch, as columns, a text table or a CSV file."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gradchain.signatures import public
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
