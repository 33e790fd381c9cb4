"""What the tests of Flax linen, NNX, Equinox and Haiku share: digits, and what ``training`` must do with a model.

Each ``test_training_<framework>.py`` has a small convolutional network with BatchNorm and dropout, and a loop of that
framework written by hand. ``python -m tests.accept.image_training <framework> <result>`` trains it in a process of its
own, which may be killed or show eight devices.
"""

import argparse
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import gradchain as gc
from gradchain import training
from gradchain.losses import softmax_cross_entropy_with_integer_labels

ROOT = Path(__file__).parents[2]
BATCH, STEPS, SEED = 32, 50, 3


class Case(NamedTuple):
    """One framework's network."""

    adapter: Any
    init: Callable[[jax.Array], Any]
    by_hand: Callable[..., tuple[Any, jax.Array]]
    """``by_hand(tx, model, batches, keys)`` trains by the framework's own means: (model, losses)."""
    accuracy: Callable[[Any, Any], jax.Array]
    """``accuracy(model, batch)``, in evaluation, by the framework's own means."""
    numbers: Callable[[Any], Any]
    """The arrays of a model, parameters and the rest, as a tree."""
    kernel: str
    """The path of the last layer's weights."""


def digits() -> tuple[Any, Any]:
    """Return images of shape (n, 8, 8, 1) with labels: 1,600 to train on, and 197 more."""
    images, labels = load_digits(return_X_y=True)
    data = {"image": np.float32(images / 16).reshape(-1, 8, 8, 1), "label": labels.astype(np.int32)}
    return tuple({name: x[start:stop] for name, x in data.items()} for start, stop in ((0, 1600), (1600, 1797)))


def loss_and_accuracy(logits: jax.Array, batch: Any) -> tuple[jax.Array, Any]:
    """Return the mean cross-entropy, and the share of right answers."""
    loss = jnp.mean(softmax_cross_entropy_with_integer_labels(logits, batch["label"]))
    return loss, {"accuracy": accuracy_of(logits, batch)}


def accuracy_of(logits: jax.Array, batch: Any) -> jax.Array:
    return jnp.mean(logits.argmax(-1) == batch["label"])


def optimizer(learning_rate: Any = 0.01, weight_decay: Any = 0.01) -> Any:
    """Return momentum with decoupled weight decay, on kernels only: whoever decays statistics is found out."""
    decay = gc.add_decayed_weights(weight_decay, mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params))
    return gc.chain(gc.trace(0.9), decay, gc.scale_by_learning_rate(learning_rate))


def fit(case: Case, tx: Any, model: Any, **options: Any) -> Any:
    """Train for ``STEPS`` steps, one epoch, on batches in their order."""
    train, held_out = digits()
    options = {"epochs": 1, "batch_size": BATCH, "seed": SEED, "shuffle": False, "validation": held_out} | options
    return training.fit(case.adapter, model, tx, train, has_aux=True, takes_key=True, **options)


def keys(seed: int, epoch: int) -> list[jax.Array]:
    """Return the keys that ``fit`` gives to the steps of an epoch."""
    _, loss_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), epoch))
    return [jax.random.fold_in(loss_key, number) for number in range(STEPS)]


