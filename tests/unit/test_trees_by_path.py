"""Trees that say something about parameters: they go by paths, whatever containers the parameters are in."""

import collections
import dataclasses
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import gradchain as gc
from gradchain import tree
from tests import trees

ARRAYS = {"w": jnp.full((4, 3), 2.0), "b": jnp.ones(3)}


class Pair(NamedTuple):
    """Two parameters, or what is said about them."""

    w: Any
    b: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    """Two parameters, or what is said about them."""

    w: Any
    b: Any


class Frozen(dict):
    """A mapping of its own type, as Flax has several, that keeps the order of its keys."""


jax.tree_util.register_pytree_with_keys(
    Frozen,
    lambda x: ([(jax.tree_util.DictKey(key), value) for key, value in x.items()], tuple(x)),
    lambda keys, values: Frozen(zip(keys, values, strict=True)),
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Box:
    """A variable around an array, as Flax's."""

    value: Any


class Boxed(dict):
    """A mapping from names to variables, as ``nnx.State``."""


jax.tree_util.register_pytree_with_keys(
    Boxed,
    lambda x: ([(jax.tree_util.DictKey(key), Box(value)) for key, value in x.items()], tuple(x)),
    lambda keys, boxes: Boxed(zip(keys, (box.value for box in boxes), strict=True)),
)
CONTAINERS = {
    "dict": dict,
    "OrderedDict": collections.OrderedDict,
    "defaultdict": lambda **items: collections.defaultdict(int, items),
    "NamedTuple": Pair,
    "class": Layer,
    "own": Frozen,
    "boxes": Boxed,
}
MATRIX = gc.MuonDimensionNumbers(0, 1)
TRANSFORMS = {
    "mask": (lambda said: gc.add_decayed_weights(0.5, mask=said), True, False),
    "mask function": (lambda said: gc.add_decayed_weights(0.5, mask=lambda params: said), True, False),
    "masked": (lambda said: gc.masked(gc.trace(0.9), said), True, False),
    "freeze": (gc.freeze, False, True),
    "selective_transform": (lambda said: gc.selective_transform(gc.trace(0.9), freeze_mask=said), False, True),
    "partition": (lambda said: gc.partition({"x": gc.trace(0.9), "y": gc.set_to_zero()}, said), "x", "y"),
    "per_layer": (lambda said: gc.per_layer(gc.scale_by_trust_ratio(), said), 0, None),
    "muon": (lambda said: gc.muon(0.1, muon_weight_dimension_numbers=said), MATRIX, None),
    "galore": (lambda said: gc.scale_by_galore(2, weight_dimension_numbers=said), MATRIX, None),
}


def updates_of(tx, params):
    return tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)[0]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_is_said_by_path_holds_in_any_container(name):
    make, of_w, of_b = TRANSFORMS[name]
    expected = jax.tree.leaves(updates_of(make({"w": of_w, "b": of_b}), ARRAYS))
    for container, said in (*[(c, dict) for c in CONTAINERS.values()], *[(dict, c) for c in CONTAINERS.values()]):
        found = updates_of(make(said(w=of_w, b=of_b)), container(**ARRAYS))
        for x, y in zip([found[1], found[0]] if container is Pair else order(found), expected, strict=True):
            trees.assert_close(x, y, 1e-6)


def order(found):
    """Return the leaves of b and of w."""
    return [found.b, found.w] if isinstance(found, Layer) else [found["b"], found["w"]]


@pytest.mark.parametrize("said", CONTAINERS)
def test_masks_and_labels_in_any_container_go_with_parameters_in_any_other(said):
    for params in CONTAINERS.values():
        tree = {"layers": [params(**ARRAYS)]}
        mask = {"layers": (CONTAINERS[said](w=True, b=False),)}
        for tx in (
            gc.add_decayed_weights(0.5, mask),
            gc.chain(gc.masked(gc.scale(2.0), mask)),
            gc.partition({True: gc.scale(2.0), False: gc.identity()}, mask),
        ):
            (found,) = updates_of(tx, tree)["layers"]
            b, w = jax.tree.leaves(found)[::-1] if params is Pair else order(found)
            assert (float(b[0]), float(w[0, 0])) == (1, 2)


