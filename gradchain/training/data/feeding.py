"""How blocks of batches get to the device: a thread draws them while the last ones are computed."""

import contextlib
import contextvars
import dataclasses
import threading
import warnings
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradchain.training.data.batches import Batch
from gradchain.training.data.placement import Placement
from gradchain.training.data.positions import Position
from gradchain.tree import Tree

ALIKE = (
    "data: the first batches of all {processes} processes are the same, so that each example counts {processes} times; "
    "give each process its share of every batch, by jax.process_index()"
)
"""What is said where processes train on the same examples."""

PATIENCE = 5.0
"""Seconds that the end of a run waits for a source that is drawing a batch."""


class Drawn(NamedTuple):
    """A batch on the host."""

    batch: Batch
    """As the step will see it: padded, if that is wanted."""
    size: int
    """How many of its examples count."""
    ends_epoch: bool
    position: Position
    """Where the run is after it."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Some batches on the device."""

    batches: Tree
    """A tree like one batch, each array with a leading axis of length ``count``."""
    count: int
    sizes: np.ndarray[Any, Any]
    """How many examples each batch has, of shape ``(count,)``; padding doesn't count."""
    weights: Array | None
    """The examples' weights, 1 or 0 where padded, of shape ``(count, batch size)`` and float32; ``None`` unless batches
    may be padded."""
    ends_epoch: bool
    """Whether this is the end of a pass over the data."""
    position: Position
    """Where the run is after the block."""
    checksum: int = 0
    """Of the first batch, where processes compare theirs."""


