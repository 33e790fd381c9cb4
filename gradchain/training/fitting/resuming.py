"""How ``fit`` resumes: what it saves of a run, and how it tells one run from another."""

import json
import os
import re
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from gradchain.arguments import check_whole
from gradchain.core.hyperparams import hyperparams
from gradchain.core.transform import Transform
from gradchain.core.value import Value
from gradchain.training.budget import Amount, Budget, Epochs, Moment, is_due
from gradchain.training.data.hosts import gather_text
from gradchain.training.data.positions import Position
from gradchain.training.fitting.ledger import Snapshot
from gradchain.training.saving import files
from gradchain.training.saving.checkpoints import Checkpoints, read_contents
from gradchain.training.saving.checksums import checksums
from gradchain.training.variables import Variables
from gradchain.tree import Tree, show_path
from gradchain.tree.alignment import is_key, same_leaves


class SavedRun:
    """The checkpoints of one run of ``fit``, or nothing at all. (A context manager.)

    Args:
      directory: the folder; nothing is saved or resumed if it is ``None``.
      every: how often there is a checkpoint.
      keep: how many to keep.
      budget: how long the run is to be.
      configuration: returns what makes the run this one, as text by name; called only if needed.
      start: the run before its first epoch.

    Raises:
      ValueError: if the folder isn't this run's (saying what differs), or its last checkpoint is damaged. Nothing in it
        is changed then.
    """

    def __init__(
        self, directory: str | os.PathLike[str] | None, every: Amount, keep: int, budget: Budget,
        configuration: Callable[[], dict[str, str]], start: Snapshot,
    ):  # fmt: skip
        check_whole("checkpoint_keep", keep)
        self.run = start
        """The run as it is now: as it was saved last, or before its first epoch, until it is set anew."""
        self.every, self._budget, self._saved = every, budget, 0
        self._checkpoints: Checkpoints | None = None
        if directory is not None:
            self._folder, self._configuration = files.folder_of(directory), configuration()
            if files.steps_in(self._folder):
                self._resume()
            self._checkpoints = Checkpoints(self._folder, keep=keep)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close()

    def _resume(self) -> None:
        saved = read_contents(self._folder)
        self._check(saved)
        self.run = _restored(self._folder, saved, self.run)
        self._saved = saved.step

    def _check(self, saved: files.Contents) -> None:
        path = self._folder / str(saved.step)
        then, now = saved.metadata.get("configuration"), self._configuration
        if not isinstance(then, dict):
            raise ValueError(f"{path} wasn't saved by fit(checkpoint=...); give the run a folder of its own")
        names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
        if names:
            listed = "\n  ".join(
                f"{name}: {then.get(name, 'none')} then, {now.get(name, 'none')} now" for name in names
            )
            raise ValueError(
                f"{path} is of another run. These differ:\n  {listed}\n"
                "Give this run a folder of its own. To go on from the old one in another way, read its params and "
                "state with load_checkpoint, and hand them to fit with epochs_done"
            )
        now = Moment(**saved.metadata["now"])
        if self._budget.is_exceeded(now):
            unit = f"{self._budget.unit}s"
            raise ValueError(f"{path} has {getattr(now, unit)} {unit}, but {unit} is {self._budget.total.number}")

    def save(self) -> bool:
        """Begin to write the run, if that is due or this is its end; tell whether it was."""
        now, run = self.run.now, self.run
        due = is_due(self.every, now) or self._budget.is_over(now) or run.stopped != f"{self._budget.unit}s"
        return due and self.finish()

    def finish(self) -> bool:
        """Begin to write the run, unless that is done; tell whether it was to be done."""
        done = self._number()
        if self._checkpoints is None or done <= self._saved:
            return False
        self._checkpoints.wait()
        if done not in self._checkpoints.steps():  # Ctrl-C may have come when it was on its way
            tree, metadata = _packed(self.run)
            self._checkpoints.save(done, tree, {"configuration": self._configuration, **metadata})
        self._saved = done
        return True

    def _number(self) -> int:
        """Return the checkpoint's number: the run's epochs where checkpoints come by epochs, else its steps."""
        now = self.run.now
        return now.epochs + (self.run.stopped == "diverged") if isinstance(self.every, Epochs) else now.steps

    @property
    def path(self) -> Any:
        """Where the last checkpoint is."""
        return self._folder / str(self._saved)


