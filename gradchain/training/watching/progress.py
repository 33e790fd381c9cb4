"""Progress bars that don't slow the loop down: fed from Python, or from inside a compiled call."""

import itertools
import time
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

INTERVAL = 0.1
"""Seconds between two updates of a bar."""

_open: dict[int, "Bar"] = {}
_numbers = itertools.count(1)


class Bar:
    """A tqdm progress bar, or nothing at all; of several processes only the first shows it. (A context manager.)

    A bar has a number, by which compiled code reports to it (:func:`tick`): the number is an argument of the program,
    so that a new bar doesn't compile a new program.
    """

    def __init__(self, show: bool, total: int | None, title: str, unit: str):
        self._bar: Any = load_tqdm()(total=total, desc=title, unit=unit) if show and jax.process_index() == 0 else None
        self._waiting, self._shown = 0, 0.0
        self.number = next(_numbers)

    def __enter__(self) -> Self:
        _open[self.number] = self
        return self

    def advance(self, amount: int) -> None:
        """Count ``amount`` more units as done; the screen is touched at most every ``INTERVAL`` seconds."""
        self._waiting += amount
        if self._bar is not None and time.monotonic() - self._shown >= INTERVAL:
            self._show()

    def _show(self) -> None:
        self._bar.update(self._waiting)
        self._waiting, self._shown = 0, time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            jax.effects_barrier()
            self._show()
            self._bar.close()
        del _open[self.number]


def tick(number: Any, amount: int) -> None:
    """Advance the bar of that number, from inside a compiled program; not under ``vmap``, where each lane counts."""
    jax.debug.callback(advance, number, amount)


def advance(number: Any, amount: Any) -> None:
    """Advance the bar of that number, if it is open."""
    bar = _open.get(int(np.asarray(number)))
    if bar is not None:
        bar.advance(int(amount))


def load_tqdm() -> Any:
    """Return the class of bars.

    Raises:
      ImportError: if tqdm is missing.
    """
    try:
        from tqdm.auto import tqdm  # pyright: ignore[reportMissingModuleSource]
    except ImportError:
        raise ImportError("a progress bar needs tqdm: pip install tqdm") from None
    return tqdm
