"""Helpers outside of transforms: averages of parameters, moments, norms and scaled derivatives, beside Optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from tests import trees

OLD, NEW = trees.standard(seed=0), trees.standard(seed=1)
EVERY = ("float32", "bfloat16", "float16", "float64", "complex64")


def test_incremental_update_averages_as_optax_does():
    for step in (0.0, 0.3, 1.0, jnp.float32(0.3)):
        trees.assert_close(gc.incremental_update(NEW, OLD, step), optax.incremental_update(NEW, OLD, step), 1e-7)


@pytest.mark.parametrize("dtype", EVERY)
def test_incremental_update_keeps_the_old_arrays_dtype_and_rounds_once(dtype):
    with jax.enable_x64(dtype == "float64"):
        new, old = trees.standard(dtype, 1), trees.standard(dtype, 0)
        result = jax.jit(gc.incremental_update)(new, old, 0.1)
        trees.assert_same_kind(result, old)
        wide_new, wide_old = trees.as_numpy((new, old))
        step = float(jnp.asarray(0.1))
        exact = jax.tree.map(lambda x, y: step * x + (1 - step) * y, wide_new, wide_old)
        trees.assert_close(trees.as_numpy(result), exact, 1.01 * float(jnp.finfo(dtype).eps))


def test_incremental_update_of_half_precision_keeps_its_dtype_here_and_not_there():
    new, old = jnp.ones(2, "bfloat16"), jnp.zeros(2, "bfloat16")
    assert gc.incremental_update(new, old, jnp.float32(0.1)).dtype == "bfloat16"
    assert optax.incremental_update(new, old, jnp.float32(0.1)).dtype == "float32"


def test_incremental_update_takes_none_and_whole_numbers_from_the_new_tree():
    new = {"w": jnp.ones(2), "step": jnp.asarray(7), "none": None, "gone": None}
    old = {"w": jnp.zeros(2), "step": jnp.asarray(3), "none": None, "gone": jnp.ones(2)}
    result = gc.incremental_update(new, old, 0.25)
    np.testing.assert_array_equal(result["w"], [0.25, 0.25])
    assert result["step"] == 7
    assert result["step"].dtype == new["step"].dtype
    assert result["none"] is None
    assert result["gone"] is None
    with pytest.raises(ValueError, match=r"incremental_update: .*differ in structure"):
        gc.incremental_update({"w": jnp.ones(2)}, old, 0.25)


@pytest.mark.parametrize("steps", range(5))
def test_periodic_update_replaces_at_multiples_of_the_period(steps):
    result = jax.jit(gc.periodic_update)(NEW, OLD, steps, 2)
    trees.assert_close(result, optax.periodic_update(NEW, OLD, steps, 2), 0)
    trees.assert_close(result, NEW if steps % 2 == 0 else OLD, 0)


def test_periodic_update_maps_over_steps_and_keeps_whole_numbers_and_keys():
    new = {"w": jnp.ones(2, "float32"), "step": jnp.asarray(7), "key": jax.random.key(1), "none": None}
    old = {"w": jnp.zeros(2, "bfloat16"), "step": jnp.asarray(3), "key": jax.random.key(2), "none": None}
    update = jax.vmap(lambda steps, period: gc.periodic_update(new, old, steps, period))
    result = update(jnp.arange(4), jnp.asarray([1, 2, 2, 3]))
    np.testing.assert_array_equal(result["w"][:, 0], [1, 0, 1, 1])
    np.testing.assert_array_equal(result["step"], [7, 3, 7, 7])
    assert (result["w"].dtype, result["key"].dtype) == ("bfloat16", new["key"].dtype)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_moments_are_those_of_optax(order):
    moments = jax.tree.map(jnp.abs, OLD)
    for decay in (0.0, 0.9, jnp.float32(0.9)):
        ours = gc.update_moment(NEW, moments, decay, order)
        trees.assert_close(ours, optax.update_moment(NEW, moments, decay, order), 1e-6)
        size = gc.update_moment_per_elem_norm(NEW, moments, decay, order)
        theirs = optax.update_moment_per_elem_norm(jax.tree.map(jnp.abs, NEW), moments, decay, order)
        trees.assert_close(size, theirs, 1e-6)
        ours = gc.update_infinity_moment(NEW, moments, decay, 1e-3)
        trees.assert_close(ours, optax.update_infinity_moment(NEW, moments, decay, 1e-3), 1e-6)


def test_odd_moments_of_magnitudes_have_no_sign_here_and_one_there():
    g, m = -2 * jnp.ones(1), jnp.zeros(1)
    assert gc.update_moment_per_elem_norm(g, m, 0.0, 3) == 8
    assert optax.update_moment_per_elem_norm(g, m, 0.0, 3) == -8


@pytest.mark.parametrize("order", [1, 2, 4])
def test_moments_of_complex_numbers_are_real(order):
    g, m = jnp.asarray([3 + 4j, 0], "complex64"), jnp.ones(2)
    ours = gc.update_moment_per_elem_norm(g, m, 0.5, order)
    np.testing.assert_allclose(ours, [0.5 + 0.5 * 5.0**order, 0.5], rtol=1e-6)
    assert ours.dtype == "float32"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "complex64"])
def test_moments_keep_their_dtype_and_none(dtype):
    g, m = {"w": jnp.ones(2, dtype), "none": None}, {"w": jnp.zeros(2, "float32"), "none": jnp.ones(2)}
    complex_moments = {**m, "w": jnp.zeros(2, dtype)} if dtype == "complex64" else m
    for result, like in (
        (gc.update_moment(g, complex_moments, jnp.float32(0.9), 2), complex_moments),
        (gc.update_moment_per_elem_norm(g, m, jnp.float32(0.9), 2), m),
        (gc.update_infinity_moment(g, m, jnp.float32(0.9), 1e-8), m),
    ):
        assert result["none"] is None
        assert result["w"].dtype == like["w"].dtype


@pytest.mark.parametrize("dtype", EVERY)
@pytest.mark.parametrize("count", [1, 3, jnp.asarray(2000)])
def test_bias_correction_is_precise_in_the_moments_dtype(dtype, count):
    with jax.enable_x64(dtype == "float64"):
        moment = trees.standard(dtype)
        result = gc.bias_correction(moment, 0.999, count)
        trees.assert_same_kind(result, moment)
        exact = jax.tree.map(lambda m: m / (1 - 0.999 ** int(count)), trees.as_numpy(moment))
        trees.assert_close(trees.as_numpy(result), exact, 5 * float(jnp.finfo(dtype).eps))
        theirs = optax.bias_correction(moment, 0.999, count)
        trees.assert_close(trees.as_numpy(theirs), exact, max(1e-4, 5 * float(jnp.finfo(dtype).eps)))


@pytest.mark.parametrize("ord", [None, 1, 2, jnp.inf])
@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_safe_norm_is_that_of_optax(ord, axis, keepdims):
    x = OLD["kernel"]
    for min_norm in (0.0, 1.0, 100.0):
        ours = gc.safe_norm(x, min_norm, ord, axis, keepdims)
        if axis is None and not keepdims:
            theirs = jnp.maximum(jnp.linalg.norm(x, ord), min_norm)
        else:
            theirs = optax.safe_norm(x, min_norm, ord, axis, keepdims)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        assert ours.shape == theirs.shape


@pytest.mark.parametrize("ord", [None, 1, 2, 3, jnp.inf])
def test_safe_norm_has_a_derivative_at_zero(ord):
    derivative = jax.grad(lambda x: gc.safe_norm(x, 0.0, ord))
    np.testing.assert_array_equal(derivative(jnp.zeros(3)), np.zeros(3))
    np.testing.assert_array_equal(jax.grad(lambda x: gc.safe_norm(x, 2.0, ord))(jnp.full(3, 1e-3)), np.zeros(3))
    assert np.all(np.isfinite(derivative(jnp.asarray([0.0, 2.0, 0.0]))))


@pytest.mark.parametrize("name", ["safe_norm", "safe_root_mean_squares"])
def test_norms_of_large_half_precision_numbers_are_finite_here_and_infinite_there(name):
    x = jnp.full(4, 1000.0, "float16")
    np.testing.assert_allclose(getattr(gc, name)(x, 0.0), 1000.0 * (2.0 if name == "safe_norm" else 1.0), rtol=1e-6)
    assert np.isinf(getattr(optax, name)(x, 0.0))


def test_the_top_level_names_are_those_of_the_modules():
    for module, names in (
        (gc.numerics, ("safe_increment", "safe_norm", "safe_root_mean_squares")),
        (gc.tree, ("incremental_update", "periodic_update", "bias_correction", "update_moment", "scale_gradient")),
    ):
        for name in names:
            assert getattr(gc, name) is getattr(module, name)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 0.0, -0.5, 2, jnp.float32(3.0)])
@pytest.mark.parametrize("dtype", EVERY)
def test_scale_gradient_scales_derivatives_and_leaves_values(dtype, scale):
    with jax.enable_x64(dtype == "float64"):
        params = trees.standard(dtype)
        trees.assert_close(gc.scale_gradient(params, scale), params, 0)

        def total(tree, s):
            return gc.tree.norm(gc.scale_gradient(tree, s), squared=True)

        plain = jax.grad(lambda tree: gc.tree.norm(tree, squared=True))(params)
        expected = jax.tree.map(lambda g: float(scale) * g.astype(jnp.promote_types(g.dtype, "float32")), plain)
        for derive in (jax.grad(total), jax.jit(jax.grad(total))):
            result = derive(params, scale)
            trees.assert_same_kind(result, params)
            trees.assert_close(trees.as_numpy(result), trees.as_numpy(expected), float(jnp.finfo(dtype).eps))


def test_scale_gradient_works_forwards_twice_and_mapped_over_scales():
    def f(x, scale):
        return jnp.sum(gc.scale_gradient(x, scale) ** 3)

    x, dx = jnp.asarray([1.0, 2.0]), jnp.asarray([1.0, -1.0])
    np.testing.assert_allclose(jax.jvp(lambda y: f(y, 0.5), (x,), (dx,))[1], 0.5 * (3 - 12), rtol=1e-6)
    mapped = jax.vmap(jax.grad(f), in_axes=(None, 0))(x, jnp.asarray([0.0, 2.0]))
    np.testing.assert_allclose(mapped, [[0, 0], [6, 24]], rtol=1e-6)
    with pytest.raises(TypeError, match=r"custom_vjp|forward-mode"):
        jax.jvp(lambda y: jnp.sum(optax.scale_gradient(y, 0.5)), (x,), (dx,))


def test_scale_gradient_takes_a_traced_scale_here_and_not_there():
    derivative = jax.jit(jax.grad(lambda x, s: jnp.sum(gc.scale_gradient(x, s) ** 2)))
    np.testing.assert_allclose(derivative(jnp.ones(2), 0.25), [0.5, 0.5])
    with pytest.raises(jax.errors.TracerBoolConversionError):
        jax.jit(optax.scale_gradient)(jnp.ones(2), 0.25)


def test_a_scale_of_zero_stops_infinite_derivatives():
    derivative = jax.grad(lambda x, s: jnp.sqrt(gc.scale_gradient(x, s)))
    assert derivative(0.0, 0.0) == 0
    assert jax.jit(derivative)(0.0, 0.0) == 0
    assert np.isinf(derivative(0.0, 1.0))


def test_scale_gradient_lets_whole_numbers_and_none_pass():
    inputs = {"n": jnp.arange(3), "none": None, "w": jnp.ones(2)}
    result = gc.scale_gradient(inputs, 0.5)
    assert result["none"] is None
    np.testing.assert_array_equal(result["n"], inputs["n"])
