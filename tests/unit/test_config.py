"""Configs: what they look like, what may be written by hand, and what they can't hold."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from gradchain import projections, schedules
from gradchain.introspect.catalogue import constructors, functions
from tests import trees


def round_trip(tx):
    return gc.from_config(json.loads(json.dumps(gc.to_config(tx), allow_nan=False)))


def test_what_a_config_looks_like():
    tx = gc.accumulate(gc.chain(gc.clip_by_global_norm(1.0), gc.sgd(gc.linear_schedule(0.1, 0.0, 10), momentum=0.9)), 4)
    assert gc.to_config(tx) == {
        "version": 1,
        "name": "accumulate",
        "tx": {
            "name": "chain",
            "stages": [
                {"name": "clip_by_global_norm", "max_norm": 1.0},
                {
                    "name": "chain",
                    "stages": [
                        {"name": "trace", "decay": 0.9, "nesterov": False, "accumulator_dtype": None},
                        {
                            "name": "scale_by_learning_rate",
                            "learning_rate": {
                                "name": "linear_schedule",
                                "init_value": 0.1,
                                "end_value": 0.0,
                                "transition_steps": 10.0,
                                "transition_begin": 0.0,
                            },
                            "flip_sign": True,
                        },
                    ],
                },
            ],
        },
        "every": 4,
        "use_grad_mean": True,
        "should_skip_update_fn": None,
        "accumulator_dtype": None,
    }


def test_every_public_constructor_is_in_the_table():
    missing = {name for name in gc.__all__ if hasattr(getattr(gc, name), "Value")} - constructors().keys()
    assert not missing
    assert {"adamw", "chain", "sam", "by_path", "join_schedules", "inject_hyperparams"} < constructors().keys()
    assert not constructors().keys() & {"by_leaf", "from_optax", "set_hyperparams", "elementwise", "from_config"}
    assert not functions().keys() & constructors().keys()
    assert {"graft", "global_norm", "tree.add", "projections.projection_simplex"} < functions().keys()


SCHEDULES = [
    0.1 * gc.cosine_decay_schedule(1.0, 10) + gc.constant_schedule(0.01),
    1.0 / gc.linear_schedule(1, 2, 3) - gc.exponential_decay(0.1, 5, 0.5),
    gc.join_schedules(
        [0.1, gc.sgdr_schedule([{"init_value": 0, "peak_value": 1, "warmup_steps": 2, "decay_steps": 9}])], [4]
    ),
    gc.piecewise_constant_schedule(0.1, {10: 0.5, 20: gc.linear_schedule(0.1, 0.2, 3)}),
    gc.piecewise_interpolate_schedule("cosine", 0.1, {10: 0.5}),
    gc.linear_schedule(gc.constant_schedule(0.1), 0.2, 10),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_schedules(schedule):
    assert round_trip(schedule) == schedule
    assert round_trip(gc.sgd(schedule)) == gc.sgd(schedule)


MASK = {"a": [True, (False, None)], "b": {"c": True}}
TRANSFORMS = [
    gc.adamw(0.1, mask=MASK),
    gc.adamw(0.1, mask=gc.by_path([("bias", False), ("*norm*", False)], default=True)),
    gc.masked(gc.adam(0.1), True),
    gc.partition({"name": gc.adam(0.1), "function": gc.sgd(0.1)}, {"x": "name", "y": "function"}),
    gc.partition({"matrices": gc.muon(0.1), "rest": gc.sgd(0.1)}, gc.matrices_and_rest(("head",), ndims=(2, 3))),
    gc.selective_transform(gc.adam(0.1), freeze_mask=gc.by_path([("body", True)], False)),
    gc.muon(0.1, muon_weight_dimension_numbers={"a": gc.MuonDimensionNumbers(0, (1, 2)), "b": None}),
    gc.scale_by_galore(4, weight_dimension_numbers=gc.MuonDimensionNumbers(1, 0)),
    gc.per_layer(gc.lamb(0.1), [("layers", 0), ("head", None)]),
    gc.per_layer(gc.per_layer(gc.lamb(0.1), {"layers": 0}), 1),
    gc.clip(float("inf")),
    gc.limit_update_ratio(float("inf")),
    gc.noisy_sgd(0.1, key=7),
    gc.project(projections.projection_simplex),
    gc.monitor({"name": gc.global_norm, "ema": gc.measure_with_ema(gc.global_norm, 0.9), "tx": gc.ema(0.9)}),
    gc.parallel(gc.sgd(0.1), gc.adam(0.1), merge=gc.tree.add),
    gc.sam(gc.sgd(0.1), gc.sgd(0.05), opaque_mode=True, batch_axis_name="devices"),
    gc.sophia(0.1),
    gc.named_chain(("clip", gc.clip(1.0)), ("adam", gc.adam(0.1))),
    gc.inject_hyperparams(gc.adamw)(gc.linear_schedule(0.1, 0.2, 3), mask=gc.by_path([("bias", False)], True)),
    gc.inject_hyperparams(gc.sgd, hyperparam_dtype="float32")(0.1, momentum=0.9),
    gc.chain(),
]


@pytest.mark.parametrize("tx", TRANSFORMS, ids=lambda tx: f"{tx.name}")
def test_transforms(tx):
    assert round_trip(tx) == tx


def test_what_compares_by_identity_is_described_all_the_same():
    batch = round_trip(gc.adam(jnp.array([0.1, 0.2])))
    np.testing.assert_array_equal(gc.hyperparams(batch)["scale_by_learning_rate.learning_rate"], np.float32([0.1, 0.2]))
    keys = round_trip(gc.noisy_sgd(0.1, key=jax.random.split(jax.random.key(3), 2)))
    original = jax.random.key_data(jax.random.split(jax.random.key(3), 2))
    np.testing.assert_array_equal(jax.random.key_data(gc.hyperparams(keys)["add_noise.key"]), original)
    ball = round_trip(gc.project(functools.partial(projections.projection_l2_ball, scale=2.0)))
    updates, _ = ball.update(jnp.full(2, 9.0), ball.init(jnp.zeros(2)), jnp.zeros(2))
    assert float(gc.global_norm(updates)) == pytest.approx(2.0)
    infinite = round_trip(gc.clip(jnp.array([1.0, float("inf")])))
    np.testing.assert_array_equal(gc.hyperparams(infinite)["clip.max_delta"], np.float32([1.0, np.inf]))


def test_a_config_written_by_hand():
    rate = {"name": "cosine_decay_schedule", "init_value": 0.001, "decay_steps": 1000}
    mask = {"name": "by_path", "patterns": [["bias", False]], "default": True}
    config = {"name": "accumulate", "tx": {"name": "adamw", "learning_rate": rate, "mask": mask}, "every": 4}
    expected = gc.accumulate(
        gc.adamw(gc.cosine_decay_schedule(0.001, 1000), mask=gc.by_path([("bias", False)], default=True)), 4
    )
    assert gc.from_config(config) == expected
    tree = {
        "name": "masked",
        "inner": {"name": "sgd", "learning_rate": 1},
        "mask": {"tree": {"bias": False, "kernel": True}},
    }
    assert gc.from_config(tree) == gc.masked(gc.sgd(1), {"bias": False, "kernel": True})
    lookahead = {"name": "lookahead", "fast_optimizer": {"name": "adam", "learning_rate": 0.1}, "sync_period": 5}
    assert gc.from_config(lookahead | {"slow_step_size": 0.5}) == gc.lookahead(gc.adam(0.1), 5, 0.5)
    axes = {"tree": {"dimensions": [1, 2]}}
    muon = {"name": "scale_by_muon", "ns_coeffs": "standard", "weight_dimension_numbers": axes}
    assert gc.from_config(muon) == gc.scale_by_muon("standard", weight_dimension_numbers=gc.MuonDimensionNumbers(1, 2))


def of_mine(updates):
    return gc.global_norm(updates)


@gc.elementwise()
def adam(g, slot, at):
    return g


HELD_BY_NO_CONFIG = [
    (gc.adam(lambda count: 0.1), r"stages\[1\].learning_rate: <function.*a bare callable as a schedule"),
    (gc.sgd(0.1 * gc.constant_schedule(0.1) + (lambda count: 0.1)), r"stages\[1\].learning_rate.right: <function"),
    (gc.masked(gc.sgd(0.1), gc.by_leaf(lambda path, leaf: True)), "mask: by_leaf.*none of gradchain's public"),
    (gc.adamw(0.1, mask=lambda params: params), r"stages\[1\].mask: <function"),
    (gc.masked(gc.sgd(0.1), trees.Pair(True, False)), "mask: Pair.*, a tree of other than dicts, lists and tuples"),
    (gc.masked(gc.sgd(0.1), {1: True}), "mask: .*a tree of other"),
    (gc.masked(gc.sgd(0.1), {"tuple": [True]}), "mask: .*a tree of other"),
    (gc.stateless(lambda u, p: u), "f: <function.*none of gradchain's public functions"),
    (gc.monitor({"mine": of_mine}), "measures.mine: <function of_mine"),
    (gc.parallel(gc.sgd(0.1), merge=functools.partial(of_mine, 1)), "merge: <function of_mine"),
    (gc.chain(gc.sgd(0.1), optax.adam(0.1)), r"stages\[1\]: .*another library's transform"),
    (gc.chain(adam()), r"stages\[0\]: adam\(\), which is none of gradchain's public transforms"),
    (gc.inject_hyperparams(lambda rate: gc.sgd(rate))(0.1), "this: inject_hyperparams.*a function of your own"),
    (gc.selective_transform(gc.sgd(0.1), freeze_mask=lambda params: True), "param_labels: FrozenOrTrained"),
]


@pytest.mark.parametrize(("tx", "problem"), HELD_BY_NO_CONFIG, ids=[p for _, p in HELD_BY_NO_CONFIG])
def test_what_a_config_cant_hold_is_named(tx, problem):
    with pytest.raises(ValueError, match=f"to_config: a config can't hold\n  {problem}"):
        gc.to_config(tx)


def test_all_that_a_config_cant_hold_is_listed():
    tx = gc.chain(gc.adam(lambda count: 0.1), gc.stateless(lambda u, p: u), gc.chain(optax.adam(0.1)))
    with pytest.raises(ValueError, match="to_config") as caught:
        gc.to_config(tx)
    assert len(str(caught.value).splitlines()) == 4


def test_only_transforms_and_schedules_have_configs():
    for value in (None, optax.adam(0.1), gc.by_path([("a", True)]), {"name": "adam"}):
        with pytest.raises(TypeError, match="to_config: expected a gradchain transform or schedule"):
            gc.to_config(value)


def test_errors_name_the_field():
    def error(config):
        with pytest.raises(ValueError, match="from_config") as caught:
            gc.from_config(config)
        return str(caught.value)

    adam = {"name": "scale_by_adam", "b2": 1.2}
    assert error({"name": "chain", "stages": [adam]}) == "from_config: stages[0].b2 must be in [0, 1), got 1.2"
    assert error({"name": "scale_by_adam", "b1": None}) == "from_config: the config: scale_by_adam: b1 can't be None"
    assert error({"name": "adamm"}) == (
        "from_config: name: gradchain has no public constructor 'adamm'; did you mean 'adam'?"
    )
    assert error({"name": "adam", "learning_rate": 0.1, "beta1": 0.9}) == (
        "from_config: beta1: adam has no such field; did you mean 'b1'?"
    )
    assert error({"name": "adam", "learning_rate": 0.1, "bias": 0.9}) == (
        "from_config: bias: adam has no such field; it has b1, b2, eps, eps_root, learning_rate, mu_dtype, nesterov"
    )
    assert error({"name": "adam"}) == "from_config: learning_rate is missing, which adam needs"
    labels = {"name": "by_path", "patterns": [["a", "x"]], "default": "y"}
    routed = {"name": "partition", "transforms": {"x": {"name": "sgd", "learning_rate": -1}}, "param_labels": labels}
    assert error(routed) == "from_config: transforms.x.learning_rate must be in [0, inf], got -1"
    cycle = {"init_value": 0.1, "peak_value": 1.0, "warmup_steps": 2, "decay_steps": 10}
    backwards = {"name": "warmup_cosine_decay_schedule", **cycle, "warmup_steps": 20}
    assert "from_config: learning_rate: warmup_cosine" in error({"name": "sgd", "learning_rate": backwards})


@gc.elementwise(slots=("m",))
def scale_by_mine(g, slot, at, decay: gc.Decay = 0.9, flip: bool = False, mask: gc.Mask | None = None):
    """Return the sign of the momentum."""
    m = decay * slot.m + g
    return jnp.sign(-m if flip else m), slot(m=m)


@schedules.schedule
def halves(count, first: gc.Hyper):
    """Return a number that halves at each update."""
    return first * 0.5**count


@gc.combinator
class twice(gc.Transform):
    """Take a transform's update twice."""

    tx: gc.Child
    factor: gc.Hyper = 2.0

    def init(self, params):
        return self.tx.init(params)

    def step(self, updates, state, params, extra):
        updates, state = self.tx.step(updates, state, params, extra)
        return gc.tree.scale(self.factor, updates), state


