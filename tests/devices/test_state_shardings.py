"""Where the state lies: for every row of the registry, from shapes alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import gradchain as gc
from tests.contract.cases import each
from tests.devices.layouts import SHAPES, mesh, model, shardings
from tests.nests import nests
from tests.registry import ROWS

SPECS = {"bias": P("model"), "kernel": P("data", "model"), "scale": P()}
OF_SHAPE = {SHAPES[name]: spec for name, spec in SPECS.items()}


def shapes(specs=SPECS, kind=AxisType.Auto):
    on = shardings(mesh(kind), specs)
    return {name: jax.ShapeDtypeStruct(SHAPES[name], jnp.float32, sharding=on[name]) for name in SHAPES}


def specs_of(layout):
    return jax.tree.map(lambda sharding: sharding.spec, layout)


def measured(tree):
    """Return the bytes that lie on each device."""
    sizes = dict.fromkeys(jax.devices(), 0)
    for x in jax.tree.leaves(tree):
        for shard in x.addressable_shards:
            sizes[shard.device] += shard.data.nbytes
    return set(sizes.values())


TORN_BLOCKS = {"store_mixed_adamw"}
"""What stores slots in blocks that run across the rows of a matrix, so that ZeRO would tear them."""


def is_stored(x):
    return isinstance(x, gc.Stored)


def is_factor(path):
    """Return whether a leaf belongs to one axis of a parameter, whose length another parameter may have."""
    return any(getattr(key, "name", None) in ("factors", "roots", "bases", "eigenvalues") for key in path)


def assert_slots_follow(tx, params):
    """Assert that all state in the shape of a parameter lies like it. (What is stored in blocks has other shapes.)"""
    state, layout = jax.eval_shape(tx.init, params), gc.state_shardings(tx, params)
    assert jax.tree.structure(layout) == jax.tree.structure(state)
    plain = [
        jax.tree_util.tree_leaves_with_path(jax.tree.map(lambda x: () if is_stored(x) else x, tree, is_leaf=is_stored))
        for tree in (state, layout)
    ]
    for (path, x), (_, sharding) in zip(*plain, strict=True):
        if is_factor(path):
            continue
        spec = OF_SHAPE.get(x.shape, sharding.spec)
        assert sharding.spec == spec, f"{tx}: {x.shape} lies by {sharding.spec}"


def test_slots_like_a_parameter_lie_like_it_for_every_row():
    params = shapes()
    for row in ROWS:
        assert_slots_follow(row.build(), params)


@pytest.mark.slow
@given(nests(3))
def test_slots_lie_like_their_parameters_however_deep(nest):
    params = shapes()
    assert_slots_follow(nest.tx, params)
    state, zero = jax.eval_shape(nest.tx.init, params), gc.zero_shardings(nest.tx, params, axis=("data", "model"))
    assert gc.bytes_per_device(state, zero) <= gc.bytes_per_device(state, gc.state_shardings(nest.tx, params))


def test_factored_slots_lie_like_their_axes():
    params = {"w": jax.ShapeDtypeStruct((16, 24), jnp.float32)}
    layout = NamedSharding(mesh(), P("data", "model"))
    adafactor = specs_of(gc.state_shardings(gc.scale_by_factored_rms(min_dim_size_to_factor=8), params, layout))
    assert adafactor.v_row["w"] == P("data")
    assert adafactor.v_col["w"] == P("model")
    square = {"w": jax.ShapeDtypeStruct((16, 16), jnp.float32)}
    adafactor = specs_of(gc.state_shardings(gc.scale_by_factored_rms(min_dim_size_to_factor=8), square, layout))
    assert adafactor.v_row["w"] == P("data")
    assert adafactor.v_col["w"] == P("model")
    assert specs_of(gc.state_shardings(gc.sm3(0.1), params, layout))[0].mu["w"] == (P("data"), P("model"))
    galore = specs_of(gc.state_shardings(gc.scale_by_galore(rank=2), params, layout))
    assert galore.base_optimizer_state.mu["w"] == P("data")


def test_layers_of_factored_slots_lie_like_the_layers():
    params = {"w": jax.ShapeDtypeStruct((8, 16, 24), jnp.float32)}
    tx = gc.per_layer(gc.scale_by_factored_rms(min_dim_size_to_factor=8), 0)
    layout = gc.state_shardings(tx, params, NamedSharding(mesh(), P("data", None, "model")))
    assert specs_of(layout).v_row["w"] == P("data")
    assert specs_of(layout).v_col["w"] == P("data", "model")


def test_optax_and_mixed_states_lie_like_the_parameters():
    layout = specs_of(gc.state_shardings(gc.chain(optax.adam(0.1), gc.trace(0.9)), shapes()))
    assert layout[0][0].mu == SPECS
    assert layout[0][0].count == P()
    assert layout[1].trace == SPECS


def test_init_makes_the_state_where_it_belongs_and_as_large_as_predicted():
    params = jax.device_put(model(), shardings(mesh(), SPECS))
    tx = gc.chain(gc.clip_by_global_norm(1.0), gc.adafactor(0.1, 8, momentum=0.9))
    layout = gc.state_shardings(tx, params)
    state = jax.jit(tx.init, out_shardings=layout)(params)
    assert jax.tree.map(lambda x: x.sharding, state) == layout
    assert measured(state) == {gc.bytes_per_device(state)}
    assert gc.bytes_per_device(jax.eval_shape(tx.init, params), layout) == gc.bytes_per_device(state)


def test_zero_divides_moments_by_the_number_of_devices():
    on = mesh()
    params = jax.device_put(model(), NamedSharding(on, P()))
    tx = gc.adamw(0.1)
    layout = gc.zero_shardings(tx, params, axis=("data", "model"))
    assert specs_of(layout)[0].mu == {"bias": P(("data", "model")), "kernel": P(("data", "model")), "scale": P()}
    state = jax.jit(tx.init, out_shardings=layout)(params)
    counts = sum(x.nbytes for x in jax.tree.leaves(state) if not x.ndim)
    moments = sum(x.nbytes for x in jax.tree.leaves(state) if x.ndim)
    assert measured(state) == {gc.bytes_per_device(state)} == {moments // 8 + counts}


def test_zero_splits_further_what_is_split_already():
    layout = gc.zero_shardings(gc.trace(0.9), shapes({"bias": P("model"), "kernel": P(None, "model"), "scale": P()}))
    assert specs_of(layout).trace == {"bias": P(("model", "data")), "kernel": P("data", "model"), "scale": P()}
    assert specs_of(gc.zero_shardings(gc.trace(0.9), shapes())).trace["kernel"] == SPECS["kernel"]


def test_zero_tears_no_matrix_apart():
    params = {"layers": jnp.ones((8, 16, 24)), "matrix": jnp.ones((16, 24)), "bias": jnp.ones(8)}
    dims = {"layers": gc.MuonDimensionNumbers(1, 2), "matrix": gc.MuonDimensionNumbers(), "bias": None}
    tx = gc.muon(0.1, muon_weight_dimension_numbers=dims)
    moments = specs_of(gc.zero_shardings(tx, params, NamedSharding(mesh(), P())))
    muon, adam = (moments.inner_states[label][0].mu for label in ("muon", "adam"))
    assert (muon["layers"], muon["matrix"], adam["bias"]) == (P("data"), P(), P("data"))


def test_zero_splits_layers_before_longer_axes():
    params = {"layers": jnp.ones((8, 16, 24)), "head": jnp.ones((16, 24))}
    tx = gc.chain(gc.trace(0.9), gc.per_layer(gc.scale_by_sm3(), {"layers": 0, "head": None}))
    trace, sm3 = specs_of(gc.zero_shardings(tx, params, NamedSharding(mesh(), P())))
    assert trace.trace == {"layers": P("data"), "head": P(None, "data")}
    assert sm3.nu == {"layers": P("data"), "head": P()}
    assert sm3.mu["layers"] == (P("data"), P("data"))


def test_zero_knows_parts_of_complex_arrays_and_parts_that_are_left_out():
    params = {"z": jnp.ones((8, 8), jnp.complex64), "w": jnp.ones((8, 8)), "frozen": None}
    tx = gc.masked(
        gc.split_real_and_imaginary(gc.chain(gc.scale_by_sm3(), gc.scale_by_adam())), {"z": True, "w": False}
    )
    layout = gc.zero_shardings(tx, {"z": params["z"], "w": params["w"]}, NamedSharding(mesh(), P()))
    moments = jax.tree.leaves(specs_of(layout), is_leaf=lambda x: isinstance(x, P))
    assert moments.count(P("data")) == 4  # Adam's, of both parts


@pytest.mark.slow
def test_zero_works_for_every_row():
    params = shapes({name: P() for name in SHAPES})
    for row in ROWS:
        tx = row.build()
        if row.name in TORN_BLOCKS:
            with pytest.raises(ValueError, match="zero_shardings: JAX can't tell how the state would lie"):
                gc.zero_shardings(tx, params)
            continue
        plain, zero = gc.state_shardings(tx, params), gc.zero_shardings(tx, params)
        state = jax.eval_shape(tx.init, params)
        assert jax.tree.structure(plain) == jax.tree.structure(zero)
        assert gc.bytes_per_device(state, zero) <= gc.bytes_per_device(state, plain)


def test_errors_name_what_is_wrong():
    tx, params = gc.adam(0.1), shapes()
    with pytest.raises(
        TypeError, match=r"state_shardings: \['bias'\] has None for its sharding, expected a NamedShard"
    ):
        gc.state_shardings(tx, {"bias": jax.ShapeDtypeStruct((8,), jnp.float32)})
    with pytest.raises(TypeError, match=r"\['bias'\] has SingleDeviceSharding"):
        gc.state_shardings(tx, params, SingleDeviceSharding(jax.devices()[0]))
    with pytest.raises(ValueError, match="state_shardings: the tree has no arrays"):
        gc.state_shardings(tx, {})
    with pytest.raises(ValueError, match=r"\['scale'\] can't be split so: .*"):
        gc.state_shardings(tx, params, NamedSharding(mesh(), P("data")))
    other = NamedSharding(jax.make_mesh((8,), ("data",)), P())
    with pytest.raises(ValueError, match=r"\['kernel'\] lies on .*, other arrays on"):
        gc.state_shardings(tx, params, {"bias": params["bias"].sharding, "kernel": other, "scale": other})
    with pytest.raises(ValueError, match="zero_shardings: the mesh has no axis 'batch'; it has data, model"):
        gc.zero_shardings(tx, params, axis="batch")


def test_an_init_that_no_layout_follows_from_is_an_error():
    odd = optax.GradientTransformation(lambda p: {"gram": p["kernel"].T @ p["kernel"]}, lambda u, s, p=None: (u, s))
    with pytest.raises(ValueError, match="state_shardings: JAX can't tell how the state would lie"):
        gc.state_shardings(odd, shapes())


def test_blocks_that_an_explicit_mesh_tears_are_a_sharding_error():
    params, tx = shapes(kind=AxisType.Explicit), gc.store(gc.adam(0.1), "int8", min_size=0)
    with jax.set_mesh(mesh(AxisType.Explicit)), pytest.raises(Exception, match="incompatible shardings"):
        jax.eval_shape(tx.update, params, jax.eval_shape(tx.init, params), params)


@each(
    [row for row in ROWS if row.name != "store_int8_adam"],
    slow=lambda row: row.name not in ("adamw", "muon", "galore", "prodigy", "lamb"),
)
def test_explicit_meshes_type_check_and_the_state_stays_where_it_is(row):
    params, tx = shapes(kind=AxisType.Explicit), row.build()
    with jax.set_mesh(mesh(AxisType.Explicit)):
        state = jax.eval_shape(tx.init, params)
        batch = {name: jax.ShapeDtypeStruct((4, *x.shape), x.dtype) for name, x in params.items()}
        _, after = jax.eval_shape(
            lambda g, s, p: row.update(tx, g, s, p), batch if tx.per_example else params, state, params
        )
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert old.sharding is None or new.sharding.is_equivalent_to(old.sharding, old.ndim)


def test_muon_on_an_explicit_mesh_gathers_and_agrees():
    on, params = mesh(AxisType.Explicit), {"w": model()["kernel"]}
    spread = jax.device_put(params, NamedSharding(on, P("data", "model")))
    tx = gc.muon(0.1)
    with jax.set_mesh(on):
        updates, _ = jax.jit(tx.update)(spread, jax.jit(tx.init)(spread), spread)
    expected, _ = jax.jit(tx.update)(params, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], expected["w"], atol=1e-6)
