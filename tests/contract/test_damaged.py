"""State dicts and configs that are corrupt, truncated, renamed or foreign: each is an error that says what is wrong."""

import copy

import jax
import numpy as np
import pytest

import gradchain as gc
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
    with pytest.raises((TypeError, ValueError), match=r"from_state_dict: (this is no dict from|the state dict)"):
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
    ({"tree": {"dimensions": [0.5, 1]}}, "dimensions that are no whole numbers"),
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


def test_a_config_nested_without_end():
    config = {"name": "identity"}
    for _ in range(20_000):
        config = {"name": "chain", "stages": [config]}
    with pytest.raises(ValueError, match="nested too deeply"):
        gc.from_config(config)
