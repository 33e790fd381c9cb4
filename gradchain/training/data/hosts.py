"""Data of several processes: each hands in its share."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradchain.training.data.examples import count_all
from gradchain.training.data.placement import along_first, automatic
from gradchain.tree import Tree


def spread_data(mesh: Mesh, data: Tree | None, what: str) -> Tree | None:
    """Return the examples of all processes, one process's after the other's, spread over the mesh's first axis.

    Where they can't be spread evenly, they lie whole on every device. Data that lie on several devices stay.

    Raises:
      ValueError: if processes hand in different numbers of examples, listing them.
    """
    if data is None or any(isinstance(x, jax.Array) and len(x.sharding.device_set) > 1 for x in jax.tree.leaves(data)):
        return data
    mine = check_shares(data, what)
    total, split = mine * jax.process_count(), along_first(automatic(mesh))
    if total % split.mesh.shape[mesh.axis_names[0]]:
        split = NamedSharding(split.mesh, PartitionSpec())
    if _has_own_share(split, mine, total):
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(split, np.asarray(x)), data)

    def leaf(x: Any) -> jax.Array:
        return jax.make_array_from_callback(x.shape, split, lambda index: x[index])

    return jax.tree.map(leaf, _gathered(data))


def _has_own_share(split: NamedSharding, mine: int, total: int) -> bool:
    """Tell whether the examples that lie on this process's devices are just those that it hands in."""
    first = jax.process_index() * mine
    indices = [index[0] for index in split.addressable_devices_indices_map((total,)).values() if index is not None]
    ranges = [slice(*index.indices(total)) for index in indices]
    return min(r.start for r in ranges) == first and max(r.stop for r in ranges) == first + mine


def check_shares(data: Tree, what: str) -> int:
    """Return how many examples this process hands in, after checking that all processes hand in as many.

    Raises:
      ValueError: if they don't, listing the numbers.
    """
    n = count_all(data, what)
    if jax.process_count() > 1:
        counts = np.ravel(multihost_utils.process_allgather(np.int32(n))).tolist()
        if len({*counts}) > 1:
            raise ValueError(
                f"{what}: processes must hand in equally many examples, but they have {', '.join(map(str, counts))}"
            )
    return n


def gather_data(data: Tree | None, what: str) -> Tree | None:
    """Return the examples of all processes, one process's after the other's, for each of them.

    Raises:
      ValueError: if processes hand in different numbers of examples, listing them.
    """
    if data is None:
        return data
    check_shares(data, what)
    return _gathered(data)


def gather_text(text: str) -> list[str]:
    """Return the texts of all processes, in their order."""
    if jax.process_count() == 1:
        return [text]
    mine = np.frombuffer(text.encode(), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.int32(mine.size)))
    rows = multihost_utils.process_allgather(np.pad(mine, (0, max(sizes) - mine.size)))
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def _gathered(data: Tree) -> Tree:
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, data)
    return jax.tree.map(lambda x: multihost_utils.process_allgather(np.asarray(x), tiled=True), data)
