"""The decorators: what a rule may declare, sees and returns, and what is refused."""

import copy
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain import Hyper, Key, Mask, NonNegative, Slot

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.arange(3.0), "none": None}
GRADS = {"w": jnp.full((2, 3), 0.5), "b": jnp.ones(3), "none": None}


def run(tx, **extra):
    return tx.update(GRADS, tx.init(PARAMS), PARAMS, **extra)


def test_slots_begin_as_declared_and_are_stored_as_declared():
    @gc.leafwise(
        slots={"seen": Slot(init=lambda p, hyper: {"rows": jnp.full(p.shape[:1], hyper.start)}), "sum": Slot()}
    )
    def rule(g, slot, at, start: Hyper):
        rows = slot.seen["rows"] + 1
        return g, slot(seen={"rows": rows}, sum=slot.sum + g)

    state = rule(start=2.0).init(PARAMS)
    assert state._fields == ("count", "seen", "sum")
    np.testing.assert_array_equal(state.seen["w"]["rows"], [2.0, 2.0])
    _, state = run(rule(start=2.0))
    np.testing.assert_array_equal(state.seen["b"]["rows"], [3.0, 3.0, 3.0])
    np.testing.assert_array_equal(state.sum["b"], GRADS["b"])


def test_treewise_scalars_are_one_for_all_and_see_hyperparameters():
    @gc.treewise(slots=("total",), scalars={"steps": 0.0, "start": lambda hyper: 2 * hyper.d0})
    def rule(updates, slot, at, d0: NonNegative = 1.0):
        total = gc.tree.add(slot.total, updates)
        return gc.tree.scale(slot.start, updates), slot(total=total, steps=slot.steps + 1, start=slot.start)

    updates, state = run(rule(d0=3.0))
    np.testing.assert_array_equal(updates["b"], 6 * GRADS["b"])
    assert (state.steps, state.start) == (1.0, 6.0)
    np.testing.assert_array_equal(state.total["w"], GRADS["w"])


def test_declared_extra_arguments_arrive_under_jit_too():
    @gc.elementwise(extra=("value",))
    def by_loss(g, slot, at):
        return g * at.value

    np.testing.assert_array_equal(run(by_loss(), value=2.0)[0]["b"], 2 * GRADS["b"])
    tx = by_loss()
    jitted = jax.jit(lambda value: tx.update(GRADS, tx.init(PARAMS), value=value)[0]["b"])
    np.testing.assert_array_equal(jitted(3.0), 3 * GRADS["b"])
    with pytest.raises(ValueError, match=r"by_loss needs 'value': call update\(updates, state, params, value=...\)"):
        run(by_loss())
    with pytest.raises(TypeError, match="'value' is a function, which only a @treewise rule can take"):
        run(by_loss(), value=lambda p: 0.0)


def test_optional_params_may_be_missing():
    @gc.elementwise(param="optional")
    def rule(g, slot, at):
        return g if at.param is None else g + at.param

    np.testing.assert_array_equal(run(rule())[0]["b"], GRADS["b"] + PARAMS["b"])
    np.testing.assert_array_equal(rule().update(GRADS, rule().init(PARAMS))[0]["b"], GRADS["b"])


@pytest.mark.parametrize("decorator", [gc.elementwise, gc.leafwise, gc.treewise])
def test_a_rule_without_numbers_counts_its_updates_where_it_declares_count(decorator):
    @decorator(count=True)
    def by_age(g, slot, at):
        return gc.tree.scale(10 * at.t + at.count, g)

    for tx in (by_age(), gc.chain(gc.scale(1.0), by_age())):
        state, seen = tx.init(PARAMS), []
        for _ in range(3):
            updates, state = tx.update(GRADS, state, PARAMS)
            seen.append(float(updates["b"][0]))
        assert seen == [10.0, 21.0, 32.0]
    assert by_age().init(PARAMS)._fields == ("count",)


