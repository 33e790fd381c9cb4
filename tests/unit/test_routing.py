"""masked, partition, freeze: how labels and masks are given, resolved and refused; holes, extra arguments, optax."""

import enum
import functools
import pickle

import equinox as eqx
import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from tests import public, trees

PARAMS = {
    "encoder": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)},
    "lm_head": {"kernel": jnp.ones((2, 4)), "bias": jnp.ones(4)},
}
GRADS = jax.tree.map(lambda x: 0.5 * x, PARAMS)
DOUBLE = {"a": gc.scale(2.0), "b": gc.scale(3.0)}
TWICE = jax.tree.map(lambda x: 2 * x, GRADS)


def update_of(tx, params=PARAMS, grads=GRADS):
    return tx.update(grads, tx.init(params), params)[0]


def labels_of(labels):
    return {path: str(label) for path, label in flat(labels(PARAMS)).items()}


def flat(tree):
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in pairs}


@pytest.mark.parametrize(
    ("pattern", "hits"),
    [
        ("bias", ["encoder/bias", "lm_head/bias"]),
        ("encoder", ["encoder/bias", "encoder/kernel"]),
        ("/encoder", ["encoder/bias", "encoder/kernel"]),
        ("/bias", []),
        ("head", []),
        ("*head", ["lm_head/bias", "lm_head/kernel"]),
        ("encoder/bias", ["encoder/bias"]),
        ("*/kernel", ["encoder/kernel", "lm_head/kernel"]),
        ("en*kernel", ["encoder/kernel"]),
        ("[ek]*r", ["encoder/bias", "encoder/kernel"]),
        ("*", ["encoder/bias", "encoder/kernel", "lm_head/bias", "lm_head/kernel"]),
        ("Bias", []),
        ("encoder/", ["encoder/bias", "encoder/kernel"]),
    ],
)
def test_a_pattern_fits_whole_names_in_a_row(pattern, hits):
    if not hits:
        with pytest.raises(ValueError, match=r"matches no parameter; there are: encoder/bias, .*lm_head/kernel"):
            gc.by_path([(pattern, "hit")], default="miss")(PARAMS)
    else:
        labels = labels_of(gc.by_path([(pattern, "hit")], default="miss"))
        assert [path for path, label in labels.items() if label == "hit"] == hits


def test_the_first_pattern_decides():
    labels = gc.by_path([("bias", "a"), ("encoder", "b")], default="c")
    assert labels_of(labels) == {
        "encoder/bias": "a",
        "encoder/kernel": "b",
        "lm_head/bias": "a",
        "lm_head/kernel": "c",
    }
    with pytest.raises(ValueError, match="'bias' comes after others that take all it matches"):
        gc.by_path([("*", "b"), ("bias", "a")])(PARAMS)


def test_without_default_every_parameter_needs_a_pattern():
    with pytest.raises(ValueError, match=r"no pattern matches 'encoder/kernel', .* patterns: 'bias', 'lm_head'"):
        gc.by_path([("bias", "a"), ("lm_head", "b")])(PARAMS)


def test_by_leaf_sees_path_and_array():
    labels = gc.by_leaf(lambda path, leaf: f"{path}:{leaf.ndim}")(PARAMS)
    assert labels["encoder"] == {"bias": "encoder/bias:1", "kernel": "encoder/kernel:2"}


def test_what_labels_a_parameter_may_be_given_in_many_ways():
    expected = update_of(gc.partition(DOUBLE, {"encoder": "a", "lm_head": "b"}))
    whole = {"encoder": {"kernel": "a", "bias": "a"}, "lm_head": {"kernel": "b", "bias": "b"}}
    for labels in (
        whole,
        lambda params: whole,
        lambda params: {"encoder": "a", "lm_head": "b"},
        gc.by_path([("encoder", "a")], default="b"),
        gc.by_leaf(lambda path, leaf: "a" if path.startswith("encoder") else "b"),
    ):
        trees.assert_close(update_of(gc.partition(DOUBLE, labels)), expected, 0)
    trees.assert_close(expected, {"encoder": TWICE["encoder"], "lm_head": gc.tree.scale(3.0, GRADS["lm_head"])}, 0)


