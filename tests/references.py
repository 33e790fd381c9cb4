"""Trajectories that other implementations made from given gradients: ``tests/recorded/frontier.json``.

Parameters after 30 steps in double precision, for problems whose gradients are recorded, so that no model is needed.
Arrays are in JAX's layout, kernels (inputs, outputs). What is recorded are facts; the sources are named in the file.
"""

import functools
import json
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradchain as gc
from gradchain.tree import Tree
from tests import quick


@functools.cache
def recorded() -> dict[str, Any]:
    """Return the file."""
    return json.loads((pathlib.Path(__file__).parent / "recorded" / "frontier.json").read_text())


def problem(name: str) -> tuple[Tree, Tree, np.ndarray]:
    """Return the start of a problem, its 30 gradients along a first axis, and the loss that belongs to each."""
    entry = recorded()["problems"][name]
    start = {key: np.array(value) for key, value in entry["start"].items()}
    grads = {key: np.array([g[key] for g in entry["grads"]]) for key in start}
    return start, grads, np.array(entry["losses"])


def noise(reference: str, name: str) -> Tree:
    """Return the random arrays that a reference drew in a problem, stacked as the gradients are.

    Recorded are those of all parameters in the order of their names, step after step, as PyTorch lays arrays out.
    """
    drawn = recorded()["references"][reference]["noise"][name]
    start = problem(name)[0]
    kinds = {key: [np.array(v) for v in drawn[i :: len(start)]] for i, key in enumerate(sorted(start))}
    turned = {2: (1, 0), 4: (2, 3, 1, 0)}
    return {key: np.stack([v.transpose(turned.get(v.ndim)) for v in vs]) for key, vs in kinds.items()}


def tolerance(reference: str, name: str) -> float:
    """Return how far a correct implementation may be off, as a share of the distance moved.

    A reference's sensitivity is what a relative change of the gradients is multiplied with on the way to the end.
    """
    return max(1e-9, 1e-12 * recorded()["references"][reference]["sensitivity"][name])


def error(reference: str, name: str, tx: Any, *, extra: Callable[[Any], dict[str, Any]] = lambda loss: {}) -> float:
    """Return by how much ``tx`` misses the end of a reference in one problem, as a share of the distance moved.

    Args:
      tx: a transform for the arrays that the reference moves: some take matrices only.
      extra: from the loss at a step, the extra arguments of ``update``.
    """
    start, grads, losses = problem(name)
    end = recorded()["references"][reference]["params"][name]
    start, grads = ({key: tree[key] for key in end} for tree in (start, grads))

    def step(carry: Any, given: Any) -> Any:
        params, state = carry
        g, loss = given
        updates, state = tx.update(g, state, params, **extra(loss))
        return (gc.apply_updates(params, updates), state), None

    @quick.jit
    def run() -> Any:
        params = jax.tree.map(jnp.asarray, start)
        return jax.lax.scan(step, (params, tx.init(params)), (grads, losses))[0][0]

    with jax.enable_x64(True):
        got = run()
        missed = max(float(np.max(np.abs(got[key] - np.array(end[key])))) for key in end)
    return missed / max(float(np.max(np.abs(np.array(end[key]) - start[key]))) for key in end)


def assert_reproduces(reference: str, tx: Any, problems: Iterable[str] = (), **options: Any) -> None:
    """Assert that ``tx`` ends where a reference did, in all problems or some, to the reference's tolerance."""
    for name in problems or recorded()["references"][reference]["params"]:
        missed = error(reference, name, tx, **options)
        assert missed <= tolerance(reference, name), f"{reference} on {name}: off by {missed:.1e} of the distance moved"
