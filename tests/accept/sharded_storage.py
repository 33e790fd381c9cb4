"""Steps with slots in fewer bits on eight devices and on one; run by test_sharding.py in a process of its own."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gradchain as gc

SPECS = P("x", None), P(None, "y"), P("x", "y")


def compare(tx: Any, params: Any) -> dict[str, Any]:
    """Return the largest difference, whether codes are split, and how many messages the devices exchange."""

    def run(params: Any) -> Any:
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(params * 0.5, state, params)
            params = gc.apply_updates(params, updates)
        return params, state

    alone = jax.jit(run)(params)
    report: dict[str, Any] = {"error": 0.0, "split": True, "messages": 0}
    for spec in SPECS:
        mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
        program = jax.jit(run).lower(jax.device_put(params, NamedSharding(mesh, spec))).compile()
        split = program(jax.device_put(params, NamedSharding(mesh, spec)))
        pairs = zip(*(jax.tree.leaves(gc.decoded(x)) for x in (split, alone)), strict=True)
        report["error"] = max(
            report["error"], *(float(np.max(np.abs(np.float32(x) - np.float32(y)))) for x, y in pairs)
        )
        stored = [x for x in jax.tree.leaves(split, is_leaf=is_stored) if is_stored(x)]
        report["split"] &= all(not x.codes.sharding.is_fully_replicated for x in stored) and len(stored) == 2
        report["messages"] += sum(program.as_text().count(f"{name}(") for name in ("all-gather", "all-reduce"))
    return report


def is_stored(x: Any) -> bool:
    return isinstance(x, gc.Stored)


if __name__ == "__main__":
    weights = jax.random.normal(jax.random.key(0), (64, 512))
    adam = gc.adam(1e-2)
    print(
        json.dumps(
            {
                "int8": compare(gc.store(adam, "int8"), weights),
                "int4": compare(gc.store(adam, "int4"), weights),
                "master": compare(gc.master_weights(gc.store(adam, "bfloat16"), 8), weights.astype(jnp.bfloat16)),
            }
        )
    )
