"""Ready-made callbacks: logs in files that survive a kill and a resumption, TensorBoard, a progress bar."""

import csv
import io
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import jax

from gradchain.signatures import public
from gradchain.training.watching.callbacks import Callback, Record, Run
from gradchain.training.watching.progress import INTERVAL, load_tqdm


class FileLogger(Callback):
    """A callback that writes one line of text for each record.

    At the start the file is cut back to the step at which the run begins: lines of later steps were written by a
    process that was killed after its last checkpoint, or belong to a former run. Each line reaches the operating system
    before training goes on. Of several processes only the first writes.

    Args:
      path: the file; its folder is made if there is none.
      every: steps between lines for ``on_step``; with ``None`` there is a line for each row of the history only.
    """

    def __init__(self, path: str | os.PathLike[str], every: int | None = None):
        self.path, self.every = Path(path), every
        self._file: TextIO | None = None

    def on_start(self, run: Run) -> None:
        if jax.process_index() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._rewrite(self._until(run.step) if self.path.exists() else [])

    def on_step(self, record: Record) -> None:
        self._note(record)

    def on_evaluation(self, record: Record) -> None:
        self._note(record)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _note(self, record: Record) -> None:
        if self._file is not None:
            self._write({"event": record.event, **record.row()})

    def _until(self, step: int) -> list[dict[str, Any]]:
        """Return the rows in the file up to a step."""
        try:
            with open(self.path, newline="", encoding="utf-8") as file:
                complete = [line for line in file if line.endswith("\n")]  # a kill may have cut the last one short
            return [row for row in self._parsed(complete) if int(row["step"]) <= step]
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{type(self).__name__}: {self.path} exists and isn't such a log; give another path, or remove it"
            ) from None

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        """Put rows in the file's place, by one rename, and go on behind them."""
        self.close()
        draft = self.path.with_name(f".{self.path.name}.draft")
        with open(draft, "w", newline="", encoding="utf-8") as file:
            file.writelines(self._lines(rows))
        os.replace(draft, self.path)
        self._file = open(self.path, "a", newline="", encoding="utf-8")  # noqa: SIM115

    def _append(self, text: str) -> None:
        assert self._file is not None
        self._file.write(text)
        self._file.flush()

    def _parsed(self, lines: list[str]) -> Iterable[dict[str, Any]]:
        """Return the rows in lines of the file."""
        raise NotImplementedError

    def _lines(self, rows: list[dict[str, Any]]) -> Iterator[str]:
        """Yield the lines of a file with these rows."""
        raise NotImplementedError

    def _write(self, row: dict[str, Any]) -> None:
        """Add a row to the file."""
        raise NotImplementedError


@public
class CSVLogger(FileLogger):
    """Write the records of a run to a CSV file, while it runs.

    The columns are ``event`` (``step`` or ``evaluation``) and the names of :meth:`Record.row`; an empty cell means that
    the record doesn't have that number. A column that appears later (held-out losses, say) is added to the header, and
    the file rewritten.

    The file is cut back to the step at which the run begins. So a resumed run goes on where its checkpoint was made,
    without lines that occur twice, and a new run begins a new file. Every line is flushed: it survives a kill.

    Args:
      path: the file; its folder is made if there is none.
      every: steps between lines of ``step``; by default there are none.

    Raises:
      ValueError: at the start, if the file exists and isn't such a log.

    Example:
      >>> fit(loss_fn, params, tx, data, epochs=20, batch_size=32, callbacks=[CSVLogger("run.csv", every=100)])
    """

    def __init__(self, path: str | os.PathLike[str], every: int | None = None):
        super().__init__(path, every)
        self._header: list[str] = []

    def _parsed(self, lines: list[str]) -> Iterable[dict[str, Any]]:
        reader = csv.DictReader(lines)
        if lines and "step" not in (reader.fieldnames or ()):
            raise ValueError("no column called step")
        return [{name: cell for name, cell in row.items() if cell != ""} for row in reader]

    def _lines(self, rows: list[dict[str, Any]]) -> Iterator[str]:
        self._header = [*dict.fromkeys(name for row in rows for name in row)]
        if self._header:
            yield _csv_line(self._header)
        yield from map(self._line, rows)

    def _write(self, row: dict[str, Any]) -> None:
        if row.keys() <= {*self._header}:
            self._append(self._line(row))
        else:
            self._rewrite([*self._until(row["step"]), row])

    def _line(self, row: Mapping[str, Any]) -> str:
        return _csv_line([row.get(name, "") for name in self._header])