def _packed(run: Snapshot) -> tuple[Tree, dict[str, Any]]:
    tree = {**run.variables._asdict(), "state": run.state, "stopping": run.stopping}
    tree["step_loss"] = np.concatenate([np.asarray(x) for x in run.step_losses])
    if run.best is not None:
        variables, weights = run.best
        tree["best"] = variables._asdict()
        if not same_leaves(variables.params, weights):
            tree["best"]["weights"] = weights
    names = [*run.rows[0]] if run.rows else []
    return tree, {
        "columns": {name: [row[name] for row in run.rows] for name in names},
        "open": [[row, examples] for row, examples in run.open],
        "positions": gather_text(json.dumps(run.position._asdict())),
        "now": run.now._asdict(),
        "marks": [mark._asdict() for mark in run.marks],
        "best_row": run.best_row,
        "stopped": run.stopped,
    }


def _restored(folder: Any, saved: files.Contents, start: Snapshot) -> Snapshot:
    losses = saved.leaves["['step_loss']"]
    like = {**start.variables._asdict(), "state": start.state, "stopping": start.stopping}
    like["step_loss"] = np.empty(losses.shape, losses.dtype)
    likes = {**start.variables._asdict(), "weights": start.variables.params}
    if kept := {name: x for name, x in likes.items() if any(p.startswith(f"['best']['{name}']") for p in saved.leaves)}:
        like["best"] = kept
    tree, told = files.restored(folder, saved, like), saved.metadata
    best = None
    if kept:
        variables = Variables(tree["best"]["params"], tree["best"].get("model_state"))
        best = variables, tree["best"].get("weights", variables.params)
    columns = told["columns"]
    return Snapshot(
        variables=Variables(tree["params"], tree["model_state"]),
        state=tree["state"],
        position=_own([Position(**json.loads(text)) for text in told["positions"]]),
        now=Moment(**told["now"]),
        rows=tuple(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)),
        marks=tuple(Moment(**mark) for mark in told["marks"]),
        open=tuple((row, examples) for row, examples in told["open"]),
        step_losses=(tree["step_loss"],),
        stopping=tree["stopping"],
        best_row=told["best_row"],
        best=best,
        stopped=told["stopped"],
    )


def _own(positions: list[Position]) -> Position:
    """Return this process's position; in arrays all processes have the same, however many they were."""
    if len(positions) == jax.process_count():
        return positions[jax.process_index()]
    if any(position.iterator is not None or position.first is not None for position in positions):
        raise ValueError(
            f"the run was saved by {len(positions)} processes, each with its own share of a stream; it can't go on "
            f"with {jax.process_count()}"
        )
    return positions[0]


def configuration(
    options: dict[str, Any], tx: Transform, variables: Variables[Any], data: Tree, validation: Tree | None
) -> dict[str, str]:
    """Return what makes a run what it is besides its functions, as text by name.

    Args:
      options: further settings; keys are told by their data.
      tx: told by its composition and each of its numbers.
      variables: told by shapes and dtypes.
      data: told by shapes, dtypes and a checksum of the values; a stream isn't, as it says itself what it gives.
      validation: likewise.
    """
    told = {name: _text(value) for name, value in options.items()}
    told["optimizer"] = _without_addresses(repr(jax.tree.map(lambda _: _Blank(), tx)))
    numbers = {name: x for name, x in hyperparams(tx).items() if not isinstance(x, Value)}
    told |= {f"optimizer's {name}": _text(x) for name, x in numbers.items()}
    for what, tree in variables._asdict().items():
        told |= {f"{what}{path}": f"{x.dtype}{list(x.shape)}" for path, x in _arrays(tree).items()}
    for what, tree in (("data", data), ("validation", validation)):
        arrays = _arrays(tree)
        sums = checksums(list(arrays.values()))
        told |= {
            f"{what}{path}": f"{x.dtype}{list(x.shape)} with checksum {sum_}"
            for (path, x), sum_ in zip(arrays.items(), sums, strict=True)
        }
    return told


class _Blank:
    def __repr__(self) -> str:
        return "_"


def _text(x: Any) -> str:
    if is_key(x):
        return f"{jax.random.key_impl(x)} key {np.asarray(jax.random.key_data(x)).tolist()}"
    if isinstance(x, jax.Array | np.ndarray) and x.ndim:
        return f"array with checksum {checksums([x])[0]}"
    return _without_addresses(repr(float(x) if isinstance(x, jax.Array | np.generic) else x))


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _arrays(tree: Tree) -> dict[str, Any]:
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {show_path(path) if path else "": x if hasattr(x, "dtype") else np.asarray(x) for path, x in pairs}
