"""``fit`` and ``sweep`` on a mesh give what they give on one device."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gradchain as gc
from gradchain.training import fit, grid, make_step, successive_halving, sweep
from gradchain.training.data.hosts import check_shares, spread_data
from gradchain.training.data.placement import place
from gradchain.training.search import chunks
from gradchain.training.search.field import field_of
from gradchain.training.steps.recipe import Recipe, run_epoch
from gradchain.training.variables import Variables
from tests.devices.layouts import mesh

N = 61


def examples():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, 8)).astype(np.float32)
    return {"x": x, "y": x @ rng.standard_normal((8, 4)).astype(np.float32)}


def loss_fn(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


PARAMS = {"w": jnp.zeros((8, 4))}
TX = gc.chain(gc.clip_by_global_norm(1.0), gc.adamw(0.05))
RUN = {"epochs": 3, "batch_size": 8, "validation": examples(), "remainder": "keep"}


@functools.cache
def alone():
    return fit(loss_fn, PARAMS, TX, examples(), **RUN)


def assert_as_alone(result):
    np.testing.assert_allclose(result.params["w"], alone().params["w"], atol=1e-6)
    for name, column in alone().history.columns.items():
        np.testing.assert_allclose(result.history[name], column, rtol=1e-5)
    np.testing.assert_allclose(result.history.step_loss, alone().history.step_loss, rtol=1e-5)


def test_fit_on_an_uneven_number_of_examples_and_an_explicit_mesh():
    result = fit(loss_fn, PARAMS, TX, examples(), mesh=jax.make_mesh((8,), ("data",)), **RUN)
    assert_as_alone(result)
    assert result.params["w"].sharding.is_fully_replicated


def test_fit_keeps_a_given_layout_and_compiles_once():
    on = mesh()
    params = jax.device_put(PARAMS, NamedSharding(on, P(None, "model")))
    layout = gc.zero_shardings(TX, params)
    traces = []

    def counted(params, batch):
        traces.append(batch["x"].shape)
        return loss_fn(params, batch)

    state = jax.jit(TX.init, out_shardings=layout)(params)
    data = jax.tree.map(lambda x: x[:56], examples())
    run = RUN | {"validation": None}
    result = fit(counted, params, TX, data, state=state, mesh=on, **run)
    assert traces == [(8, 8)]
    assert result.params["w"].sharding == params["w"].sharding
    assert jax.tree.map(lambda x: x.sharding, result.state) == layout
    expected = fit(loss_fn, PARAMS, TX, data, **run)
    np.testing.assert_allclose(result.params["w"], expected.params["w"], atol=1e-6)


@pytest.mark.slow
def test_fit_takes_data_that_are_spread_already():
    on = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    data = jax.tree.map(lambda x: x[:56], examples())
    spread = jax.device_put(data, NamedSharding(on, P("data")))
    run = RUN | {"validation": None}
    result = fit(loss_fn, PARAMS, gc.offload_state(TX), spread, mesh=on, **run)
    expected = fit(loss_fn, PARAMS, TX, data, **run)
    np.testing.assert_allclose(result.params["w"], expected.params["w"], atol=1e-6)
    assert result.state[1][0].mu["w"].sharding.memory_kind == "pinned_host"


@pytest.mark.slow
@pytest.mark.parametrize("search", [sweep, successive_halving], ids=lambda f: f.__name__)
def test_searches_take_data_that_are_spread_already(search, monkeypatch):
    """In one thread: two programs of several devices would wait for each other's devices."""
    monkeypatch.setattr(chunks, "cores", lambda: 3)
    monkeypatch.setattr(chunks, "ThreadPoolExecutor", None)
    data = jax.tree.map(lambda x: x[:56], examples())
    spread = jax.device_put(data, NamedSharding(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), P("data")))
    run = functools.partial(
        search, loss_fn, PARAMS, gc.adam(jnp.array([0.1, 0.01, 0.03, 0.001])), epochs=3, batch_size=8
    )
    result = run(spread)
    monkeypatch.undo()
    expected = run(data)
    np.testing.assert_allclose(result.scores, expected.scores, rtol=1e-5)
    np.testing.assert_allclose(result.params["w"], expected.params["w"], atol=1e-6)


