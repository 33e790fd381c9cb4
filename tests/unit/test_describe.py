"""describe: which stage does what, which parameter gets what, and how many bytes of state that costs."""

import html.parser
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

import gradchain as gc
from gradchain.introspect.paths import abstract_state
from tests import trees
from tests.contract.cases import each, secondary

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
    rows = gc.describe(TX, PARAMS).to_dict()["parameters"]
    assert rows["embed/embedding"] == {
        "path": "embed/embedding",
        "shape": [100, 8],
        "dtype": "float32",
        "labels": ["rest"],
        "transforms": ["clip_by_global_norm", "scale_by_adam", "add_decayed_weights", "scale_by_learning_rate"],
        "seen_as": "",
        "why": "",
        "state_bytes": 2 * 800 * 4,
    }
    assert rows["encoder/layers/1/mlp/kernel"]["transforms"] == [
        "clip_by_global_norm",
        "trace",
        "scale_by_learning_rate",
    ]
    assert rows["encoder/layers/1/mlp/kernel"]["labels"] == ["matrices"]
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
    assert described.state_bytes == described.bytes_per_device == bytes_of(tx.init(params))
    assert described.state_bytes == sum(row.state_bytes for row in described.rows) + described.shared_bytes
    assert described.parameters == gc.tree.size(params)
    assert [row.shape for row in described.rows] == [x.shape for x in jax.tree.leaves(params)]
    assert described.shared_bytes < 200


def test_slots_are_counted_to_their_parameters():
    params = {"w": jnp.ones((4, 8)), "b": jnp.ones(8)}
    for tx in (gc.adam(0.1), optax.adam(0.1), gc.inject_hyperparams(gc.adam)(0.1)):
        assert {row.path: row.state_bytes for row in gc.describe(tx, params).rows} == {"w": 256, "b": 64}
    factored = gc.describe(gc.scale_by_factored_rms(min_dim_size_to_factor=2), params).to_dict()["parameters"]
    assert factored["w"]["state_bytes"] == 4 * (4 + 8)
    single = gc.describe(gc.adam(0.1), jnp.ones(3))
    assert (single.rows[0].path, single.rows[0].state_bytes, single.shared_bytes) == ("", 24, 16)
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
    rows = gc.describe(gc.chain(outer, gc.partition({"z": gc.scale(3.0)}, "z")), PARAMS).to_dict()["parameters"]
    assert rows["embed/embedding"]["labels"] == ["a.x", "z"]
    assert rows["encoder/layers/0/mlp/kernel"]["labels"] == ["a.y", "z"]
    assert rows["scale"]["labels"] == ["b", "z"]


def test_shapes_are_enough():
    shapes = jax.eval_shape(lambda: PARAMS)
    assert gc.describe(TX, shapes) == gc.describe(TX, PARAMS)
    assert hash(gc.describe(TX, shapes)) == hash(gc.describe(TX, PARAMS))


def test_a_label_without_a_transform_is_an_error():
    with pytest.raises(ValueError, match="no transform for label 'c'"):
        gc.describe(gc.partition({"a": gc.sgd(0.1)}, lambda params: "c"), PARAMS)


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_table_keeps_to_its_width_and_shows_all(width):
    table = gc.describe(TX, PARAMS).table(width, by="parameter")
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
    lines = gc.describe(gc.adam(0.1), jnp.ones(3)).table(80, by="parameter").splitlines()
    assert lines == [
        "path         shape  transform                              state bytes",
        "-----------  -----  -------------------------------------  -----------",
        "(the array)  (3)    scale_by_adam, scale_by_learning_rate           24",
        "1 array, 3 numbers, 40 bytes of state, 16 of them shared",
    ]
    assert (
        gc.describe(gc.sgd(0.1), {})
        .table(80, by="parameter")
        .endswith("0 arrays, 0 numbers, 4 bytes of state, 4 of them shared")
    )


def test_long_paths_keep_both_ends():
    params = {"a" * 50: {"b" * 50: np.ones(2, "float32")}}
    (row,) = [line for line in gc.describe(gc.sgd(0.1), params).table(60, by="parameter").splitlines() if "…" in line]
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


SCHEDULED = gc.chain(gc.clip(1.0), gc.adamw(gc.linear_schedule(0.1, 0.02, 100), mask=NO_SCALAR, mu_dtype="bfloat16"))


def test_stages_tell_what_they_do_and_keep():
    stages = {stage["name"]: stage for stage in gc.describe(SCHEDULED, PARAMS).to_dict()["stages"]}
    assert list(stages) == ["clip", "scale_by_adam", "add_decayed_weights", "scale_by_learning_rate"]
    adam = stages["scale_by_adam"]
    assert adam["hyperparameters"] == {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 0.0}
    mu = {"name": "mu", "dtypes": ["bfloat16"], "arrays": 8, "bytes": 2 * 1201, "bytes_per_device": 2 * 1201}
    assert adam["slots"]["mu"] == mu
    assert adam["bytes"] == 3 * 4 + 2 * 1201 + 4 * 1201
    rate = stages["scale_by_learning_rate"]["hyperparameters"]["learning_rate"]
    assert rate == {"now": pytest.approx(0.1), "end": pytest.approx(0.02)}
    assert "scale" not in stages["add_decayed_weights"]["parameters"]
    assert len(stages["add_decayed_weights"]["parameters"]) == 7


