"""The update itself: AdamW on 32 million float32 parameters in 8 arrays, alone and after clipping by global norm.

Where there is a compiler, gradchain takes its steps by ``update_params`` and the kernels in C++.
"""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from gradchain.native.library import build
from tests.benchmarks.contest import SCALE, US, torch_or_none, wait_for_torch
from tests.benchmarks.jitted import Jitted

pytestmark = pytest.mark.bench

CACHE = Path(__file__).parents[2] / ".cache" / "native"
SHAPE = (max(int(2**19 * SCALE), 1), 8)
OPTIONS = {"weight_decay": 0.01}
MAX_NORM = 1.0
WORDS = {False: 7, True: 8}
"""Words to read and write for each parameter at least: gradient, parameter and two moments, and all but the gradient
again; a norm needs the gradient once more."""


def numbers(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"w{i}": rng.standard_normal(SHAPE, dtype=np.float32) for i in range(8)}


class Torch:
    """Steps of PyTorch's fused AdamW."""

    def __init__(self, torch: Any, clips: bool):
        self.torch, self.clips = torch, clips
        self.params = [torch.nn.Parameter(torch.tensor(x)) for x in numbers(0).values()]
        for param, grad in zip(self.params, numbers(1).values(), strict=True):
            param.grad = torch.tensor(grad)
        self.optimizer = torch.optim.AdamW(self.params, lr=1e-3, fused=True, **OPTIONS)

    def __call__(self) -> None:
        if self.clips:
            self.torch.nn.utils.clip_grad_norm_(self.params, MAX_NORM)
        self.optimizer.step()
        wait_for_torch(self.torch)

    def sample(self) -> np.ndarray:
        return self.params[0].detach().ravel()[:100].cpu().numpy()


class Traffic:
    """The memory traffic alone: each word read once and written once, in one kernel an array, in place."""

    def __init__(self, words: int):
        self.arrays = [jnp.zeros((words * SHAPE[0] // 2, SHAPE[1])) for _ in range(8)]
        self.step = jax.jit(lambda arrays: [x * 0.5 for x in arrays], donate_argnums=0)

    def __call__(self) -> None:
        self.arrays = jax.block_until_ready(self.step(self.arrays))


class Native(Jitted):
    """Steps by ``update_params``, with the kernels in C++."""

    def new(self, library: Any, tx: Any, grads: Any, state: Any, params: Any, extra: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(CACHE))
            patch.setenv("GRADCHAIN_NATIVE", "1")
            return library.update_params(tx, grads, state, params, **extra)


def native_or_none(clips: bool) -> Native | None:
    """Return steps with the kernels, ``None`` where there is no compiler or no CPU."""
    if shutil.which("c++") is None or jax.default_backend() != "cpu":
        return None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(CACHE))
        build()
    return Native(gc, transform(gc, clips), numbers(0), numbers(1))


def transform(library: Any, clips: bool) -> Any:
    adamw = library.adamw(1e-3, **OPTIONS)
    return library.chain(library.clip_by_global_norm(MAX_NORM), adamw) if clips else adamw


@pytest.mark.parametrize("clips", [False, True], ids=["adamw", "clip_adamw"])
def test_update(compete, clips):
    torch, words = torch_or_none(), WORDS[clips]
    native = native_or_none(clips)
    own = {US: Jitted(gc, transform(gc, clips), numbers(0), numbers(1))}
    if native:
        own |= {US: native, "gradchain without kernels": own[US]}
    steps = {
        **own,
        "optax": Jitted(optax, transform(optax, clips), numbers(0), numbers(1)),
        "PyTorch fused": torch and Torch(torch, clips),
    }
    millions, traffic = 8 * np.prod(SHAPE) / 1e6, f"memory traffic of {words} words"
    result = compete(
        f"{'clip + ' * clips}AdamW, {millions:.3g} M parameters", {**steps, traffic: Traffic(words)}, rounds=30
    )
    reached, bandwidth = (4e-3 * words * millions / result.median(name) for name in (US, traffic))
    print(
        f"{jax.devices()[0].device_kind}: {reached:.3g} GB/s of the least traffic possible, "
        f"{reached / bandwidth:.0%} of the memory bandwidth that the traffic alone reaches"
    )
    samples = [step.sample() for step in steps.values() if step]
    for sample in samples[1:]:
        np.testing.assert_allclose(sample, samples[0], rtol=1e-4, atol=1e-5)