@pytest.mark.parametrize("decorator", [gc.elementwise, gc.leafwise, gc.treewise])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("param", "declare param=True"),
        ("whole", "declare whole=function"),
        ("key", "declare random=True"),
        ("t", "declare count=True"),
        ("count", "declare count=True"),
        ("value", r"declare extra=\('value',\)"),
        ("params", "did you mean 'param'"),
    ],
)
def test_a_rule_that_reads_what_it_does_not_declare_is_told_to(decorator, name, message):
    @decorator()
    def nosy(g, slot, at):
        return getattr(at, name)

    for tx in (nosy(), gc.chain(nosy(), gc.add_decayed_weights(0.0))):
        with pytest.raises(AttributeError, match=rf"the rule reads at\.{name}: .*{message}"):
            run(tx, value=1.0)


def test_an_undeclared_slot_is_named_with_its_declaration():
    @gc.elementwise()
    def rule(g, slot, at):
        return g + slot.mu

    with pytest.raises(AttributeError, match=r"no slot 'mu'; the rule declares none; write slots=\('mu',\)"):
        run(rule())


def test_whole_is_made_of_all_incoming_updates_at_its_stage():
    tx = gc.chain(gc.scale(10.0), gc.clip_by_global_norm(1.0), gc.scale(2.0))
    assert float(gc.global_norm(run(tx)[0])) == pytest.approx(2.0)


def test_random_rules_draw_anew_for_each_leaf_and_update():
    tx, like = gc.add_noise(1.0, 0.0, 0), {"a": jnp.zeros(4), "b": jnp.zeros(4)}
    first, state = tx.update(like, tx.init(like))
    second, _ = tx.update(like, state)
    draws = np.stack([first["a"], first["b"], second["a"], second["b"]])
    assert len(np.unique(draws)) == draws.size


@pytest.mark.parametrize(
    "mask", [{"w": True, "b": False, "none": None}, lambda p: jax.tree.map(lambda x: x.ndim > 1, p)]
)
def test_masked_leaves_pass_unchanged_and_have_no_slots(mask):
    @gc.elementwise(slots=("mu",), param=True)
    def rule(g, slot, at, mask: Mask | None = None):
        return 2 * g, slot(mu=g)

    updates, state = run(rule(mask))
    np.testing.assert_array_equal(updates["b"], GRADS["b"])
    np.testing.assert_array_equal(updates["w"], 2 * GRADS["w"])
    assert state.mu["b"] is None
    prefix, _ = run(rule(True))
    np.testing.assert_array_equal(prefix["b"], 2 * GRADS["b"])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"w": True}, r"the mask must be a prefix of the parameters: .*params has \['b'\], which the mask lacks"),
        (lambda p: None, "the mask must return a tree of bools, got None"),
        (lambda p: 0.5, "the mask's result must be a tree of bools"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, message):
    with pytest.raises((ValueError, TypeError), match=message):
        gc.add_decayed_weights(0.1, mask).init(PARAMS)


def test_a_mask_needs_params():
    @gc.elementwise()
    def rule(g, slot, at, mask: Mask | None = None):
        return g

    with pytest.raises(ValueError, match=r"rule needs params: call update\(updates, state, params\); its mask"):
        rule(True).update(GRADS, rule(True).init(PARAMS))


