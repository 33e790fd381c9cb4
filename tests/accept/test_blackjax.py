"""blackjax: variational inference and Stein gradient descent with a gradchain transform as the optimizer."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from tests.accept.problem import TOLERANCE, assert_close, assert_dtype, each_dtype, optimizer, with_float32_state

pytestmark = pytest.mark.accept


@pytest.fixture(autouse=True)
def _client_broadcasts():
    """Allow what blackjax does in its own code."""
    with jax.numpy_rank_promotion("allow"):
        yield


def log_density(position):
    """A normal density around (2, -1) with standard deviations 0.5 and 1."""
    x = position["x"].astype(jnp.float32)
    return -2.0 * (x[0] - 2.0) ** 2 - 0.5 * (x[1] + 1.0) ** 2


def fit_meanfield(tx, dtype, steps=60):
    algorithm = blackjax.meanfield_vi(log_density, tx, num_samples=16)
    state = algorithm.init({"x": jnp.zeros(2, dtype)})

    def body(state, key):
        state, info = algorithm.step(key, state)
        return state, info.elbo

    state, elbo = jax.jit(lambda s: jax.lax.scan(body, s, jax.random.split(jax.random.key(0), steps)))(state)
    return {"mu": state.mu, "rho": state.rho}, elbo


@each_dtype
def test_meanfield_vi_fits_like_with_optax(dtype):
    fitted, elbo = fit_meanfield(optimizer(gc, 0.05), dtype)
    want, want_elbo = fit_meanfield(with_float32_state(optimizer(optax, 0.05)), dtype)
    assert_dtype(fitted, dtype)
    assert_close(fitted, want, TOLERANCE[dtype])
    assert_close(elbo, want_elbo, TOLERANCE[dtype])


def test_meanfield_vi_finds_the_density():
    fitted, _ = fit_meanfield(gc.adam(0.05), "float32", steps=600)
    np.testing.assert_allclose(fitted["mu"]["x"], [2.0, -1.0], atol=0.1)
    np.testing.assert_allclose(jnp.exp(fitted["rho"]["x"]), [0.5, 1.0], atol=0.1)


def move_particles(tx, dtype):
    algorithm = blackjax.svgd(jax.grad(log_density), tx)
    particles = np.random.default_rng(0).normal(size=(20, 2))
    state = algorithm.init({"x": jnp.asarray(particles, dtype)})
    state = jax.jit(lambda s: jax.lax.scan(lambda s, _: (algorithm.step(s), None), s, length=60)[0])(state)
    return state.particles


@each_dtype
def test_svgd_moves_particles_like_with_optax(dtype):
    particles = move_particles(optimizer(gc, 0.05), dtype)
    assert_dtype(particles, dtype)
    assert_close(particles, move_particles(with_float32_state(optimizer(optax, 0.05)), dtype), TOLERANCE[dtype])
    assert jnp.abs(particles["x"].astype(jnp.float32).mean(0) - jnp.asarray([2.0, -1.0])).max() < 0.5