def my_sgd(rate: gc.NonNegative, *, momentum: float = 0.9, first: gc.Transform | None = None):
    """Return a chain."""
    return gc.chain(first or gc.identity(), gc.sgd(rate, momentum))


MINE = {"my_rule": scale_by_mine, "adam_of_mine": adam, "halves": halves, "my_sgd": my_sgd, "twice": twice}


@pytest.mark.parametrize(
    "tx",
    [
        gc.chain(gc.clip(1.0), scale_by_mine(0.5, flip=True, mask=gc.by_path([("bias", False)], True)), gc.scale(0.1)),
        gc.partition({"a": gc.chain(adam(), gc.sgd(0.1)), "b": gc.adam(0.1)}, {"x": "a", "y": "b"}),
        scale_by_mine(halves(gc.linear_schedule(0.1, 0.2, 3))),
        gc.inject_hyperparams(scale_by_mine)(0.5, flip=True),
        gc.adam(2.0 * halves(0.1)),
        gc.accumulate(twice(gc.chain(twice(gc.sgd(0.1)), scale_by_mine()), halves(3.0)), 2),
        halves(0.5),
    ],
    ids=lambda tx: tx.name,
)
def test_rules_and_schedules_of_ones_own_by_the_names_that_are_given(tx):
    config = json.loads(json.dumps(gc.to_config(tx, MINE)))
    assert gc.from_config(config, MINE) == tx
    with pytest.raises(ValueError, match="to_config: a config can't hold"):
        gc.to_config(tx)
    with pytest.raises(ValueError, match=r"from_config: .*gradchain has no public|from_config: factory must be"):
        gc.from_config(config)