def _csv_line(cells: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


@public
class JSONLogger(FileLogger):
    r"""Write the records of a run to a file of JSON lines, while it runs: one object a line.

    Its names are ``event`` (``step`` or ``evaluation``) and those of :meth:`Record.row`. JSON has no NaN and no
    infinity: such a number is ``null``.

    The file is cut back to the step at which the run begins. So a resumed run goes on where its checkpoint was made,
    without lines that occur twice, and a new run begins a new file. Every line is flushed: it survives a kill.

    Args:
      path: the file; its folder is made if there is none.
      every: steps between lines of ``step``; by default there are none.

    Raises:
      ValueError: at the start, if the file exists and isn't such a log.

    Example:
      >>> fit(loss_fn, params, tx, data, epochs=20, batch_size=32, callbacks=[JSONLogger("run.jsonl", every=100)])
      >>> rows = [json.loads(line) for line in pathlib.Path("run.jsonl").read_text().splitlines()]
    """

    def _parsed(self, lines: list[str]) -> Iterable[dict[str, Any]]:
        return [json.loads(line) for line in lines]

    def _lines(self, rows: list[dict[str, Any]]) -> Iterator[str]:
        for row in rows:
            finite = {name: x if _is_finite(x) else None for name, x in row.items()}
            yield json.dumps(finite, allow_nan=False) + "\n"

    def _write(self, row: dict[str, Any]) -> None:
        self._append(next(self._lines([row])))


def _is_finite(x: Any) -> bool:
    return not isinstance(x, float) or math.isfinite(x)


@public
class TensorBoard(Callback):
    """Write the records of a run for TensorBoard; needs ``tensorboardX`` (``pip install gradchain[tensorboard]``).

    The tags are ``step/`` or ``evaluation/`` and the names of :meth:`Record.row`. A resumed run goes on in the same
    folder; what was logged beyond the step at which it begins is hidden by TensorBoard. Events are flushed once a
    second, and after evaluations.

    Args:
      folder: where the event files go; give each run its own.
      every: steps between records of ``step``; by default there are none.

    Raises:
      ImportError: if ``tensorboardX`` is missing.

    Example:
      >>> fit(loss_fn, params, tx, data, epochs=20, batch_size=32, callbacks=[TensorBoard("runs/first", every=100)])
    """

    def __init__(self, folder: str | os.PathLike[str], every: int | None = None):
        try:
            import tensorboardX  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ImportError("TensorBoard needs tensorboardX: pip install tensorboardX") from None
        self._new_writer: Any = tensorboardX.SummaryWriter
        self.folder, self.every = os.fspath(folder), every
        self._writer: Any = None
        self._flushed = 0.0

    def on_start(self, run: Run) -> None:
        if jax.process_index() == 0:
            suffix = f".{os.getpid()}.{run.step}"  # else two runs that begin in one second share a file
            self._writer = self._new_writer(self.folder, purge_step=run.step + 1, filename_suffix=suffix)
            self._writer.add_text("transform", f"`{run.tx!r}`", run.step)

    def on_step(self, record: Record) -> None:
        self._note(record)
        if self._writer is not None and time.monotonic() - self._flushed >= 1:
            self._flush()

    def on_evaluation(self, record: Record) -> None:
        self._note(record)
        self._flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _note(self, record: Record) -> None:
        if self._writer is not None:
            for name, x in record.row().items():
                if name != "step":
                    self._writer.add_scalar(f"{record.event}/{name}", x, record.step)

    def _flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()
            self._flushed = time.monotonic()


@public
class ProgressBar(Callback):
    """Show how far a run is; needs ``tqdm`` (``pip install gradchain[progress]``). ``fit(progress=True)`` adds one.

    It says "compiling" until the first steps are done. Then it shows the loss, or what early stopping monitors, the
    steps taken a second, and the time left. It counts steps, or epochs if nobody knows how many steps there are. Of
    several processes only the first shows it.

    Args:
      every: steps between looks at the loss, at least 1; ``None`` for a look after each row of the history only. The
        screen is touched at most ten times a second.

    Raises:
      ImportError: if ``tqdm`` is missing.
    """

    measures = False

    def __init__(self, every: int | None = 100):
        self._tqdm, self.every = load_tqdm(), every
        self._bar: Any = None
        self._shown, self._compiles = 0.0, True

    def on_start(self, run: Run) -> None:
        if jax.process_index() == 0:
            self._by_steps, self._monitor = run.total_steps is not None, run.monitor
            place = f"step {run.step}" if run.total_epochs is None else f"epoch {run.epoch}"
            self._title = f"training, resumed after {place}" if run.resumed else "training"
            total, done = (run.total_steps, run.step) if self._by_steps else (run.total_epochs, run.epoch)
            unit = "step" if self._by_steps else "epoch"
            self._bar = self._tqdm(total=total, initial=done, desc=f"{self._title}: compiling", unit=unit)
            self._shown, self._compiles = 0.0, True

    def on_step(self, record: Record) -> None:
        self._show(record)

    def on_evaluation(self, record: Record) -> None:
        self._show(record)

    def on_end(self, record: Record) -> None:
        self._show(record, last=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, record: Record, last: bool = False) -> None:
        if self._bar is None:
            return
        if self._compiles:
            self._begin_anew(record)
        row = record.row()
        name = self._monitor if self._monitor in row else "loss"
        if name in row and not last:
            self._bar.set_postfix_str(f"{name} {row[name]:.4g}", refresh=False)
        if last or time.monotonic() - self._shown >= INTERVAL:
            self._bar.n = self._done(record)
            self._bar.refresh()
            self._shown = time.monotonic()

    def _begin_anew(self, record: Record) -> None:
        """Say that training goes on, and forget how long compilation took."""
        self._compiles = False
        self._bar.set_description_str(self._title, refresh=False)
        self._bar.initial = self._done(record)
        self._bar.start_t = self._bar.last_print_t = time.time()

    def _done(self, record: Record) -> int:
        return record.step if self._by_steps else record.epoch