def test_numbers_are_those_of_the_state_and_of_the_end_that_is_asked_for():
    params = trees.standard()
    tx = gc.accumulate(SCHEDULED, gc.linear_schedule(1, 5, 4))
    state = tx.init(params)
    for _ in range(6):
        _, state = tx.update(params, state, params)
    now = gc.hyperparams(tx, state)
    for stage in gc.describe(tx, params, state, steps=50).stages:
        for row in stage.hyperparameters:
            assert row.now == pytest.approx(float(now[f"{stage.name}.{row.name}"]))
    rate = gc.describe(tx, params, state, steps=50).stages[-1].hyperparameters[0]
    assert rate.end == pytest.approx(0.06)
    assert rate.now < 0.1


def test_where_numbers_are_kept_in_the_state():
    params = trees.standard()
    for tx, name in (
        (gc.hyperparams_in_state(gc.sgd(0.1)), "scale_by_learning_rate.learning_rate"),
        (gc.inject_hyperparams(gc.sgd)(gc.linear_schedule(0.1, 0.0, 10)), "learning_rate"),
    ):
        state = tx.init(params)
        state.hyperparams[name] = jnp.asarray(0.5)
        rows = {row.name: row for stage in gc.describe(tx, params, state).stages for row in stage.hyperparameters}
        assert rows["learning_rate"].now == pytest.approx(0.5 if "." in name else 0.1)


def test_batches_and_bare_callables():
    tx = gc.chain(gc.adam(jnp.ones(64)), gc.scale(lambda count: 2.0), gc.scale(0.5 * gc.constant_schedule(1.0)))
    rows = [stage.hyperparameters[0] for stage in gc.describe(tx, PARAMS).stages]
    assert [(row.now, row.end) for row in rows[1:]] == [("float32[64]", None), (2.0, None), (0.5, 0.5)]
    assert gc.describe(tx, PARAMS, steps=10).stages[2].hyperparameters[0].end == 2.0
    assert "step_size 2 → ?" in gc.describe(tx, PARAMS).table(160)


WARMUP = gc.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 1000)
CYCLES = [{"init_value": 0, "peak_value": peak, "warmup_steps": 10, "decay_steps": 50} for peak in (1, 3, 2)]
COURSES = {
    "warmup": (WARMUP, {"max": 1e-3}),
    "a short warmup before three million steps": (
        gc.warmup_cosine_decay_schedule(0.0, 0.1, 3, 3_000_000),
        {"max": 0.1},
    ),
    "a late peak": (gc.cosine_onecycle_schedule(2_000_003, 0.1, pct_start=0.9), {"max": 0.1}),
    "restarts": (gc.sgdr_schedule(CYCLES), {"max": 3.0}),
    "up and down": (gc.piecewise_constant_schedule(0.1, {10: 5.0, 20: 0.02}), {"max": 0.5}),
    "down and up": (gc.piecewise_constant_schedule(0.1, {10: 0.02, 20: 50.0}), {"min": 0.002}),
    "negative": (-1.0 * WARMUP, {"min": -1e-3}),
    "both": (
        gc.join_schedules([0.1, gc.linear_schedule(0.5, 0.01, 1000), 0.2], [10, 50_000]),
        {"min": 0.01, "max": 0.5},
    ),
    "falling": (gc.linear_schedule(0.1, 0.02, 100), {}),
    "without an end": (gc.inverse_sqrt_schedule(0.0, 0.1, 4000), {"max": 0.1}),
    "constant": (gc.constant_schedule(0.1), {}),
    "its peak is a schedule": (gc.warmup_constant_schedule(0.0, gc.linear_schedule(1.0, 0.0, 20), 10), {"max": 0.5}),
}


@pytest.mark.parametrize("steps", [None, 4_000_000])
@pytest.mark.parametrize("name", COURSES)
def test_how_far_a_schedule_goes_is_shown(name, steps):
    schedule, beyond = COURSES[name]
    description = gc.describe(gc.scale(schedule), PARAMS, steps=steps)
    (number,) = description.to_dict()["stages"][0]["hyperparameters"].values()
    found = {k: number[k] for k in number if k not in ("now", "end")}
    assert found == {k: pytest.approx(v, rel=1e-5) for k, v in beyond.items()}
    shown = ", ".join(f"{k} {v:g}" for k, v in beyond.items())
    assert (f"({shown})" if shown else "→") in description.table(160)
    assert ("(" in description.table(160)) == bool(shown)


@pytest.mark.parametrize(("steps", "beyond"), [(50, {}), (101, {"max": 1e-3}), (500, {"max": 1e-3})])
def test_a_peak_is_looked_for_up_to_the_end_that_is_asked_for(steps, beyond):
    row = gc.describe(gc.scale(WARMUP), PARAMS, steps=steps).stages[0].hyperparameters[0]
    assert row.largest == (pytest.approx(1e-3) if beyond else None)


