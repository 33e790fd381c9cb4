"""Checkpoints on disk, through Orbax: any tree of arrays; asynchronous, sharded and atomic."""

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax

from gradchain.arguments import check_whole
from gradchain.signatures import public
from gradchain.training.saving import files
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
    """A folder of numbered checkpoints, of which the last few are kept; a context manager.

    ``save`` copies the arrays and returns; they are written in the background while training continues. A checkpoint
    appears under its number only when it is complete, by one rename: if the process is killed at any moment, earlier
    checkpoints are intact, and the next ``Checkpoints`` of that folder removes what was half-written. Everything is
    stored as JSON or in Orbax's own format (zarr in OCDBT), without pickle. Under ``jax.distributed``, every process
    makes the same calls on one shared folder.

    Args:
      directory: the folder, created by the first ``save``. It may contain only checkpoints and hidden files.
      keep: how many of the latest checkpoints to keep; ``None`` keeps all.

    Raises:
      ImportError: if Orbax isn't installed.
      ValueError: if the folder contains anything else (naming it); nothing is changed then.

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
        """Start saving a tree; see :func:`save_checkpoint`. Waits for the previous save to finish."""
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
        """Wait until everything saved so far is complete on disk."""
        self._manager.wait_until_finished()
        self._purge()

    def _purge(self) -> None:
        if jax.process_index() == 0 and (self.directory / DELETED).exists():
            (self.directory / DELETED).rmtree()

    def close(self) -> None:
        """Wait, and stop the writing threads."""
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

    If the process is killed at any moment, the folder can still be loaded: the new checkpoint is either complete or
    absent. In a loop, :class:`Checkpoints` saves without waiting. Needs Orbax.

    Args:
      directory: the folder, created if it doesn't exist; see :class:`Checkpoints`.
      tree: arrays (sharded ones too), PRNG keys and Python numbers in any pytree: parameters, states, dicts of both.
      step: the checkpoint's number, above those in the folder; by default the next one.
      metadata: a dict of anything else to store: string keys, and values that JSON can represent.
      keep: how many of the latest checkpoints to keep; ``None`` keeps all.

    Returns:
      The checkpoint's number.

    Raises:
      ImportError: if Orbax isn't installed.
      TypeError: for a leaf that isn't a number, array or key (naming its path), or for metadata that JSON can't
        represent.
      ValueError: if the folder contains anything but checkpoints, or a later checkpoint. Nothing is overwritten.

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
    that has a sharding is read onto that sharding, whatever the sharding was when it was saved; each device reads its
    own part. NumPy arrays, Python numbers and PRNG keys come back as what they were. Nothing is written. Needs Orbax.

    Args:
      directory: the folder that :func:`save_checkpoint`, :class:`Checkpoints` or ``fit(..., checkpoint=...)`` wrote.
      like: a tree of arrays, keys, numbers or ``jax.ShapeDtypeStruct`` with the structure, shapes and dtypes saved,
        as ``jax.eval_shape(tx.init, params)`` makes it. Its structure may differ if the paths are the same.
      step: the number of the checkpoint; the latest by default.
      partial: allow the checkpoint to contain more than ``like``, and read only what ``like`` asks for.

    Returns:
      ``Checkpoint(tree, metadata, step)``.

    Raises:
      ImportError: if Orbax isn't installed.
      ValueError: if there is no such checkpoint, if it is damaged, incomplete, renamed or not written by gradchain, or
        if it doesn't match ``like`` (naming every path that is missing, unexpected or of another shape or dtype).

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
