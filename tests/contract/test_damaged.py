"""State dicts and configs that are corrupt, truncated, renamed or foreign: each is an error that says what is wrong."""

import copy
import tracemalloc

import jax
import numpy as np
import pytest

import gradchain as gc
from gradchain.core.transform import Transform
from gradchain.introspect import parse
from gradchain.introspect.paths import abstract_state
from tests import states, trees

PARAMS = trees.standard()
LABELS = gc.by_path([("bias", "plain")], default="decay")
OPTIMIZERS = {
    "adamw": gc.adamw(gc.cosine_decay_schedule(0.1, 10), mu_dtype="bfloat16"),
    "routed": gc.partition({"decay": gc.adafactor(0.1, 2), "plain": gc.noisy_sgd(0.1)}, LABELS),
    "wrapped": gc.accumulate(gc.schedule_free(gc.apply_if_finite(gc.sgd(0.1, 0.9), 3), 0.1), 2),
    "steered": gc.hyperparams_in_state(gc.named_chain(("clip", gc.clip_by_global_norm(1.0)), ("adam", gc.adam(0.1)))),
}


class NotAnArray:
    """Something that NumPy can't read."""

    def __array__(self, *args, **kwargs):
        raise RuntimeError("no numbers here")


def in_place_of(x):
    """Yield (what it is, a thing that can't stand in the place of the array ``x``)."""
    x = np.asarray(x)
    yield "more axes", np.stack([x, x])
    yield "longer", np.concatenate([np.ravel(x), np.ravel(x)])
    yield "another kind", np.ones(x.shape, np.complex64)
    yield "no number", np.full(x.shape, "one")
    yield "an object", NotAnArray()
    yield "nothing", None
    yield "shapes", jax.ShapeDtypeStruct(x.shape, x.dtype)
    if x.ndim:
        yield "shorter", x[:-1]
    if x.ndim == 2:
        yield "transposed", x.T
    if np.issubdtype(x.dtype, np.integer):
        yield "beyond the range", np.full(x.shape, 2**40)
    if str(x.dtype) == "float32":
        yield "beyond the range", np.full(x.shape, 1e300)