def test_wrong_returns_are_named():
    @gc.elementwise(slots=("mu",))
    def forgets(g, slot, at):
        return g

    @gc.elementwise(slots=("mu",))
    def misspells(g, slot, at):
        return g, slot(nu=g)

    @gc.elementwise()
    def reduces(g, slot, at):
        return g.sum()

    @gc.leafwise(slots=("mu",))
    def shrinks(g, slot, at):
        return g, slot(mu=g.sum())

    @gc.leafwise(slots=("mu",))
    def restructures(g, slot, at):
        return g, slot(mu=(g, g))

    for rule, message in [
        (restructures, "restructures: the rule changed the structure of its slots"),
        (forgets, r"forgets: a rule with slots returns \(update, slot\(...\)\)"),
        (misspells, r"declares slots \['mu'\] but returns \['nu'\]"),
        (reduces, r"reduces: the rule turned an update of shape \(3,\) into \(\)"),
        (shrinks, r"shrinks: the rule turned a slot of shape \(3,\) into \(\)"),
    ]:
        with pytest.raises(TypeError, match=message):
            run(rule())
    with pytest.raises(TypeError, match=r"stateless: the rule turned an update of shape \(3,\) into \(\)"):
        run(gc.stateless(lambda updates, params: jax.tree.map(jnp.sum, updates)))
    with pytest.raises(TypeError, match="stateless: the rule changed the structure of the updates"):
        run(gc.stateless(lambda updates, params: updates["w"]))


def define(decorator, *, key=False, mask=False, **declared):
    def with_key(g, slot, at, seed: Key):
        return g

    def with_mask(g, slot, at, mask: Mask):
        return g

    def plain(g, slot, at):
        return g

    return decorator(**declared)(with_key if key else with_mask if mask else plain)


@pytest.mark.parametrize(
    ("decorator", "declared", "message"),
    [
        (gc.elementwise, {"slots": "mu"}, r"write \('mu',\)"),
        (gc.elementwise, {"extra": "value"}, r"write \('value',\)"),
        (gc.elementwise, {"slots": ["mu"], "extra": "value"}, r"write \('value',\)"),
        (gc.elementwise, {"extra": ("key",)}, "the name 'key' is taken"),
        (gc.elementwise, {"slots": ("values",)}, "the name 'values' is taken"),
        (gc.elementwise, {"random": True}, "random=True goes with one parameter annotated Key"),
        (gc.elementwise, {"key": True}, "random=True goes with one parameter annotated Key"),
        (gc.elementwise, {"scalars": {"d": 0.0}}, "only @treewise rules have them"),
        (gc.treewise, {"mask": True}, "can't have a parameter annotated Mask"),
    ],
)
def test_declarations_that_cannot_work_are_refused_where_the_rule_is_defined(decorator, declared, message):
    with pytest.raises(TypeError, match=message):
        define(decorator, **declared)


def no_surroundings(g, slot, c):
    return c * g


def default_in_its_place(g, slot, at: NonNegative = 2.0):
    return at * g


def number_in_its_place(g, slot, at: NonNegative):
    return at * g


def swapped(g, at, slot):
    return g


def gradient_alone(g):
    return g


def by_name(g, slot, *, at):
    return g


def any_number(*args):
    return args[0]


def numbers_by_position(g, slot, at, *numbers):
    return g


def numbers_by_name(g, slot, at, **numbers):
    return g


def only_positional(g, slot, at, c: Hyper, /):
    return c * g


async def waits(g, slot, at):
    return g


def yields(g, slot, at):
    yield g


@pytest.mark.parametrize("decorator", [gc.elementwise, gc.leafwise, gc.treewise])
@pytest.mark.parametrize(
    ("function", "message"),
    [
        *((f, rf"def {f.__name__}\(g, slot, at, ...\), got {f.__name__}\(") for f in (no_surroundings, swapped)),
        *((f, r"called with \(g, slot, at\)") for f in (default_in_its_place, number_in_its_place, gradient_alone)),
        *((f, r"called with \(g, slot, at\)") for f in (by_name, any_number)),
        *((f, r"numbers must be one that can be given by name") for f in (numbers_by_position, numbers_by_name)),
        (only_positional, "c must be one that can be given by name"),
        *((f, "an ordinary function, without async and yield") for f in (waits, yields)),
        *((f, r"written as a function with a name \(def\)") for f in (lambda g, slot, at: g, Slot, 3, None)),
    ],
)
def test_a_function_that_is_no_rule_is_refused_where_it_is_written(decorator, function, message):
    with pytest.raises(TypeError, match=message):
        decorator()(function)


