"""Whole training runs: epochs of a small network, and 64 learning rates."""

import functools
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from gradchain.training import LogUniform, fit, hyperband, hyperband_runs, sample, scan_epoch, sweep
from gradchain.training.search import chunks
from tests.benchmarks.contest import SCALE, torch_or_none, wait_for_torch
from tests.benchmarks.digits import BATCH, STEPS, digits, loss_fn, start

pytestmark = pytest.mark.bench

RATE = 1e-3
RATES = 64
EPOCHS = 10
"""Epochs in a turn: a single one of 10 ms would mostly measure how cold the caches are after the others' turns."""


class ScannedEpoch:
    """An epoch as one compiled call."""

    def __init__(self, data: Any):
        self.params, self.tx, self.data = jax.tree.map(jnp.asarray, start()), gc.adam(RATE), jax.device_put(data)
        self.state, self.key = self.tx.init(self.params), jax.random.key(0)
        epoch = functools.partial(scan_epoch, loss_fn, batch_size=BATCH)
        self.epoch = jax.jit(epoch, donate_argnames=("params", "state"))

    def __call__(self) -> None:
        for _ in range(EPOCHS):
            self.key, key = jax.random.split(self.key)
            self.params, self.state, *_ = jax.block_until_ready(
                self.epoch(self.params, self.tx, self.state, self.data, key)
            )

    def loss(self, data: Any) -> float:
        return float(loss_fn(self.params, data))


class LoopedEpoch:
    """A Python loop over a compiled step of optax."""

    def __init__(self, data: Any):
        self.params, self.data, self.rng = jax.tree.map(jnp.asarray, start()), data, np.random.default_rng(0)
        tx = optax.adam(RATE)
        self.state = tx.init(self.params)

        def step(params: Any, state: Any, batch: Any) -> Any:
            updates, state = tx.update(jax.grad(loss_fn)(params, batch), state, params)
            return optax.apply_updates(params, updates), state

        self.step = jax.jit(step, donate_argnums=(0, 1))

    def __call__(self) -> None:
        for _ in range(EPOCHS):
            for rows in self.rng.permutation(STEPS * BATCH).reshape(STEPS, BATCH):
                batch = tuple(x[rows] for x in self.data)
                self.params, self.state = self.step(self.params, self.state, batch)
            jax.block_until_ready(self.params)

    def loss(self, data: Any) -> float:
        return float(loss_fn(self.params, data))


class EagerEpoch:
    """PyTorch's usual loop, on one thread: so small a network gains nothing from more, and on a busy machine loses."""

    def __init__(self, torch: Any, data: Any):
        self.torch, self.data = torch, (torch.tensor(data[0]), torch.tensor(data[1], dtype=torch.long))
        first = start()
        self.model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        with torch.no_grad():
            for layer, k in ((self.model[0], "1"), (self.model[2], "2")):
                layer.weight.copy_(torch.tensor(first["w" + k].T))
                layer.bias.copy_(torch.tensor(first["b" + k][0]))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE)

    def __call__(self) -> None:
        threads = self.torch.get_num_threads()
        self.torch.set_num_threads(1)
        for _ in range(EPOCHS):
            for rows in self.torch.randperm(STEPS * BATCH).reshape(STEPS, BATCH):
                self.optimizer.zero_grad()
                self.loss_on(self.data[0][rows], self.data[1][rows]).backward()
                self.optimizer.step()
        wait_for_torch(self.torch)
        self.torch.set_num_threads(threads)

    def loss_on(self, images: Any, labels: Any) -> Any:
        return self.torch.nn.functional.cross_entropy(self.model(images), labels)

    def loss(self, data: Any) -> float:
        return self.loss_on(*self.data).item()


