"""gradchain.numerics against NumPy in double precision, at the edges and in its derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain import numerics, tree


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (("bfloat16",), "float32"),
        (("float16",), "float32"),
        (("float32",), "float32"),
        (("complex64",), "complex64"),
        (("bfloat16", "float16"), "float32"),
        (("bfloat16", "complex64"), "complex64"),
        (("int32",), "float32"),
    ],
)
def test_compute_dtype_is_at_least_float32(dtypes, expected):
    assert numerics.compute_dtype(*dtypes) == jnp.dtype(expected)


def test_compute_dtype_keeps_double_precision(x64):
    assert numerics.compute_dtype("float64") == jnp.dtype("float64")
    assert numerics.compute_dtype("complex128", "float32") == jnp.dtype("complex128")


@pytest.mark.parametrize(
    ("dtype", "real"), [("float32", "float32"), ("complex64", "float32"), ("bfloat16", "bfloat16")]
)
def test_real_dtype(dtype, real):
    assert numerics.real_dtype(dtype) == jnp.dtype(real)


def test_abs_sq_of_real_and_complex():
    np.testing.assert_array_equal(numerics.abs_sq(jnp.array([-3.0, 0.0, 2.0])), [9, 0, 4])
    squared = numerics.abs_sq(jnp.array([3 + 4j, 0, -1j]))
    assert squared.dtype == jnp.dtype("float32")
    np.testing.assert_array_equal(squared, [25, 0, 1])


def test_abs_sq_has_a_derivative_at_zero():
    assert jax.grad(lambda x: numerics.abs_sq(x))(jnp.zeros((), "complex64")) == 0


def test_sqrt_has_jnps_values_and_derivatives_but_zero_at_zero():
    x = jnp.array([0.0, 1e-37, 1e-8, 1.0, 3.0, 1e30])
    np.testing.assert_array_equal(numerics.sqrt(x), jnp.sqrt(x))
    slopes = jax.vmap(jax.grad(numerics.sqrt))(x)
    assert slopes[0] == 0
    np.testing.assert_allclose(slopes[1:], jax.vmap(jax.grad(jnp.sqrt))(x[1:]), rtol=1e-6)


def test_sqrt_of_a_square_has_a_finite_second_derivative_at_zero():
    def size(x):
        return numerics.sqrt(numerics.abs_sq(x))

    assert jax.grad(size)(0.0) == 0
    assert np.isfinite(jax.grad(jax.grad(size))(0.0))
    assert np.isnan(jax.grad(lambda x: jnp.sqrt(jnp.square(x)))(0.0))


BASES = [0.0, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999]


@pytest.mark.parametrize("base", BASES)
def test_one_minus_power_of_a_python_number_is_off_by_a_few_roundings(base):
    t = np.arange(1, 2000)
    exact = -np.expm1(t * np.log(base)) if base else np.ones(t.shape)
    got = np.asarray(numerics.one_minus_power(base, jnp.asarray(t, "float32")), float)
    assert np.max(np.abs(got - exact) / exact) <= 4e-7


@pytest.mark.parametrize("base", BASES)
def test_one_minus_power_of_a_traced_number_is_off_by_a_few_roundings_of_the_rounded_number(base):
    rounded = np.float64(np.float32(base))
    t = np.arange(1, 2000)
    exact = -np.expm1(t * np.log1p(rounded - 1)) if base else np.ones(t.shape)
    got = np.asarray(jax.jit(numerics.one_minus_power)(jnp.float32(base), jnp.asarray(t, "float32")), float)
    assert np.max(np.abs(got - exact) / exact) <= 4e-7


def test_the_direct_form_of_one_minus_power_loses_digits():
    """The reason that ``one_minus_power`` exists."""
    exact = 1 - 0.999
    direct = float(1 - jnp.float32(0.999) ** jnp.float32(1))
    assert abs(direct - exact) / exact > 5e-6
    assert abs(float(numerics.one_minus_power(0.999, jnp.float32(1))) - exact) / exact < 2.5e-7


def test_one_minus_power_has_finite_derivatives_down_to_zero():
    slope = jax.vmap(jax.grad(numerics.one_minus_power), in_axes=(0, None))(jnp.array([0.0, 0.5, 0.999]), 2.0)
    np.testing.assert_allclose(slope, [0.0, -1.0, -1.998], rtol=1e-5)


def test_an_average_over_the_sum_of_its_weights_recovers_a_constant():
    average, total = jnp.zeros(3), 0.0
    for t in range(1, 20):
        total = numerics.sum_of_weights(total, 0.9, t)
        average = numerics.ema(average, jnp.full(3, 5.0), 0.9)
        np.testing.assert_allclose(average / total, 5.0, rtol=1e-6)


def test_safe_increment_stays_at_the_top():
    assert numerics.safe_increment(jnp.int32(7)) == 8
    top = jnp.int32(2**31 - 1)
    assert numerics.safe_increment(top) == top
    assert numerics.safe_increment(jnp.int32(7)).dtype == jnp.dtype("int32")
    assert numerics.safe_increment(jnp.float32(2.5)) == 3.5
    assert numerics.safe_increment(jnp.finfo("float32").max) == jnp.finfo("float32").max


def test_safe_norm_is_the_norm_with_a_floor_and_a_derivative_at_zero():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    assert numerics.safe_norm(x) == 5
    np.testing.assert_array_equal(numerics.safe_norm(x, 0.5, axis=1), [5, 0.5])
    assert numerics.safe_norm(x, axis=1, keepdims=True).shape == (2, 1)
    np.testing.assert_array_equal(jax.grad(numerics.safe_norm)(jnp.zeros(3)), 0)
    np.testing.assert_allclose(jax.grad(numerics.safe_norm)(x[0]), [0.6, 0.8], rtol=1e-6)
    assert numerics.safe_norm(jnp.array([3j, 4 + 0j])) == 5


def course_of_weights(decays, dtype="float32"):
    total, seen = jnp.zeros((), dtype), []
    for t, decay in enumerate(decays, start=1):
        total = numerics.sum_of_weights(total, decay, t)
        seen.append(total)
    return seen


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.999, np.float32(0.3), np.float32(0.999)])
def test_the_weights_of_a_constant_decay_sum_to_one_minus_its_power(decay):
    for t, total in enumerate(course_of_weights([decay] * 50), start=1):
        assert total == numerics.one_minus_power(decay, jnp.float32(t))


def test_the_weights_of_changing_decays_sum_to_one_minus_their_product():
    decays = [0.5] * 5 + [0.999] * 5 + [0.0, 0.9, 0.99] + [0.9999] * 20
    for decay in (decays, [jnp.float32(b) for b in decays]):
        np.testing.assert_allclose(course_of_weights(decay), 1 - np.cumprod(decays), rtol=1e-6)


def test_each_decay_has_its_own_derivative_though_all_are_equal():
    slopes = jax.grad(lambda bs: course_of_weights(list(bs))[-1])(jnp.full(4, 0.5))
    np.testing.assert_allclose(slopes, -(0.5**3), rtol=1e-6)
    assert jax.grad(lambda b: course_of_weights([b])[-1])(0.0) == -1


NORMS = [
    tree.norm,
    numerics.safe_norm,
    lambda x: 2 * numerics.safe_root_mean_squares(x),
    lambda x: numerics.unitwise_norm(x.reshape(4, 1))[0, 0],
]


@pytest.fixture(params=["few", "many", "elsewhere"])
def way(request, monkeypatch):
    """How compiled norms stay in range: on a CPU in float64 for few numbers and by a loop for many; on a GPU, where the
    host would wait for a loop, sums at all scales are computed and one is chosen."""
    if request.param == "many":
        monkeypatch.setattr(numerics, "FEW", 0)
    elif request.param == "elsewhere":
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    return request.param


@pytest.mark.parametrize("factor", [1e-30, 1e-22, 1.0, 1e19, 1e30, 1e37])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.usefixtures("way")
def test_norms_are_right_where_squares_overflow_or_vanish(norm, factor):
    x = jnp.array([3.0, -1.0, 2.0, 0.5])
    for of in (norm, jax.jit(lambda y: norm(y)), lambda y: jax.vmap(norm)(jnp.stack([x, y]))[1]):
        np.testing.assert_allclose(of(x * factor) / factor, norm(x), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(norm)(x * factor), jax.grad(norm)(x), rtol=1e-5)


NORMALIZED = [
    gc.normalize_by_update_norm(eps=0.0),
    gc.scale_by_trust_ratio(),
    gc.limit_update_ratio(0.1, 0.1),
    gc.parallel(gc.scale_by_sign(), gc.scale(1.0), merge=gc.graft_global),
    gc.chain(gc.scale(1e27), gc.clip_by_global_norm(1.0)),
    gc.chain(gc.scale(1e27), gc.clip_by_block_rms(1.0)),
    gc.chain(gc.scale(1e27), gc.adaptive_grad_clip(0.1)),
]


@pytest.mark.parametrize("tx", NORMALIZED)
def test_normalised_updates_have_derivatives_where_the_norms_square_overflows_or_vanishes(tx):
    x = jnp.array([3.0, -1.0, 2.0, 0.5])

    def first(g):
        return tx.update(g, tx.init(x), x)[0][0]

    for factor in (1e-25, 1e-2):
        np.testing.assert_allclose(jax.grad(first)(x * factor) * factor, jax.grad(first)(x), rtol=1e-5)
    for norm in NORMS[:2]:
        for factor in (1e-25, 1e25):
            curvature = jax.hessian(norm)(x * factor) * factor
            np.testing.assert_allclose(curvature, jax.hessian(norm)(x), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("ord", [2, 3, 0.5, np.inf])
def test_norms_of_any_order_are_right_where_powers_overflow_or_vanish(ord):
    x = jnp.array([3.0, -1.0, 2.0, 0.5])
    norm = functools.partial(numerics.safe_norm, ord=ord)
    for factor in (1e-30, 1e30):
        np.testing.assert_allclose(norm(x * factor) / factor, norm(x), rtol=1e-5)
        np.testing.assert_allclose(jax.grad(norm)(x * factor), jax.grad(norm)(x), rtol=1e-5)
        matrix = numerics.safe_norm(jnp.stack([x, 2 * x]) * factor, ord="fro") / factor
        np.testing.assert_allclose(matrix, 5**0.5 * jnp.linalg.norm(x), rtol=1e-5)
    assert norm(x) == jnp.linalg.norm(x, ord)
    assert numerics.safe_norm(x * 1e30, ord=0) == 4


@pytest.mark.parametrize("norm", NORMS)
def test_norms_of_what_isnt_finite_arent(norm):
    assert norm(jnp.array([1.0, jnp.inf, 0, 0])) == jnp.inf
    assert jnp.isnan(norm(jnp.array([1.0, jnp.nan, 0, 0])))
    assert norm(jnp.zeros(4)) == 0


def test_bounded_leaves_ordinary_numbers_and_nan():
    x = jnp.array([1e18, -1e20, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(numerics.bounded(x), jnp.array([1e18, -(2.0**62), 2.0**62, jnp.nan]))
    assert jnp.isfinite(8 * numerics.abs_sq(numerics.bounded(jnp.float32(3e38))))


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1.0, 1e20, 1e30])
@pytest.mark.usefixtures("way")
def test_norms_of_rows_and_of_trees_are_right_at_any_size(size):
    x = size * jnp.array([[3.0, 4.0], [0.0, 1.0]])
    rows = jax.jit(lambda x: numerics.safe_norm(x, axis=1))(x)
    np.testing.assert_allclose(rows, size * np.array([5.0, 1.0]), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda x: tree.norm({"a": x, "b": x[0]}))(x), size * 51**0.5, rtol=1e-6)
    slope = jax.jit(jax.grad(lambda x: numerics.safe_norm(x[0])))(x)
    np.testing.assert_allclose(slope, [[0.6, 0.8], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 1e30])
@pytest.mark.usefixtures("way")
def test_norms_of_constants_in_a_compiled_program(size):
    """XLA knows the elements, and may reorder what it does with them."""
    x = np.float32(size) * np.array([[3.0, 4.0], [0.0, 1.0]], np.float32)
    np.testing.assert_allclose(jax.jit(lambda: numerics.safe_norm(jnp.asarray(x), axis=1))(), size * np.array([5.0, 1]))
    np.testing.assert_allclose(jax.jit(lambda: tree.norm({"a": jnp.asarray(x)}))(), size * 26**0.5, rtol=1e-6)
    zeros = jax.jit(lambda: tree.norm(jax.tree.map(jnp.zeros_like, {"a": x})))()
    assert zeros == 0


@pytest.mark.parametrize(
    ("dtype", "way", "loops"), [("float32", "few", 0), ("float32", "many", 1), ("float64", "few", 1)], indirect=["way"]
)
def test_only_norms_of_many_numbers_are_loops(dtype, way, loops):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.array([3.0, 4.0], dtype)
        program = jax.jit(lambda x: numerics.safe_norm(x)).lower(x)
        assert program.as_text().count("stablehlo.while") == loops
        assert jnp.array_equal(program.compile()(x), jnp.array(5.0, dtype))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.usefixtures("way")
def test_norms_need_no_implicit_promotion(norm):
    x = jnp.array([3.0, 0.0, 4.0, 0.0])
    with jax.numpy_dtype_promotion("strict"):
        assert jax.jit(lambda x: norm(x))(x) == norm(x) == 5


@pytest.mark.parametrize("divided", [numerics.quotient, numerics.divide])
def test_a_number_divided_by_a_count_has_a_derivative(divided):
    derivative = jax.grad(lambda x: divided(x, jnp.sum(x > 0)))(jnp.float32(3))
    assert derivative == 1
