"""gradchain.tree: arithmetic against NumPy, dtypes, and the errors of trees that don't match."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
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
    assert tree.sum({"n": jnp.arange(4)}).dtype == jnp.dtype("int32")
    np.testing.assert_allclose(tree.sum({"x": X, "y": Y}, associative_reduction=True), 2 + 3.5)
    assert tree.sum({}, associative_reduction=True) == 0
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


@pytest.fixture(scope="module")
def alike():
    """Return twenty arrays of one shape, two of others, and two too large to be added up with others."""
    rng = np.random.default_rng(0)
    shapes = [(3, 4)] * 20 + [(12,), (3, 4, 1)] + [(2**14 + 1,)] * 2
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def test_norms_and_products_of_many_arrays_alike(alike):
    expected = np.sqrt(sum(np.sum(x.astype(np.float64) ** 2) for x in alike))
    np.testing.assert_allclose(tree.norm(alike), expected, rtol=1e-6)
    np.testing.assert_allclose(tree.vdot(alike, alike), expected**2, rtol=1e-6)
    halves = [x.astype(jnp.bfloat16) if i % 2 else x for i, x in enumerate(alike)]
    np.testing.assert_allclose(tree.norm(halves), expected, rtol=1e-3)
    slopes = jax.grad(tree.norm)(alike)
    for x, slope in zip(alike, slopes, strict=True):
        np.testing.assert_allclose(slope, x / expected, rtol=1e-5)


def test_one_reduction_for_eight_small_arrays_alike(alike):
    text = str(jax.make_jaxpr(lambda x: tree.norm(x, squared=True))(alike))
    calls = re.findall(r"jit\[\s*name=_sum_together", text)
    assert len(calls) == 3 + 2 + 2  # 20 arrays in 8, 8 and 4; two of shapes of their own; two large ones


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


def test_extremes_skip_empty_leaves():
    mixed = {"n": jnp.array([3, 7]), "x": jnp.array([-2.5]), "empty": jnp.zeros((0, 2)), "none": None}
    assert tree.max(mixed) == 7
    assert tree.min(mixed) == -2.5
    assert tree.max({}) == -jnp.inf
    assert tree.min({"empty": jnp.zeros(0)}) == jnp.inf
    assert tree.max({"n": jnp.array([3, 2**24 + 1])}) == 2**24 + 1  # not by way of float32
    assert tree.max(HALF).dtype == jnp.dtype("bfloat16")


def test_complex_parts():
    z = {"z": jnp.array([1 + 2j, -3j]), "x": jnp.array([4.0])}
    trees.assert_close(tree.conj(z), {"z": np.array([1 - 2j, 3j]), "x": np.array([4.0])}, 0)
    trees.assert_close(tree.real(z), {"z": np.array([1.0, 0]), "x": np.array([4.0])}, 0)


def test_clip_keeps_dtypes():
    same(tree.clip(X, -1, 2), [1, -1], 2)
    same(tree.clip(X, max_value=0.5), [0.5, -2], 0.5)
    same(tree.clip(X), [1, -2], 3)
    trees.assert_same_kind(tree.clip(HALF, jnp.float32(-1), jnp.float32(1)), HALF)


def test_allclose_uses_its_tolerances():
    near = tree.add_scale(X, 1e-4, X)
    assert not tree.allclose(X, near)
    assert tree.allclose(X, near, rtol=1e-3)
    assert tree.allclose(X, near, atol=1e-3)
    assert not tree.allclose(X, near, rtol=0, atol=2e-4)  # 3 and 3.0003
    nan = {"x": jnp.array([jnp.nan])}
    assert not tree.allclose(nan, nan)
    assert tree.allclose(nan, nan, equal_nan=True)
    assert tree.allclose({}, {})
    assert not jax.jit(tree.allclose)(X, Y)


def test_batch_shape_repeats_each_leaf():
    batched = tree.batch_shape(X, (2, 3))
    assert batched["a"].shape == (2, 3, 2)
    np.testing.assert_array_equal(batched["a"][1, 2], X["a"])
    np.testing.assert_array_equal(batched["b"][0], np.full((2, 3), 3.0))


def test_keys_for_each_leaf():
    keys = tree.split_key_like(jax.random.key(0), X)
    assert jax.tree.structure(keys) == jax.tree.structure(X)
    raw = tree.unwrap_random_key_data({"keys": keys, "x": X["a"]})
    assert raw["x"] is X["a"]
    assert raw["keys"]["a"].dtype == jnp.dtype("uint32")
    assert (raw["keys"]["a"] != raw["keys"]["b"][0]).any()


def test_dtype_of_a_tree():
    mixed = {"a": {"b": jnp.ones(1, "float16")}, "c": jnp.ones(1)}
    assert tree.dtype(X) == jnp.dtype("float32")
    assert tree.dtype({}) == jnp.dtype("float32")
    assert tree.dtype(mixed, "lowest") == jnp.dtype("float16")
    assert tree.dtype(mixed, "highest") == jnp.dtype("float32")
    assert tree.dtype({"x": jnp.ones(1, "bfloat16"), "y": jnp.ones(1, "float16")}, "promote") == jnp.dtype("float32")
    with pytest.raises(ValueError, match=r"\['a'\]\['b'\] is float16, but \['c'\] is float32"):
        tree.dtype(mixed)
    with pytest.raises(ValueError, match="neither bfloat16 nor float16 promotes to the other"):
        tree.dtype({"x": jnp.ones(1, "bfloat16"), "y": jnp.ones(1, "float16")}, "highest")
    with pytest.raises(ValueError, match="got 'largest'"):
        tree.dtype(mixed, "largest")


UPDATES = {"z": jnp.array([3 + 4j, 0]), "x": jnp.array([-2.0, 0.5]), "none": None}
MOMENTS = {"z": jnp.array([1.0, 2.0]), "x": jnp.array([1.0, 1.0]), "none": jnp.ones(2)}


def test_moments_are_moving_averages():
    x, m = {"x": jnp.array([-2.0, 0.5])}, {"x": jnp.array([1.0, 1.0])}
    trees.assert_close(tree.update_moment(x, m, 0.9, 2), {"x": np.array([0.9 + 0.4, 0.9 + 0.025])}, 1e-6)
    trees.assert_close(tree.update_moment(x, m, 0.9, 1), {"x": np.array([0.9 - 0.2, 0.9 + 0.05])}, 1e-6)
    got = tree.update_moment_per_elem_norm(UPDATES, MOMENTS, 0.9, 2)
    trees.assert_close(got, {"z": np.array([3.4, 1.8]), "x": np.array([1.3, 0.925]), "none": None}, 1e-6)
    got = tree.update_infinity_moment(UPDATES, MOMENTS, 0.9, 0.1)
    trees.assert_close(got, {"z": np.array([5.1, 1.8]), "x": np.array([2.1, 0.9]), "none": None}, 1e-6)


def test_odd_moments_of_magnitudes_have_no_sign():
    got = tree.update_moment_per_elem_norm({"x": jnp.array([-2.0])}, {"x": jnp.zeros(1)}, 0.5, 3)
    theirs = optax.tree.update_moment_per_elem_norm({"x": jnp.array([-2.0])}, {"x": jnp.zeros(1)}, 0.5, 3)
    assert (got["x"], theirs["x"]) == (4, -4)


def test_moments_keep_their_dtype():
    for update in (tree.update_moment, tree.update_moment_per_elem_norm):
        trees.assert_same_kind(update(X, HALF, jnp.float32(0.9), 2), HALF)
    trees.assert_same_kind(tree.update_infinity_moment(X, HALF, jnp.float32(0.9), 1e-8), HALF)
    trees.assert_same_kind(tree.bias_correction(HALF, 0.9, jnp.int32(1)), HALF)


def test_bias_correction_is_exact_at_the_first_step():
    first = tree.scale(1 - 0.999, X)
    corrected = tree.bias_correction(first, 0.999, jnp.int32(1))
    trees.assert_close(corrected, jax.tree.map(np.asarray, X), 3e-7)
    assert abs(optax.tree.bias_correction(first, 0.999, jnp.int32(1))["a"][0] - 1) > 3e-6


CALLS = [
    ("add", (X, Y, Y)),
    ("sub", (X, Y)),
    ("mul", (X, Y)),
    ("div", (X, Y)),
    ("scale", (2.0, X)),
    ("add_scale", (X, 2.0, Y)),
    ("vdot", (X, Y)),
    ("sum", (X,)),
    ("max", (X,)),
    ("min", (X,)),
    ("size", (X,)),
    ("conj", (X,)),
    ("real", (X,)),
    ("clip", (X, -1.0, 2.0)),
    ("norm", (X,)),
    ("norm", (X, 1, True)),
    ("norm", (X, "infinity")),
    ("batch_shape", (X, (2,))),
    ("zeros_like", (X,)),
    ("ones_like", (X, jnp.bfloat16)),
    ("full_like", (X, 3.0)),
    ("cast", (X, jnp.bfloat16)),
    ("cast_like", (X, HALF)),
    ("dtype", (X,)),
    ("random_like", (jax.random.key(0), X)),
    ("random_like", (jax.random.key(0), X, jax.random.uniform, jnp.float16)),
    ("split_key_like", (jax.random.key(0), X)),
    ("allclose", (X, Y)),
    ("where", (jnp.array([True, False]), X["a"], Y["a"])),
    ("update_moment", (X, Y, 0.9, 3)),
    ("update_moment_per_elem_norm", (X, Y, 0.9, 2)),
    ("update_infinity_moment", (X, Y, 0.9, 1e-3)),
    ("bias_correction", (X, 0.9, jnp.int32(3))),
    ("unwrap_random_key_data", ({"key": jax.random.key(3), "x": X},)),
]


@pytest.mark.parametrize(("name", "args"), CALLS)
def test_same_as_optax(name, args):
    ours, theirs = getattr(tree, name)(*args), getattr(optax.tree, name)(*args)
    ours, theirs = tree.unwrap_random_key_data(ours), tree.unwrap_random_key_data(theirs)
    if name == "dtype":
        assert ours == theirs
        return
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(np.asarray(mine, np.float64), np.asarray(other, np.float64), rtol=1e-6)
        assert jnp.result_type(mine) == jnp.result_type(other)


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