def test_each_device_computes_on_its_part_of_a_batch():
    on = jax.make_mesh((8,), ("data",))
    placement, tx, variables, state = place(on, TX, Variables(PARAMS), None)
    data = spread_data(on, jax.tree.map(lambda x: x[:56], examples()), "data")
    recipe = Recipe.of(loss_fn, False, False, None, 16, True, "drop", None)
    recipe = recipe._replace(objective=recipe.objective._replace(placement=placement))
    epoch = jax.jit(run_epoch, static_argnums=0)
    text = epoch.lower(recipe, variables, tx, state, data, None, jax.random.key(0)).compile().as_text()
    forward, backward = re.findall(r"= f32(\[[\d,]*\])\S* dot\(", text)
    assert {forward, backward} <= {"[2,4]", "[4,8]", "[8,4]"}
    assert "[2,4]" in (forward, backward)


def test_sharded_arrays_that_share_memory_are_trained_apart():
    spread = NamedSharding(mesh(), P(mesh().axis_names[0]))
    x = jax.device_put(jnp.ones(8), spread)
    params, tx = {"a": x, "b": jax.device_put(x, spread), "c": x}, gc.sgd(0.1, momentum=0.9)
    step = make_step(lambda p, batch: jnp.sum(p["a"] * p["b"] * p["c"] + 0 * batch), tx)
    new, _, _ = step(params, tx.init(params), x)
    for name in params:
        np.testing.assert_allclose(new[name], 0.9, rtol=1e-6)
        assert new[name].sharding == spread
    assert not x.is_deleted()


def test_batches_must_divide():
    with pytest.raises(ValueError, match=r"batch_size is 10, but the mesh's axis 'data', which .* has length 4"):
        fit(loss_fn, PARAMS, TX, examples(), mesh=mesh(), epochs=1, batch_size=10)


def test_shares_must_be_equal(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda n: np.array([n, n + 1]))
    with pytest.raises(ValueError, match="data: processes must hand in equally many examples, but they have 61, 62"):
        check_shares(examples(), "data")


@pytest.mark.parametrize(
    ("runs", "replicas", "shape"), [(8, 1, (8, 1)), (11, 1, (8, 1)), (1, 8, (1, 8)), (2, 4, (2, 4)), (4, 8, (4, 2))]
)
def test_a_field_leaves_the_least_to_do(runs, replicas, shape):
    field = field_of(mesh(), runs, replicas)
    rows, columns = field.devices.shape
    least = min(-(-runs // (8 // w)) * -(-replicas // w) for w in (1, 2, 4, 8))
    assert -(-runs // rows) * -(-replicas // columns) == least
    assert field.devices.shape == shape


@pytest.mark.parametrize(
    ("runs", "seeds"),
    [
        pytest.param(11, [0], marks=pytest.mark.slow, id="more runs than devices"),
        pytest.param(1, list(range(10)), marks=pytest.mark.slow, id="seeds alone"),
        pytest.param(3, [0, 1, 2], id="both"),
    ],
)
def test_a_sweep_over_devices_finds_the_same(runs, seeds):
    tx = grid(gc.adam(0.1), {"learning_rate": np.geomspace(1e-3, 10.0, runs)})
    options = {"epochs": 2, "batch_size": 10, "seeds": seeds, "chunk": 2}
    run = functools.partial(sweep, loss_fn, PARAMS, tx, examples(), **options)
    one, many = run(), run(mesh=mesh(AxisType.Explicit))
    assert many.winner == one.winner
    np.testing.assert_allclose(many.scores, one.scores, rtol=1e-5)
    np.testing.assert_allclose(many.params["w"], one.params["w"], atol=1e-5)
    assert many.history["loss"].shape == (runs, len(seeds), 2)
    for name, column in one.history.items():
        np.testing.assert_allclose(many.history[name], column, rtol=1e-5)