def test_what_a_config_calls_ones_own():
    own = {"name": "my_rule", "decay": 0.9, "flip": False, "mask": None}
    assert gc.to_config(scale_by_mine(), MINE) == {"version": 1} | own
    config = {"name": "my_sgd", "rate": {"name": "halves", "first": 0.1}, "first": {"name": "my_rule", "flip": True}}
    assert gc.from_config(config, MINE) == my_sgd(halves(0.1), first=scale_by_mine(flip=True))
    assert gc.from_config({"name": "adam", "learning_rate": 0.1}, MINE) == gc.adam(0.1)
    with pytest.raises(ValueError, match=r"give a rule of your own a name: constructors=\{'my_rule': my_rule\}"):
        gc.to_config(scale_by_mine(), {"halves": halves})


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"name": "my_rule", "decay": 2.0}, r"decay must be in \[0, 1\), got 2\.0"),
        ({"name": "my_rule", "flip": 1}, "flip must be True or False, got 1"),
        ({"name": "my_rule", "dekay": 0.1}, "dekay: my_rule has no such field; did you mean 'decay'"),
        ({"name": "halves"}, "first is missing, which halves needs"),
        ({"name": "my_sgd", "rate": -1}, r"rate must be in \[0, inf\], got -1"),
        ({"name": "my_rul"}, "name: neither gradchain nor constructors= has 'my_rul'; did you mean 'my_rule'"),
        (
            {"name": "inject_hyperparams", "factory": "his", "arguments": {}},
            "factory must be the name of a constructor",
        ),
        ({"name": "chain", "stages": [{"name": "my_rule", "decay": None}]}, r"stages\[0\]: scale_by_mine: decay can't"),
    ],
)
def test_errors_in_fields_of_ones_own(config, error):
    with pytest.raises(ValueError, match=f"from_config: {error}"):
        gc.from_config(config, MINE)


