"""gradchain.linear_algebra against NumPy and SciPy in double precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

import gradchain as gc
from tests.trees import assert_close


def symmetric(eigenvalues, seed=0):
    """Return a symmetric matrix of given eigenvalues, and its eigenvectors."""
    eigenvalues = np.asarray(eigenvalues, np.float64)
    vectors, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))
    return (vectors * eigenvalues) @ vectors.T, vectors


SPECTRA = [
    [3.0, 1.0, 0.5, 0.1],
    [-5.0, 2.0, 1.0],
    [2.0],
    [1e8, 1e6, 1.0],
    [1e-8, 1e-10, 0.0],
    [1e30, 1.0],
    [1e-30, 0.0],
]


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_power_iteration_finds_the_dominant_pair(spectrum):
    matrix, vectors = symmetric(spectrum)
    value, vector = jax.jit(gc.power_iteration)(jnp.asarray(matrix, "float32"))
    np.testing.assert_allclose(value, spectrum[0], rtol=1e-6)
    np.testing.assert_allclose(np.abs(vector @ vectors[:, 0]), 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vector), 1, rtol=1e-6)


def test_power_iteration_in_double_precision(x64):
    matrix, _ = symmetric([3.0, 1.0, 0.5])
    value, vector = gc.power_iteration(jnp.asarray(matrix), num_iters=200, error_tolerance=1e-13)
    np.testing.assert_allclose(value, 3.0, rtol=1e-14)
    np.testing.assert_allclose(matrix @ vector, 3.0 * np.asarray(vector), atol=1e-12)


def test_power_iteration_of_a_function_on_trees():
    diagonal = {"a": jnp.array([1.0, -4.0]), "b": jnp.array([[2.0]])}
    value, vector = gc.power_iteration(
        lambda v: gc.tree.mul(diagonal, v), v0=gc.tree.cast(gc.tree.ones_like(diagonal), "bfloat16")
    )
    np.testing.assert_allclose(value, -4.0, rtol=1e-6)
    assert_close(jax.tree.map(jnp.abs, vector), {"a": np.array([0, 1.0]), "b": np.array([[0.0]])}, 1e-5)


def test_power_iteration_stops_where_told():
    matrix, _ = symmetric([1.0, 0.9])
    start = jnp.array([1.0, 0.3])
    calls = [gc.power_iteration(jnp.asarray(matrix), v0=start, num_iters=n)[0] for n in (1, 100)]
    assert abs(calls[0] - 1) > 10 * abs(calls[1] - 1)
    coarse = gc.power_iteration(jnp.asarray(matrix), v0=start, error_tolerance=0.5)[0]
    assert abs(coarse - 1) > 10 * abs(calls[1] - 1)


def test_power_iteration_of_hermitian_half_precision_and_zero_matrices():
    value, _ = gc.power_iteration(jnp.array([[2.0, 1j], [-1j, 2.0]]), v0=jnp.array([1.0, 0.5j]))
    np.testing.assert_allclose(value, 3.0, rtol=1e-6)
    half, _ = gc.power_iteration(jnp.diag(jnp.array([2.0, 1.0], "bfloat16")))
    assert (half.dtype, round(float(half), 5)) == (jnp.dtype("float32"), 2.0)
    value, vector = gc.power_iteration(jnp.zeros((3, 3)))
    assert value == 0
    assert jnp.isfinite(vector).all()
    assert jnp.isnan(optax.power_iteration(jnp.zeros((3, 3)))[0])


def test_the_eigenvalue_is_differentiable_and_vmaps():
    matrix, vectors = symmetric([3.0, 1.0, 0.5])
    grad = jax.jit(jax.grad(lambda a: gc.power_iteration(a)[0]))(jnp.asarray(matrix))
    np.testing.assert_allclose(grad, np.outer(vectors[:, 0], vectors[:, 0]), atol=1e-5)

    def scaled(scale):
        return gc.power_iteration(lambda v: scale * (jnp.asarray(matrix) @ v), v0=jnp.ones(3))[0]

    np.testing.assert_allclose(jax.grad(scaled)(2.0), 3.0, rtol=1e-6)
    batch = jnp.asarray(np.stack([matrix, -2 * matrix]))
    np.testing.assert_allclose(jax.vmap(lambda a: gc.power_iteration(a)[0])(batch), [3.0, -6.0], rtol=1e-5)


def test_power_iteration_is_optaxs():
    matrix = jnp.asarray(symmetric([3.0, 1.0, 0.5])[0])
    for ours, theirs in zip(gc.power_iteration(matrix), optax.power_iteration(matrix), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_power_iteration_says_what_it_needs():
    with pytest.raises(ValueError, match="v0 is needed"):
        gc.power_iteration(lambda v: v)
    with pytest.raises(ValueError, match=r"square matrix, got shape \(2, 3\)"):
        gc.power_iteration(jnp.ones((2, 3)))


@functools.partial(jax.jit, static_argnames=("ridge_epsilon", "error_tolerance"))
def root(matrix, p, ridge_epsilon=1e-6, error_tolerance=1e-6):
    return gc.matrix_inverse_pth_root(matrix, p, ridge_epsilon=ridge_epsilon, error_tolerance=error_tolerance)


def exact_root(spectrum, p, ridge=1e-6):
    """Return the inverse root by eigenvalues, in double precision."""
    _, vectors = symmetric(spectrum)
    return (vectors * (np.asarray(spectrum) + ridge * max(spectrum)) ** (-1 / p)) @ vectors.T


@pytest.mark.parametrize("p", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("condition", [1, 1e2, 1e4, 1e6, np.inf])
def test_inverse_roots(p, condition):
    spectrum = 3 * np.geomspace(1, 1 / min(condition, 1e12), 6)
    got, error = root(jnp.asarray(symmetric(spectrum)[0], "float32"), p)
    exact = exact_root(spectrum, p)
    # A perturbation of the matrix by its rounding moves the inverse by the condition number times that.
    bound = 10 * np.finfo(np.float32).eps * min(2 * condition, 1e6) + 2e-6
    assert np.max(np.abs(got - exact)) < bound * np.max(np.abs(exact))
    assert error < 1e-6


def test_inverse_roots_in_double_precision(x64):
    spectrum = 3 * np.geomspace(1, 1e-8, 6)
    got, _ = root(jnp.asarray(symmetric(spectrum)[0]), 4, ridge_epsilon=1e-12, error_tolerance=1e-14)
    exact = exact_root(spectrum, 4, 1e-12)
    assert np.max(np.abs(got - exact)) < 1e-7 * np.max(np.abs(exact))


def test_inverse_roots_of_extreme_matrices():
    for matrix in (jnp.zeros((3, 3)), jnp.zeros((1, 1)), jnp.full((2, 2), 1e30)):
        got, error = root(matrix, 4)
        assert jnp.isfinite(got).all()
        assert error < 1e-5
    assert jnp.isnan(optax.matrix_inverse_pth_root(jnp.zeros((3, 3)), 4)[0]).all()
    np.testing.assert_allclose(root(jnp.full((1, 1), 16.0), 4)[0], [[0.5]], rtol=1e-6)
    assert root(jnp.zeros((0, 0)), 2)[0].shape == (0, 0)


def test_inverse_roots_keep_dtype_and_vmap_over_matrix_and_root():
    assert root(jnp.eye(2, dtype="bfloat16"), 2)[0].dtype == jnp.dtype("bfloat16")
    matrix = jnp.asarray(symmetric([3.0, 1.0])[0], "float32")
    both, _ = jax.vmap(root)(jnp.stack([matrix, 2 * matrix]), jnp.array([2, 3]))
    np.testing.assert_allclose(both[0], root(matrix, 2)[0], rtol=1e-5)
    np.testing.assert_allclose(both[1], root(2 * matrix, 3)[0], rtol=1e-5)


def test_the_root_that_is_returned_is_the_best_that_was_found():
    matrix = jnp.asarray(symmetric(np.geomspace(1, 1e-5, 6))[0], "float32")
    got, error = root(matrix, 2, error_tolerance=0.0)  # never reached: rounding makes the error grow again
    exact = exact_root(np.geomspace(1, 1e-5, 6), 2)
    assert np.max(np.abs(got - exact)) < 1e-3 * np.max(np.abs(exact))
    assert error < 1e-5


@pytest.mark.parametrize("p", [1, 2, 4, 8])
def test_inverse_roots_are_optaxs(p):
    matrix = jnp.asarray(symmetric([3.0, 1.0, 0.5])[0], "float32")
    theirs, _ = optax.matrix_inverse_pth_root(matrix, p)
    np.testing.assert_allclose(root(matrix, p)[0], theirs, rtol=1e-4, atol=1e-5)


def test_optax_takes_the_third_root_for_the_fourth_power():
    matrix = jnp.asarray(symmetric([3.0, 1.0, 0.01])[0], "float32")
    theirs, _ = optax.matrix_inverse_pth_root(matrix, 3)
    assert np.max(np.abs(theirs - exact_root([3.0, 1.0, 0.01], 3))) > 0.1


@pytest.mark.parametrize("p", [0, -2, 1.5])
def test_roots_must_be_whole_numbers(p):
    with pytest.raises(ValueError, match="p must be a whole number of at least 1"):
        gc.matrix_inverse_pth_root(jnp.eye(2), p)
    with pytest.raises(ValueError, match="square matrix"):
        gc.matrix_inverse_pth_root(jnp.ones(2), 2)


def problems():
    rng = np.random.default_rng(0)
    yield rng.normal(size=(10, 5)), rng.normal(size=10)
    yield rng.normal(size=(5, 10)), rng.normal(size=5)
    yield np.abs(rng.normal(size=(8, 4))), -np.ones(8)  # the solution is 0
    yield np.outer(np.ones(4), [1.0, 2.0]), np.arange(4.0)  # of rank 1
    yield 1e3 * rng.normal(size=(6, 3)), rng.normal(size=6)
    yield np.zeros((3, 2)), np.ones(3)


@pytest.mark.parametrize("problem", range(6))
def test_nnls_has_scipys_residual(problem):
    a, b = list(problems())[problem]
    x = jax.jit(gc.nnls, static_argnums=2)(jnp.asarray(a, "float32"), jnp.asarray(b, "float32"), 3000)
    _, least = optimize.nnls(a, b)
    assert (x >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(a @ np.asarray(x, np.float64) - b), least, rtol=1e-5, atol=1e-5)


def test_nnls_of_several_right_hand_sides_bounds_and_double_precision(x64):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(9, 4)), rng.normal(size=(9, 3))
    exact = np.stack([optimize.nnls(a, column)[0] for column in b.T], axis=1)
    np.testing.assert_allclose(gc.nnls(jnp.asarray(a), jnp.asarray(b), 2000), exact, atol=1e-10)
    tight = gc.nnls(jnp.asarray(a), jnp.asarray(b), 2000, L=np.linalg.norm(a, 2) ** 2)
    np.testing.assert_allclose(tight, exact, atol=1e-10)
    batch = jax.vmap(lambda b: gc.nnls(jnp.asarray(a), b, 2000), in_axes=1, out_axes=1)(jnp.asarray(b))
    np.testing.assert_allclose(batch, exact, atol=1e-10)


def test_nnls_is_differentiable(x64):
    a, b = (jnp.asarray(x) for x in next(problems()))
    active = optimize.nnls(a, b)[0] > 0
    jacobian = jax.jacobian(lambda b: gc.nnls(a, b, 3000))(b)
    np.testing.assert_allclose(jacobian[active], np.linalg.pinv(np.asarray(a)[:, active]), atol=1e-8)
    np.testing.assert_array_equal(jacobian[~active], 0)


def test_nnls_is_an_iteration_ahead_of_optax():
    a, b = (jnp.asarray(x, "float32") for x in next(problems()))
    for n in (2, 5):
        np.testing.assert_allclose(gc.nnls(a, b, n), optax.nnls(a, b, n + 1), rtol=1e-5, atol=1e-6)
        assert np.max(np.abs(gc.nnls(a, b, n) - optax.nnls(a, b, n))) > 1e-3


def test_nnls_checks_shapes():
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3,\)"):
        gc.nnls(jnp.ones((2, 3)), jnp.ones(3), 10)