def test_a_prefix_ends_in_any_container():
    params = {"blocks": [Layer(jnp.ones(2), jnp.ones(2)), Pair(jnp.ones(2), jnp.ones(2))], "head": ARRAYS["b"]}
    mask = Frozen(head=False, blocks=(True, {"b": False, "w": True}))
    updates = updates_of(gc.masked(gc.scale(3.0), mask), params)
    assert [float(x[0]) for x in jax.tree.leaves(updates)] == [3, 3, 3, 1, 1]


@pytest.mark.parametrize("said", [(True, False), {0: True, 1: False}, {"0": True, "1": False}])
def test_positions_are_keys_too(said):
    updates = updates_of(gc.masked(gc.scale(3.0), {"layers": said}), {"layers": [jnp.ones(2), jnp.ones(2)]})
    assert [float(x[0]) for x in updates["layers"]] == [3, 1]


def test_a_hole_needs_no_word_and_takes_none():
    params = {"w": jnp.ones(2), "gap": None}
    for mask in ({"w": True}, {"w": True, "gap": True}, {"w": True, "gap": {"deep": False}}):
        for said in (mask, Frozen(mask)):
            assert float(updates_of(gc.masked(gc.scale(3.0), said), params)["w"][0]) == 3


DIFFERENCES = [
    ((True,), r"params has ['layers'][1], which mask lacks (at ['layers'] mask is of type tuple, params of type list)"),
    ({"x": True}, r"mask has ['layers']['x'], which params lacks (at ['layers'] mask is of type dict, params of"),
    ((True, {"x": True}), r"mask has ['layers'][1]['x'], which params lacks (at ['layers'][1] mask is of type dict, "),
]


@pytest.mark.parametrize(("said", "message"), DIFFERENCES)
def test_an_error_names_the_path_and_both_containers(said, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        gc.masked(gc.scale(3.0), {"layers": said}).init({"layers": [jnp.ones(2), jnp.ones(2)]})


def test_trees_of_equal_paths_are_told_apart_by_their_containers():
    params = [jnp.ones(2), jnp.ones(2)]
    message = "differ in structure: updates is of type tuple, params of type list"
    with pytest.raises(ValueError, match=message):
        gc.apply_updates(params, tuple(params))


def test_a_mask_says_something_about_every_parameter():
    with pytest.raises(ValueError, match=r"the mask has nothing for \['b'\]"):
        gc.add_decayed_weights(0.5, mask={"w": True, "b": None}).init(ARRAYS)


def test_gradients_of_another_tree_name_the_path_that_differs():
    tx = gc.adam(0.1)
    for grads, params in ((jnp.ones(2), {"w": jnp.ones(2)}), ({"w": {"x": jnp.ones(2)}}, {"w": jnp.ones(2)})):
        with pytest.raises(ValueError, match=r"\['w'\]") as error:
            tx.update(grads, tx.init(params))
        assert "None" not in str(error.value)


def test_shardings_and_marks_go_by_path():
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("x",), ()))
    params = collections.OrderedDict(w=ARRAYS["w"], b=ARRAYS["b"])
    layout = gc.state_shardings(gc.trace(0.9), params, {"b": whole, "w": split})
    assert (layout.trace["w"].spec, layout.trace["b"].spec) == (split.spec, whole.spec)
    marked = tree.map_params(gc.trace(0.9), lambda _, mark: mark, gc.trace(0.9).init(params), {"b": "B", "w": "W"})
    assert marked.trace == collections.OrderedDict(w="W", b="B")


def test_bounds_and_bytes_go_by_path():
    projected = gc.projections.projection_box(Layer(jnp.ones(2), jnp.ones(3)), {"b": 2.0, "w": None}, Pair(None, 5.0))
    assert (float(projected.w[0]), float(projected.b[0])) == (1, 2)
    mesh = jax.sharding.AbstractMesh((4,), ("x",))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("x",), ()))
    shapes = collections.OrderedDict(w=jnp.ones((4, 3)), b=jnp.ones(4))
    assert gc.bytes_per_device(shapes, {"b": whole, "w": split}) == 3 * 4 + 4 * 4


