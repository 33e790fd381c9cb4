"""JAX's persistent compilation cache, which outlives a process, knows a step by its program and not by its numbers."""

import os
import subprocess
import sys

import pytest

CODE = """
import sys
import jax
import jax.numpy as jnp
import gradchain as gc

rate, passed = float(sys.argv[1]), sys.argv[2] == "passed"
schedule = gc.warmup_cosine_decay_schedule(0.0, rate, 10, int(1e4 * rate))
tx = gc.chain(gc.clip_by_global_norm(100 * rate), gc.adamw(schedule, b1=1 - rate, weight_decay=rate))
params = {"w": jnp.ones((8, 4)), "b": jnp.zeros(4)}
state = tx.init(params)

def update(tx, params, state):
    updates, state = tx.update(params, state, params)
    return gc.apply_updates(params, updates), state

step = jax.jit(update) if passed else jax.jit(lambda _, *rest: update(tx, *rest))
step(tx, params, state)
"""


def cached_after(folder, rate, how):
    """Run a step in a new process, and return the programs in the cache afterwards."""
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    subprocess.run([sys.executable, "-c", CODE, str(rate), how], env=os.environ | settings, check=True)
    return {path.name for path in folder.iterdir() if path.name.endswith("-cache")}


@pytest.mark.slow
def test_new_numbers_are_found_in_the_cache_by_another_process(tmp_path):
    first = cached_after(tmp_path, 1e-2, "passed")
    assert any("update" in name for name in first)
    assert cached_after(tmp_path, 3e-2, "passed") == first
    assert cached_after(tmp_path, 2e-2, "closed over") > first
