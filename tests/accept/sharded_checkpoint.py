"""Saves and loads sharded arrays on eight devices, and resumes a sharded run; run by test_checkpoints.py."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gradchain as gc
from gradchain.training import fit, load_checkpoint, save_checkpoint

MESH = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))
LAYOUTS = [P(), P("data"), P("data", "model"), P(None, ("data", "model")), P("model")]


def on(spec):
    return NamedSharding(MESH, spec)


def round_trips(folder):
    x = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    for i, (saved, wanted) in enumerate(zip(LAYOUTS, LAYOUTS[1:] + LAYOUTS[:1], strict=True)):
        keys = jax.device_put(jax.random.split(jax.random.key(0), 8), on(P("data")))
        tree = {"x": jax.device_put(x, on(saved)), "half": jax.device_put(x.astype(jnp.bfloat16), on(saved)), "k": keys}
        save_checkpoint(folder, tree, step=i)
        struct = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on(wanted))
        found = load_checkpoint(folder, {"x": struct, "half": tree["half"], "k": keys}, step=i).tree
        assert found["x"].sharding == on(wanted)
        assert found["half"].sharding == on(saved)
        assert found["k"].sharding == keys.sharding
        assert np.array_equal(found["x"], x)
        assert np.array_equal(found["half"], tree["half"])
        assert np.array_equal(jax.random.key_data(found["k"]), jax.random.key_data(keys))
        plain = load_checkpoint(folder, {"x": x, "half": jnp.zeros(x.shape, jnp.bfloat16), "k": keys}).tree
        assert np.array_equal(plain["x"], x)
        assert len(plain["half"].devices()) == 1


def loss_fn(params, batch):
    return jnp.mean((jnp.tanh(batch["x"] @ params["w"]) @ params["v"] - 1) ** 2)


def train(**options):
    params = {"w": jax.device_put(jnp.full((8, 16), 0.1), on(P(None, "model"))), "v": jnp.linspace(-1, 1, 16)}
    data = {"x": jax.device_put(np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32), on(P("data")))}
    return fit(loss_fn, params, gc.adamw(0.01), data, batch_size=16, seed=1, **options)


def resumes(folder):
    whole = train(epochs=4)
    first = train(epochs=2, checkpoint=folder)
    second = train(epochs=4, checkpoint=folder)
    assert not first.params["w"].sharding.is_fully_replicated
    for got, want in zip(jax.tree.leaves(second.params), jax.tree.leaves(whole.params), strict=True):
        assert got.sharding == want.sharding
        assert bool((got == want).all())
    assert np.array_equal(second.history.step_loss, whole.history.step_loss)


if __name__ == "__main__":
    round_trips(Path(sys.argv[1]) / "trees")
    resumes(Path(sys.argv[1]) / "run")
    print(f"{jax.device_count()} devices, all the same")
