"""What it costs to watch a run: a CSV file every 100 steps ("gradchain") against no callbacks."""

from pathlib import Path
from typing import Any

import jax
import pytest

import gradchain as gc
from gradchain.training import Callback, CSVLogger, JSONLogger, fit
from tests.benchmarks.digits import BATCH, digits, loss_fn, start

pytestmark = pytest.mark.bench

EPOCHS = 100
"""Of 280 steps that take about 50 microseconds, so that a run is long against what it costs to begin one."""
EVERY = 100


class Listening(Callback):
    """Is told of every hundredth step, and does nothing."""


def test_watching(compete: Any, tmp_path: Path) -> None:
    data, tx, params = jax.device_put(digits()), gc.adam(1e-3), jax.tree.map(jax.numpy.asarray, start())

    def run(*callbacks: Callback) -> Any:
        result = fit(loss_fn, params, tx, data, epochs=EPOCHS, batch_size=BATCH, callbacks=callbacks)
        return jax.block_until_ready(result.params)

    contestants = {
        "gradchain, without callbacks": run,
        "gradchain, a callback that does nothing": lambda: run(Listening(EVERY)),
        "gradchain": lambda: run(CSVLogger(tmp_path / "run.csv", EVERY)),
        "gradchain, JSON lines": lambda: run(JSONLogger(tmp_path / "run.jsonl", EVERY)),
    }
    compete(f"{EPOCHS} epochs, watched every {EVERY} steps", contestants, rounds=5)