def test_a_rule_may_call_its_surroundings_otherwise_if_it_says_so():
    @gc.elementwise(param=True)
    def annotated(g, _, here: gc.At):
        return g * here.param

    @gc.elementwise()
    def unused(g, _slot, _at, *, c: Hyper = 2.0):
        return c * g

    np.testing.assert_array_equal(run(gc.chain(annotated(), unused(c=3.0)))[0]["b"], 3 * GRADS["b"] * PARAMS["b"])


@pytest.mark.parametrize("decorator", [gc.elementwise, gc.leafwise, gc.treewise])
def test_a_bare_decorator_shows_its_parentheses(decorator):
    with pytest.raises(TypeError, match=rf"write @{decorator.__name__}\(\)"):

        @decorator
        def half(g, slot, at):
            return g / 2

    with pytest.raises(TypeError, match="has no argument 'params'; did you mean 'param'"):
        decorator(params=True)


def number_first(init_value: Hyper, count):
    return init_value * count


@pytest.mark.parametrize("function", [number_first, any_number, waits, yields, lambda count: count, 0.1])
def test_a_function_that_is_no_schedule_is_refused_where_it_is_written(function):
    with pytest.raises(TypeError, match=r"a schedule is|must be one that"):
        gc.schedules.schedule(function)


def test_a_number_without_annotation_is_refused_with_the_cure():
    @gc.elementwise()
    def rule(g, slot, at, k=1.0):
        return k * g

    for value in (jnp.float32(0.1), gc.constant_schedule(0.1)):
        with pytest.raises(TypeError, match=r"rule: k is static and can't be .* annotate a parameter that is a number"):
            rule(value)


def test_a_parameter_may_not_hide_what_every_transform_has():
    with pytest.raises(TypeError, match="a parameter can't be called 'update'"):

        @gc.elementwise()
        def rule(g, slot, at, update: Hyper):
            return g


@pytest.mark.parametrize("number", [1, 1.0, True])
def test_equal_static_values_of_other_types_are_not_mixed_up(number):
    @gc.elementwise()
    def rule(g, slot, at, n: object):
        return g + (0 if isinstance(n, bool) else 1 if isinstance(n, int) else 2)

    results = {type(n): float(jax.jit(rule(n).update)(1.0, rule(n).init(1.0))[0]) for n in (True, 1, 1.0)}
    assert results == {bool: 1.0, int: 2.0, float: 3.0}
    assert rule(number).n is number


def test_a_copied_mask_is_the_mask():
    tx = gc.add_decayed_weights(0.1, mask={"w": True, "b": False})
    assert copy.deepcopy(tx) == tx


@gc.treewise(slots=("total",), per_example=True)
def mean_of_examples(updates, slot, at):
    mean = jax.tree.map(lambda g: g.mean(0), updates)
    return mean, slot(total=gc.tree.add(slot.total, mean))


BATCH = jax.tree.map(lambda g: jnp.stack([g, 3 * g]), GRADS)


@pytest.mark.parametrize(
    "wrap", [lambda tx: tx, lambda tx: gc.chain(tx, gc.scale(1.0)), gc.float32_updates, gc.hyperparams_in_state]
)
@pytest.mark.parametrize("params", [PARAMS, None])
def test_a_per_example_rule_reduces_a_leading_axis_that_params_lack(wrap, params):
    tx = wrap(mean_of_examples())
    assert tx.per_example
    updates, _ = tx.update(BATCH, tx.init(PARAMS), params)
    np.testing.assert_array_equal(updates["b"], 2 * GRADS["b"])
    assert updates["w"].shape == (2, 3)


