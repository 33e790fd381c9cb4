"""Sums of weights where states don't come from ``init``: those that weren't kept, and averages that begin anew."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer

from gradchain.core.hyper import Schedule
from gradchain.core.rule import Rule
from gradchain.core.transform import Transform
from gradchain.introspect.paths import Place, state_parts
from gradchain.numerics import one_minus_power, sum_of_weights

SLOT = "weight_sums"


def weight_sums(tx: Transform, places: Sequence[Place], entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sums of weights of a state that was kept without them, as entries: another library's.

    They are those after ``count`` updates with the decays of ``tx``.

    Args:
      tx: the transform.
      places: where the state's arrays belong.
      entries: what is known of the state, by address. If there are sums among them, none is added.
    """
    if any(f"/{SLOT}/" in address for address in entries):
        return {}
    wanted = [p for p in places if p.slot == SLOT and f"{p.stage}/count" in entries]
    owners = {part.name: part.transform for part in state_parts(tx, None)} if wanted else {}
    return {p.address: _after(getattr(owners[p.stage], p.path), entries[f"{p.stage}/count"]) for p in wanted}


def _after(decay: Any, count: Any) -> Array:
    count = jnp.asarray(count)
    zero = jnp.zeros((), jnp.result_type(float))
    if isinstance(decay, Schedule):
        return lax.fori_loop(0, count, lambda k, total: sum_of_weights(total, decay(k), k + 1), zero)
    t = count.astype(zero.dtype)
    return jnp.where(t > 0, one_minus_power(decay, jnp.maximum(t, 1)), zero)


def warn_of_added(where: str, tx: Transform, state: Any, missing: Sequence[Place], entries: Mapping[str, Any]) -> None:
    """Warn of arrays whose averages begin anew in a stage that takes all averages to be as old as its count."""
    counted = {part.name: _counted(part.transform) for part in state_parts(tx, state)} if missing else {}
    young = [place for place in missing if place.slot in counted.get(place.stage, ())]
    for stage in dict.fromkeys(place.stage for place in young):
        count = entries.get(f"{stage}/count")
        added = dict.fromkeys(place.path for place in young if place.stage == stage)
        if count is None or isinstance(count, Tracer) or not jnp.any(jnp.asarray(count) > 0):
            continue
        warnings.warn(
            f"{where}: the averages of {', '.join(added)} begin anew, but {stage} has made {count} updates and "
            "treats all averages as equally old; at first the updates, or evaluation weights, of these arrays may be "
            "several times too large or too small. For a fresh start, give them an optimizer of their own: "
            "partition({'old': tx, 'new': tx}, labels), with rename={'': 'old.'} and missing='init'",
            stacklevel=5,
        )


def _counted(tx: Transform) -> frozenset[str]:
    return tx.unlayered.counted if isinstance(tx, Rule) else tx.counted