def test_epoch(compete):
    data, torch = digits(), torch_or_none()
    contestants = {
        "gradchain": ScannedEpoch(data),
        "optax, Python loop": LoopedEpoch(data),
        "PyTorch, eager loop": torch and EagerEpoch(torch, data),
    }
    present = [contestant for contestant in contestants.values() if contestant]
    for contestant in present:
        contestant()
    losses = [contestant.loss(data) for contestant in present]
    np.testing.assert_allclose(losses, losses[0], rtol=0.2)
    compete(f"{EPOCHS} epochs of {STEPS} mini-batches", contestants, rounds=11)


def test_stream(compete):
    """Small steps on batches that are drawn one by one, against the same steps on arrays."""
    count = max(int(10_000 * SCALE), 20)
    images, labels = (np.resize(x, (count * BATCH, *x.shape[1:])) for x in digits())
    batches = [(images[i : i + BATCH], labels[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    train = functools.partial(fit, loss_fn, jax.tree.map(jnp.asarray, start()), gc.adam(RATE), epochs=1)
    contestants = {
        "gradchain": lambda: train(batches, steps_per_call=100),
        "gradchain, one step a call": lambda: train(batches),
        "gradchain, arrays": lambda: train((images, labels), batch_size=BATCH, shuffle=False),
    }
    result = compete(f"a stream of {count} small steps, 100 a call", contestants, rounds=3)
    losses = [run().history.step_loss for run in contestants.values()]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-3)
    if SCALE == 1:
        assert result.ratio("gradchain, one step a call")[1] <= 1 / 3
        assert result.ratio("gradchain, arrays")[1] <= 1.2


def one_after_another(library: Any, data: Any, rates: np.ndarray) -> Any:
    """Return a function that trains with each rate in turn, compiled once for all of them."""

    @jax.jit
    def run(rate: Any, params: Any, data: Any) -> Any:
        tx = library.adam(rate)
        return scan_epoch(loss_fn, params, tx, tx.init(params), data, jax.random.key(0), batch_size=BATCH).metrics.loss

    def train() -> np.ndarray:
        return np.stack([run(rate, start(), data) for rate in rates])

    return train


def test_sweep(compete):
    data, rates = jax.device_put(digits()), np.logspace(-4, -1, RATES, dtype=np.float32)
    tx, params = gc.adam(rates), jax.tree.map(jnp.asarray, start())
    contestants = {
        "gradchain": lambda: sweep(loss_fn, params, tx, data, epochs=1, batch_size=BATCH),
        "gradchain, one by one": one_after_another(gc, data, rates),
        "optax, one by one": one_after_another(optax, data, rates),
    }
    compete(f"{RATES} learning rates, {STEPS} mini-batches each", contestants, rounds=7)
    with jax.default_matmul_precision("float32"):  # a GPU rounds factors to 10 bits by default: roundings grow faster
        ours, single, optax_single = (train() for train in contestants.values())
    small = rates < 1e-2
    np.testing.assert_allclose(single[small, :50], optax_single[small, :50], rtol=1e-3)  # later, roundings have grown
    np.testing.assert_allclose(single[small].mean(1), optax_single[small].mean(1), rtol=1e-3)
    np.testing.assert_allclose(ours.losses[small, 0, 0], single[small].mean(1), rtol=0.2)


def test_searches(compete):
    """Hyperband in as many threads as there are cores, and in one."""
    data, params = jax.device_put(digits()), jax.tree.map(jnp.asarray, start())
    tx = sample(gc.adam(RATE), {"learning_rate": LogUniform(1e-4, 1e-2)}, hyperband_runs(9))

    def search() -> Any:
        return hyperband(loss_fn, params, tx, data, epochs=9, batch_size=BATCH)

    def alone() -> Any:
        with mock.patch.object(chunks, "cores", return_value=1):
            return search()

    compete(f"hyperband, {hyperband_runs(9)} runs", {"gradchain": search, "gradchain, on one core": alone}, rounds=7)
    np.testing.assert_allclose(search().scores, alone().scores, rtol=0.3)
