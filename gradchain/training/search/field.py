"""A sweep's runs on a field of devices: one axis for the transforms, one for the replicas of each."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gradchain.tree import Tree

RUNS, REPLICAS = "runs", "replicas"
Found = tuple[Array, Tree, Any]
"""Costs, the result of the lowest, and rows: costs and rows with a leading axis."""


def field_of(mesh: Mesh, runs: int, replicas: int) -> Mesh:
    """Return the devices of ``mesh`` as a field, in the shape that leaves the least to do for each."""
    n = mesh.devices.size
    widths = [width for width in range(1, n + 1) if n % width == 0]
    width = min(widths, key=lambda w: (math.ceil(runs / (n // w)) * math.ceil(replicas / w), w))
    return Mesh(mesh.devices.reshape(n // width, width), (RUNS, REPLICAS), axis_types=(AxisType.Auto,) * 2)


def shares(field: Mesh, runs: int, replicas: int) -> tuple[int, int]:
    """Return how many transforms, and how many replicas of each, fall to one device."""
    return math.ceil(runs / field.shape[RUNS]), math.ceil(replicas / field.shape[REPLICAS])


def over_field(
    field: Mesh, function: Callable[[Any, Any, Any], Found], inputs: Any, share: tuple[int, int], runs: int
) -> Found:
    """Call ``function(inputs, first_run, first_replica)`` on each device, and put together what it finds for its share.

    Devices whose share reaches past the end repeat runs from the beginning; repetitions are left out.
    """

    @functools.partial(jax.shard_map, mesh=field, in_specs=P(), out_specs=P(RUNS), check_vma=False)
    def on_devices(inputs: Any) -> Found:
        found = function(inputs, lax.axis_index(RUNS) * share[0], lax.axis_index(REPLICAS) * share[1])
        return found[0], jax.tree.map(lambda x: x[None], found[1]), found[2]

    costs, bests, rows = on_devices(inputs)
    costs, rows = jax.tree.map(lambda x: x[:runs], (costs, rows))
    found = costs, jax.tree.map(lambda x: x[jnp.argmin(costs) // share[0]], bests), rows
    return lax.with_sharding_constraint(found, NamedSharding(field, P()))


def among_replicas(field: Mesh | None, found: Found, replicas: int) -> Found:
    """Return what all devices found that share one transform's replicas, from what this one found for its own."""
    if field is None or field.shape[REPLICAS] == 1:
        return found
    costs, best, rows = lax.all_gather(found, REPLICAS)
    winner = jnp.argmin(jnp.min(costs, 1))
    costs, rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:replicas], (costs, rows))
    return costs, jax.tree.map(lambda x: x[winner], best), rows
