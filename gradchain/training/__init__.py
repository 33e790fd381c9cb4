"""Training loops: what people write by hand each time, in pieces small enough to copy out.

From the inside out: :func:`train_step` (pure) and :func:`make_step` (compiled), :func:`scan_epoch` and
:func:`evaluate` (pure), :func:`fit` (epochs, validation, early stopping, history), :func:`sweep` (a batch of transforms
at once). :func:`microbatch` takes a large batch in slices. :func:`save_checkpoint` and :func:`load_checkpoint` keep any
tree on disk; ``fit(..., checkpoint=...)`` resumes by them.

A loss function is ``loss_fn(params, batch) -> loss``, the mean over the batch. Everywhere, ``takes_key=True`` means
``loss_fn(params, batch, key)``, and ``has_aux=True`` that it returns ``(loss, aux)``.
"""

from gradchain.training.checkpoints import Checkpoint, Checkpoints, load_checkpoint, save_checkpoint
from gradchain.training.epoch import Epoch, evaluate, scan_epoch
from gradchain.training.history import History
from gradchain.training.loop import FitResult, fit
from gradchain.training.microbatch import microbatch
from gradchain.training.step import Metrics, Path, make_step, trace_path, train_step
from gradchain.training.stopping import EarlyStopping, StoppingState
from gradchain.training.sweep import grid, sweep
from gradchain.training.sweep_result import SweepResult, has_diverged

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "EarlyStopping",
    "Epoch",
    "FitResult",
    "History",
    "Metrics",
    "Path",
    "StoppingState",
    "SweepResult",
    "evaluate",
    "fit",
    "grid",
    "has_diverged",
    "load_checkpoint",
    "make_step",
    "microbatch",
    "save_checkpoint",
    "scan_epoch",
    "sweep",
    "trace_path",
    "train_step",
]
