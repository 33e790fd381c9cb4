"""Many small arrays, clip + AdamW on 1,000 of 64 to 16 k elements: tracing and lowering, compiling, and a step."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from tests.benchmarks.contest import SCALE
from tests.benchmarks.jitted import Jitted

pytestmark = pytest.mark.bench

SHAPES = [(64,), (128, 64), (256,), (64, 64), (16, 256), (128, 128), (512,), (1024,)]
LEAVES = max(int(1000 * SCALE), 8)


def transform(library: Any) -> Any:
    return library.chain(library.clip_by_global_norm(1.0), library.adamw(1e-3))


def numbers() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"w{i}": rng.standard_normal(SHAPES[i % 8], dtype=np.float32) for i in range(LEAVES)}


def step_and_arguments(library: Any) -> Any:
    """Return a new step function, which no cache knows, and its arguments."""
    tx, params = transform(library), jax.tree.map(jnp.asarray, numbers())

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return library.apply_updates(params, updates), state

    return step, (params, tx.init(params), params)


def trace_and_lower(library: Any) -> float:
    step, arguments = step_and_arguments(library)
    jax.clear_caches()
    start = time.perf_counter()
    jax.jit(step).lower(*arguments)
    return time.perf_counter() - start


def compile_lowered(library: Any) -> float:
    step, arguments = step_and_arguments(library)
    jax.clear_caches()
    lowered = jax.jit(step).lower(*arguments)
    start = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - start


@pytest.mark.parametrize("measure", [trace_and_lower, compile_lowered], ids=["trace and lower", "compile"])
def test_first_step(compete, measure, request):
    name = request.node.callspec.id
    contestants = {"gradchain": lambda: measure(gc), "optax": lambda: measure(optax)}
    result = compete(f"{name}, {LEAVES} arrays", contestants, rounds=5 if measure is trace_and_lower else 3)
    assert result.median("gradchain") > 0


def test_step(compete):
    steps = {n: Jitted(lib, transform(lib), numbers(), numbers()) for n, lib in (("gradchain", gc), ("optax", optax))}
    compete(f"step, {LEAVES} arrays", steps, rounds=30)
    np.testing.assert_allclose(steps["gradchain"].sample(), steps["optax"].sample(), rtol=1e-4, atol=1e-5)
