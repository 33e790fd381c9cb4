"""Layouts of a small model on eight devices, and trajectories under them."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gradchain as gc
from tests import quick

SHAPES = {"bias": (8,), "kernel": (16, 8), "scale": ()}
STEPS = 5
BATCH = 8
REPLICATED = {"bias": P(), "kernel": P(), "scale": P()}


class Way(NamedTuple):
    """A way to spread training over the mesh's axes ``data`` and ``model``."""

    specs: Any
    zero: bool = False


WAYS = {
    "data": Way(REPLICATED),
    "model": Way({"bias": P("model"), "kernel": P("data", "model"), "scale": P()}),
    "zero": Way({"bias": P(), "kernel": P(None, "model"), "scale": P()}, zero=True),
}


def mesh(kind: AxisType = AxisType.Auto) -> jax.sharding.Mesh:
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))


def model() -> Any:
    """Return parameters of JAX's own precision, which is double in a test with ``x64``."""
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.standard_normal(shape), float) for name, shape in SHAPES.items()}


def gradients() -> Any:
    """Return gradients of single examples, of shape (STEPS, BATCH, ...), as different in size as real ones are."""
    rng = np.random.default_rng(1)

    def leaf(shape: tuple[int, ...]) -> Any:
        values = rng.standard_normal((STEPS, 1, *shape)) + 0.3 * rng.standard_normal((STEPS, BATCH, *shape))
        return jnp.asarray(values * 10.0 ** rng.uniform(-1, 0, shape), float)

    return {name: leaf(shape) for name, shape in SHAPES.items()}


def shardings(on: jax.sharding.Mesh, specs: Any) -> Any:
    return jax.tree.map(lambda spec: NamedSharding(on, spec), specs, is_leaf=lambda x: isinstance(x, P))


def run(row: Any, tx: Any, params: Any, state: Any, examples: Any) -> tuple[Any, Any]:
    """Return parameters and state after descending along means of gradients."""

    def step(carry: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        g = batch if tx.per_example else jax.tree.map(lambda x: jnp.mean(x, 0), batch)
        updates, state = row.update(tx, g, state, params)
        return (gc.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, state), examples)[0]


def alone(row: Any) -> tuple[Any, Any]:
    """Return parameters and state after training on one device."""
    tx, params = row.build(), model()
    return quick.jit(functools.partial(run, row, tx))(params, tx.init(params), gradients())


def spread(row: Any) -> dict[str, tuple[Any, Any]]:
    """Return parameters and state after training on eight devices, by way, from one compiled program."""
    tx, on = row.build(), mesh()
    params = {name: jax.device_put(model(), shardings(on, way.specs)) for name, way in WAYS.items()}
    layouts = {
        name: (gc.zero_shardings if way.zero else gc.state_shardings)(tx, params[name]) for name, way in WAYS.items()
    }
    ends = {name: (shardings(on, way.specs), layouts[name]) for name, way in WAYS.items()}
    examples = jax.device_put(gradients(), NamedSharding(on, P(None, "data")))

    @functools.partial(quick.jit, out_shardings=ends)
    def train(params: Any, examples: Any) -> Any:
        return {name: run(row, tx, params[name], _init(tx, params[name], layouts[name]), examples) for name in WAYS}

    return train(params, examples)


def _init(tx: Any, params: Any, layout: Any) -> Any:
    return jax.lax.with_sharding_constraint(tx.init(params), layout)
