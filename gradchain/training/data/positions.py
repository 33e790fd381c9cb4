"""Where a run is in a stream of batches, in a form that a checkpoint can hold."""

import base64
from typing import Any, NamedTuple

import numpy as np


class Position(NamedTuple):
    """Where a run is in a stream: before the first batch, by default.

    It consists of JSON's values alone: ``position._asdict()`` may be stored as JSON, and ``Position(**stored)`` is the
    position again.
    """

    epoch: int = 0
    """The pass over the data, counted from 0."""
    step: int = 0
    """How many batches of this pass have been taken."""
    iterator: Any = None
    """The state of the pass's iterator, see :func:`plain`; ``None`` if it has none, or none was begun."""
    size: int | None = None
    """The examples of a full batch, once one was seen."""
    example: dict[str, str] | None = None
    """What one example looks like: each array's dtype and shape, by its path."""
    first: int | None = None
    """A checksum of the first batch of this pass, where batches must be skipped to come back to this position."""


def plain(state: Any) -> Any:
    """Return an iterator's state as JSON's values, from which :func:`from_plain` makes an equal one.

    Args:
      state: numbers, strings, bytes, NumPy arrays, ``None``, and lists, tuples and dicts of these.

    Raises:
      TypeError: for anything else.
    """
    if state is None or isinstance(state, bool | int | float | str):
        return state
    if isinstance(state, bytes):
        return {"bytes": _as_text(state)}
    if isinstance(state, np.ndarray | np.generic) and state.dtype.kind in "biufc":
        return {"array": _as_text(state.tobytes()), "dtype": state.dtype.str, "shape": list(state.shape)}
    if type(state) is tuple:
        return {"tuple": [plain(x) for x in state]}
    if type(state) is list:
        return [plain(x) for x in state]
    if type(state) is dict:
        return {"dict": [[plain(name), plain(x)] for name, x in state.items()]}
    raise TypeError(
        "a checkpoint can hold an iterator's state of numbers, strings, bytes, NumPy arrays, lists, tuples and dicts, "
        f"but get_state() returned one with a {type(state).__name__}"
    )


def from_plain(stored: Any) -> Any:
    """Return the state that :func:`plain` was given."""
    if isinstance(stored, list):
        return [from_plain(x) for x in stored]
    if not isinstance(stored, dict):
        return stored
    if "bytes" in stored:
        return _as_bytes(stored["bytes"])
    if "array" in stored:
        array = np.frombuffer(_as_bytes(stored["array"]), stored["dtype"]).reshape(stored["shape"])
        return array.copy() if array.ndim else array[()]
    if "tuple" in stored:
        return tuple(from_plain(x) for x in stored["tuple"])
    return {from_plain(name): from_plain(x) for name, x in stored["dict"]}


def _as_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _as_bytes(text: str) -> bytes:
    return base64.b64decode(text)
