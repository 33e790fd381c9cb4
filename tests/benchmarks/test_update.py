"""The update itself: AdamW on 32 million float32 parameters in 8 arrays, alone and after clipping by global norm."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from tests.benchmarks.contest import SCALE, torch_or_none

pytestmark = pytest.mark.bench

SHAPE = (8, max(int(2**19 * SCALE), 1), 8)
OPTIONS = {"weight_decay": 0.01}
MAX_NORM = 1.0


def numbers(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE, dtype=np.float32)


class Jitted:
    """Steps of a transform of either JAX library: compiled, with parameters and state donated."""

    def __init__(self, library: Any, clips: bool):
        tx = transform(library, clips)
        self.params = {f"w{i}": jnp.array(x) for i, x in enumerate(numbers(0))}
        self.grads = {f"w{i}": jnp.array(x) for i, x in enumerate(numbers(1))}
        self.state = tx.init(self.params)

        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = tx.update(grads, state, params)
            return library.apply_updates(params, updates), state

        self.step = jax.jit(step, donate_argnums=(0, 1))

    def __call__(self) -> None:
        self.params, self.state = jax.block_until_ready(self.step(self.params, self.state, self.grads))

    def sample(self) -> np.ndarray:
        return np.asarray(self.params["w0"][:100])


class Torch:
    """Steps of PyTorch's fused AdamW."""

    def __init__(self, torch: Any, clips: bool):
        self.torch, self.clips = torch, clips
        self.params = [torch.nn.Parameter(torch.tensor(x)) for x in numbers(0)]
        for param, grad in zip(self.params, numbers(1), strict=True):
            param.grad = torch.tensor(grad)
        self.optimizer = torch.optim.AdamW(self.params, lr=1e-3, fused=True, **OPTIONS)

    def __call__(self) -> None:
        if self.clips:
            self.torch.nn.utils.clip_grad_norm_(self.params, MAX_NORM)
        self.optimizer.step()

    def sample(self) -> np.ndarray:
        return self.params[0].detach()[:100].numpy()


def transform(library: Any, clips: bool) -> Any:
    adamw = library.adamw(1e-3, **OPTIONS)
    return library.chain(library.clip_by_global_norm(MAX_NORM), adamw) if clips else adamw


@pytest.mark.parametrize("clips", [False, True], ids=["adamw", "clip_adamw"])
def test_update(compete, clips):
    torch = torch_or_none()
    contestants = {
        "gradchain": Jitted(gc, clips),
        "optax": Jitted(optax, clips),
        "PyTorch fused": torch and Torch(torch, clips),
    }
    millions = np.prod(SHAPE) / 1e6
    compete(f"{'clip + ' * clips}AdamW, {millions:.3g} M parameters", contestants, rounds=30)
    samples = [contestant.sample() for contestant in contestants.values() if contestant]
    for sample in samples[1:]:
        np.testing.assert_allclose(sample, samples[0], rtol=1e-4, atol=1e-5)
