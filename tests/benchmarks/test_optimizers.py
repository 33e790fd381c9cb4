"""Every optimizer that Optax has too: one step on 4 million float32 parameters in matrices and vectors."""

from typing import Any

import numpy as np
import optax
import pytest
from optax import contrib

import gradchain as gc
from tests import public
from tests.benchmarks.contest import SCALE
from tests.benchmarks.jitted import Jitted

pytestmark = pytest.mark.bench

CALLS = """
sgd(1e-3)
sgd(1e-3, momentum=0.9, nesterov=True)
sign_sgd(1e-3)
signum(1e-3)
lion(1e-3)
rmsprop(1e-3)
adagrad(1e-3)
adadelta(1e-3)
adam(1e-3)
nadamw(1e-3)
adamax(1e-3)
amsgrad(1e-3)
adabelief(1e-3)
radam(1e-3)
yogi(1e-3)
adan(1e-3)
novograd(1e-3)
adafactor(1e-3)
sm3(1e-3)
lars(1e-3)
lamb(1e-3)
fromage(1e-3)
rprop(1e-3)
optimistic_gradient_descent(1e-3)
polyak_sgd(1e-3)
ademamix(1e-3)
simplified_ademamix(1e-3)
adopt(1e-3)
acprop(1e-3)
madgrad(1e-3)
momo(1e-3)
momo_adam(1e-3)
cocob(1.0)
dog(1.0)
dowg(1.0)
dadapt_adamw(1.0)
prodigy(1.0)
schedule_free_sgd(1e-3)
schedule_free_adamw(1e-3)
chain(adaptive_grad_clip(0.01), sgd(1e-3))
chain(clip_by_block_rms(1.0), adamw(1e-3))
muon(1e-3)
"""
CASES = CALLS.strip().splitlines()
SIDE = max(int(512 * SCALE**0.5), 8)
SHAPES = [(SIDE, SIDE)] * 12 + [(4 * SIDE, SIDE)] + [(SIDE,)] * 8
SMALL = [(max(SIDE // 4, 8),) * 2] * 12
"""For Muon, whose products of matrices take many times longer than its memory traffic."""
EXTRA = {"value": 1.0}


def numbers(shapes: list[tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"w{i}": rng.standard_normal(shape, dtype=np.float32) for i, shape in enumerate(shapes)}


def step(library: Any, names: dict[str, Any], call: str) -> Jitted:
    shapes = SMALL if call.startswith("muon") else SHAPES
    extra = EXTRA if call.startswith(("polyak", "momo")) else {}
    return Jitted(library, eval(call, dict(names)), numbers(shapes, 0), numbers(shapes, 1), **extra)


@pytest.mark.parametrize("call", CASES)
def test_optimizer(compete, call):
    ours, theirs = step(gc, public.NAMES, call), step(optax, vars(contrib) | vars(optax), call)
    compete(call, {"gradchain": ours, "optax": theirs}, rounds=11)
    assert np.isfinite(ours.sample()).all()
