"""The batches of a stream are spread over the devices of a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.training import Variables, fit
from gradchain.training.data.placement import place
from gradchain.training.data.positions import Position
from gradchain.training.data.streams import as_stream

N = 61
PARAMS, TX = {"w": jnp.zeros((8, 4))}, gc.adamw(0.05)


def examples():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, 8)).astype(np.float32)
    return {"x": x, "y": x @ rng.standard_normal((8, 4)).astype(np.float32)}


def batches(size):
    return [jax.tree.map(lambda x, i=i: x[i : i + size], examples()) for i in range(0, N, size)]


def loss_fn(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def test_fit_takes_the_same_steps_as_on_one_device():
    options = {"shuffle": False, "epochs": 2, "batch_size": 8, "remainder": "keep"}
    whole = fit(loss_fn, PARAMS, TX, examples(), **options)
    streamed = fit(loss_fn, PARAMS, TX, batches(8), mesh=jax.make_mesh((8,), ("data",)), steps_per_call=3, **options)
    np.testing.assert_allclose(streamed.params["w"], whole.params["w"], atol=1e-6)
    np.testing.assert_allclose(streamed.history.step_loss, whole.history.step_loss, rtol=1e-5)
    assert streamed.params["w"].sharding.is_fully_replicated


def test_each_device_gets_its_share_of_a_batch_and_all_of_a_smaller_one():
    placement = place(jax.make_mesh((8,), ("data",)), TX, Variables(PARAMS, None), None)[0]
    with as_stream(batches(16), None, "keep").feed(Position(), 2, placement) as feed:
        blocks = [feed.take() for _ in range(3)]
    shapes = [block.batches["x"].addressable_shards[0].data.shape for block in blocks]
    assert shapes == [(2, 2, 8), (1, 2, 8), (1, 13, 8)]


def test_a_batch_that_cannot_be_spread_is_an_error():
    with pytest.raises(ValueError, match=r"batch_size is 6, but the mesh's axis 'data'.*which doesn't divide it"):
        fit(loss_fn, PARAMS, TX, batches(6), mesh=jax.make_mesh((8,), ("data",)), epochs=1)