class Feed:
    """Blocks of batches, each drawn, stacked and sent to the device while the last one is computed.

    A context manager: its thread ends with it. The source's exceptions are raised by :meth:`take`, in the caller's
    thread.

    Args:
      source: the batches.
      per_call: how many batches a block has at most.
      placement: the mesh that batches are spread over, if any.
      weighted: whether blocks have weights.
    """

    def __init__(self, source: Generator[Drawn], per_call: int, placement: Placement | None, weighted: bool):
        self._source, self._per_call, self._weighted = source, per_call, weighted
        self._mesh = None if placement is None else placement.mesh
        self._together = self._mesh is not None and jax.process_count() > 1
        self._compares = self._together
        """Whether processes compare their batches, as they do with the first block."""
        self._changed = threading.Condition()
        self._wanted = 0
        """How many batches the next block is to have at most; 0 before somebody has asked for one."""
        self._block: Block | None = None
        """The next block, of ``_wanted`` batches if there are as many."""
        self._taken = 0
        """How many of the batches that were drawn have been taken, since the thread last heard of it."""
        self._error: BaseException | None = None
        self._closed = False
        config: Any = jax.config
        run, here = contextvars.copy_context().run, (config.jax_enable_x64, config.jax_default_device)
        self._thread = threading.Thread(target=run, args=(self._work, *here), name="gradchain feed", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._changed:
            self._closed, self._block = True, None
            self._changed.notify_all()
        self._thread.join(PATIENCE)

    def take(self, limit: int | None = None) -> Block:
        """Return the next batches: as many as one call may have, or fewer.

        There are fewer at the limit, at the end of an epoch or of the run, and before and at a smaller batch, which is
        a block of its own. The block after it is got ready meanwhile, on the assumption that it goes on to the same
        limit, and that no other comes right after it.

        Args:
          limit: the most batches, at least 1.

        Raises:
          BaseException: what the source raised.
          ValueError: if processes have batches of different numbers or sizes.
        """
        return self._agreed(limit) if self._together else self._next(limit)

    def _agreed(self, limit: int | None) -> Block:
        """Return the next block, after all processes have compared theirs, so that none waits for another for ever."""
        try:
            block, error = self._next(limit), None
        except Exception as raised:
            block, error = None, raised
        mine = (0, 0, 0, 0) if block is None else (block.count, sum(block.sizes), block.ends_epoch, block.checksum)
        found = multihost_utils.process_allgather(np.array(mine, np.uint32))
        if block is None:
            assert error is not None
            raise error
        _check_shares(block, found)
        if self._compares and len({*found[:, 3].tolist()}) == 1:
            warnings.warn(ALIKE.format(processes=len(found)), stacklevel=2)
        self._compares = False
        return block

    def _next(self, limit: int | None) -> Block:
        wanted = self._per_call if limit is None else min(limit, self._per_call)
        with self._changed:
            fits = self._block is not None and self._block.count <= wanted <= self._wanted
            if not fits and self._wanted != wanted:
                self._wanted, self._block = wanted, None
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._block is not None or self._error is not None)
            if self._block is None:
                assert self._error is not None
                raise self._error
            block, self._block = self._block, None
            self._taken = block.count
            rest = self._per_call if limit is None else limit - block.count
            self._wanted = min(rest, self._per_call) or self._per_call
            self._changed.notify_all()
        return block

    def _work(self, x64: bool, device: Any) -> None:
        """Get one block after the other ready; runs in a thread of its own, with the settings of the caller's."""
        ahead: list[Drawn] = []
        try:
            with jax.enable_x64(x64), jax.default_device(device), contextlib.closing(self._source):
                while wanted := self._next_size(ahead):
                    if not (count := self._draw(ahead, wanted)):
                        raise RuntimeError("no batches are left")
                    self._offer(self._assembled(ahead[:count]), wanted)
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next_size(self, ahead: list[Drawn]) -> int:
        """Wait until a block is wanted, and return how many batches it is to have; 0 at the end of the run."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._wanted and self._block is None))
            del ahead[: self._taken]
            self._taken = 0
            return 0 if self._closed else self._wanted

    def _draw(self, ahead: list[Drawn], wanted: int) -> int:
        """Draw batches until there are enough for a block, and return how many it has; 0 at the end of the run."""
        for count in range(wanted):
            if count == len(ahead):
                if self._closed:
                    return 0
                if (one := next(self._source, None)) is None:
                    return count
                ahead.append(one)
            if ahead[count].batch.size != ahead[0].batch.size:
                return count
            if ahead[count].ends_epoch:
                return count + 1
        return wanted

    def _offer(self, block: Block, wanted: int) -> None:
        """Make a block the next one, unless one of another size is wanted by now."""
        with self._changed:
            if self._wanted == wanted:
                self._block = block
                self._changed.notify_all()

    def _assembled(self, drawn: list[Drawn]) -> Block:
        size, structure = drawn[0].batch.size, drawn[0].batch.structure
        stacked = [_stack(xs) for xs in zip(*(d.batch.leaves for d in drawn), strict=True)]
        sizes = np.array([d.size for d in drawn])
        if self._weighted:
            stacked.append(np.float32(np.arange(size) < sizes[:, None]))
        if self._mesh is not None:
            sizes = sizes * jax.process_count()
        placed = _placed(stacked, self._mesh, size)
        weights = placed.pop() if self._weighted else None
        last = drawn[-1]
        checksum = drawn[0].batch.checksum() if self._compares else 0
        return Block(structure.unflatten(placed), len(drawn), sizes, weights, last.ends_epoch, last.position, checksum)


def _check_shares(block: Block, found: np.ndarray[Any, Any]) -> None:
    """Raise an error unless all processes have found such a block: (count, examples, whether it ends the epoch)."""
    if failed := np.flatnonzero(found[:, 0] == 0).tolist():
        raise RuntimeError(f"data: process {failed[0]} has no next batch; what it has raised says why")
    if len({tuple(row) for row in found[:, :3].tolist()}) > 1:
        listed = "; ".join(
            f"process {i}: {count} of {examples // len(found)} examples{', the last' if last else ''}"
            for i, (count, examples, last, _) in enumerate(found.tolist())
        )
        raise ValueError(
            f"data: processes must hand in equally many batches of equal sizes, but their next ones are: {listed}. "
            "Leave out what others don't have, or hand in iterators without an end and give steps"
        )


def _stack(xs: Sequence[Any]) -> Any:
    if isinstance(xs[0], Array):
        return jnp.stack(xs)
    return np.concatenate(xs).reshape(len(xs), *xs[0].shape) if len(xs) > 1 else xs[0][None]


def _placed(arrays: list[Any], mesh: Mesh | None, size: int) -> list[Array]:
    """Return arrays of shape (count, size, ...) on the device, or spread over the mesh's first axis."""
    if mesh is None:
        return jax.device_put(arrays)
    axis, processes = mesh.axis_names[0], jax.process_count()
    divides = size * processes % mesh.shape[axis] == 0
    layout = NamedSharding(mesh, PartitionSpec(None, axis) if divides else PartitionSpec())
    if processes > 1 and not divides:
        raise ValueError(
            f"data: {size} examples in each of {processes} processes can't be spread evenly over {mesh.shape[axis]} "
            "devices; leave a smaller last batch out by remainder='drop', or fill it up by remainder='pad'"
        )
    if processes == 1:
        return jax.device_put(arrays, layout)
    return [jax.make_array_from_process_local_data(layout, np.asarray(x)) for x in arrays]
