"""describe: which parameter gets what, and how many bytes of state that costs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc

LAYER = {
    "attention": {"query": {"kernel": jnp.ones((8, 8)), "bias": jnp.ones(8)}},
    "mlp": {"kernel": jnp.ones((8, 16))},
}
PARAMS = {"embed": {"embedding": jnp.ones((100, 8))}, "encoder": {"layers": [LAYER, LAYER]}, "scale": jnp.ones(())}
NO_SCALAR = gc.by_leaf(lambda path, leaf: leaf.ndim > 0)
TX = gc.chain(
    gc.clip_by_global_norm(1.0),
    gc.partition(
        {"matrices": gc.sgd(0.1, momentum=0.9), "rest": gc.adamw(0.1, mask=NO_SCALAR)},
        gc.matrices_and_rest(),
    ),
)


def bytes_of(state):
    return sum(x.nbytes for x in jax.tree.leaves(state))


def test_rows_tell_what_each_parameter_gets():
    rows = gc.describe(TX, PARAMS).as_dict()
    assert rows["embed/embedding"] == {
        "path": "embed/embedding",
        "shape": (100, 8),
        "dtype": "float32",
        "labels": ("rest",),
        "transforms": ("clip_by_global_norm", "scale_by_adam", "add_decayed_weights", "scale_by_learning_rate"),
        "state_bytes": 2 * 800 * 4,
    }
    assert rows["encoder/layers/1/mlp/kernel"]["transforms"] == (
        "clip_by_global_norm",
        "trace",
        "scale_by_learning_rate",
    )
    assert rows["encoder/layers/1/mlp/kernel"]["labels"] == ("matrices",)
    assert "add_decayed_weights" not in rows["scale"]["transforms"]


@pytest.mark.parametrize(
    "tx",
    [
        TX,
        gc.adafactor(0.1, 2),
        gc.named_chain(("a", gc.adam(0.1)), ("b", optax.adam(0.1))),
        gc.hyperparams_in_state(TX),
        gc.inject_hyperparams(gc.adam)(0.1),
        gc.parallel(gc.adam(0.1), gc.masked(gc.sm3(0.1), NO_SCALAR), merge=gc.graft),
        gc.selective_transform(gc.add_noise(0.1, 0.5, 0), freeze_mask=True),
        optax.chain(optax.adam(0.1), optax.trace(0.9)),
        gc.chain(),
    ],
    ids=lambda tx: getattr(tx, "name", "optax"),
)
@pytest.mark.parametrize(
    "params", [PARAMS, {}, jnp.ones(3), (jnp.ones(3), jnp.ones(2))], ids=["tree", "empty", "array", "tuple"]
)
def test_bytes_add_up(tx, params):
    described = gc.describe(tx, params)
    assert described.state_bytes == bytes_of(tx.init(params))
    assert described.parameters == gc.tree.size(params)
    assert [row.shape for row in described.rows] == [x.shape for x in jax.tree.leaves(params)]
    assert described.shared_bytes < 200


def test_slots_are_counted_to_their_parameters():
    params = {"w": jnp.ones((4, 8)), "b": jnp.ones(8)}
    for tx in (gc.adam(0.1), optax.adam(0.1), gc.inject_hyperparams(gc.adam)(0.1)):
        assert {row.path: row.state_bytes for row in gc.describe(tx, params).rows} == {"w": 256, "b": 64}
    factored = gc.describe(gc.scale_by_factored_rms(min_dim_size_to_factor=2), params).as_dict()
    assert factored["w"]["state_bytes"] == 4 * (4 + 8)
    single = gc.describe(gc.adam(0.1), jnp.ones(3))
    assert (single.rows[0].path, single.rows[0].state_bytes, single.shared_bytes) == ("", 24, 8)
    of_optax = gc.describe(optax.adam(0.1), jnp.ones(3))
    assert (of_optax.rows[0].state_bytes, of_optax.shared_bytes) == (24, 4)
    stages_like_params = gc.describe(optax.chain(optax.trace(0.9), optax.trace(0.9)), (jnp.ones(3), jnp.ones(2)))
    assert [row.state_bytes for row in stages_like_params.rows] == [24, 16]


def test_a_frozen_parameter_has_no_state():
    tx = gc.selective_transform(gc.adam(0.1), freeze_mask=gc.by_path([("encoder", True)], False))
    for row in gc.describe(tx, PARAMS).rows:
        frozen = row.path.startswith("encoder")
        assert row.labels == ("freeze",) if frozen else ("train",)
        assert (row.state_bytes == 0) == frozen


def test_labels_of_nested_and_repeated_partitions():
    inner = gc.partition({"x": gc.scale(1.0), "y": gc.scale(2.0)}, gc.by_path([("embed", "x")], "y"))
    outer = gc.partition({"a": inner, "b": gc.chain()}, gc.by_path([("scale", "b")], "a"))
    rows = gc.describe(gc.chain(outer, gc.partition({"z": gc.scale(3.0)}, "z")), PARAMS).as_dict()
    assert rows["embed/embedding"]["labels"] == ("a.x", "z")
    assert rows["encoder/layers/0/mlp/kernel"]["labels"] == ("a.y", "z")
    assert rows["scale"]["labels"] == ("b", "z")


def test_shapes_are_enough():
    shapes = jax.eval_shape(lambda: PARAMS)
    assert gc.describe(TX, shapes) == gc.describe(TX, PARAMS)
    assert hash(gc.describe(TX, shapes)) == hash(gc.describe(TX, PARAMS))


def test_a_label_without_a_transform_is_an_error():
    with pytest.raises(ValueError, match="no transform for label 'c'"):
        gc.describe(gc.partition({"a": gc.sgd(0.1)}, lambda params: "c"), PARAMS)


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_table_keeps_to_its_width_and_shows_all(width):
    table = gc.describe(TX, PARAMS).table(width)
    lines = table.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].split() == ["path", "shape", "label", "transform", "state", "bytes"]
    for name in ("scale_by_adam", "add_decayed_weights", "trace"):
        assert name in table
    assert "encoder/layers/0/mlp/kernel" in table or width == 60
    assert "8 arrays, 1,201 numbers, " in table


def test_what_is_printed_is_as_wide_as_the_terminal(monkeypatch):
    described = gc.describe(TX, PARAMS)
    for width in (80, 160):
        monkeypatch.setenv("COLUMNS", str(width))
        assert str(described) == repr(described) == described.table(width)
    assert described.table(80) != described.table(160)


def test_the_label_column_is_left_out_where_there_are_none():
    lines = gc.describe(gc.adam(0.1), jnp.ones(3)).table(80).splitlines()
    assert lines == [
        "path         shape  transform                              state bytes",
        "-----------  -----  -------------------------------------  -----------",
        "(the array)  (3)    scale_by_adam, scale_by_learning_rate           24",
        "1 array, 3 numbers, 32 bytes of state, 8 of them shared",
    ]
    assert gc.describe(gc.sgd(0.1), {}).table(80).endswith("0 arrays, 0 numbers, 4 bytes of state, 4 of them shared")


def test_long_paths_keep_both_ends():
    params = {"a" * 50: {"b" * 50: np.ones(2, "float32")}}
    (row,) = [line for line in gc.describe(gc.sgd(0.1), params).table(60).splitlines() if "…" in line]
    assert row.startswith("aaa")
    assert row.split()[0].endswith("bbb")


def test_leaves_that_are_no_arrays_have_no_row():
    params = {"act": jax.nn.relu, "w": jnp.ones((4, 8))}
    described = gc.describe(gc.chain(gc.masked(gc.adam(0.1), {"act": False, "w": True})), params)
    assert [(row.path, row.state_bytes) for row in described.rows] == [("w", 256)]
    with pytest.raises(TypeError, match=r"parameter \['act'\] is .*; mask it out"):
        gc.describe(gc.adam(0.1), params)


def test_what_measurements_keep_belongs_to_no_parameter():
    params = {"kernel": jnp.ones((3, 2))}
    tx = gc.monitor({"norm": gc.measure_with_ema(gc.global_norm, 0.9)})
    description = gc.describe(tx, params)
    assert description.rows[0].state_bytes == 0
    assert (
        description.shared_bytes == description.state_bytes == sum(x.nbytes for x in jax.tree.leaves(tx.init(params)))
    )
