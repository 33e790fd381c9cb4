"""Arrays that stay on the host: batches of their rows, in the order in which arrays on the device are used."""

from typing import Any, Self

import jax
import numpy as np
from jax import Array

from gradchain.training.data.order import random_order
from gradchain.tree import Tree

_ordered = jax.jit(random_order, static_argnums=1)


def stays_on_host(data: Tree, device_memory: int | None) -> bool:
    """Tell whether arrays are too large for the device: for the given bytes, or else because they are memory-mapped."""
    leaves = jax.tree.leaves(data, is_leaf=lambda x: hasattr(x, "__next__"))
    if not leaves or not all(isinstance(x, np.ndarray) for x in leaves):
        return False
    if device_memory is None:
        return any(isinstance(x, np.memmap) for x in leaves)
    return sum(x.nbytes for x in leaves) > device_memory


class Rows:
    """The batches of one epoch of arrays, an iterator whose state is how many it has given.

    Args:
      data: NumPy arrays with the examples on the leading axis.
      n: how many examples there are.
      batch_size: the examples of a batch; the last may be smaller.
      wraps: whether the last batch is filled up with examples from the start of the epoch.
      key: the epoch's PRNG key; ``None`` keeps the order of the data, which a single batch has in any case.
    """

    def __init__(self, data: Tree, n: int, batch_size: int, wraps: bool, key: Array | None):
        order = np.arange(n) if key is None or batch_size == n else np.asarray(_ordered(jax.random.split(key)[0], n))
        self._order = np.concatenate([order, order[: -n % batch_size]]) if wraps else order
        self._data, self._size, self._given = data, batch_size, 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tree:
        start = self._given * self._size
        rows: Any = self._order[start : start + self._size]
        if not rows.size:
            raise StopIteration
        self._given += 1
        return jax.tree.map(lambda x: x[rows], self._data)

    def get_state(self) -> int:
        """Return how many batches it has given."""
        return self._given

    def set_state(self, state: int) -> None:
        """Go on after so many batches."""
        self._given = state
