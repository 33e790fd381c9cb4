"""Training loops: the code that people write again for every project, in pieces small enough to copy.

From the inside out: :func:`train_step` (pure) and :func:`make_step` (compiled), :func:`scan_epoch` and
:func:`evaluate` (pure), :func:`fit` (epochs, validation, early stopping, history), :func:`sweep` (a batch of transforms
at once). :func:`microbatch` computes a large batch in slices. :func:`save_checkpoint` and :func:`load_checkpoint` store
any tree on disk; ``fit(..., checkpoint=...)`` resumes from such checkpoints. :func:`successive_halving`,
:func:`hyperband` and :func:`population_based_training` search for hyperparameters with less than a sweep's computation.

A loss function is ``loss_fn(params, batch) -> loss``, the mean over the batch. Everywhere, ``takes_key=True`` means
``loss_fn(params, batch, key)``, and ``has_aux=True`` that it returns ``(loss, aux)``.
"""

from gradchain.training.budget import Epochs, Steps
from gradchain.training.fitting.loop import FitResult, fit
from gradchain.training.fitting.stopping import EarlyStopping, StoppingState
from gradchain.training.history import History
from gradchain.training.metrics import Metrics
from gradchain.training.saving.checkpoints import Checkpoint, Checkpoints, load_checkpoint, save_checkpoint
from gradchain.training.search.comparison import SweepComparison
from gradchain.training.search.halving import (
    Rung,
    halving_rungs,
    hyperband,
    hyperband_brackets,
    hyperband_runs,
    successive_halving,
)
from gradchain.training.search.halving_result import HalvingResult
from gradchain.training.search.population import population_based_training
from gradchain.training.search.population_result import PopulationResult
from gradchain.training.search.range_test import RangeTest, learning_rate_range_test
from gradchain.training.search.search_space import Choice, LogUniform, Uniform, sample
from gradchain.training.search.sweep import grid, sweep
from gradchain.training.search.sweep_result import SweepResult, has_diverged
from gradchain.training.steps.adapters import equinox, haiku, linen, nnx
from gradchain.training.steps.epoch import Epoch, evaluate, scan_epoch
from gradchain.training.steps.microbatch import microbatch
from gradchain.training.steps.precision import mixed_precision
from gradchain.training.steps.renewal import renew_state
from gradchain.training.steps.step import Path, make_step, trace_path, train_step
from gradchain.training.variables import Variables
from gradchain.training.watching.callbacks import Callback, Record, Run
from gradchain.training.watching.loggers import CSVLogger, JSONLogger, ProgressBar, TensorBoard
from gradchain.training.widths.coordinates import CoordinateCheck, coordinate_check, update_check
from gradchain.training.widths.rate_transfer import BestRate, RateTransfer, learning_rate_transfer

__all__ = [
    "BestRate",
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "Checkpoints",
    "Choice",
    "CoordinateCheck",
    "EarlyStopping",
    "Epoch",
    "Epochs",
    "FitResult",
    "HalvingResult",
    "History",
    "JSONLogger",
    "LogUniform",
    "Metrics",
    "Path",
    "PopulationResult",
    "ProgressBar",
    "RangeTest",
    "RateTransfer",
    "Record",
    "Run",
    "Rung",
    "Steps",
    "StoppingState",
    "SweepComparison",
    "SweepResult",
    "TensorBoard",
    "Uniform",
    "Variables",
    "coordinate_check",
    "equinox",
    "evaluate",
    "fit",
    "grid",
    "haiku",
    "halving_rungs",
    "has_diverged",
    "hyperband",
    "hyperband_brackets",
    "hyperband_runs",
    "learning_rate_range_test",
    "learning_rate_transfer",
    "linen",
    "load_checkpoint",
    "make_step",
    "microbatch",
    "mixed_precision",
    "nnx",
    "population_based_training",
    "renew_state",
    "sample",
    "save_checkpoint",
    "scan_epoch",
    "successive_halving",
    "sweep",
    "trace_path",
    "train_step",
    "update_check",
]
