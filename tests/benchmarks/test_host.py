"""What the host does itself: updates outside of compiled programs, thousands of arrays, calls of compiled steps."""

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

SHAPES = [(16,), (8, 8), (32,), (4, 16)]
MANY = max(int(3000 * SCALE), 8)
CALLS = 20
"""How often a short call is repeated in a round."""


def model(arrays: int) -> dict[str, Any]:
    return {f"w{i}": jnp.full(SHAPES[i % 4], 0.1) for i in range(arrays)}


def update(library: Any, name: str, params: Any) -> Any:
    tx = getattr(library, name)(1e-3)
    state = tx.init(params)
    return lambda: jax.block_until_ready(tx.update(params, state, params))


@pytest.mark.parametrize("arrays", [10, 300])
@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_update_outside_of_programs(compete, name, arrays):
    params = model(arrays)
    updates = {"gradchain": update(gc, name, params), "optax": update(optax, name, params)}
    result = compete(f"{name} outside of jit, {arrays} small arrays", updates, rounds=21)
    assert result.median("gradchain") > 0


def test_functions_of_thousands_of_arrays(compete):
    params, tx, theirs = model(MANY), gc.adamw(1e-3), optax.adamw(1e-3)
    state = tx.init(params)
    everywhere = jax.sharding.NamedSharding(jax.make_mesh((1,), ("data",)), jax.sharding.PartitionSpec())
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), params)
    ours = {
        "init": lambda: jax.block_until_ready(tx.init(params)),
        "describe": lambda: str(tx.describe(params)),
        "to_state_dict": lambda: gc.to_state_dict(tx, state),
        "state_shardings": lambda: gc.state_shardings(tx, shapes),
        "hyperparams": lambda: gc.hyperparams(tx, state),
    }
    for name, function in ours.items():
        rivals = {"optax": lambda: jax.block_until_ready(theirs.init(params))} if name == "init" else {}
        result = compete(f"{name}, {MANY} arrays", {"gradchain": function, **rivals}, rounds=5)
        assert result.median("gradchain") > 0


def routed() -> gc.Transform:
    """Return a transform with 24 numbers."""
    rate = gc.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 1000)
    parts = {"first": gc.adamw(rate), "kernels": gc.sgd(1e-2, momentum=0.9), "rest": gc.lion(rate)}
    labels = gc.by_path([("first", "first"), ("kernel", "kernels")], default="rest")
    return gc.chain(gc.clip_by_global_norm(1.0), gc.partition(parts, labels))


def test_call_of_a_step_with_the_transform_as_argument(compete):
    names = ("first", "second")
    params = {name: {"kernel": jnp.ones((64, 64)), "bias": jnp.ones(64)} for name in names}
    tx = routed()
    state, on_device = tx.init(params), jax.device_put(tx)

    def step(tx: Any, params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return gc.apply_updates(params, updates), state

    passed, closed = jax.jit(step), jax.jit(lambda *arguments: step(tx, *arguments))

    def often(call: Any) -> Any:
        def run() -> None:
            for _ in range(CALLS):
                jax.block_until_ready(call())

        return run

    calls = {
        "gradchain": often(lambda: passed(on_device, params, state, params)),
        "numbers passed as Python's": often(lambda: passed(tx, params, state, params)),
        "closed over": often(lambda: closed(params, state, params)),
    }
    result = compete(f"{CALLS} calls of a step, transform of 24 numbers passed from the device", calls, rounds=101)
    assert result.median("gradchain") > 0


def test_eight_bits(compete):
    shape = (max(int(1024 * SCALE**0.5), 8),) * 2
    numbers = [
        {f"w{i}": np.random.default_rng(seed).normal(size=shape).astype("f4") for i in range(4)} for seed in (0, 1)
    ]
    steps = {
        "gradchain": Jitted(gc, gc.store(gc.adam(1e-3), "int8"), *numbers),
        "float32": Jitted(gc, gc.adam(1e-3), *numbers),
    }
    compete("Adam with moments in 8 bits, 4 M parameters", steps, rounds=15)
    assert np.isfinite(steps["gradchain"].sample()).all()
