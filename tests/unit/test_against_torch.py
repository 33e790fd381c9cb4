"""Runs that PyTorch made (tests/recorded/record_torch.py), reproduced step by step in float64."""

import json
import pathlib

import jax
import jax.numpy as jnp
import pytest

import gradchain as gc
from tests import trees
from tests.registry import ROWS

RECORDED = json.loads((pathlib.Path(__file__).parents[1] / "recorded" / "torch.json").read_text())
WITH_TORCH = [row for row in ROWS if row.torch]


def arrays(tree):
    """Return lists of numbers as arrays."""
    return jax.tree.map(jnp.asarray, tree, is_leaf=lambda x: isinstance(x, list))


def loss(params):
    """Return the loss of the recorded problem."""
    inputs, targets = arrays(RECORDED["inputs"]), arrays(RECORDED["targets"])
    predictions = jnp.tanh(jnp.matmul(inputs, params["kernel"], precision="highest") + params["bias"][None])
    return jnp.mean((predictions - targets) ** 2)


def follow(tx):
    """Return the weights on the recorded problem after every ``every`` steps."""

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = gc.apply_updates(params, updates)
        return (params, state), params

    params = arrays(RECORDED["start"])
    _, path = jax.lax.scan(step, (params, tx.init(params)), length=RECORDED["steps"])
    every = RECORDED["every"]
    return [trees.at(path, k) for k in range(every - 1, RECORDED["steps"], every)]


@pytest.mark.parametrize("row", WITH_TORCH, ids=str)
def test_recorded_run(row, x64):
    recorded = RECORDED["runs"][row.torch]["path"]
    trees.assert_close(follow(row.build()), [arrays(weights) for weights in recorded], 1e-12)


def test_every_recorded_run_is_used():
    assert {row.torch for row in WITH_TORCH} == set(RECORDED["runs"])