def damaged_dicts(saved):
    """Yield (dict, what its error names)."""
    addresses = [address for address in saved if address != "schema_version"]
    for k, address in enumerate(addresses):
        yield {k: v for k, v in saved.items() if k != address}, f"{address}: expected .*, got nothing"
        yield {k if k != address else f"{k}_old": v for k, v in saved.items()}, f"{address}_old: unexpected"
        for _, x in list(in_place_of(saved[address]))[k % 3 :: 3]:
            yield saved | {address: x}, f"{address}: expected .*, got "
    yield saved | {"ema/ema/kernel": np.ones(2)}, r"ema/ema/kernel: unexpected float64\[2\]"
    yield dict(list(saved.items())[: len(saved) // 2]), "can't be carried over"
    yield {k: v for k, v in saved.items() if k != "schema_version"}, "no entry 'schema_version'"
    for version in (0, 2, 1.5, "1", None, [1], True):
        yield saved | {"schema_version": version}, "schema_version must be 1"


FOREIGN = [
    *({}, {"state": {0: {"step": 1}}, "param_groups": []}, {"params": PARAMS}, {"count": np.ones(())}),
    *(None, [], "state.npz", 3.0, (np.ones(3),), {1: np.ones(3)}, PARAMS),
]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_damaged_state_dicts(name):
    tx = OPTIMIZERS[name]
    saved = gc.to_state_dict(tx, states.filled(tx, PARAMS))
    number = 0
    for damaged, problem in damaged_dicts(saved):
        kept = dict(damaged)
        with pytest.raises(ValueError, match=problem):
            gc.from_state_dict(tx, PARAMS, damaged)
        assert all(damaged[key] is x for key, x in kept.items())
        assert len(damaged) == len(kept)
        number += 1
    assert number > 50
    states.assert_same(gc.from_state_dict(tx, PARAMS, saved), states.filled(tx, PARAMS))


@pytest.mark.parametrize("foreign", FOREIGN, ids=repr)
def test_foreign_state_dicts(foreign):
    with pytest.raises((TypeError, ValueError), match=r"from_state_dict: (this isn't a dict from|the state dict)"):
        gc.from_state_dict(gc.adam(0.1), PARAMS, foreign)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_of_other_transforms_are_refused(name):
    for other, tx in OPTIMIZERS.items():
        if other != name:
            with pytest.raises(ValueError, match="state_paths: the state isn't one of"):
                gc.to_state_dict(tx, abstract_state(OPTIMIZERS[name], PARAMS))


def nodes(config, path=""):
    """Yield (path, dict or list) for each node of a config, by reference."""
    items = config.items() if isinstance(config, dict) else enumerate(config)
    yield path, config
    for key, x in items:
        if isinstance(x, dict | list):
            inner = f"{path}[{key}]" if isinstance(config, list) else f"{path}.{key}" if path else key
            yield from nodes(x, inner)


def damages(node):
    """Yield changes to one node of a config, each as (key, new value), and what the error says of it."""
    if "name" not in node or not isinstance(node["name"], str):
        return
    yield "name", "os.system", "no public constructor 'os.system'"
    yield "name", node["name"] + "x", "did you mean"
    yield "name", "__import__", "no public constructor"
    yield "name", 3, "no public constructor 3"
    yield "learnin_rate", 0.1, "has no such field"
    for key, x in node.items():
        if isinstance(x, bool):
            yield key, "yes", f"{key} must be True or False, got 'yes'"
        elif isinstance(x, float):
            yield key, "0.1", f"{key} must be a number"
            yield key, float("nan"), f"{key} must be "
            yield key, True, f"{key} must be a number"
            yield key, {"name": "adam", "learning_rate": 0.1}, f"{key} must be a number"
            yield key, {"function": "tree.add"}, f"{key} must be a number or a schedule"
            yield key, {"function": "os.system"}, f"{key}.function: gradchain has no public function"
            yield key, {"value": 0.1}, f"{key} is a dict without a name"
            yield key, object(), f"{key} is object"
            yield key, -1e400, f"{key} must be in"
        elif key in ("tx", "inner", "base_optimizer"):
            yield key, 0.1, "expected a transform .*, got 0.1"
            yield key, None, "expected a transform"
            yield key, {"name": "constant_schedule", "value": 0.1}, "expected a transform"
        elif key == "stages":
            yield key, {}, f"{key} is a dict without a name"
            yield key, [0.1], r"stages\[0\] must be a "
            yield key, "adam", "stages must be a list"


def damaged_configs(config):
    """Yield (config, what its error says) for every damage to every node."""
    for path, node in nodes(config):
        for key, value, problem in damages(node) if isinstance(node, dict) else ():
            damaged = copy.deepcopy(config)
            dict(nodes(damaged))[path][key] = value
            yield damaged, path, problem
        for key in [key for key in node if key in REQUIRED.get(node.get("name"), ())] if isinstance(node, dict) else ():
            damaged = copy.deepcopy(config)
            del dict(nodes(damaged))[path][key]
            yield damaged, path, f"{key} is missing, which {node['name']} needs"


REQUIRED = {
    "chain": ("stages",),
    "accumulate": ("tx", "every"),
    "partition": ("transforms", "param_labels"),
    "hyperparams_in_state": ("tx",),
    "cosine_decay_schedule": ("init_value", "decay_steps"),
    "trace": ("decay",),
    "by_path": ("patterns",),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_damaged_configs(name):
    config = gc.to_config(OPTIMIZERS[name])
    number = 0
    for damaged, path, problem in damaged_configs(config):
        kept = copy.deepcopy(damaged)
        with pytest.raises(ValueError, match=problem) as caught:
            gc.from_config(damaged)
        assert f"from_config: {path or ''}" in str(caught.value)
        assert repr(damaged).replace("object at", "") == repr(kept) or "object object" in repr(damaged)
        number += 1
    assert number > 30
    assert gc.from_config(config) == OPTIMIZERS[name]


FOREIGN_CONFIGS = [
    *(None, [], "adam", 3, object(), gc.adam(0.1), {}, {"version": 1}, {"version": 2, "name": "identity"}),
    *({"version": True, "name": "identity"}, {"version": "1", "name": "identity"}, {"model_type": "bert"}),
    *({"name": "by_path", "patterns": []}, {"number": "inf"}, {"function": "global_norm"}, {"tree": [True]}),
    *({"lr": 0.1, "betas": [0.9, 0.999]}, {1: 2}, {"array": [1.0], "dtype": "float32"}, {"name": "global_norm"}),
    *({"name": "from_optax", "tx": 1}, {"name": "set_hyperparams"}, {"name": ["adam"]}, {"name": {"a": 1}}),
]


@pytest.mark.parametrize("foreign", FOREIGN_CONFIGS, ids=range(len(FOREIGN_CONFIGS)))
def test_foreign_configs(foreign):
    with pytest.raises(ValueError, match=r"^from_config: "):
        gc.from_config(foreign)


VALUES = [
    ({"operator": "**", "left": 1.0, "right": 2.0}, r"learning_rate.operator must be one of \+ - \* /, got '\*\*'"),
    ({"operator": "+", "left": 1.0}, "learning_rate.right is missing"),
    ({"operator": "+", "left": {"function": "tree.add"}, "right": 1.0}, "learning_rate.left must be a number or a sch"),
    ({"operator": "+", "left": "a", "right": 1.0}, "learning_rate .*must be a number"),
    ({"number": "infinity"}, "learning_rate.number must be 'inf' or '-inf'"),
    ({"number": "inf", "more": 1}, "learning_rate.more: number has no such field"),
    ({"array": [0.1, [0.2]], "dtype": "float32"}, "learning_rate .*inhomogeneous"),
    ({"array": [0.1], "dtype": "float7"}, "learning_rate .*float7"),
    ({"array": [-0.1], "dtype": "float32"}, r"learning_rate must be in \[0, inf\]"),
    ({"array": [0.1]}, "learning_rate.dtype is missing"),
    ({"key": [0, 1], "impl": "threefry2x32"}, "learning_rate .*PRNGKey"),
    ({"key": [0, 1], "impl": "rot13"}, "learning_rate .*rot13"),
    ({"key": ["a"], "impl": "threefry2x32"}, "learning_rate "),
    ({"tree": {"a": 0.1}}, "learning_rate.tree.a must be a tree"),
    ({"tree": {"dimensions": [0.5, 1]}}, "dimensions that aren't whole numbers"),
    ({"function": "tree.add", "arguments": 3}, "arguments must be a list"),
    ({"function": "tree.add", "keywords": []}, "keywords a dict"),
    ({"name": "linear_schedule", "init_value": 1.0}, "learning_rate.end_value is missing, which linear_schedule needs"),
    ([0.1], "learning_rate must be a number"),
    (10**400, "learning_rate must be real"),
]


@pytest.mark.parametrize(("value", "problem"), VALUES, ids=lambda x: str(x)[:40])
def test_damaged_values(value, problem):
    with pytest.raises(ValueError, match=problem):
        gc.from_config({"name": "adam", "learning_rate": value})


def inside(value):
    return {"name": "adam", "learning_rate": value}


def within(value, times):
    for _ in range(times):
        value = [value]
    return value


TOO_MUCH = {
    "a dtype of a gigabyte": (
        {"array": [1.0], "dtype": "S1000000000"},
        "learning_rate is an array of dtype 'S1000000000'",
    ),
    "a dtype with a shape": ({"array": [1.0], "dtype": "(100000000,)f4"}, "learning_rate is an array of dtype"),
    "a dtype of fields": (
        {"array": [1.0], "dtype": {"names": ["a"], "formats": ["S1000000000"]}},
        "learning_rate is an",
    ),
    "objects": ({"array": [1.0], "dtype": "O"}, "learning_rate is an array of dtype 'O'"),
    "text for numbers": ({"array": ["0.1"], "dtype": "float32"}, "learning_rate must hold numbers, got '0.1'"),
    "nothing for a number": ({"array": [None], "dtype": "float32"}, "learning_rate must hold numbers, got None"),
    "a long name": ({"name": "x" * 10**7}, r"learning_rate\.name is a string of 10,000,000 characters"),
    "a long key": ({"x" * 10**7: 1}, r"learning_rate is a string of 10,000,000 characters"),
    "a long word": ({"number": "x" * 10**7}, r"learning_rate\.number is a string"),
    "a long number": (10**5000, "learning_rate is a whole number of 16,610 bits"),
    "a long number in an array": (
        {"array": [10**5000], "dtype": "int32"},
        r"learning_rate\.array\[0\] is a whole number",
    ),
    "deep lists": (
        {"array": within(0.1, 5000), "dtype": "float32"},
        r"learning_rate\.array\[0\].* is nested too deeply",
    ),
    "a deep tree": ({"tree": within(True, 5000)}, r"learning_rate\.tree\[0\].* is nested too deeply"),
    "halves of a key": (
        {"key": [0.5, 1], "impl": "threefry2x32"},
        "learning_rate must be keys of 2 whole numbers of 32",
    ),
    "too wide a key": (
        {"key": [2**32, 1], "impl": "threefry2x32"},
        "learning_rate must be keys of 2 whole numbers of 32",
    ),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_config_that_asks_for_too_much_is_refused_where_it_does(name):
    value, problem = TOO_MUCH[name]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"^from_config: {problem}") as caught:
            gc.from_config(inside(value))
        assert tracemalloc.get_traced_memory()[1] < 600e6
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 1000


def test_lists_that_double_at_each_level_are_refused(monkeypatch):
    monkeypatch.setattr(parse, "MOST", 1000)
    value = [0.5]
    for _ in range(60):
        value = [value, value]
    with pytest.raises(ValueError, match=r"^from_config: learning_rate\.array\[1\].* is more than can be read"):
        gc.from_config(inside({"array": value, "dtype": "float32"}))


def test_long_numbers_and_names_are_refused_everywhere():
    for config in ({"version": 10**5000, "name": "identity"}, {"name": "chain", "stages": 10**5000}):
        with pytest.raises(ValueError, match=r"^from_config: (version|stages) is a whole number"):
            gc.from_config(config)


JUNK = [
    *(None, True, 0, -1, 2.5, float("nan"), 10**400, "", "\x00", "__class__", "__import__('os').abort()", [], {}, [[]]),
    *([{}], {"name": "chain"}, inside(0.1), {"number": "inf"}, {"array": [1.0, 2.0], "dtype": "float32"}, (1, 2), b"x"),
    *({"key": [0, 1], "impl": "rbg"}, {"tree": {"a": True}}, {"tree": {"dimensions": 3}}, {"function": ["x"]}, object),
    *({"name": ["x"]}, {"operator": "/", "left": 1.0, "right": []}, {"name": "by_path", "patterns": [["[b-a]", True]]}),
    *({"name": "inject_hyperparams", "factory": ["x"], "arguments": {}}, {"function": "tree.add"}, {1: 2}, 1j),
]


def changed(config, rng):
    """Return a copy of a config with up to three nodes gone, replaced, renamed or put into a list."""
    config = copy.deepcopy(config)
    for _ in range(rng.integers(1, 4)):
        nodes_ = [node for _, node in nodes(config) if isinstance(node, dict | list) and node]
        node = nodes_[rng.integers(len(nodes_))]
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key, kind = keys[rng.integers(len(keys))], rng.integers(4)
        if kind == 0:
            del node[key]
        elif kind == 1 and isinstance(node, dict):
            node[["name", "tx", "stages", "learning_rate", "static"][rng.integers(5)]] = node.pop(key)
        else:
            node[key] = [node[key]] if kind == 2 else copy.deepcopy(JUNK[rng.integers(len(JUNK))])
    return config


@pytest.mark.parametrize("number", [300, pytest.param(6000, marks=pytest.mark.slow)])
def test_a_config_changed_at_random_is_read_or_refused_by_its_path(number):
    injected = gc.inject_hyperparams(gc.adamw)(gc.linear_schedule(0.1, 0.0, 3), mask={"a": True})
    configs = [gc.to_config(tx) for tx in (*OPTIMIZERS.values(), injected)]
    rng, read, refusals = np.random.default_rng(0), 0, []
    for i in range(number):
        config = changed(configs[i % len(configs)], rng)
        try:
            tx = gc.from_config(config)
        except ValueError as error:
            refusals.append(str(error))
        else:
            read += 1
            assert isinstance(tx, Transform)
            hash(tx), repr(tx), gc.hyperparams(tx)
    assert 0 < read < len(refusals)
    assert all(refusal.startswith("from_config: ") for refusal in refusals)


def test_a_config_nested_without_end():
    config = {"name": "identity"}
    for _ in range(20_000):
        config = {"name": "chain", "stages": [config]}
    with pytest.raises(ValueError, match="nested too deeply"):
        gc.from_config(config)
