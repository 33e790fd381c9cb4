"""Trains as one of several processes; run by tests/unit/test_hosts.py. Prints what came out, as JSON."""

import itertools
import json
import os
import signal
import sys
import tempfile
import warnings
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


def batches(examples: Any) -> Any:
    """Return a stream of batches of 8, to which each half of all examples gives 4."""
    shares = [jax.tree.map(lambda x, i=i: x[i : i + EXAMPLES // 2], examples) for i in range(0, len(examples["x"]), 24)]

    def stream(epoch: int) -> Any:
        order = np.random.default_rng(epoch).permutation(EXAMPLES // 2)
        for rows in order.reshape(-1, 4):
            yield jax.tree.map(lambda *xs: np.concatenate([x[rows] for x in xs]), *shares)  # noqa: B023

    return stream


class Counting:
    """A stream without an end that saves which process it is of."""

    def __init__(self, examples: Any):
        self.examples, self.given = examples, 0

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        self.given += 1
        return next(itertools.islice(batches(self.examples)(self.given // 6), self.given % 6, None))

    def get_state(self) -> Any:
        return {"given": self.given, "process": jax.process_index()}

    def set_state(self, state: Any) -> None:
        assert state["process"] == jax.process_index()
        self.given = state["given"]


def run_on_streams(examples: Any, mesh: Any, options: Any, path: str | None) -> dict[str, Any]:
    """Return the figures of runs on streams: in two calls that share checkpoints, and on memory-mapped arrays."""
    tx, found = gc.adam(0.05), dict[str, Any]()
    folder = Path(tempfile.mkdtemp()) if path is None else Path(path).parent
    for name, source in (("function", lambda: batches(examples)), ("iterator", lambda: Counting(examples))):
        for steps in (5, 10):
            result = fit(
                loss_fn, PARAMS, tx, source(), steps=steps, steps_per_call=2, mesh=mesh, takes_key=True,
                checkpoint=folder / name,
            )  # fmt: skip
        found |= {f"{name}'s parameters": result.params["w"], f"{name}'s losses": result.history.step_loss}
    mapped = dict[str, Any]()
    for name, x in examples.items():
        file = folder / f"{name} {jax.process_index()}.npy"
        np.save(file, x)
        mapped[name] = np.load(file, mmap_mode="r")
    result = fit(loss_fn, PARAMS, tx, mapped, epochs=3, batch_size=EXAMPLES, mesh=mesh, takes_key=True)
    return found | {"of files": result.history.step_loss}


def complaints_of_streams(examples: Any, mesh: Any) -> dict[str, Any]:
    """Return what a process is told whose stream doesn't fit to those of the others."""
    first, told = jax.process_index() == 0, dict[str, str]()
    whole = [*batches(examples)(0)]
    cut = jax.tree.map(lambda x: x[: 4 if first else 2], whole[-1])

    def failing(epoch: int) -> Any:
        yield whole[0]
        if not first:
            raise OSError("disk broke")
        yield whole[0]

    sources = {"fewer": whole[: None if first else 3], "smaller": [*whole[:-1], cut], "failing": failing}
    for name, source in sources.items():
        try:
            fit(loss_fn, PARAMS, gc.adam(0.05), source, epochs=1, mesh=mesh, takes_key=True, remainder="keep")
        except (ValueError, RuntimeError, OSError) as error:
            told[name] = f"{type(error).__name__}: {error}"
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        same = [jax.tree.map(lambda x: x[:4], data())]
        fit(loss_fn, PARAMS, gc.adam(0.05), same, epochs=2, mesh=mesh, takes_key=True)
    return told | {"same": [str(w.message) for w in heard if str(w.message).startswith("data: ")]}


def figures(task: str, examples: Any, mesh: Any = None, path: str | None = None) -> dict[str, list[float]]:
    """Return what a task finds; ``examples`` are all of them, or this process's."""
    options = {"batch_size": 8, "validation": examples, "takes_key": True, "progress": path is not None}
    tasks = {"fit": run, "sweep": search, "checkpoints": run_with_checkpoints, "streams": run_on_streams}
    numbers = tasks[task](examples, mesh, options, path)
    return {name: np.ravel(x).tolist() for name, x in numbers.items()}


def main(port: str, size: str, rank: str, path: str, task: str) -> None:
    n, i = int(size), int(rank)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", n, i)
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    share = EXAMPLES // n
    mine = {name: x[i * share : (i + 1) * share] for name, x in data().items()}
    found = complaints_of_streams(mine, mesh) if task == "complaints" else figures(task, mine, mesh, path)
    print(json.dumps(found | {"devices": jax.device_count()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