def test_a_per_example_rule_stands_first():
    tx = gc.chain(gc.scale(1.0), mean_of_examples())
    with pytest.raises(ValueError, match=r"chain: \['b'\] has shape \(3,\) in params but \(2, 3\) in updates"):
        tx.update(BATCH, tx.init(PARAMS), PARAMS)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({**BATCH, "b": jnp.ones(())}, r"\['b'\] is a scalar and lacks the leading batch axis"),
        ({**BATCH, "b": jnp.ones((3, 3))}, r"batch axes differ: \['b'\] has shape \(3, 3\), \['w'\] has \(2, 2, 3\)"),
        ({**BATCH, "b": jnp.ones((2, 4))}, r"\['b'\] has shape \(3,\) in params but \(4,\) in updates without their b"),
    ],
)
def test_batch_axes_that_do_not_fit_are_named(batch, message):
    tx = mean_of_examples()
    with pytest.raises(ValueError, match=f"mean_of_examples: {message}"):
        tx.update(batch, tx.init(PARAMS), PARAMS)


def test_a_per_example_rule_must_reduce():
    @gc.treewise(per_example=True)
    def keeps(updates, slot, at):
        return updates

    with pytest.raises(TypeError, match=r"keeps: the rule turned an update of shape \(2, 3\) into \(2, 3\)"):
        keeps().update(BATCH, keeps().init(PARAMS))
    with pytest.raises(TypeError, match="only @treewise rules can have per_example=True"):
        gc.elementwise(per_example=True)(lambda g, slot, at: g)


@pytest.mark.parametrize("decorator", [gc.elementwise, gc.leafwise, gc.treewise])
def test_the_loss_is_one_number_in_every_rule(decorator):
    @decorator(extra=("value",))
    def by_loss(updates, slot, at):
        return jax.tree.map(lambda g: g * at.value, updates)

    with pytest.raises(ValueError, match=r"by_loss: value must be one number, got shape \(3,\)"):
        run(gc.chain(gc.scale(1.0), by_loss()), value=jnp.ones(3))
    tx = by_loss()
    with pytest.raises(ValueError, match=r"by_loss: value must be one number, got shape \(1,\)"):
        jax.jit(lambda value: tx.update(GRADS, tx.init(PARAMS), value=value))(jnp.ones(1))


@pytest.mark.parametrize("name", ["value_fn", "obj_fn"])
def test_the_loss_as_a_function_returns_one_number(name):
    with pytest.raises(ValueError, match=r"result of value_fn must be one number, got shape \(3,\)"):
        run(gc.chain(gc.clip(1.0), gc.scale_by_sophia()), **{name: lambda params: jnp.ones(3) * jnp.sum(params["b"])})


def test_what_an_elementwise_rule_reads_is_one_number_and_other_rules_may_read_trees():
    @gc.elementwise(extra=("strength",))
    def by_strength(g, slot, at):
        return g * at.strength

    with pytest.raises(ValueError, match=r"by_strength: strength must be one number, got shape \(3,\)"):
        run(by_strength(), strength=jnp.ones(3))

    @gc.treewise(extra=("shift", "rows"))
    def by_trees(updates, slot, at):
        return gc.tree.add(updates, gc.tree.scale(jnp.sum(at.rows), at.shift))

    np.testing.assert_array_equal(run(by_trees(), shift=GRADS, rows=jnp.ones(3))[0]["b"], 4 * GRADS["b"])


def test_only_bool_alone_declares_a_flag():
    @gc.elementwise()
    def rule(g, slot, at, flag: bool = False, test: Callable[[float], bool] | None = None, either: bool | str = "no"):
        return -g if flag else g

    np.testing.assert_array_equal(run(rule(np.bool_(True), math.isfinite, "yes"))[0]["b"], -GRADS["b"])
    with pytest.raises(TypeError, match=r"rule: flag must be True or False, got \(1,\)"):
        rule((1,))


@pytest.mark.parametrize("tx", [gc.adam(0.1), gc.scale_by_muon(), gc.scale_by_prodigy(), gc.add_noise(0.1, 0.5, 0)])
def test_no_parameters_have_a_state_without_slots(tx):
    for params in (None, {}, {"a": None}):
        assert all(jnp.ndim(x) == 0 or x.dtype == jnp.uint32 for x in jax.tree.leaves(tx.init(params)))
