"""Checkpoints on disk, through orbax: any tree of arrays, asynchronous, sharded, whole or not there at all."""

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax

from gradchain.arguments import check_whole
from gradchain.signatures import public
from gradchain.training import checkpoint_files as files
from gradchain.tree import Tree

DELETED = ".deleted"
"""Where old steps go at once, before they are deleted piece by piece."""


@public
class Checkpoint(NamedTuple):
    """What :func:`load_checkpoint` returns."""

    tree: Any
    """The saved tree, in the structure, and on the devices, of the one asked for."""
    metadata: dict[str, Any]
    """What was saved beside it."""
    step: int
    """Its number."""


class Checkpoints:
    """A folder of numbered checkpoints, the last few of them kept; a context manager.

    ``save`` copies the arrays and returns; they are written behind the scenes, while training goes on. A step appears
    under its number only when it is complete, in one rename: a process killed at any moment leaves the steps before
    it as they were, and what it left half-written is cleared away by the next ``Checkpoints`` of that folder.
    Everything is JSON and orbax's own format (zarr in OCDBT), no pickle. Under ``jax.distributed``, every process makes
    the same calls on one shared folder.

    Args:
      directory: the folder; made on the first ``save``. It may hold nothing but checkpoints and hidden files.
      keep: how many of the last steps to keep; all with ``None``.

    Raises:
      ImportError: if orbax isn't installed.
      ValueError: if the folder holds anything else (naming it), and nothing is touched.

    Example:
      >>> update = make_step(loss_fn, tx)
      >>> with Checkpoints("run", keep=2) as checkpoints:
      ...     for step, batch in enumerate(batches):
      ...         params, state, metrics = update(params, state, batch)
      ...         checkpoints.save(step, {"params": params, "state": state})
      >>> load_checkpoint("run", {"params": params, "state": state}).step == len(batches) - 1
      True
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int | None = 3):
        if keep is not None:
            check_whole("keep", keep)
        self._ocp, self.directory = files.orbax(), files.folder_of(directory)
        for step in self.steps():
            files.contents(self.directory, step)
        policy = self._ocp.checkpoint_managers.LatestN(keep)
        options = self._ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            todelete_subdir=DELETED,
            cleanup_tmp_directories=True,
            lightweight_initialize=True,
            async_options=self._ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        self._manager = self._ocp.CheckpointManager(self.directory, options=options, item_names=("tree", "info"))
        self._purge()

    def steps(self) -> list[int]:
        """Return the numbers of the complete checkpoints, in order."""
        return files.steps_in(self.directory)

    def save(self, step: int, tree: Tree, metadata: Mapping[str, Any] | None = None) -> None:
        """Begin to save a tree; see :func:`save_checkpoint`. Waits for the save before."""
        check_whole("step", step, 0)
        self.wait()
        if (last := max(self.steps(), default=-1)) >= step:
            raise ValueError(f"{self.directory} has step {last} already; step {step} would not be its last")
        arrays, info = files.packed(step, tree, metadata or {})
        args = self._ocp.args
        self._manager.save(
            step, args=args.Composite(tree=args.PyTreeSave(arrays), info=args.JsonSave(info)), force=True
        )

    def load(self, like: Tree, *, step: int | None = None, partial: bool = False) -> Checkpoint:
        """Load a tree; see :func:`load_checkpoint`."""
        self.wait()
        return load_checkpoint(self.directory, like, step=step, partial=partial)

    def wait(self) -> None:
        """Wait until what was saved lies on disk, complete."""
        self._manager.wait_until_finished()
        self._purge()

    def _purge(self) -> None:
        if jax.process_index() == 0 and (self.directory / DELETED).exists():
            (self.directory / DELETED).rmtree()

    def close(self) -> None:
        """Wait, and end the threads that write."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


@public
def save_checkpoint(
    directory: str | os.PathLike[str], tree: Tree, *, step: int | None = None,
    metadata: Mapping[str, Any] | None = None, keep: int | None = 3,
) -> int:  # fmt: skip
    """Save a tree of arrays as the next checkpoint of a folder, and wait until it is complete.

    A process killed at any moment leaves a folder that loads: the new step is there as a whole, or isn't. In a loop,
    :class:`Checkpoints` saves without waiting. Needs orbax.

    Args:
      directory: the folder, made if it isn't there; see :class:`Checkpoints`.
      tree: arrays (sharded ones too), PRNG keys and Python numbers in any pytree: parameters, states, dicts of both.
      step: the checkpoint's number, above those that are there; by default the next one.
      metadata: what else to remember: anything that JSON can hold, under names that are text.
      keep: how many of the last steps to keep; all with ``None``.

    Returns:
      The checkpoint's number.

    Raises:
      ImportError: if orbax isn't installed.
      TypeError: for a leaf that is no number, array or key (naming its path), or metadata that JSON can't hold.
      ValueError: if the folder holds anything else than checkpoints, or a later step. Nothing is overwritten.

    Example:
      >>> save_checkpoint("run", {"params": params, "state": state}, metadata={"note": "before fine-tuning"})
      0
    """
    with Checkpoints(directory, keep=keep) as checkpoints:
        if step is None:
            step = max(checkpoints.steps(), default=-1) + 1
        checkpoints.save(step, tree, metadata)
    return step


@public
def load_checkpoint(
    directory: str | os.PathLike[str], like: Tree, *, step: int | None = None, partial: bool = False
) -> Checkpoint:
    """Load a tree from a folder of checkpoints, into the structure of another.

    Every leaf comes back bit for bit, and is checked against the checksum taken when it was saved. A leaf of ``like``
    that has a sharding is read onto that sharding, whatever it was saved from, each device its own part. A NumPy array
    comes back as one, a Python number as one, a PRNG key as one. Nothing is written. Needs orbax.

    Args:
      directory: the folder that :func:`save_checkpoint`, :class:`Checkpoints` or ``fit(..., checkpoint=...)`` wrote.
      like: a tree of arrays, keys, numbers or ``jax.ShapeDtypeStruct`` with the structure, shapes and dtypes saved,
        as ``jax.eval_shape(tx.init, params)`` makes it. A tree of another structure will do if the paths are the same.
      step: which checkpoint; the last by default.
      partial: let the checkpoint hold more than ``like``, and read only what that asks for.

    Returns:
      ``Checkpoint(tree, metadata, step)``.

    Raises:
      ImportError: if orbax isn't installed.
      ValueError: if there is no such checkpoint, it is damaged, incomplete, renamed or none of ours, or doesn't fit
        ``like`` (naming every path that is missing, unexpected or of another shape or dtype).

    Example:
      >>> step = save_checkpoint("run", {"params": params, "state": state}, metadata={"note": "before fine-tuning"})
      >>> like = {"params": params, "state": jax.eval_shape(tx.init, params)}
      >>> tree, metadata, step = load_checkpoint("run", like)
      >>> metadata["note"]
      'before fine-tuning'
    """
    folder = files.folder_of(directory)
    contents = read_contents(folder, step)
    return Checkpoint(files.restored(folder, contents, like, partial), contents.metadata, contents.step)


def read_contents(folder: Any, step: int | None = None) -> files.Contents:
    """Return what one of a folder's checkpoints says of itself; the last by default."""
    steps = files.steps_in(folder)
    if not steps:
        raise ValueError(f"{folder} holds no complete checkpoint" if folder.exists() else f"{folder} doesn't exist")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise ValueError(f"{folder} has no step {step}; it has {', '.join(map(str, steps))}")
    return files.contents(folder, step)
