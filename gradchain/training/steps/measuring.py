"""What callbacks are told of a step, measured inside the compiled program."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradchain import tree
from gradchain.combinators._reports import Reports
from gradchain.combinators.chain import Chain, NamedChain
from gradchain.combinators.guards import apply_if_finite, skip_spikes
from gradchain.combinators.loss_scaling import loss_scale
from gradchain.combinators.watching import Monitor, metrics, watch
from gradchain.core.hyperparams import hyperparams, named_parts
from gradchain.core.transform import Part, Transform
from gradchain.transforms.clipping import clip, clip_by_block_rms, clip_by_global_norm
from gradchain.tree import Tree
from gradchain.tree.alignment import is_key

CLIPS = (clip.Value, clip_by_global_norm.Value, clip_by_block_rms.Value)
"""Rules that bound the gradient."""
AROUND = (apply_if_finite.Value, skip_spikes.Value, loss_scale.Value, watch.Value)
"""Combinators that hand the gradient on to one transform inside."""
COUNTS = ("skipped", "clipped")
"""Numbers of a step that are added up over several."""


def measured(tx: Transform, grads: Tree, updates: Tree, state: Any, new_state: Any) -> dict[str, Any]:
    """Return what callbacks are told of one step: ``grad_norm``, ``update_norm``, ``hyperparams``, ``reports``, counts.

    Args:
      tx: the transform.
      grads: the gradient of the loss, as it is without a loss scale.
      updates: what the transform made of it.
      state: the transform's state before the step.
      new_state: its state after the step.
    """
    used = used_hyperparams(tx, state)
    reports = {name: x for name, x in metrics(tx, new_state).items() if name not in hyperparams(tx)}
    norms = {"grad_norm": tree.norm(grads), "update_norm": tree.norm(updates)}
    return {**norms, "hyperparams": used, "reports": reports, **step_counts(tx, grads, updates, state, new_state)}


def step_counts(tx: Transform, grads: Tree, updates: Tree, state: Any, new_state: Any) -> dict[str, Any]:
    """Return of :func:`measured` only whether a step was ``skipped``, and its gradient ``clipped``: 1 or 0.

    Each is there only if the transform has something that may do so.
    """
    after, before = (_skipped(tx, x) for x in (new_state, state))
    skipped = {"skipped": jnp.minimum(sum(after) - sum(before), 1)} if after else {}
    was_clipped = _clipped(Part("", tx, state, None), grads)[1]
    return skipped if was_clipped is None else skipped | {"clipped": was_clipped.astype(jnp.int32)}


def counting(watch: Any) -> Any:
    """Return what is measured of the steps before the last one: counts, if anything is measured."""
    return None if watch is None else step_counts


def summed(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what was measured of some steps and then of more, each stacked: counts of all, and the rest of the last.

    Only the last part need have more than counts.
    """

    def total(name: str) -> Any:
        return sum(jnp.sum(part[name], axis=0) for part in parts if name in part)

    return {name: total(name) if name in COUNTS else jax.tree.map(lambda a: a[-1], x) for name, x in parts[-1].items()}


def used_hyperparams(tx: Transform, state: Any) -> dict[str, Array]:
    """Return the hyperparameters that the next update uses: learning rates, and all that may change during a run."""
    declared = hyperparams(tx)
    return {
        name: jnp.asarray(x)
        for name, x in hyperparams(tx, state).items()
        if jnp.ndim(x) == 0 and not is_key(x)
        if x is not declared[name] or name.split(".")[-1] == "learning_rate"
    }


def _skipped(tx: Transform, state: Any) -> list[Array]:
    """Return how many steps each guard in ``tx`` has skipped so far."""
    return [
        x
        for part in named_parts(tx, state)
        if isinstance(part.transform, Reports) and part.transform.skips
        for name, x in part.transform.report(part.state).items()
        if name in ("skipped", "not_finite")
    ]


def _clipped(part: Part, grads: Tree) -> tuple[Tree | None, Array | None]:
    """Return what the clipping rules at the front of a transform make of a gradient, and whether they change it.

    The gradient is ``None`` behind any other transform, and the answer is ``None`` where there is no such rule.
    """
    tx = part.transform
    if isinstance(tx, CLIPS):
        new = tx.step(grads, part.state, None, {})[0]
        pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(new), strict=True)
        return new, jnp.any(jnp.array([jnp.any(old != x) for old, x in pairs], bool))
    if isinstance(tx, Monitor):
        return grads, None
    if not isinstance(tx, (Chain, NamedChain, *AROUND)):
        return None, None
    clipped, seen = None, grads
    for stage in tx.parts(part.state):
        if seen is not None:
            seen, now = _clipped(stage, seen)
            clipped = now if clipped is None else clipped if now is None else clipped | now
    return seen, clipped
