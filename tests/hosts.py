"""Trains as one of several processes; run by tests/unit/test_hosts.py. Prints what came out, as JSON."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradchain as gc
from gradchain.training import EarlyStopping, fit, sweep

EXAMPLES = 48
PARAMS = {"w": np.full((8, 1), 0.1, np.float32)}


def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((EXAMPLES, 8)).astype(np.float32)
    return {"x": x, "y": np.tanh(x @ rng.standard_normal((8, 1)).astype(np.float32))}


def loss_fn(params: Any, batch: Any, key: Any) -> Any:
    kept = batch["x"] if key is None else batch["x"] * jax.random.bernoulli(key, 0.9, batch["x"].shape)
    return jnp.mean((jnp.tanh(kept @ params["w"]) - batch["y"]) ** 2)


def run(examples: Any, mesh: Any, options: Any, path: str | None) -> dict[str, Any]:
    """Return the figures of a run, with its history saved at ``path``."""
    tx, stopping = gc.chain(gc.clip_by_global_norm(0.5), gc.adam(0.05)), EarlyStopping(patience=3)
    result = fit(loss_fn, PARAMS, tx, examples, epochs=3, mesh=mesh, early_stopping=stopping, **options)
    if path is not None:
        result.history.to_csv(path)
    columns = {"validation": result.history["val_loss"], "steps": result.history.step_loss}
    return columns | {"params": result.params["w"], "mu": result.state[1][0].mu["w"]}


def search(examples: Any, mesh: Any, options: Any, path: str | None) -> dict[str, Any]:
    """Return the figures of a sweep."""
    tx = gc.adam(jnp.array([0.001, 0.01, 0.1]))
    result = sweep(loss_fn, PARAMS, tx, examples, epochs=2, seeds=[0, 1], mesh=mesh, **options)
    if path is not None:
        result.to_csv(path)
    return {"scores": result.scores, "params": result.params["w"], "validation": result.history["val_loss"]}


def run_with_checkpoints(examples: Any, mesh: Any, options: Any, path: str | None) -> dict[str, Any]:
    """Return the figures of a run that saves every epoch; the process in KILLED dies after the third."""

    def on_epoch(epoch: int, *_: Any) -> None:
        if epoch == 3 and os.environ.get("KILLED") == str(jax.process_index()):
            os.kill(os.getpid(), signal.SIGKILL)

    folder = None if path is None else Path(path).parent / "run"
    tx = gc.average_params(gc.adamw(0.05), decay=0.9)
    result = fit(loss_fn, PARAMS, tx, examples, epochs=5, mesh=mesh, checkpoint=folder, on_epoch=on_epoch, **options)
    columns = {"validation": result.history["val_loss"], "steps": result.history.step_loss}
    return columns | {"params": result.params["w"], "average": result.eval_params["w"]}


def figures(task: str, examples: Any, mesh: Any = None, path: str | None = None) -> dict[str, list[float]]:
    """Return what a task finds; ``examples`` are all of them, or this process's."""
    options = {"batch_size": 8, "validation": examples, "takes_key": True, "progress": path is not None}
    numbers = {"fit": run, "sweep": search, "checkpoints": run_with_checkpoints}[task](examples, mesh, options, path)
    return {name: np.ravel(x).tolist() for name, x in numbers.items()}


def main(port: str, size: str, rank: str, path: str, task: str) -> None:
    n, i = int(size), int(rank)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", n, i)
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    share = EXAMPLES // n
    mine = {name: x[i * share : (i + 1) * share] for name, x in data().items()}
    print(json.dumps(figures(task, mine, mesh, path) | {"devices": jax.device_count()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
