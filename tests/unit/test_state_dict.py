"""State dicts: addresses, and what survives what people do between two runs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from tests import states, trees

PARAMS = {"body": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}, "head": jnp.ones(2)}


def saved(tx, params=PARAMS):
    return gc.to_state_dict(tx, states.filled(tx, params))


def carried(old, new, params=PARAMS, **options):
    """Return the dict of what ``new`` starts with, given what ``old`` left."""
    return gc.to_state_dict(new, gc.from_state_dict(new, params, saved(old), **options))


def assert_kept(result, before, names):
    assert names
    for new, old in names.items():
        np.testing.assert_array_equal(result[new], before[old], strict=True)


def test_addresses():
    tx = gc.chain(
        gc.trace(0.9),
        gc.accumulate(gc.trace(0.5), 2),
        gc.partition({"a": gc.adam(0.1), "b": gc.sgd(0.1)}, gc.by_path([("kernel", "a")], "b")),
    )
    assert list(gc.state_paths(tx, states.filled(tx, PARAMS)))[:4] == [
        "trace/count",
        "trace/trace/body/bias",
        "trace/trace/body/kernel",
        "trace/trace/head",
    ]
    paths = gc.state_paths(tx, states.filled(tx, PARAMS))
    assert {"trace_2/count", "accumulate/acc_grads/head", "a.scale_by_adam/mu/body/kernel"} < paths.keys()
    assert "a.scale_by_adam/mu/head" not in paths


def test_addresses_are_in_the_order_of_the_state():
    tx = gc.schedule_free_adamw(0.1)
    state = states.filled(tx, PARAMS)
    paths = gc.state_paths(tx, state)
    named = jax.tree.structure(state).unflatten(paths)
    assert named.z["body"]["kernel"] == "schedule_free/z/body/kernel"
    states.assert_same(jax.tree.structure(state).unflatten(paths.values()), state)


def test_a_single_array_and_a_factored_slot():
    tx = gc.adafactor(0.1, 2)
    assert "scale_by_factored_rms/v/0" not in gc.state_paths(tx, tx.init(jnp.ones(3)))
    assert list(gc.state_paths(gc.trace(0.9), gc.trace(0.9).init(jnp.ones(3)))) == ["trace/count", "trace/trace"]


def test_names_of_another_librarys_states():
    mixed = gc.chain(optax.adam(0.1), gc.adam(0.1), gc.named_chain(("x", optax.trace(0.9))))
    paths = gc.state_paths(mixed, states.filled(mixed, PARAMS))
    assert {"scale_by_adam/mu/head", "scale_by_adam_2/mu/head", "x.trace/trace/head"} < paths.keys()
    assert gc.hyperparams(mixed).keys() >= {"scale_by_adam.b1"}
    ours = gc.chain(gc.scale_by_adam(), optax.scale(-0.1))
    theirs = gc.chain(optax.scale_by_adam(), optax.scale(-0.1))
    assert_kept(carried(theirs, ours), saved(theirs), {a: a for a in saved(theirs)})


def test_a_foreign_state_without_names():
    class Tuple:
        def init(self, params):
            return (jnp.zeros(()), params)

        def update(self, updates, state, params=None):
            return updates, state

    tx = gc.chain(Tuple(), Tuple())
    assert list(gc.state_paths(tx, tx.init(jnp.ones(2)))) == [
        *("from_optax/0", "from_optax/1"),
        *("from_optax_2/0", "from_optax_2/1"),
    ]


def test_names_inside_inject_hyperparams_are_those_outside():
    tx = gc.chain(gc.inject_hyperparams(gc.lookahead)(gc.adam(0.1), 2, 0.5), gc.inject_hyperparams(gc.adam)(0.1))
    paths = gc.state_paths(tx, states.filled(tx, PARAMS))
    assert {
        "inject_hyperparams/hyperparams/slow_step_size",
        "outer_steps/slow/head",
        "scale_by_adam/mu/head",
        "outer.scale/count",
        "inject_hyperparams_2/count",
        "scale_by_adam_2/mu/head",
    } < paths.keys()


def test_keys_that_look_alike_have_different_addresses():
    params = {"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(2)}
    tx = gc.sgd(0.1, 0.9)
    assert {"trace/trace/a/b", "trace/trace/a/b_2"} < saved(tx, params).keys()
    states.assert_same(gc.from_state_dict(tx, params, saved(tx, params)), states.filled(tx, params))


def test_the_version_is_an_entry():
    assert saved(gc.adam(0.1))["schema_version"] == 1


def test_prng_keys_are_plain_data():
    tx = gc.inject_hyperparams(lambda rate: gc.sgd(rate))(0.1)
    state = gc.hyperparams_in_state(gc.noisy_sgd(0.1, key=jax.random.key(3)))
    values = gc.to_state_dict(state, state.init(PARAMS))
    assert all(isinstance(np.asarray(x), np.ndarray) for x in values.values())
    restored = gc.from_state_dict(state, PARAMS, {k: np.asarray(v) for k, v in values.items()})
    key = restored.hyperparams["add_noise.key"]
    assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(jax.random.key(3)))
    assert "inject_hyperparams/hyperparams/rate" in gc.to_state_dict(tx, tx.init(PARAMS))


def test_shapes_make_a_dict_of_shapes():
    tx = gc.hyperparams_in_state(gc.noisy_sgd(0.1, key=jax.random.key(3)))
    abstract = gc.to_state_dict(tx, jax.eval_shape(tx.init, PARAMS))
    concrete = gc.to_state_dict(tx, tx.init(PARAMS))
    assert {k: (x.shape, x.dtype) for k, x in abstract.items()} == {k: (x.shape, x.dtype) for k, x in concrete.items()}


def test_something_in_a_state_that_is_no_array():
    class Odd:
        def init(self, params):
            return {"note": "text"}

        def update(self, updates, state, params=None):
            return updates, state

    with pytest.raises(TypeError, match="from_optax/note is str, not an array"):
        gc.to_state_dict(Odd(), {"note": "text"})


def test_stages_may_be_inserted_removed_and_reordered():
    old = gc.chain(gc.clip_by_global_norm(1.0), gc.scale_by_adam(), gc.trace(0.9), gc.scale_by_learning_rate(0.1))
    new = gc.chain(gc.trace(0.8), gc.scale_by_rss(), gc.scale_by_adam(), gc.scale_by_learning_rate(0.1))
    result = carried(old, new, missing="init", unexpected="drop")
    stays = [a for a in saved(old) if not a.startswith("clip_by")]
    assert_kept(result, saved(old), {a: a for a in stays})
    np.testing.assert_array_equal(result["scale_by_rss/sum_of_squares/head"], [np.float32(0.1)] * 2)


def test_a_number_may_become_a_schedule():
    result = carried(
        gc.adamw(0.1), gc.adamw(gc.cosine_decay_schedule(0.1, 10), weight_decay=gc.linear_schedule(0, 1, 9))
    )
    assert_kept(result, saved(gc.adamw(0.1)), {a: a for a in result})


def test_layers_may_be_added_and_removed():
    tx, more = gc.adam(0.1), PARAMS | {"new": jnp.ones((2, 2))}
    with pytest.raises(
        ValueError, match=r"2 entries .*\n  scale_by_adam/mu/new: expected float32\[2, 2\], got nothing"
    ):
        gc.from_state_dict(tx, more, saved(tx))
    state = gc.from_state_dict(tx, more, saved(tx), missing="init")
    assert float(jnp.sum(state[0].mu["new"])) == 0
    states.assert_same(state[0].nu["body"], states.filled(tx, PARAMS)[0].nu["body"])
    with pytest.raises(ValueError, match=r"2 entries .*\n  scale_by_adam/mu/new: unexpected float32\[2, 2\]"):
        gc.from_state_dict(tx, PARAMS, gc.to_state_dict(tx, state))
    back = gc.from_state_dict(tx, PARAMS, gc.to_state_dict(tx, state), unexpected="drop")
    states.assert_same(back, states.filled(tx, PARAMS))


def test_layers_may_be_frozen():
    frozen = gc.selective_transform(gc.adam(0.1), freeze_mask=gc.by_path([("body", True)], False))
    with pytest.raises(ValueError, match=r"rename=\{'scale_by_adam': 'train.scale_by_adam'\}"):
        carried(gc.adam(0.1), frozen)
    result = carried(gc.adam(0.1), frozen, rename={"": "train."}, unexpected="drop")
    names = {a: a.removeprefix("train.") for a in result}
    assert_kept(result, saved(gc.adam(0.1)), names)
    assert {a for a in result if "body" in a} == set()
    back = carried(frozen, gc.adam(0.1), rename={"train.": ""}, missing="init")
    assert_kept(back, saved(frozen), {name: a for a, name in names.items() if name != "schema_version"})


def test_one_stage_may_become_two():
    routed = gc.partition({"k": gc.adam(0.1), "rest": gc.adam(0.2)}, gc.by_path([("kernel", "k")], "rest"))
    both = {name: (f"k.{name}", f"rest.{name}") for name in ("scale_by_adam", "scale_by_learning_rate")}
    result = carried(gc.adam(0.1), routed, rename=both, unexpected="drop")
    names = {a: a.removeprefix("k.").removeprefix("rest.") for a in result}
    assert_kept(result, saved(gc.adam(0.1)), names)
    state = gc.from_state_dict(routed, PARAMS, saved(gc.adam(0.1)), rename=both, unexpected="drop")
    buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state)]
    assert len(set(buffers)) == len(buffers)


def test_an_array_may_be_renamed():
    tx = gc.sgd(0.1, 0.9)
    other = {"body": PARAMS["body"], "tail": PARAMS["head"]}
    state = gc.from_state_dict(tx, other, saved(tx), rename={"trace/trace/head": "trace/trace/tail"})
    np.testing.assert_array_equal(state[0].trace["tail"], states.filled(tx, PARAMS)[0].trace["head"])


def test_renaming_what_isnt_there_or_twice_is_an_error():
    tx = gc.sgd(0.1, 0.9)
    with pytest.raises(
        ValueError, match="rename: no entry is or begins with 'trce'; the first entries are trace/count"
    ):
        gc.from_state_dict(tx, PARAMS, saved(tx), rename={"trce": "trace"})
    with pytest.raises(ValueError, match="two entries are called 'trace/count'"):
        gc.from_state_dict(tx, PARAMS, saved(tx), rename={"scale_by_learning_rate": "trace"})


@pytest.mark.parametrize(("missing", "unexpected"), [("init", "error"), ("error", "drop")])
def test_a_second_stage_of_one_name_has_to_be_told_apart(missing, unexpected):
    one, two = gc.chain(gc.trace(0.9)), gc.chain(gc.trace(0.5), gc.trace(0.9))
    old, new = (one, two) if missing == "init" else (two, one)
    names = ("trace", "trace_2") if missing == "init" else ("trace_2", "trace")
    options = {"missing": missing, "unexpected": unexpected}
    with pytest.raises(ValueError, match=r"trace.*: the dict has trace.*; say which is which"):
        carried(old, new, **options)
    if missing == "init":
        result = carried(old, new, rename=dict([names]), **options)
        assert_kept(result, saved(old), {"trace_2/trace/head": "trace/trace/head"})
        assert float(jnp.sum(result["trace/trace/head"])) == 0
    else:
        result = carried(old, new, rename={"trace_2": "trace", "trace": ()}, **options)
        assert_kept(result, saved(old), {"trace/trace/head": "trace_2/trace/head"})


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_slot_may_change_its_dtype(dtype):
    wide, narrow = gc.adam(0.1), gc.adam(0.1, mu_dtype=dtype)
    result = carried(wide, narrow)
    assert result["scale_by_adam/mu/head"].dtype == dtype
    np.testing.assert_array_equal(
        np.asarray(result["scale_by_adam/mu/head"], "float32"), saved(wide)["scale_by_adam/mu/head"]
    )
    back = carried(narrow, wide)
    assert back["scale_by_adam/mu/head"].dtype == jnp.float32


def test_what_a_dtype_cant_hold_is_an_error():
    tx = gc.adam(0.1, mu_dtype="float16")
    large = saved(gc.adam(0.1)) | {"scale_by_adam/mu/head": jnp.full(2, 1e6)}
    with pytest.raises(ValueError, match=r"mu/head: expected float16\[2\], got float32\[2\] with numbers that float16"):
        gc.from_state_dict(tx, PARAMS, large)
    infinite = saved(gc.adam(0.1)) | {"scale_by_adam/mu/head": jnp.full(2, jnp.inf)}
    assert np.isinf(gc.from_state_dict(tx, PARAMS, infinite)[0].mu["head"]).all()


def test_bfloat16_comes_back_from_numpys_files(tmp_path):
    tx = gc.adam(0.1, mu_dtype="bfloat16")
    np.savez(tmp_path / "state.npz", **saved(tx))
    with np.load(tmp_path / "state.npz") as loaded:
        states.assert_same(gc.from_state_dict(tx, PARAMS, loaded), states.filled(tx, PARAMS))


def test_counts_change_their_width(x64):
    tx = gc.adam(0.1)
    wide = {k: np.asarray(x, np.int64) if "count" in k else x for k, x in saved(tx).items()}
    assert gc.from_state_dict(tx, PARAMS, wide)[0].count.dtype == jnp.int32


def test_arrays_are_taken_over_where_they_fit():
    tx = gc.sgd(0.1, 0.9)
    entries = saved(tx)
    state = gc.from_state_dict(tx, PARAMS, entries)
    assert state[0].trace["head"] is entries["trace/trace/head"]
    numpy = {k: np.array(x) for k, x in entries.items()}
    state = gc.from_state_dict(tx, PARAMS, numpy)
    numpy["trace/trace/head"][:] = -1
    states.assert_same(state, states.filled(tx, PARAMS))


def test_it_can_be_traced():
    tx = gc.adam(0.1)
    entries = {k: x for k, x in saved(tx).items() if k != "schema_version"}
    load = jax.jit(lambda entries: gc.from_state_dict(tx, PARAMS, {"schema_version": 1, **entries}))
    states.assert_same(load(entries), states.filled(tx, PARAMS))


def test_shapes_are_enough_unless_something_is_missing():
    tx, shapes = gc.adam(0.1), jax.eval_shape(lambda: PARAMS)
    states.assert_same(gc.from_state_dict(tx, shapes, saved(tx)), states.filled(tx, PARAMS))


def test_modes_are_checked():
    for option in ({"missing": "zeros"}, {"unexpected": "ignore"}):
        with pytest.raises(ValueError, match="must be one of"):
            gc.from_state_dict(gc.adam(0.1), PARAMS, saved(gc.adam(0.1)), **option)


def test_a_run_goes_on_as_if_it_had_not_been_interrupted():
    tx = gc.accumulate(gc.chain(gc.clip_by_global_norm(1.0), gc.adamw(gc.cosine_decay_schedule(0.1, 9))), 2)
    params, gradients = trees.standard(), trees.stream(8)
    step = jax.jit(tx.update)

    def run(params, state, steps):
        for k in steps:
            updates, state = step(trees.at(gradients, k), state, params)
            params = gc.apply_updates(params, updates)
        return params, state

    half = run(params, tx.init(params), range(4))
    restored = gc.from_state_dict(tx, params, {k: np.asarray(x) for k, x in gc.to_state_dict(tx, half[1]).items()})
    states.assert_same(run(half[0], restored, range(4, 8)), run(*half, range(4, 8)))


ODD_NAMES = [
    "\0",
    "a\0b",
    "a\0",
    "\ud800",
    "/",
    "a/b",
    "\\",
    "..",
    ".",
    "",
    "a\nb",
    "mu",
    "schema_version",
    "x" * 300,
    "\\x00",
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_a_parameter_may_have_any_name(name, tmp_path):
    params = {name: jnp.ones(2), "a": {name: jnp.ones(3)}, "b": jnp.ones(4)}
    tx = gc.named_chain((name, gc.adam(0.1)))
    state = states.filled(tx, params)
    saved = gc.to_state_dict(tx, state)
    np.savez(tmp_path / "state.npz", **saved)
    (tmp_path / "state.json").write_text(json.dumps({k: np.asarray(x).tolist() for k, x in saved.items()}), "utf-8")
    with np.load(tmp_path / "state.npz") as loaded:
        states.assert_same(gc.from_state_dict(tx, params, loaded), state)
    back = json.loads((tmp_path / "state.json").read_text("utf-8"))
    states.assert_same(gc.from_state_dict(tx, params, back), state)
    for address in saved:
        address.encode()
        assert "\0" not in address


def test_names_that_differ_only_in_what_is_escaped_have_different_addresses():
    tx, params = gc.adam(0.1), {"a\0": jnp.ones(2), "a\\x00": jnp.ones(3), "a": jnp.ones(4)}
    state = states.filled(tx, params)
    saved = gc.to_state_dict(tx, state)
    assert len(saved) == 1 + len(jax.tree.leaves(state))
    states.assert_same(gc.from_state_dict(tx, params, saved), state)


def test_an_entry_that_a_file_cant_give_is_named(tmp_path):
    tx, params = gc.adam(0.1), {"w": jnp.ones(2)}
    saved = gc.to_state_dict(tx, tx.init(params)) | {"scale_by_adam/mu/w": np.array([object(), object()])}
    np.savez(tmp_path / "state.npz", **saved)
    with np.load(tmp_path / "state.npz") as loaded, pytest.raises(ValueError, match="scale_by_adam/mu/w can't be read"):
        gc.from_state_dict(tx, params, loaded)