def test_labels_serve_as_masks_of_rules_and_in_optax():
    decayed = gc.by_path([("bias", False)], default=True)
    expected = update_of(optax.adamw(0.1, weight_decay=0.5, mask=decayed))
    trees.assert_close(update_of(gc.adamw(0.1, weight_decay=0.5, mask=decayed)), expected, 1e-5)
    theirs = optax.partition({"a": optax.scale(2.0), "b": optax.scale(3.0)}, gc.by_path([("bias", "a")], "b"))
    trees.assert_close(update_of(gc.partition(DOUBLE, gc.by_path([("bias", "a")], "b"))), update_of(theirs), 0)


def test_labels_are_values():
    makers = [
        lambda: gc.by_path([("bias", "a")], default="b"),
        lambda: gc.by_path([("bias", False)], default=True),
        lambda: gc.matrices_and_rest(["token*"], ndims=[2, 3]),
        lambda: gc.by_leaf(labels_of),
    ]
    for make in makers:
        assert make() == make()
        assert hash(make()) == hash(make())
        assert pickle.loads(pickle.dumps(make())) == make()
    for make in makers[:3]:
        assert eval(repr(make()), public.NAMES) == make()
    assert repr(makers[3]()).startswith("by_leaf(<function")


class Pace(enum.Enum):
    """Labels that are neither strings nor numbers."""

    FAST = 1
    SLOW = 2


class Word(enum.StrEnum):
    """Labels that are strings."""

    FAST = "fast"
    SLOW = "slow"


class Number(enum.IntEnum):
    """Labels that are whole numbers."""

    FAST = 0
    SLOW = 1


LABELS = {
    "bools": (True, False, "True"),
    "whole numbers": (0, 1, "0"),
    "an enum": (Pace.FAST, Pace.SLOW, "FAST"),
    "an enum of strings": (Word.FAST, Word.SLOW, "fast"),
    "an enum of whole numbers": (Number.FAST, Number.SLOW, "0"),
    "a string and its member": ("fast", Word.SLOW, "fast"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_may_be_anything_hashable(kind):
    fast, slow, name = LABELS[kind]
    transforms = {fast: gc.scale(2.0), slow: gc.trace(0.9)}
    params = {"a": {"w": jnp.ones(2)}, "b": jnp.ones(3)}
    for labels in (
        {"a": fast, "b": slow},
        gc.by_path([("a", fast)], default=slow),
        gc.by_leaf(lambda path, leaf: slow if path == "b" else fast),
        lambda tree: {"a": {"w": fast}, "b": slow},
    ):
        tx = gc.partition(transforms, labels)
        state = tx.init(params)
        assert sorted(state.inner_states) == sorted(tx.transforms)
        assert f"{name}.scale.step_size" in gc.hyperparams(tx)
        updates, _ = jax.jit(tx.update)(params, state, params)
        assert (updates["a"]["w"][0], updates["b"][0]) == (2, 1)


def test_a_partition_with_labels_of_an_enum_prints_and_goes_into_configs_as_one_with_strings():
    transforms = {Pace.FAST: gc.sgd(0.1), Pace.SLOW: gc.adam(0.1)}
    for labels in (gc.by_path([("a", Pace.FAST)], default=Pace.SLOW), {"a": Pace.FAST, "b": Pace.SLOW}):
        tx = gc.partition(transforms, labels)
        assert eval(repr(tx), public.NAMES) == tx
        assert gc.from_config(gc.to_config(tx)) == tx
        assert pickle.loads(pickle.dumps(tx)) == tx


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: gc.partition(DOUBLE, {"encoder": "a", "lm_head": "c"}), ValueError, "label 'c'; there are 'a', 'b'"),
        (lambda: gc.partition(DOUBLE, None), TypeError, "partition: param_labels can't be None"),
        (lambda: gc.partition(DOUBLE, {"encoder": 1}), ValueError, "no transform for label '1'; there are 'a', 'b'"),
        (lambda: gc.partition(DOUBLE, {"encoder": jnp.ones(1)}), TypeError, "a label is hashable .* found Array"),
        (lambda: gc.partition({1: gc.sgd(0.1), "1": gc.sgd(0.1)}, 1), ValueError, "'1' and another are both called"),
        (lambda: gc.partition([gc.sgd(0.1)], "a"), TypeError, "a dict with strings for keys"),
        (lambda: gc.partition({"a": gc.sgd}, "a"), TypeError, "expected a transform .*call it to get one"),
        (lambda: gc.masked(gc.sgd(0.1), None), TypeError, "masked: mask can't be None"),
        (lambda: gc.masked(gc.sgd(0.1), {"encoder": "a"}), TypeError, "must be a tree of bools .* found 'a'"),
        (lambda: gc.by_path(["bias"]), TypeError, "pairs of a pattern and a label"),
        (lambda: gc.by_path([("bias", [1])]), TypeError, r"a label is hashable .* found \[1\]"),
        (lambda: gc.by_path([(1, "a")]), TypeError, "a pattern is a string, got 1"),
        (lambda: gc.matrices_and_rest("embed"), TypeError, "not_hidden must be patterns"),
        (lambda: gc.matrices_and_rest({"w": jnp.ones((2, 2))}), TypeError, "call what it returns"),
        (
            lambda: gc.selective_transform(gc.sgd(0.1), freeze_mask=gc.by_path([("bias", "a")], "b")),
            TypeError,
            "freeze_mask must be made of bools, found '[ab]'",
        ),
    ],
)
def test_what_cant_be_is_refused_when_it_is_built(build, error, message):
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (lambda params: "c", r"no transform for label 'c' of \['encoder'\]\['bias'\], .*; there are 'a', 'b'"),
        (
            {"encoder": "a"},
            r"prefix of the parameters: .*params has \['lm_head'\]\['bias'\], which param_labels lacks",
        ),
        ({"encoder": "a", "lm_head": None}, r"partition: param_labels has nothing for \['lm_head'\]\['bias'\]"),
        (gc.by_path([("no_such", "a")], "b"), "'no_such' matches no parameter; there are: encoder/bias"),
    ],
)
def test_labels_that_dont_fit_the_parameters_are_an_error_at_init(labels, message):
    with pytest.raises(ValueError, match=message):
        gc.partition(DOUBLE, labels).init(PARAMS)


