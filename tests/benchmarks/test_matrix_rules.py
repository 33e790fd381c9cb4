"""Rules for matrices on a small model's hidden layers, beside pytorch_optimizer's and HeavyBall's: ten steps of each.

Roots and bases are computed anew in one of the ten, and Kron's factors in every one. Options are as alike as the
libraries allow: no weight decay, one learning rate, blocks and limits above the sizes here. HeavyBall runs without
``torch.compile``, which takes minutes for each rule.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import gradchain as gc
from tests.benchmarks.contest import SCALE, torch_or_none, wait_for_torch
from tests.benchmarks.jitted import Jitted

pytestmark = pytest.mark.bench

WIDTH, STEPS = max(int(384 * SCALE**0.5), 8), 10
SHAPES = {
    f"{kind}_{i}": (rows * WIDTH, columns * WIDTH)
    for i in range(2)
    for kind, rows, columns in (("query", 1, 1), ("out", 1, 1), ("up", 1, 4), ("down", 4, 1))
}


class Rule(NamedTuple):
    """The same rule in three libraries: ours, and names and options of the other two's classes."""

    ours: Callable[[], Any]
    pytorch_optimizer: tuple[str, dict[str, Any]] | None = None
    heavyball: tuple[str, dict[str, Any]] | None = None


RULES = {
    "Muon": Rule(
        lambda: gc.muon(0.01),
        ("Muon", {"use_muon": True}),
        ("Muon", {"betas": (0.95, 0.99)}),
    ),
    "NorMuon": Rule(lambda: gc.normuon(0.01, ns_coeffs="standard"), ("NorMuon", {"use_muon": True})),
    "SOAP": Rule(
        lambda: gc.soap(0.01, update_interval=STEPS),
        ("SOAP", {"precondition_frequency": STEPS}),
        ("SOAP", {"precondition_frequency": STEPS, "merge_dims": False, "max_precond_dim": 10_000}),
    ),
    "Shampoo": Rule(
        lambda: gc.shampoo(0.01),
        (
            "ScalableShampoo",
            {"preconditioning_compute_steps": STEPS, "start_preconditioning_step": 1, "block_size": 4096},
        ),
    ),
    "Kron": Rule(
        lambda: gc.kron(0.01, update_probability=1.0),
        ("Kron", {"pre_conditioner_update_probability": 1.0}),
        ("PSGDKron", {"preconditioner_update_probability": 1.0, "max_size_triangular": 8192}),
    ),
}


def numbers(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in SHAPES.items()}


class Ours(Jitted):
    """Ten compiled steps."""

    def __call__(self) -> None:
        for _ in range(STEPS):
            super().__call__()


class Theirs:
    """Ten steps of an optimizer for PyTorch, whose kernels are (outputs, inputs)."""

    def __init__(self, torch: Any, library: str, name: str, options: dict[str, Any]):
        self.torch = torch
        self.params = [torch.nn.Parameter(torch.tensor(x.T.copy())) for x in numbers(0).values()]
        self.grads = [torch.tensor(x.T.copy()) for x in numbers(1).values()]
        group = {"params": self.params} | {k: v for k, v in options.items() if k == "use_muon"}
        others = {k: v for k, v in options.items() if k != "use_muon"}
        made = getattr(importlib.import_module(library), name)
        self.optimizer = made([group], lr=0.01, weight_decay=0.0, **others)

    def __call__(self) -> None:
        for _ in range(STEPS):
            for param, grad in zip(self.params, self.grads, strict=True):  # some optimizers take it away
                param.grad = grad.clone()
            self.optimizer.step()
        wait_for_torch(self.torch)

    def sample(self) -> np.ndarray:
        return self.params[0].detach().ravel()[:100].cpu().numpy()


def theirs(torch: Any, library: str, given: tuple[str, dict[str, Any]] | None) -> Any:
    """Return the contestant, or ``None`` where the package isn't installed."""
    if torch is None or given is None or importlib.util.find_spec(library) is None:
        return None
    if library == "heavyball":
        importlib.import_module("heavyball").utils.compile_mode = None
    return Theirs(torch, library, *given)


@pytest.mark.parametrize("name", RULES)
def test_ten_steps(compete, name):
    torch, rule = torch_or_none(), RULES[name]
    contestants = {"gradchain": Ours(gc, rule.ours(), numbers(0), numbers(1))}
    for library in ("pytorch_optimizer", "heavyball"):
        if getattr(rule, library):
            contestants[library] = theirs(torch, library, getattr(rule, library))
    compete(f"{name}, {len(SHAPES)} matrices, {STEPS} steps, width {WIDTH}", contestants, rounds=3)
    for contestant in contestants.values():
        if contestant:
            assert np.all(np.isfinite(contestant.sample()))
