"""The update itself, of AdamW, clipping and AdamW, SGD and Lion: 32 million float32 parameters in 8 arrays.

Where there is a compiler, gradchain takes its steps by ``update_params`` and the kernels in C++.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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
MAX_NORM = 1.0
SHAPE = (max(int(2**19 * SCALE), 1), 8)


class Case(NamedTuple):
    """An optimizer in each library."""

    title: str
    transform: Callable[[Any], Any]
    """Made of gradchain or Optax."""
    torch: str
    """The name of PyTorch's contestant."""
    optimizer: Callable[[Any, list[Any]], Any]
    """PyTorch's, made of it and of parameters; raises ``ImportError`` if it isn't installed."""
    words: int
    """Words to read and write for each parameter at least: gradient, parameter and slots, and all but the gradient
    again; a norm needs the gradient once more."""
    clips: bool = False


def adamw(torch: Any, params: list[Any]) -> Any:
    return torch.optim.AdamW(params, lr=1e-3, fused=True, weight_decay=0.01)


def sgd(torch: Any, params: list[Any]) -> Any:
    return torch.optim.SGD(params, lr=1e-3, momentum=0.9, fused=True)


def lion(torch: Any, params: list[Any]) -> Any:
    from pytorch_optimizer import Lion

    return Lion(params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.01)


def clipped(library: Any) -> Any:
    return library.chain(library.clip_by_global_norm(MAX_NORM), library.adamw(1e-3, weight_decay=0.01))


CASES = {
    "adamw": Case("AdamW", lambda lib: lib.adamw(1e-3, weight_decay=0.01), "PyTorch fused", adamw, 7),
    "clip_adamw": Case("clip + AdamW", clipped, "PyTorch fused", adamw, 8, clips=True),
    "sgd": Case("SGD with momentum", lambda lib: lib.sgd(1e-3, momentum=0.9), "PyTorch fused", sgd, 5),
    "lion": Case("Lion", lambda lib: lib.lion(1e-4, weight_decay=0.01), "pytorch_optimizer", lion, 5),
}


def numbers(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"w{i}": rng.standard_normal(SHAPE, dtype=np.float32) for i in range(8)}


class Torch:
    """Steps of PyTorch's optimizer."""

    def __init__(self, torch: Any, case: Case):
        self.torch, self.clips = torch, case.clips
        self.params = [torch.nn.Parameter(torch.tensor(x)) for x in numbers(0).values()]
        for param, grad in zip(self.params, numbers(1).values(), strict=True):
            param.grad = torch.tensor(grad)
        self.optimizer = case.optimizer(torch, self.params)

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
            patch.setenv("GRADCHAIN_NATIVE", "1")
            return library.update_params(tx, grads, state, params, **extra)


def native_or_none(case: Case) -> Native | None:
    """Return steps with the kernels, ``None`` where there is no compiler or no CPU."""
    if shutil.which("c++") is None or jax.default_backend() != "cpu":
        return None
    build()
    return Native(gc, case.transform(gc), numbers(0), numbers(1))


def torchs_or_none(case: Case) -> Torch | None:
    try:
        torch = torch_or_none()
        return torch and Torch(torch, case)
    except ImportError:
        return None


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_update(compete, monkeypatch, case):
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE))
    own = {US: Jitted(gc, case.transform(gc), numbers(0), numbers(1))}
    if native := native_or_none(case):
        own |= {US: native, "gradchain without kernels": own[US]}
    steps = {
        **own,
        "optax": Jitted(optax, case.transform(optax), numbers(0), numbers(1)),
        case.torch: torchs_or_none(case),
    }
    millions, traffic = 8 * np.prod(SHAPE) / 1e6, f"memory traffic of {case.words} words"
    title = f"{case.title}, {millions:.3g} M parameters"
    result = compete(title, {**steps, traffic: Traffic(case.words)}, rounds=20)
    reached, bandwidth = (4e-3 * case.words * millions / result.median(name) for name in (US, traffic))
    print(
        f"{jax.devices()[0].device_kind}: {reached:.3g} GB/s of the least traffic possible, "
        f"{reached / bandwidth:.0%} of the memory bandwidth that the traffic alone reaches"
    )
    samples = [step.sample() for step in steps.values() if step]
    for sample in samples[1:]:
        np.testing.assert_allclose(sample, samples[0], rtol=1e-4, atol=1e-5)