def any_number(*stages):
    return gc.chain(*stages)


def unreadable(rate: "Missing"):  # noqa: F821
    return gc.sgd(rate)


@pytest.mark.parametrize(
    ("own", "kind", "error"),
    [
        ({"adam": adam}, ValueError, "'adam' is a name of gradchain's own; choose another"),
        ({"linear_schedule": halves}, ValueError, "'linear_schedule' is a name of gradchain's own"),
        ({"mine": gc.scale_by_adam}, ValueError, "'mine' is gradchain's own 'scale_by_adam', which needs no entry"),
        ({"mine": scale_by_mine()}, TypeError, "'mine' must be a rule or .*; write scale_by_mine, not scale_by_mine"),
        ({"mine": 3}, TypeError, "'mine' must be a rule or a function that makes transforms, got 3"),
        ({"mine": functools.partial(my_sgd, 1)}, TypeError, "'mine' must be a rule or a function"),
        ({1: adam}, TypeError, "a name must be a string, got 1"),
        ({"mine": any_number}, TypeError, r"'mine' takes any number of arguments \(stages\), which a config can't"),
        ({"mine": unreadable}, TypeError, "the annotations of 'mine' can't be read: name 'Missing'"),
        ([adam], TypeError, "must be a dict from names to constructors"),
    ],
)
def test_constructors_of_ones_own_dont_shadow_and_must_be_callable_by_name(own, kind, error):
    for call in (functools.partial(gc.to_config, gc.sgd(0.1)), functools.partial(gc.from_config, {"name": "identity"})):
        with pytest.raises(kind, match=f"_config: constructors:? {error}"):
            call(own)


def test_schedules_of_the_submodule_are_known():
    made = {name for name in schedules.__all__ if name[0].islower() and name != "schedule"}
    assert made < constructors().keys()
