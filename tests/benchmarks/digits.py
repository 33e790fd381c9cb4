"""Scikit-learn's handwritten digits in 280 mini-batches, and the small network that two benchmarks train on them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sklearn.datasets

from tests.benchmarks.contest import SCALE

BATCH = 32
STEPS = max(int(280 * SCALE), 2)
SIZES = (64, 64, 10)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images of 64 numbers from 0 to 1 and labels, repeated so that they make whole batches."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    n = STEPS * BATCH
    return np.resize(images / 16, (n, 64)).astype(np.float32), np.resize(labels, n).astype(np.int32)


def start() -> dict[str, np.ndarray]:
    """Return the network's first parameters."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (64, SIZES[1]), "b1": (1, SIZES[1]), "w2": (SIZES[1], 10), "b2": (1, 10)}
    return {k: (rng.normal(size=s) / 8 * (s[0] > 1)).astype(np.float32) for k, s in shapes.items()}


def loss_fn(params: Any, batch: Any) -> jax.Array:
    """Return the mean cross-entropy."""
    images, labels = batch
    logits = jax.nn.relu(images @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))