@pytest.mark.parametrize(
    "result", [lambda params: 3, lambda params: len, lambda params: jax.tree.map(jnp.any, params), lambda params: None]
)
def test_a_function_must_return_a_static_tree(result):
    for tx in (gc.masked(gc.scale(2.0), result), gc.partition(DOUBLE, result)):
        with pytest.raises(
            (TypeError, ValueError), match=r"masked: mask|partition: (param_labels|no transform for label)"
        ):
            tx.init(PARAMS)


def test_patterns_have_nothing_to_match_where_no_parameters_arrive():
    inner = gc.partition(DOUBLE, gc.by_path([("bias", "a")], "b"))
    trees.assert_close(update_of(gc.partition({"x": gc.identity(), "unused": inner}, "x")), GRADS, 0)
    assert gc.masked(gc.trace(0.9), gc.by_path([("bias", True)], False)).init({}).inner_state.trace == {}


def test_long_lists_in_errors_are_cut():
    params = {str(i): jnp.ones(2) for i in range(30)}
    with pytest.raises(ValueError, match=r"there are: 0, 1, .* and 10 more"):
        gc.masked(gc.scale(2.0), gc.by_path([("x", True)], False)).init(params)


def test_a_transform_that_nothing_is_labelled_with_is_no_error():
    tx = gc.partition({**DOUBLE, "unused": gc.adam(0.1)}, "a")
    trees.assert_close(update_of(tx), TWICE, 0)


def test_left_out_parameters_have_no_state():
    tx = gc.partition({"a": gc.trace(0.9), "b": gc.sgd(0.1)}, gc.by_path([("bias", "a")], "b"))
    trace = tx.init(PARAMS).inner_states["a"].trace
    assert trace["encoder"]["kernel"] is None
    assert trace["encoder"]["bias"].shape == (2,)
    state = gc.masked(gc.trace(0.9), gc.by_path([("bias", True)], False)).init(PARAMS).inner_state
    assert flat(state.trace).keys() == {"encoder/bias", "lm_head/bias"}


def test_names_of_hyperparameters_begin_with_the_label():
    tx = gc.partition({"decay": gc.adamw(0.1), "plain": gc.masked(gc.sgd(0.2), True)}, "decay")
    numbers = gc.hyperparams(tx)
    assert numbers["decay.scale_by_adam.b1"] == 0.9
    assert numbers["plain.scale_by_learning_rate.learning_rate"] == 0.2
    changed = tx.replace(**{"plain.scale_by_learning_rate.learning_rate": 0.3})
    assert gc.hyperparams(changed)["plain.scale_by_learning_rate.learning_rate"] == 0.3
    assert gc.hyperparams(changed)["decay.scale_by_learning_rate.learning_rate"] == 0.1


