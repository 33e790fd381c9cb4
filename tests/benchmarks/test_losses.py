"""The loss of a language model and its derivative: cross-entropy with integer labels of 1,024 rows of 32,000 logits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradchain import losses
from tests.benchmarks.contest import SCALE, torch_or_none, wait_for_torch

pytestmark = pytest.mark.bench

SHAPE = (max(int(1024 * SCALE), 1), 32_000)


class Compiled:
    """A JAX library's loss."""

    def __init__(self, loss: Any, logits: np.ndarray, labels: np.ndarray):
        self.arguments = jnp.asarray(logits), jnp.asarray(labels)
        self.slope = jax.jit(jax.value_and_grad(lambda x, y: jnp.mean(loss(x, y))))

    def __call__(self) -> None:
        self.value, self.slopes = jax.block_until_ready(self.slope(*self.arguments))

    def sample(self) -> np.ndarray:
        return np.append(self.value, self.slopes[0, :100])


class Eager:
    """PyTorch's loss."""

    def __init__(self, torch: Any, logits: np.ndarray, labels: np.ndarray):
        self.torch, self.logits = torch, torch.tensor(logits, requires_grad=True)
        self.labels = torch.tensor(labels, dtype=torch.long)

    def __call__(self) -> None:
        self.logits.grad = None
        self.value = self.torch.nn.functional.cross_entropy(self.logits, self.labels)
        self.value.backward()
        wait_for_torch(self.torch)

    def sample(self) -> np.ndarray:
        return np.append(self.value.detach().cpu().numpy(), self.logits.grad[0, :100].cpu().numpy())


def test_cross_entropy(compete):
    rng, torch = np.random.default_rng(0), torch_or_none()
    data = rng.standard_normal(SHAPE, dtype=np.float32), rng.integers(0, SHAPE[1], SHAPE[0])
    contestants = {
        "gradchain": Compiled(losses.softmax_cross_entropy_with_integer_labels, *data),
        "optax": Compiled(optax.softmax_cross_entropy_with_integer_labels, *data),
        "PyTorch": torch and Eager(torch, *data),
    }
    compete(f"cross-entropy of {SHAPE[0]:,} x {SHAPE[1]:,} logits, with its derivative", contestants, rounds=15)
    samples = [contestant.sample() for contestant in contestants.values() if contestant]
    for sample in samples[1:]:
        np.testing.assert_allclose(sample, samples[0], rtol=1e-4, atol=1e-12)
