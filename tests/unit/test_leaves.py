"""Leaves that are no JAX arrays, and dtypes that can't hold a result: public functions of trees and of arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain import tree

KEY = jax.random.key(0)
LEAVES = {
    "int": lambda: 3,
    "float": lambda: 1.5,
    "complex": lambda: 1.5 + 2j,
    "bool": lambda: True,
    "NumPy scalar": lambda: np.float32(1.5),
    "NumPy whole scalar": lambda: np.int8(3),
    "NumPy array": lambda: np.array([1.5, -2.5], np.float32),
    "whole array": lambda: jnp.array([3, -2]),
    "half array": lambda: jnp.array([1.5, -2.5], jnp.bfloat16),
}
TREES = {
    **{name: lambda leaf=leaf: {"a": leaf()} for name, leaf in LEAVES.items()},
    "empty": lambda: {},
    "hole": lambda: {"a": 1.5, "b": None, "c": [2, np.float32(0.5)]},
}
FUNCTIONS = {
    "add": lambda x: tree.add(x, x, x),
    "add_scale": lambda x: tree.add_scale(x, 0.5, x),
    "add_scale by a whole number": lambda x: tree.add_scale(x, 2, x),
    "allclose": lambda x: tree.allclose(x, x),
    "batch_shape": lambda x: tree.batch_shape(x, (2,)),
    "bias_correction": lambda x: tree.bias_correction(x, 0.5, 1),
    "cast": lambda x: tree.cast(x, jnp.bfloat16),
    "cast_like": lambda x: tree.cast_like(x, x),
    "clip": lambda x: tree.clip(x, -0.5, 0.5),
    "conj": tree.conj,
    "div": lambda x: tree.div(x, x),
    "dtype": lambda x: tree.dtype(x, "promote"),
    "full_like": lambda x: tree.full_like(x, 2),
    "full_like with a fraction": lambda x: tree.full_like(x, 0.5),
    "global_norm": tree.global_norm,
    "incremental_update": lambda x: tree.incremental_update(x, x, 0.5),
    "max": tree.max,
    "min": tree.min,
    "mul": lambda x: tree.mul(x, x),
    "norm 1": lambda x: tree.norm(x, 1),
    "norm inf": lambda x: tree.norm(x, "inf"),
    "ones_like": tree.ones_like,
    "overlay": lambda x: tree.overlay(x, x),
    "periodic_update": lambda x: tree.periodic_update(x, x, 1, 2),
    "random_like": lambda x: tree.random_like(KEY, x),
    "real": tree.real,
    "scale": lambda x: tree.scale(0.5, x),
    "scale by a whole number": lambda x: tree.scale(2, x),
    "scale by a complex number": lambda x: tree.scale(1j, x),
    "scale_gradient": lambda x: tree.scale_gradient(x, 0.5),
    "size": tree.size,
    "sub": lambda x: tree.sub(x, x),
    "sum": tree.sum,
    "sum in pairs": lambda x: tree.sum(x, associative_reduction=True),
    "unwrap_random_key_data": tree.unwrap_random_key_data,
    "update_infinity_moment": lambda x: tree.update_infinity_moment(x, x, 0.5, 0.0),
    "update_moment": lambda x: tree.update_moment(x, x, 0.5, 2),
    "update_moment_per_elem_norm": lambda x: tree.update_moment_per_elem_norm(x, x, 0.5, 2),
    "vdot": lambda x: tree.vdot(x, x),
    "where": lambda x: tree.where(jnp.array(True), x, x),
    "zeros_like": tree.zeros_like,
    "apply_updates": lambda x: gc.apply_updates(x, x),
    "split_key_like": lambda x: jax.tree.map(jax.random.key_data, tree.split_key_like(KEY, x)),
}
REFUSALS = (TypeError, ValueError)


def outcome(function, x):
    """Return what a function makes of a tree, or the type of the error that it refuses it with."""
    try:
        return function(x)
    except REFUSALS as error:
        return type(error)


def assert_same(found, expected):
    if isinstance(expected, type):
        assert found is expected
        return
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_tree_gives_what_the_same_numbers_as_arrays_give(name):
    for make in TREES.values():
        x = make()
        assert_same(outcome(FUNCTIONS[name], x), outcome(FUNCTIONS[name], jax.tree.map(jnp.asarray, x)))


def test_the_table_names_every_public_function_of_numbers():
    """The others are of structure, states and moments with their own tests."""
    others = {"NamedTupleKey", "Placeholder", "Tree", "batch_size", "flatten_optional", "get", "get_all_with_path"}
    others |= {"map_optional", "map_params", "match", "mismatch", "one_example", "set", "show_path", "norm"}
    assert {name.split()[0] for name in FUNCTIONS} - {"apply_updates"} == {*tree.__all__} - others | {"norm"}


@pytest.mark.parametrize("whole", [3, np.int8(3), jnp.array([3]), np.array([3]), True])
def test_a_fraction_is_kept_or_refused_never_cut_off(whole):
    """Half of 3 is 1.5, in every function that could return it in the dtype of the whole number."""
    number = float(np.ravel(whole)[0])
    results = {
        "scale": (lambda: tree.scale(0.5, whole), number / 2),
        "add_scale": (lambda: tree.add_scale(whole, 0.5, whole), 1.5 * number),
        "cast_like": (lambda: tree.cast_like(0.5, whole), 0.5),
        "full_like": (lambda: tree.full_like(whole, 0.5), 0.5),
        "periodic_update": (lambda: tree.periodic_update(0.5, whole, 0, 1), 0.5),
        "update_moment": (lambda: tree.update_moment(0.5, whole, 0.5, 1), (number + 0.5) / 2),
        "bias_correction": (lambda: tree.bias_correction(whole, 0.5, 2), number / 0.75),
        "clip": (lambda: tree.clip(whole, 0.5, 0.75), 0.75),
        "apply_updates": (lambda: gc.apply_updates(whole, np.full(np.shape(whole), 0.5)), number + 0.5),
    }
    for name, (function, expected) in results.items():
        found = outcome(lambda _, function=function: function(), None)
        assert found is TypeError or float(np.ravel(found)[0]) == pytest.approx(expected), name


@pytest.mark.parametrize("order", [1, 2])
def test_moments_that_begin_as_whole_numbers_become_real(order):
    updates, start = {"a": 3, "b": jnp.array([1, 2])}, {"a": 0, "b": jnp.array([0, 0])}
    for average in (tree.update_moment, tree.update_moment_per_elem_norm):
        moments = average(updates, start, 0.75, order)
        assert moments["a"] == 3**order / 4
        np.testing.assert_array_equal(moments["b"], [0.25, 2**order / 4])
    corrected = tree.bias_correction({"a": 3, "b": jnp.array([1, 2])}, 0.5, 2)
    np.testing.assert_allclose([corrected["a"], *corrected["b"]], np.array([3, 1, 2]) / 0.75, rtol=1e-6)


def test_an_imaginary_part_is_kept_or_refused_never_dropped():
    for x in (2.0, jnp.array([2.0]), np.float32(2)):
        np.testing.assert_array_equal(np.ravel(tree.scale(1j, x)), [2j])
        np.testing.assert_array_equal(np.ravel(tree.add_scale(x, 1j, x)), [2 + 2j])
        with pytest.raises(TypeError, match="imaginary part"):
            tree.cast_like(1j, x)
        with pytest.raises(TypeError, match="can't hold its sum with an update of complex"):
            gc.apply_updates(x, np.full(np.shape(x), 1j))
        with pytest.raises(TypeError, match=r"tree\.full_like: .* can't hold 1j"):
            tree.full_like(x, 1j)
    with pytest.raises(TypeError, match=r"\['a'\] is complex64 and can't become bfloat16"):
        tree.cast({"a": 1j}, jnp.bfloat16)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int8])
def test_scaling_keeps_a_dtype_that_holds_the_result(dtype):
    x, factor = jnp.ones(2, dtype), np.asarray(2, "float32" if dtype == jnp.bfloat16 else "int32")
    assert tree.scale(factor, x).dtype == dtype
    assert tree.add_scale(x, factor, x.astype(factor.dtype)).dtype == dtype


MATRIX = [[4, 1], [1, 3]]
OF_ARRAYS = {
    "matrix_inverse_pth_root": lambda m: gc.matrix_inverse_pth_root(m, 2)[0],
    "power_iteration": lambda m: gc.power_iteration(m)[0],
    "nnls": lambda m: gc.nnls(m, m[0], 5),
    "assignment": lambda m: gc.assignment.hungarian_algorithm(m)[1],
    "safe_norm": gc.safe_norm,
    "safe_root_mean_squares": gc.safe_root_mean_squares,
    "unitwise_norm": gc.numerics.unitwise_norm,
    "abs_sq": gc.numerics.abs_sq,
    "projection_simplex": lambda m: gc.projections.projection_simplex(m),
    "projection_box": lambda m: gc.projections.projection_box(m, 0, 2),
    "squared_error": lambda m: gc.losses.squared_error(m, m),
    "cosine_similarity": lambda m: gc.losses.cosine_similarity(m, m),
    "sigmoid_binary_cross_entropy": lambda m: gc.losses.sigmoid_binary_cross_entropy(m, m),
    "softmax_cross_entropy": lambda m: gc.losses.softmax_cross_entropy(m, m),
    "smooth_labels": lambda m: gc.losses.smooth_labels(m, 0.5),
    "perturbed": lambda m: gc.perturbations.make_perturbed_fun(lambda x: 2 * x, 3)(KEY, m),
}


@pytest.mark.parametrize("name", OF_ARRAYS)
def test_whole_numbers_in_numpy_and_jax_are_the_same_numbers_or_refused(name):
    """A matrix of whole numbers gives what it gives in floating point, or an error: no truncated result."""
    exact = np.asarray(OF_ARRAYS[name](jnp.asarray(MATRIX, float)))
    for matrix in (jnp.array(MATRIX), np.array(MATRIX, "int8")):
        found = outcome(OF_ARRAYS[name], matrix)
        if not isinstance(found, type):
            np.testing.assert_allclose(np.asarray(found), exact, rtol=1e-5)


NUMBERS = gc.numerics
OF_NUMBERS = {
    "abs_sq": NUMBERS.abs_sq,
    "magnitude": NUMBERS.magnitude,
    "sqrt": NUMBERS.sqrt,
    "cbrt": NUMBERS.cbrt,
    "ema": lambda x: NUMBERS.ema(x, x, 0.5),
    "decaying_max": lambda x: NUMBERS.decaying_max(x, x, 0.5, 0.0),
    "one_minus_power": lambda x: NUMBERS.one_minus_power(0.5, x),
    "debias_nesterov": lambda x: NUMBERS.debias_nesterov(x, x, 0.5, 0.5, 0.75),
    "shrink_factor": lambda x: NUMBERS.shrink_factor(x, 1),
    "clamp": lambda x: NUMBERS.clamp(x, 1),
    "divide": lambda x: NUMBERS.divide(x, 2),
    "safe_increment": NUMBERS.safe_increment,
    "safe_norm": NUMBERS.safe_norm,
    "safe_root_mean_squares": NUMBERS.safe_root_mean_squares,
    "unitwise_norm": NUMBERS.unitwise_norm,
}


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_a_number_is_an_array_without_axes(name):
    for number in (3, 1.5, np.float32(1.5), np.int8(3)):
        found, expected = (np.asarray(OF_NUMBERS[name](x), "float32") for x in (number, jnp.asarray(number)))
        np.testing.assert_array_equal(found, expected)
