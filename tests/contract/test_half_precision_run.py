"""2,000 steps of Adam on real images in bfloat16 track the float32 run, thanks to second moments in float32.

With b2 = 0.999 the average changes by at most a thousandth a step, less than half of bfloat16's spacing: stored in
bfloat16 it can't shrink, and as the gradients fade the steps fade with them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

import gradchain as gc

STEPS = 2000
RATE = 1e-2


class NaiveAdam(NamedTuple):
    """Adam in float32 whose second moment is stored in a dtype of choice."""

    stored: str

    def init(self, params: Any) -> Any:
        return jnp.zeros(()), jnp.zeros(params.shape), jnp.zeros(params.shape, self.stored)

    def update(self, gradient: Any, state: Any, params: Any) -> Any:
        g = gradient.astype("float32")
        t, mu, nu = state[0] + 1, 0.9 * state[1] + 0.1 * g, 0.999 * state[2].astype("float32") + 0.001 * g * g
        step = -RATE * (mu / (1 - 0.9**t)) / (jnp.sqrt(nu / (1 - 0.999**t)) + 1e-8)
        return step.astype(params.dtype), (t, mu, nu.astype(self.stored))


@pytest.fixture(scope="module")
def digits():
    """Return 256 images of 64 pixels in [0, 1] and their labels."""
    data = load_digits()
    return jnp.asarray(data.data[:256] / 16, "float32"), jnp.asarray(data.target[:256], "int32")


def loss(weights, images, labels):
    """Return the mean cross-entropy of a linear classifier."""
    scores = jax.nn.log_softmax(images @ weights)
    return -jnp.mean(jnp.take_along_axis(scores, labels[:, None], axis=1))


def losses(tx, dtype, data):
    """Return the loss at each step. Weights are kept in float32; the optimizer sees and returns only ``dtype``."""

    def step(carry, _):
        weights, state = carry
        value, gradient = jax.value_and_grad(loss)(weights, *data)
        updates, state = tx.update(gradient.astype(dtype), state, weights.astype(dtype))
        assert updates.dtype == jnp.dtype(dtype)
        return (weights + updates.astype("float32"), state), value

    weights = jnp.zeros((64, 10))
    carry = weights, tx.init(weights.astype(dtype))
    return np.asarray(jax.jit(lambda: jax.lax.scan(step, carry, length=STEPS)[1])())


def distance(path, reference):
    """Return how far two courses of the loss lie apart, at worst: 0.01 is one percent."""
    return np.max(np.abs(np.log(path / reference)))


def test_bfloat16_tracks_float32_and_a_second_moment_in_bfloat16_would_not(digits):
    single = losses(gc.adam(RATE), "float32", digits)
    assert single[-1] < 0.002 * single[0]
    assert distance(losses(gc.adam(RATE), "bfloat16", digits), single) < 1e-3
    assert distance(losses(NaiveAdam("float32"), "bfloat16", digits), single) < 1e-3
    assert distance(losses(NaiveAdam("bfloat16"), "bfloat16", digits), single) > 0.3