def test_parts_give_each_transform_its_share_of_state_and_parameters():
    tx = gc.partition({"b": gc.trace(0.9), "a": gc.scale(2.0)}, gc.by_path([("bias", "a")], "b"))
    state = tx.init(PARAMS)
    first, second = tx.parts(state, PARAMS)
    assert (first.name, second.name) == ("a", "b")
    assert flat(first.params).keys() == {"encoder/bias", "lm_head/bias"}
    assert flat(second.params).keys() == {"encoder/kernel", "lm_head/kernel"}
    assert second.state is state.inner_states["b"]
    (inner,) = gc.masked(gc.trace(0.9), {"encoder": True, "lm_head": False}).parts(params=PARAMS)
    assert flat(inner.params).keys() == {"encoder/bias", "encoder/kernel"}


def test_rules_on_the_whole_tree_see_their_own_label_only():
    tx = gc.partition({"a": gc.clip_by_global_norm(1.0), "b": gc.identity()}, {"encoder": "a", "lm_head": "b"})
    updates = update_of(tx)
    np.testing.assert_allclose(gc.global_norm(updates["encoder"]), 1.0, rtol=1e-6)
    trees.assert_close(updates["lm_head"], GRADS["lm_head"], 0)


def test_freezing():
    broken = {**GRADS, "encoder": jax.tree.map(lambda x: x * jnp.nan, GRADS["encoder"])}
    for mask in (
        {"encoder": True, "lm_head": False},
        gc.by_path([("encoder", True)], default=False),
        gc.by_leaf(lambda path, leaf: path.startswith("encoder")),
        lambda params: {"encoder": True, "lm_head": False},
    ):
        for tx in (gc.selective_transform(gc.trace(0.9), freeze_mask=mask), gc.chain(gc.trace(0.9), gc.freeze(mask))):
            updates = update_of(tx, grads=broken)
            trees.assert_close(updates["encoder"], gc.tree.zeros_like(GRADS["encoder"]), 0)
            trees.assert_close(updates["lm_head"], GRADS["lm_head"], 0)
        assert tx == gc.chain(gc.trace(0.9), gc.freeze(mask))
    state = gc.selective_transform(gc.trace(0.9), freeze_mask=True).init(PARAMS)
    assert [x.shape for x in jax.tree.leaves(state)] == [()]
    tx = gc.selective_transform(gc.scale(2.0), freeze_mask=gc.by_path([("bias", True), ("*", False)]))
    assert jnp.all(update_of(tx)["encoder"]["bias"] == 0)
    trees.assert_close(update_of(gc.selective_transform(gc.scale(2.0), freeze_mask=False)), TWICE, 0)


def test_integer_parameters_may_be_masked_out():
    params = {"w": jnp.ones(2), "steps": jnp.arange(3)}
    tx = gc.masked(gc.adam(0.1), {"w": True, "steps": False})
    updates = update_of(tx, params, {"w": jnp.ones(2), "steps": jnp.zeros(3, int)})
    assert updates["steps"].dtype == params["steps"].dtype


def test_gradients_may_lack_what_a_pattern_was_written_for():
    tx = gc.partition({"a": gc.trace(0.9), "b": gc.scale(1.0)}, gc.by_path([("lm_head", "b")], default="a"))
    state = tx.init(PARAMS)
    partial = {**GRADS, "lm_head": {"kernel": None, "bias": None}}
    updates, after = tx.update(partial, state, PARAMS)
    assert updates["lm_head"] == {"kernel": None, "bias": None}
    trees.assert_same_kind(after, state)
    tx.update(partial, state)


def test_a_result_of_another_structure_is_an_error():
    broken = optax.stateless(lambda updates, params: jax.tree.leaves(updates))
    for tx in (gc.masked(broken, True), gc.partition({"a": broken}, "a")):
        with pytest.raises(ValueError, match="from_optax: its result and the updates that it got differ in structure"):
            update_of(tx)


def test_a_state_with_other_labels_is_an_error():
    state = gc.partition({"a": gc.scale(2.0)}, "a").init(PARAMS)
    with pytest.raises(ValueError, match=r"another transform: expected \['a', 'b'\], got \['a'\]"):
        gc.partition(DOUBLE, "a").update(GRADS, state, PARAMS)


