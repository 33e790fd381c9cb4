"""gradchain.perturbations: estimates against closed forms, within the error that the number of samples allows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradchain import tree
from gradchain.perturbations import Gumbel, Normal, make_perturbed_fun

KEY = jax.random.key(0)
X = jnp.array([0.3, -0.5, 1.0])
SAMPLES = 40_000
ERRORS = 4.5
"""How many standard errors an estimate may be off."""


def hardmax(x):
    """Return integers: which element is the largest."""
    return (x == jnp.max(x)).astype(int)


def spread(estimate, samples=40, size=1000):
    """Return the mean of independent estimates, and its standard error."""
    keys = jax.random.split(KEY, samples)
    values = np.asarray(jax.lax.map(lambda key: estimate(key, size), keys), np.float64)
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(samples)


def assert_estimates(estimate, expected):
    mean, error = spread(estimate)
    assert (np.abs(mean - np.asarray(expected)) <= ERRORS * error + 1e-7).all(), (mean, expected, error)
    assert (error <= 0.1 * np.max(np.abs(expected)) + 1e-7).all(), error  # else the test would tell nothing


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_perturbed_argmax_with_gumbel_noise_is_softmax(sigma):
    soft = make_perturbed_fun(hardmax, SAMPLES, sigma)
    p = np.asarray(jax.nn.softmax(X / sigma), np.float64)
    error = np.sqrt(p * (1 - p) / SAMPLES)
    assert (np.abs(np.asarray(soft(KEY, X)) - p) <= ERRORS * error).all()


@pytest.mark.parametrize("use_baseline", [True, False])
def test_its_derivative_is_that_of_softmax(use_baseline):
    weights = jnp.array([1.0, 3.0, -2.0])

    def estimate(key, size):
        soft = make_perturbed_fun(hardmax, size, use_baseline=use_baseline, sigma=1.0)
        return jax.grad(lambda x: jnp.sum(weights * soft(key, x)))(X)

    assert_estimates(estimate, jax.grad(lambda x: jnp.sum(weights * jax.nn.softmax(x)))(X))


def cubes(x):
    return {"cubes": tree.sum(jax.tree.map(lambda x: x**3, x))}


def test_derivatives_of_first_and_second_order_with_normal_noise():
    def estimate(order):
        def one(key, size):
            def f(x):
                return make_perturbed_fun(cubes, size, 0.8, Normal())(key, {"x": x})["cubes"]

            return (f, jax.grad(f), jax.grad(jax.grad(f)))[order](jnp.float32(1.5))

        return one

    assert_estimates(estimate(0), 1.5**3 + 3 * 1.5 * 0.8**2)
    assert_estimates(estimate(1), 3 * 1.5**2 + 3 * 0.8**2)
    assert_estimates(estimate(2), 6 * 1.5)


def test_the_derivative_with_respect_to_sigma_is_unbiased():
    def square(make):
        def estimate(key, size):
            return jax.grad(lambda s: make(lambda x: x**2, size, s, Normal())(key, jnp.float32(0.5)))(jnp.float32(0.7))

        return estimate

    expected = 2 * 0.7  # of 0.5**2 + sigma**2
    assert_estimates(square(make_perturbed_fun), expected)

    def theirs(fun, size, sigma, noise):
        return optax.perturbations.make_perturbed_fun(fun, size, sigma, optax.perturbations.Normal(), False)

    mean, error = spread(square(theirs))
    assert abs(mean - expected) > ERRORS * error


@pytest.mark.slow
def test_the_baseline_reduces_the_variance():
    def estimate(use_baseline):
        def one(key, size):
            f = make_perturbed_fun(lambda x: 100 + jnp.sum(x), size, 0.5, Normal(), use_baseline)
            return jax.grad(f, argnums=1)(key, X)

        return one

    assert (10 * spread(estimate(True))[1] < spread(estimate(False))[1]).all()


def test_noise_is_known_exactly_far_from_zero():
    def slope(x):
        return jax.grad(make_perturbed_fun(lambda y: y - x, 1000, 0.01, Normal()), argnums=1)(KEY, x)

    # y - x is 0.01 z up to rounding of y; the score is z / 0.01: their product is the mean of z**2
    assert abs(slope(jnp.float32(0.0)) - 1) < 0.2
    assert abs(slope(jnp.float32(16.0)) - slope(jnp.float32(0.0))) < 1e-3


@pytest.mark.slow
def test_trees_dtypes_and_transformations():
    x = {"a": jnp.ones((2, 3)), "b": jnp.zeros(2, "bfloat16")}
    f = make_perturbed_fun(lambda x: {"n": jnp.argmax(x["a"]), "b": x["b"]}, 10)
    out = jax.jit(f)(KEY, x)
    assert (out["n"].dtype, out["n"].shape, out["b"].shape) == (jnp.dtype("float32"), (), (2,))
    grads = jax.grad(lambda x: f(KEY, x)["n"])(x)
    assert jax.tree.map(jnp.result_type, grads) == {"a": jnp.dtype("float32"), "b": jnp.dtype("bfloat16")}
    batched = jax.vmap(f, in_axes=(None, 0))(KEY, tree.batch_shape(x, (4,)))
    np.testing.assert_allclose(batched["n"], np.full(4, out["n"]), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Normal", "Gumbel"])
@pytest.mark.parametrize("use_baseline", [True, False])
def test_same_as_optax(name, use_baseline):
    ours, theirs = ({"Normal": Normal, "Gumbel": Gumbel}[name](), getattr(optax.perturbations, name)())

    def f(x):
        return jnp.sum(jnp.sort(x) * jnp.arange(3))

    mine = make_perturbed_fun(f, 50, 0.3, ours, use_baseline)
    other = optax.perturbations.make_perturbed_fun(f, 50, 0.3, theirs, use_baseline)
    np.testing.assert_allclose(mine(KEY, X), other(KEY, X), rtol=1e-5)
    grads = [np.asarray(jax.grad(fun, argnums=1)(KEY, X)) for fun in (mine, other)]
    np.testing.assert_allclose(*grads, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("noise", [Normal(), Gumbel()])
def test_log_prob_fits_the_samples(noise):
    z = np.sort(np.asarray(noise.sample(KEY, (SAMPLES,)), np.float64))
    grid = np.linspace(-8, 20, 20_001)
    density = np.exp(np.asarray(noise.log_prob(jnp.asarray(grid)), np.float64))
    below = np.cumsum(density) / np.sum(density)
    largest_gap = np.max(np.abs(np.interp(z, grid, below) - np.arange(1, SAMPLES + 1) / SAMPLES))
    assert largest_gap < 2 / np.sqrt(SAMPLES)  # Kolmogorov and Smirnov, p < 0.001
    assert noise == type(noise)()
