"""Trains clipped AdamW on eight devices in three ways and alone; run by test_sharding.py in a process of its own."""

import functools
import json
import sys
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import gradchain as gc
from tests.accept.problem import data, mlp, mlp_loss, optimizer

STEPS = 20
LAYOUT = {"kernel_1": P(None, "model"), "bias_1": P(None, "model"), "kernel_2": P("model", None), "bias_2": P()}


def step(tx: Any, carry: Any, batch: Any, average: Any = lambda grads: grads) -> tuple[Any, None]:
    params, state = carry
    updates, state = tx.update(average(jax.grad(mlp_loss)(params, batch)), state, params)
    return (gc.apply_updates(params, updates), state), None


@functools.partial(jax.jit, static_argnums=0)
def train(tx: Any, params: Any, state: Any, batch: Any) -> Any:
    return jax.lax.scan(lambda carry, _: step(tx, carry, batch), (params, state), length=STEPS)[0]


def train_data_parallel(mesh: Any, tx: Any, params: Any, state: Any, batch: Any) -> Any:
    """Split the batch by ``shard_map``; every device averages the gradients and takes the same step."""

    def average(grads: Any) -> Any:
        return jax.lax.pmean(grads, "model")

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P(), P("model")), out_specs=P(), check_vma=False)
    def run(params: Any, state: Any, batch: Any) -> Any:
        return jax.lax.scan(lambda c, _: step(tx, c, batch, average), (params, state), length=STEPS)[0]

    return run(params, state, batch)


def error(got: Any, want: Any) -> float:
    pairs = [
        (np.asarray(x, float), np.asarray(y, float)) for x, y in zip(*map(jax.tree.leaves, (got, want)), strict=True)
    ]
    return float(max(np.max(np.abs(x - y)) for x, y in pairs) / max(np.max(np.abs(y)) for _, y in pairs))


def follows(state: Any, params: Any) -> bool:
    """Tell whether Adam's slots lie on the devices as their parameters do."""
    adam = state[1][0]
    pairs = jax.tree.map(
        lambda s, p: s.sharding.is_equivalent_to(p.sharding, p.ndim), (adam.mu, adam.nu), (params, params)
    )
    return all(jax.tree.leaves(pairs))


def main(dtype: str) -> dict[str, Any]:
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    tx, batch, params = optimizer(gc), data(dtype), mlp(dtype)
    alone = train(tx, params, tx.init(params), batch)[0]
    split = jax.tree.map(lambda p, spec: jax.device_put(p, NamedSharding(mesh, spec)), params, LAYOUT)
    state = tx.init(split)
    split_params, split_state = train(tx, split, state, batch)
    return {
        "devices": jax.device_count(),
        "sharded": error(split_params, alone),
        "data_parallel": error(train_data_parallel(mesh, tx, params, tx.init(params), batch)[0], alone),
        "moved": error(alone, params),
        "params_split": not split_params["kernel_1"].sharding.is_fully_replicated,
        "first_state_follows": follows(state, split),
        "last_state_follows": follows(split_state, split),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