BEHIND = {
    "partition": gc.partition({"x": gc.adam(0.1), "y": gc.sgd(0.1, 0.9)}, {"w": "x", "b": "y"}),
    "partition by a function": gc.partition({"x": gc.adam(0.1), "y": gc.sgd(0.1, 0.9)}, lambda p: {"w": "x", "b": "y"}),
    "masked": gc.chain(gc.masked(gc.adam(0.1), {"w": True, "b": False}), gc.trace(0.9)),
    "selective_transform": gc.selective_transform(gc.adam(0.1), freeze_mask={"w": False, "b": True}),
    "mask of a rule": gc.adamw(0.1, mask={"w": True, "b": False}),
    "muon": gc.muon(0.1, muon_weight_dimension_numbers={"w": MATRIX, "b": None}),
    "galore": gc.scale_by_galore(2, weight_dimension_numbers={"w": MATRIX, "b": None}),
    "per_layer": gc.per_layer(gc.lamb(0.1), {"w": 0, "b": None}),
    "a mask in a mask": gc.masked(gc.masked(gc.adam(0.1), {"w": True, "b": True}), {"w": True, "b": False}),
    "real and imaginary parts": gc.split_real_and_imaginary(gc.adam(0.1)),
    "kept weights": gc.average_params(gc.selective_transform(gc.adam(0.1), freeze_mask={"w": False, "b": True})),
}
SLOTS = {
    "partition": {"W": 2, "B": 1},
    "partition by a function": {"W": 2, "B": 1},
    "masked": {"W": 3, "B": 1},
    "selective_transform": {"W": 2, "B": 0},
    "mask of a rule": {"W": 2, "B": 2},
    "muon": {"W": 1, "B": 2},
    "galore": {"W": 3, "B": 2},
    "per_layer": {"W": 2, "B": 2},
    "a mask in a mask": {"W": 2, "B": 0},
    "real and imaginary parts": {"W": 4, "B": 2},
    "kept weights": {"W": 3, "B": 1},
}


@pytest.mark.parametrize("name", BEHIND)
def test_slots_are_found_behind_masks_and_labels(name):
    """As many as the rules keep for each array: Adam 2, a trace 1, GaLore's projector and Adam's 2."""
    params = ARRAYS | ({"w": ARRAYS["w"] + 0j} if name == "real and imaginary parts" else {})
    state = BEHIND[name].init(params)
    marked = tree.map_params(
        BEHIND[name], lambda _, mark: mark, state, Frozen(w="W", b="B"), transform_non_params=lambda _: "-"
    )
    leaves = jax.tree.leaves(marked)
    assert {mark: leaves.count(mark) for mark in ("W", "B")} == SLOTS[name]


SHAPED = {
    "muon": gc.muon(0.1, muon_weight_dimension_numbers=gc.MuonDimensionNumbers(0, 5)),
    "muon's function": gc.muon(0.1, muon_weight_dimension_numbers=lambda p: gc.MuonDimensionNumbers(0, 5)),
    "muon, twice the same": gc.muon(0.1, muon_weight_dimension_numbers=gc.MuonDimensionNumbers(0, 0)),
    "scale_by_muon": gc.scale_by_muon(weight_dimension_numbers={"w": gc.MuonDimensionNumbers(1, -3)}),
    "scale_by_shape": gc.scale_by_shape(gc.MuonDimensionNumbers(0, (1, 2))),
    "galore": gc.scale_by_galore(2, weight_dimension_numbers=gc.MuonDimensionNumbers(0, 2)),
    "muon a layer": gc.per_layer(gc.scale_by_muon(weight_dimension_numbers=MATRIX), 0),
    "per_layer": gc.per_layer(gc.lamb(0.1), 2),
    "adaptive_grad_clip": gc.adaptive_grad_clip(0.1, axis=2),
    "adaptive_grad_clip, several": gc.adaptive_grad_clip(0.1, axis=(0, 0)),
}


@pytest.mark.parametrize("name", SHAPED)
def test_axes_that_an_array_lacks_are_refused_at_init(name):
    with pytest.raises(ValueError, match=r"\['w'\].*\(4, 3\)|\['w'\].*\(3,\)"):
        SHAPED[name].init({"w": ARRAYS["w"]})


def test_an_array_that_is_no_matrix_is_refused_at_init():
    for tx in (gc.scale_by_muon(), gc.scale_by_shape()):
        with pytest.raises(ValueError, match=r"\['b'\]: an array of shape \(3,\) is not a matrix"):
            tx.init(ARRAYS)
    with pytest.raises(ValueError, match=r"\(the whole tree\) has shape .* Say so with axis="):
        gc.adaptive_grad_clip(0.1).init(jnp.ones((2,) * 6))
    with pytest.raises(TypeError, match="adaptive_grad_clip: axis must be an axis, a tuple of axes or None, got 'x'"):
        gc.adaptive_grad_clip(0.1, axis="x")