@gc.elementwise(extra=("value",))
def times_value(g, slot, at):
    """Multiply by a number given at each update."""
    return g * at.value


@gc.stateless
def add_nothing(updates, params):
    """Pass updates on."""
    return updates


class AddTags:
    """A foreign transform that adds a tree of numbers given at each update."""

    def init(self, params):
        return ()

    def update(self, updates, state, params=None, tags=None, **extra):
        return jax.tree.map(lambda u, t: u + t, updates, tags), state


@pytest.mark.parametrize("route", [gc.masked, lambda tx, mask, **kw: gc.partition({"yes": tx, "no": tx}, "yes", **kw)])
def test_extra_arguments_reach_the_inner_transform(route):
    tx = route(times_value(), True)
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, value=jnp.float32(2.0))
    trees.assert_close(updates, TWICE, 0)


def test_trees_among_extra_arguments_are_divided_if_asked_for():
    mask = {"encoder": True, "lm_head": False}
    labels = {"encoder": "a", "lm_head": "b"}
    tags = {"tags": GRADS, "value": jnp.ones(())}
    both = gc.partition({"a": AddTags(), "b": AddTags()}, labels, mask_compatible_extra_args=True)
    trees.assert_close(both.update(GRADS, both.init(PARAMS), PARAMS, **tags)[0], TWICE, 0)
    one = gc.masked(AddTags(), mask, mask_compatible_extra_args=True)
    updates, _ = one.update(GRADS, one.init(PARAMS), PARAMS, **tags)
    trees.assert_close(updates, {"encoder": TWICE["encoder"], "lm_head": GRADS["lm_head"]}, 0)
    theirs = optax.masked(
        optax.GradientTransformationExtraArgs(*gc.from_optax(AddTags())), mask, mask_compatible_extra_args=True
    )
    trees.assert_close(theirs.update(GRADS, theirs.init(PARAMS), PARAMS, **tags)[0], updates, 0)
    with pytest.raises(ValueError, match="structure"):
        gc.masked(AddTags(), mask).update(GRADS, one.init(PARAMS), PARAMS, **tags)


def test_a_single_array_is_left_out_or_not():
    w = jnp.ones(3)
    for mask, factor in ((True, 2.0), (False, 1.0)):
        tx = gc.masked(
            gc.chain(gc.scale(2.0), gc.add_decayed_weights(0.0, True)), mask, mask_compatible_extra_args=True
        )
        trees.assert_close(tx.update(w, tx.init(w), w, value=jnp.ones(()))[0], factor * w, 0)
    assert jax.tree.leaves(gc.masked(gc.trace(0.9), False).init(w).inner_state.trace) == []


def test_optax_transforms_inside_and_outside():
    labels = {"encoder": "a", "lm_head": "b"}
    inside = gc.partition({"a": optax.adam(0.1), "b": optax.sgd(0.1, momentum=0.9)}, labels)
    around = optax.partition({"a": gc.adam(0.1), "b": gc.sgd(0.1, momentum=0.9)}, labels)
    theirs = optax.partition({"a": optax.adam(0.1), "b": optax.sgd(0.1, momentum=0.9)}, labels)
    results = []
    for tx in (inside, around, theirs):
        state = tx.init(PARAMS)
        for _ in range(3):
            updates, state = jax.jit(tx.update)(GRADS, state, PARAMS)
        results.append(updates)
    trees.assert_close(results[0], results[2], 1e-5)
    trees.assert_close(results[1], results[2], 1e-5)


class Dense(eqx.Module):
    """A layer that can be called, and so can its masks and labels: trees, not functions."""

    kernel: jax.Array
    bias: jax.Array

    def __call__(self, x):
        return x @ self.kernel + self.bias


def test_labels_and_masks_that_can_be_called_are_trees():
    params = Dense(jnp.ones((2, 2)), jnp.ones(2))
    grads = jax.tree.map(jnp.ones_like, params)
    labels, mask = Dense("a", "b"), Dense(False, True)
    assert callable(labels)
    with pytest.raises(TypeError):  # optax calls the model
        optax.partition({"a": optax.scale(2.0), "b": optax.scale(3.0)}, labels).init(params)
    trees.assert_close(
        update_of(gc.partition(DOUBLE, labels), params, grads), Dense(2 * params.kernel, 3 * params.bias), 0
    )
    trees.assert_close(
        update_of(gc.masked(gc.scale(2.0), mask), params, grads), Dense(params.kernel, 2 * params.bias), 0
    )


