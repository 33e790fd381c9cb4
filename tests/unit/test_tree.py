"""gradchain.tree: arithmetic against NumPy, dtypes, and the errors of trees that don't match."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradchain import tree
from tests import trees

X = {"a": jnp.array([1.0, -2.0]), "b": (jnp.array(3.0), None)}
Y = {"a": jnp.array([4.0, 0.5]), "b": (jnp.array(-1.0), None)}
HALF = {"a": jnp.array([1.0, -2.0], "bfloat16"), "b": (jnp.array(3.0, "bfloat16"), None)}


def same(got, a, b):
    """Assert that a tree like ``X`` holds ``a`` and ``b``."""
    trees.assert_close(got, {"a": np.asarray(a, float), "b": (np.asarray(b, float), None)}, 0)


def test_arithmetic():
    same(tree.add(X, Y), [5, -1.5], 2)
    same(tree.add(X, Y, Y), [9, -1], 1)
    same(tree.add(X), [1, -2], 3)
    same(tree.sub(X, Y), [-3, -2.5], 4)
    same(tree.mul(X, Y), [4, -1], -3)
    same(tree.div(X, Y), [0.25, -4], -3)
    same(tree.scale(2, X), [2, -4], 6)
    same(tree.add_scale(X, 2, Y), [9, -1], 1)


def test_scaling_keeps_each_leafs_dtype():
    factor = jnp.float32(0.5)
    trees.assert_same_kind(tree.scale(factor, HALF), HALF)
    trees.assert_same_kind(tree.add_scale(HALF, factor, X), HALF)


def test_sums_and_products():
    assert tree.sum(X) == 2
    assert tree.sum({}) == 0
    assert tree.sum({}, start=7) == 7
    assert tree.vdot(X, Y) == 4 - 1 - 3
    assert tree.vdot({"z": jnp.array([1 + 1j])}, {"z": jnp.array([2j])}) == (1 - 1j) * 2j
    assert tree.size(X) == 3


def test_sums_of_half_precision_accumulate_in_single():
    many = {"x": jnp.ones(4096, "bfloat16"), "y": jnp.ones(4096, "bfloat16")}
    assert tree.sum(many) == 8192
    assert tree.vdot(many, many) == 8192
    assert tree.norm(many, squared=True) == 8192
    assert tree.sum(many).dtype == tree.norm(many).dtype == jnp.dtype("float32")


@pytest.mark.parametrize(("ord", "expected"), [(1, 6), (2, 14**0.5), (None, 14**0.5), ("inf", 3), (jnp.inf, 3)])
def test_norms(ord, expected):
    np.testing.assert_allclose(tree.norm(X, ord), expected, rtol=1e-6)
    np.testing.assert_allclose(tree.norm(X, ord, squared=True), expected**2, rtol=1e-6)
    assert tree.norm({}, ord) == 0
    assert tree.norm({"empty": jnp.zeros((0, 2))}, ord) == 0


def test_global_norm_of_mixed_trees_and_its_derivative_at_zero():
    mixed = {"z": jnp.array([3j]), "h": jnp.array([4.0], "bfloat16")}
    assert tree.global_norm(mixed) == 5
    trees.assert_close(jax.grad(tree.global_norm)(tree.zeros_like(X)), tree.zeros_like(X), 0)


def test_an_unknown_norm_is_an_error():
    with pytest.raises(ValueError, match="ord must be 1, 2 or inf, got 3"):
        tree.norm(X, 3)


def test_filled_trees():
    same(tree.zeros_like(X), [0, 0], 0)
    same(tree.ones_like(X), [1, 1], 1)
    same(tree.full_like(X, 7), [7, 7], 7)
    trees.assert_same_kind(tree.zeros_like(HALF), HALF)
    trees.assert_same_kind(tree.ones_like(X, "bfloat16"), HALF)


def test_cast_leaves_integers_and_none_alone():
    mixed = {"w": jnp.ones(2), "n": jnp.arange(2), "none": None}
    cast = tree.cast(mixed, "bfloat16")
    assert (cast["w"].dtype, cast["n"].dtype, cast["none"]) == (jnp.dtype("bfloat16"), jnp.dtype("int32"), None)
    assert tree.cast(mixed, None) is mixed


def test_cast_like_takes_the_others_dtypes_and_refuses_to_drop_imaginary_parts():
    trees.assert_same_kind(tree.cast_like(X, HALF), HALF)
    trees.assert_same_kind(tree.cast_like({"w": jnp.asarray(1.0)}, {"w": jnp.ones((), "float32")}), {"w": jnp.ones(())})
    with pytest.raises(TypeError, match=r"complex64.* can't become float32: it would lose its imaginary part"):
        tree.cast_like({"w": jnp.ones(2, "complex64")}, {"w": jnp.ones(2)})


def test_where_selects_whole_trees():
    same(tree.where(jnp.array(True), X, Y), [1, -2], 3)
    same(tree.where(jnp.array(False), X, Y), [4, 0.5], -1)


def test_random_like_draws_independently_in_each_leafs_dtype():
    target = {"a": jnp.zeros((50, 20)), "b": jnp.zeros((50, 20), "bfloat16"), "c": None}
    draws = tree.random_like(jax.random.key(0), target)
    trees.assert_same_kind(draws, target)
    assert abs(float(jnp.mean(draws["a"]))) < 0.1
    assert abs(float(jnp.std(draws["a"])) - 1) < 0.1
    correlation = np.corrcoef(np.ravel(draws["a"]), np.ravel(draws["b"].astype("float32")))[0, 1]
    assert abs(correlation) < 0.1
    uniform = tree.random_like(jax.random.key(0), target, jax.random.uniform)
    assert float(jnp.min(uniform["a"])) >= 0
    assert float(jnp.max(uniform["a"])) <= 1
    assert tree.random_like(jax.random.key(0), {}) == {}


def test_paths_are_shown_as_code():
    path = jax.tree_util.tree_flatten_with_path({"block": [{"kernel": 1}]})[0][0][0]
    assert tree.show_path(path) == "['block'][0]['kernel']"
    assert tree.show_path(()) == "(the whole tree)"


def test_overlay_keeps_what_the_upper_tree_leaves_out():
    base = {"a": 1.0, "b": {"c": 2.0, "d": 3.0}, "e": None, "f": "static"}
    over = {"a": None, "b": {"c": 20.0, "d": None}, "e": None, "f": None}
    assert tree.overlay(over, base) == {**base, "b": {"c": 20.0, "d": 3.0}}
    assert tree.overlay({**over, "b": None}, base) == base
    with pytest.raises(ValueError, match=r"tree\.overlay: .*\['b'\]"):
        tree.overlay({"a": 1.0, "b": {"c": 2.0, "x": 3.0}, "e": None, "f": None}, base)


def test_match_returns_the_tree_in_the_others_structure():
    params = {"w": jnp.ones(2), "static": "relu"}
    like = {"w": jnp.zeros(2), "static": None}
    assert tree.match(params, like, "adam", "params", "updates")["static"] is None
    assert tree.match(X, Y, "adam", "params", "updates") is X


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": X["a"]}, r"adam: .*params has \['b'\]\[0\], which updates lack"),
        ({**X, "new": jnp.ones(2)}, r"adam: .*updates has \['new'\], which params lack"),
        ({**X, "a": jnp.ones(3)}, r"adam: \['a'\] has shape \(2,\) in params but \(3,\) in updates"),
        ([X["a"], X["b"]], r"adam: .*updates has \[0\], which params lack"),
    ],
)
def test_match_names_the_place_of_the_first_difference(other, message):
    with pytest.raises(ValueError, match=message):
        tree.match(X, other, "adam", "params", "updates")
