"""The batches of a stream on the host: what they have in common, and how they are checked."""

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain.arguments import check_whole
from gradchain.training.data.examples import count_examples
from gradchain.tree import Tree, show_path
from gradchain.tree.alignment import is_key


class Batch(NamedTuple):
    """A batch as it came, taken apart."""

    leaves: list[Any]
    """NumPy arrays of our own, or JAX's."""
    structure: Any
    size: int
    """The number of examples."""

    def padded(self, size: int) -> "Batch":
        """Return the batch with its last example repeated, so that there are ``size``."""

        def leaf(x: Any) -> Any:
            return (jnp if isinstance(x, Array) else np).concatenate([x, *[x[-1:]] * (size - self.size)])

        return self._replace(leaves=[leaf(x) for x in self.leaves], size=size)

    def checksum(self) -> int:
        """Return a checksum of 32 bits of all its arrays."""
        total = 0
        for x in self.leaves:
            total = zlib.crc32(np.asarray(jax.random.key_data(x) if is_key(x) else x).tobytes(), total)
        return total


class Pattern:
    """What the batches of a stream have in common: structure, dtypes, an example's shapes, the size of a full batch.

    Args:
      what: what messages call the data.
      size: the examples of a full batch; if ``None``, those of the first batch.
      known: what an example looked like, where a run is resumed.

    Raises:
      ValueError: if the size isn't a whole number, at least 1.
    """

    def __init__(self, what: str, size: int | None, known: dict[str, str] | None):
        if size is not None:
            check_whole("batch_size", size)
        self._what, self.size, self.example = what, size, known
        self._common: Any = None
        self._last: tuple[Any, int] | None = None
        """What the last batch was like, shapes included, and its size."""

    def read(self, batch: Tree) -> Batch:
        """Return a batch taken apart, with copies of its NumPy arrays: some sources use their memory again.

        Raises:
          TypeError: for leaves that aren't arrays of numbers (naming the paths).
          ValueError: for a batch that is larger than a full one, or differs from the first in more than its size.
        """
        leaves, structure = jax.tree.flatten(batch)
        leaves = [*map(_own, leaves)]
        whole = structure, [(getattr(x, "dtype", None), getattr(x, "shape", None)) for x in leaves]
        if self._last is None or whole != self._last[0]:
            self._last = whole, self._checked_size(structure, leaves)
        return Batch(leaves, structure, self._last[1])

    def _checked_size(self, structure: Any, leaves: list[Any]) -> int:
        """Return how many examples a batch has, after comparing it with those before."""
        try:
            found = structure, [(x.dtype, x.shape[1:]) for x in leaves]
            sizes = {x.shape[0] for x in leaves}
        except (AttributeError, IndexError):
            found, sizes = None, set[int]()
        if found != self._common or len(sizes) != 1:
            self._check(structure.unflatten(leaves))
            self._common = found
        (size,) = sizes
        if self.size is None:
            self.size = size
        if size > self.size:
            raise ValueError(
                f"{self._what}: a batch has {size} examples, more than a full batch with {self.size}; all batches must "
                "have the same size, but for a smaller last one"
            )
        return size

    def _check(self, batch: Tree) -> None:
        """Raise an error for what is no batch, or differs from those before."""
        try:
            count_examples(batch, f"{self._what}: a batch")
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error}. A stream gives whole batches, not single examples") from None
        now = {path: f"{x.dtype} of shape {x.shape[1:]}" for path, x in _by_path(batch).items()}
        if self.example is not None and now != self.example:
            listed = "; ".join(
                f"{path}: {self.example.get(path, 'nothing')} before, {now.get(path, 'nothing')} now"
                for path in {**self.example, **now}
                if self.example.get(path) != now.get(path)
            )
            raise ValueError(f"{self._what}: the examples of a batch differ from those before: {listed}")
        if self._common is not None:
            raise ValueError(f"{self._what}: a batch's containers differ from those before")
        self.example = now


def _own(x: Any) -> Any:
    if type(x) is np.ndarray:
        return x.copy()
    if isinstance(x, Array) or not hasattr(x, "__array__"):
        return x
    return np.asarray(x).copy()


def _by_path(batch: Tree) -> dict[str, Any]:
    return {show_path(path): x for path, x in jax.tree_util.tree_flatten_with_path(batch)[0]}


def examples_of(batch: Tree) -> int:
    """Return how many examples a batch has, by its first array; 0 if that has no axes."""
    return next((x.shape[0] for x in jax.tree.leaves(batch) if getattr(x, "shape", ())), 0)