def test_frozen_dicts_as_parameters_labels_and_masks():
    params, grads = flax.core.freeze(PARAMS), flax.core.freeze(GRADS)
    labels = flax.core.freeze({"encoder": "a", "lm_head": "b"})
    expected = flax.core.freeze(update_of(gc.partition(DOUBLE, {"encoder": "a", "lm_head": "b"})))
    for given in (labels, gc.by_path([("encoder", "a")], "b"), lambda params: labels):
        trees.assert_close(update_of(gc.partition(DOUBLE, given), params, grads), expected, 0)
    mask = flax.core.freeze({"encoder": True, "lm_head": False})
    updates = update_of(gc.masked(gc.scale(2.0), mask), params, grads)
    trees.assert_close(updates, flax.core.freeze({"encoder": TWICE["encoder"], "lm_head": GRADS["lm_head"]}), 0)


def not_zero(tree):
    return jax.tree.map(lambda x: bool(jnp.any(x != 0)), tree)


def in_half_precision(tree):
    return jax.tree.map(lambda x: x.dtype == jnp.bfloat16, tree)


def test_optax_asks_a_mask_function_again_about_the_updates_and_we_dont():
    params, zero = {"w": jnp.ones(2)}, {"w": jnp.zeros(2)}
    theirs, ours = optax.masked(optax.trace(0.9), not_zero), gc.masked(gc.trace(0.9), not_zero)
    _, theirs_state = theirs.update(params, theirs.init(params), params)
    with pytest.raises(ValueError, match=r"arity|structure|Expected"):
        theirs.update(zero, theirs_state, params)
    _, state = ours.update(params, ours.init(params), params)
    trees.assert_close(ours.update(zero, state, params)[0], {"w": jnp.full(2, 0.9)}, 1e-7)


def test_optax_looks_at_the_gradients_dtype_and_we_at_the_parameters():
    params, grads = {"w": jnp.ones(2, "bfloat16")}, {"w": jnp.ones(2, "float32")}
    theirs, ours = optax.masked(optax.scale(2.0), in_half_precision), gc.masked(gc.scale(2.0), in_half_precision)
    assert float(theirs.update(grads, theirs.init(params), params)[0]["w"][0]) == 1.0
    assert float(ours.update(grads, ours.init(params), params)[0]["w"][0]) == 2.0
    labels = functools.partial(jax.tree.map, lambda x: "a" if x.dtype == jnp.bfloat16 else "b")
    theirs = optax.partition({"a": optax.scale(2.0), "b": optax.scale(3.0)}, labels)
    assert float(theirs.update(grads, theirs.init(params), params)[0]["w"][0]) == 3.0
    assert float(update_of(gc.partition(DOUBLE, labels), params, grads)["w"][0]) == 2.0


def test_functions_of_parameters_need_them():
    for tx in (gc.masked(gc.scale(2.0), not_zero), gc.masked(gc.scale(2.0), gc.by_leaf(lambda path, leaf: True))):
        with pytest.raises(ValueError, match=r"masked needs params: .*; its mask is a function of them"):
            tx.update(GRADS, tx.init(PARAMS))
    for labels in ("a", gc.by_path([("*", "a")]), gc.matrices_and_rest(matrices="a", rest="a")):
        tx = gc.partition(DOUBLE, labels)
        trees.assert_close(tx.update(GRADS, tx.init(PARAMS))[0], TWICE, 0)


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("hidden/kernel", (4, 4), "matrices"),
        ("attention/output_projection/kernel", (4, 4), "matrices"),
        ("multihead/kernel", (4, 4), "matrices"),
        ("hidden/bias", (4,), "rest"),
        ("scale", (), "rest"),
        ("conv/kernel", (3, 3, 4, 4), "rest"),
        ("stacked/bias", (6, 4), "rest"),
        ("Embed_0/embedding", (9, 4), "rest"),
        ("pos_emb", (9, 4), "rest"),
        ("lm_head/kernel", (4, 9), "rest"),
        ("head/kernel", (4, 9), "rest"),
        ("output/kernel", (4, 9), "rest"),
    ],
)
def test_matrices_and_rest(path, shape, expected):
    params = jnp.ones(shape)
    for name in reversed(path.split("/")):
        params = {name: params}
    assert jax.tree.leaves(gc.matrices_and_rest()(params)) == [expected]