def error(got: Any, want: Any) -> float:
    """Return the largest difference of two trees, relative to the largest number of each array, and at least to 1."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    found = []
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert x.shape == y.shape
        found.append(np.max(np.abs(x - y)) / max(1, np.max(np.abs(y))))
    assert np.isfinite(found).all()
    return max(found)


def assert_equals_loop(case: Case) -> None:
    """Check ``fit`` against the framework's own loop: each step's loss, all that the model holds, and its accuracy."""
    train, held_out = digits()
    tx, start = optimizer(), case.init(jax.random.key(0))
    before = case.numbers(start)
    batches = [jax.tree.map(lambda x, i=i: x[i : i + BATCH], train) for i in range(0, STEPS * BATCH, BATCH)]
    want, losses = case.by_hand(tx, case.init(jax.random.key(0)), batches, keys(SEED, 0))
    result = fit(case, tx, start)
    assert error(case.numbers(start), before) == 0, "what is handed in is modified"
    assert error(before, case.numbers(want)) > 0.1
    assert error(result.history.step_loss, np.asarray(losses)) <= 1e-6
    assert error(case.numbers(result.params), case.numbers(want)) <= 1e-6
    accuracy = result.history["val_accuracy"][-1]
    assert abs(accuracy - case.accuracy(want, held_out)) < 1e-6
    assert accuracy > 0.75


def assert_sweeps(case: Case) -> None:
    """Check a sweep over rate x weight decay x two seeds, in one call, against a run for one of each."""
    train, held_out = digits()
    tx = training.grid(optimizer(), {"learning_rate": [0.001, 0.003], "weight_decay": [0.0, 0.1]})
    result = training.sweep(
        case.adapter, None, tx, train, epochs=2, batch_size=BATCH, seeds=[0, 1], init=case.init, has_aux=True,
        takes_key=True, validation=held_out, select="val_accuracy", mode="max",
    )  # fmt: skip
    assert result.history["val_accuracy"].shape == (4, 2, 2)
    for run, seed in ((1, 0), (2, 1)):
        alone = fit(
            case, result.transform(run), case.init(jax.random.key(seed)), epochs=2, shuffle=True, seed=seed
        ).history  # fmt: skip
        for column in alone.columns:
            assert error(result.history[column][run, seed], alone[column]) <= 1e-4, column
    assert result.history["val_accuracy"].max() > 0.85
    best = result.history["val_accuracy"][result.best, :, -1].max()
    assert abs(case.accuracy(result.params, held_out) - best) <= 1e-6


def assert_labels_see_its_paths(case: Case) -> None:
    """Check that a layer can be frozen by the path by which users know it."""
    tx = gc.partition({"on": gc.sgd(0.05), "off": gc.set_to_zero()}, gc.by_path([(case.kernel, "off")], default="on"))
    start = case.init(jax.random.key(0))
    moved = jax.tree.map(
        lambda x, y: bool((np.asarray(x) != np.asarray(y)).any()),
        *(case.adapter.split(model).params for model in (fit(case, tx, start).params, start)),
    )
    still = [jax.tree_util.keystr(path) for path, x in jax.tree_util.tree_flatten_with_path(moved)[0] if not x]
    assert len(still) == 1, still


def run(framework: str, result: Path, *options: str, devices: int = 1) -> tuple[int, dict[str, np.ndarray]]:
    """Train in a process of its own; return its exit status, and all that the result holds, by path."""
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "-m", "tests.accept.image_training", framework, str(result), *options]
    done = subprocess.run(command, cwd=ROOT, env=environment | {"JAX_PLATFORMS": "cpu"}, timeout=300, check=False)
    return done.returncode, dict(np.load(result)) if result.exists() else {}


def assert_resumes(framework: str, folder: Path) -> None:
    """Check that a run which is killed ends bit for bit where one that isn't ends."""
    status, whole = run(framework, folder / "whole.npz")
    assert status == 0
    place = "--checkpoint", str(folder / "run")
    status, killed = run(framework, folder / "killed.npz", *place, "--kill", "3")
    assert status == -signal.SIGKILL
    assert not killed
    status, resumed = run(framework, folder / "resumed.npz", *place)
    assert status == 0
    assert resumed.keys() == whole.keys()
    for name in whole.keys() - {"epochs here"}:
        assert resumed[name].tobytes() == whole[name].tobytes(), name
    assert whole["epochs here"] == 4
    assert 1 <= resumed["epochs here"] <= 3


def assert_is_the_same_on_eight_devices(framework: str, folder: Path) -> None:
    """Check that batches spread over eight devices give the trajectory of one, statistics included."""
    (_, alone), (status, spread) = run(framework, folder / "1.npz"), run(framework, folder / "8.npz", devices=8)
    assert status == 0
    assert (alone["devices"], spread["devices"]) == (1, 8)
    assert spread.keys() == alone.keys()
    for name in alone.keys() - {"devices"}:
        assert error(spread[name], alone[name]) <= 1e-4, name


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("framework")
    parser.add_argument("result")
    parser.add_argument("--checkpoint")
    parser.add_argument("--kill", type=int)
    args = parser.parse_args()
    case: Case = importlib.import_module(f"tests.accept.test_training_{args.framework}").CASE
    epochs = []

    def after(epoch: int, *_: Any) -> None:
        epochs.append(epoch)
        if epoch == args.kill:
            os.kill(os.getpid(), signal.SIGKILL)

    mesh = jax.make_mesh((8,), ("data",)) if jax.device_count() == 8 else None
    result = fit(
        case, optimizer(), case.init(jax.random.key(0)), epochs=4, batch_size=200, shuffle=True, on_epoch=after,
        checkpoint=args.checkpoint, mesh=mesh,
    )  # fmt: skip
    tree = {"model": case.numbers(result.params), "state": result.state, "columns": dict(result.history.columns)}
    pairs = jax.tree_util.tree_flatten_with_path(jax.device_get(jax.tree.map(_as_numbers, tree)))[0]
    flat = {jax.tree_util.keystr(path): np.asarray(x) for path, x in pairs}
    np.savez(args.result, **flat, devices=jax.device_count(), **{"epochs here": len(epochs)})


def _as_numbers(x: Any) -> Any:
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


if __name__ == "__main__":
    main()