@pytest.mark.parametrize("function", [lambda count: jnp.sin(count / 10), lambda count: math.sin(int(count) / 10)])
def test_a_bare_callable_is_followed_as_far_as_is_asked_for(function):
    row = gc.describe(gc.scale(function), PARAMS, steps=60).stages[0].hyperparameters[0]
    assert (row.smallest, row.largest) == pytest.approx((math.sin(4.7), math.sin(1.6)))
    assert gc.describe(gc.scale(function), PARAMS).stages[0].hyperparameters[0].largest is None


@each(slow=secondary)
def test_every_row_has_a_report(row):
    tx, params = row.build(), trees.standard()
    described = tx.describe(params)
    assert described.state_bytes == bytes_of_shapes(abstract_state(tx, params))
    assert described.state_bytes == sum(x.state_bytes for x in described.rows) + described.shared_bytes
    assert max(map(len, described.table(80).splitlines())) <= 80
    json.dumps(described.to_dict(), allow_nan=True)


def bytes_of_shapes(shapes):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))


def test_the_table_of_stages():
    assert gc.describe(SCHEDULED, PARAMS).table(80).splitlines() == [
        "stage                   hyperparameters, slots               arrays  state bytes",
        "----------------------  -----------------------------------  ------  -----------",
        "clip                    max_delta 1                          all 8             4",
        "                        count int32",
        "scale_by_adam           b1 0.9, b2 0.999, eps 1e-08,         all 8         7,218",
        "                        eps_root 0",
        "                        count int32, weight_sums float32,",
        "                        mu bfloat16, nu float32",
        "add_decayed_weights     weight_decay 0.0001                  7 of 8            4",
        "                        count int32",
        "scale_by_learning_rate  learning_rate 0.1 → 0.02             all 8             4",
        "                        count int32",
        "8 arrays, 1,201 numbers, 7,230 bytes of state, 24 of them shared",
    ]
    wide = gc.describe(SCHEDULED, PARAMS).table(160).splitlines()
    assert len(wide) == 2 + 4 + 1
    assert (
        "b1 0.9, b2 0.999, eps 1e-08, eps_root 0  count int32, weight_sums float32, mu bfloat16, nu float32  all 8 "
        in wide[3]
    )


@pytest.mark.parametrize("width", [60, 80, 160])
def test_tables_of_nests_keep_to_their_width(width):
    deep = gc.watch(gc.lookahead(gc.partition({"all": gc.accumulate(TX, 2)}, "all"), 5, 0.5))
    for described in (gc.describe(deep, PARAMS), gc.describe(gc.identity(), {})):
        for by in ("stage", "parameter"):
            assert max(map(len, described.table(width, by).splitlines())) <= width
    with pytest.raises(ValueError, match="by must be 'stage' or 'parameter', got 'layer'"):
        described.table(width, "layer")


def test_the_method_is_the_function():
    assert TX.describe(PARAMS) == gc.describe(TX, PARAMS)


def sharded(shape, *axes):
    sharding = NamedSharding(AbstractMesh((4,), ("data",)), PartitionSpec(*axes))
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)


def test_bytes_on_each_device():
    params = {"kernel": sharded((8, 4), "data"), "bias": sharded((4,))}
    described = gc.describe(gc.adam(0.1), params)
    assert described.state_bytes == 2 * 4 * (32 + 4) + 16
    assert described.bytes_per_device == 2 * 4 * (8 + 4) + 16
    assert described.to_dict()["totals"]["bytes_per_device"] == described.bytes_per_device
    assert "on a device" in described.table(80)
    assert "112 on each device" in described.table(80)
    factored = gc.describe(gc.adafactor(0.1, 2), params)
    assert factored.bytes_per_device == factored.state_bytes


def test_bytes_on_each_device_by_given_shardings():
    tx, params = gc.adam(0.1), {"kernel": jnp.ones((8, 4))}
    mesh = AbstractMesh((4,), ("data",))
    shape = jax.eval_shape(tx.init, params)
    shardings = jax.tree.map(lambda x: NamedSharding(mesh, PartitionSpec("data") if x.ndim else PartitionSpec()), shape)
    assert gc.describe(tx, params, shardings=shardings).bytes_per_device == 2 * 4 * 8 + 16
    with pytest.raises(ValueError, match="describe: shardings must be like the state of chain"):
        gc.describe(tx, params, shardings=shardings[0])
    with pytest.raises(ValueError, match="describe: state must be like the state of chain"):
        gc.describe(tx, params, gc.sgd(0.1).init(params))


class Cells(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.cells = [], []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.cells.append(data)


def test_html():
    params = {"<script>": jnp.ones(2)}
    parser = Cells()
    parser.feed(gc.describe(gc.named_chain(("a&b", gc.sgd(0.1))), params)._repr_html_())
    assert not parser.open
    assert "a&b.scale_by_learning_rate" in parser.cells
    assert "<script>" in parser.cells
    assert "learning_rate\N{NO-BREAK SPACE}0.1" in parser.cells