def test_matrices_and_rest_with_other_names_and_shapes():
    labels = gc.matrices_and_rest(["encoder"], ndims=(1, 2), matrices="muon", rest="adam")
    assert set(jax.tree.leaves(labels(PARAMS)["encoder"])) == {"adam"}
    assert set(jax.tree.leaves(labels(PARAMS)["lm_head"])) == {"muon"}


def test_leaves_that_are_no_arrays_belong_to_no_transform():
    params = {"act": jax.nn.relu, "w": jnp.ones(3), "frozen": jnp.ones(2)}
    gradient = {"act": None, "w": jnp.ones(3), "frozen": jnp.ones(2)}
    frozen = {"act": True, "w": False, "frozen": True}
    for tx in (
        gc.selective_transform(gc.adam(0.1), freeze_mask=frozen),
        gc.partition({"train": gc.adam(0.1), "rest": gc.set_to_zero()}, gc.by_path([("w", "train")], default="rest")),
    ):
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(gradient, state, params)
        assert updates["act"] is None
        trees.assert_close(updates["frozen"], jnp.zeros(2), 0)
        trees.assert_close(updates["w"], jnp.full(3, -0.1), 1e-5)
        assert gc.apply_updates(params, updates)["act"] is jax.nn.relu


@pytest.mark.parametrize(
    "use",
    [
        lambda pattern: gc.by_path([("bias", True), (pattern, True)], False),
        lambda pattern: gc.matrices_and_rest(("bias", pattern)),
        lambda pattern: gc.per_layer(gc.scale_by_lion(), [(pattern, 0)]),
        lambda pattern: gc.from_config({"name": "by_path", "patterns": [[pattern, True]]}),
    ],
    ids=["by_path", "matrices_and_rest", "per_layer", "config"],
)
def test_a_pattern_that_nothing_can_match_is_refused_where_it_is_written(use):
    with pytest.raises(ValueError, match=r"pattern 'layers/\[!9-0\]' has the range 9-0, .* write 0-9, as in 'layers/"):
        use("layers/[!9-0]")


CHARACTERS = [
    "[",
    "]",
    "!",
    "-",
    "^",
    "\\",
    "&&",
    "~~",
    "||",
    "*",
    "?",
    "/",
    "(",
    "{",
    "+",
    "\n",
    "\0",
    "a",
    "z",
    "kernel",
]


@pytest.mark.parametrize("number", [200, pytest.param(3000, marks=pytest.mark.slow)])
def test_any_text_is_a_pattern_or_a_name_or_is_refused_by_name(number):
    params, rng = {"kernel": jnp.ones((2, 2)), "[a": jnp.ones(2)}, np.random.default_rng(0)
    tx = gc.named_chain(("first", gc.sgd(0.1, momentum=0.9)), ("second", gc.sgd(0.1)))
    saved, state = gc.to_state_dict(tx, tx.init(params)), tx.init(params)
    uses = (
        lambda text: gc.by_path([(text, True)], False)(params),
        lambda text: gc.masked(gc.sgd(0.1), gc.matrices_and_rest((text,), matrices="a", rest="b")),
        lambda text: gc.per_layer(gc.scale_by_lion(), [(text, 0)]).init(params),
        lambda text: tx.replace(**{text: 0.5}),
        lambda text: gc.from_state_dict(tx, params, saved, rename={text: "x"}),
        lambda text: gc.tree.set(state, **{text: 1}),
    )
    for _ in range(number):
        text = "".join(rng.choice(CHARACTERS, rng.integers(1, 8)))
        for use in uses:
            try:
                use(text)
            except (ValueError, KeyError) as error:
                quoted = ascii(text)[1:-1].replace("\\", "")[:20]
                assert quoted in ascii(str(error)).replace("\\", ""), (text, error)  # noqa: PT017


def test_masks_of_terms_are_nothing_where_a_bare_array_is_left_out():
    weights = jnp.ones(3)
    for rule in (gc.scale_by_dadapt_adam(weight_decay=0.1), gc.prodigy(weight_decay=0.1), gc.momo(weight_decay=0.1)):
        tx = gc.partition({"trained": gc.chain(rule, gc.scale(-1.0)), "kept": gc.identity()}, lambda params: "kept")
        updates, _ = tx.update(weights, tx.init(weights), weights, value=jnp.ones(()))
        np.testing.assert_array_equal(updates, weights)
