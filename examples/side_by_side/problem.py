"""What the three programs share: 1,797 images of digits, a start, and batches in a fixed order, as NumPy arrays."""

import numpy as np
from sklearn.datasets import load_digits

STEPS = 100
BATCH_SIZE = 32
RATE, B1, B2, EPS = 1e-2, 0.9, 0.999, 1e-8


def load(dtype=np.float32):
    """Return images of shape (1797, 64) between 0 and 1, and their labels."""
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(dtype), labels


def start(dtype=np.float32):
    """Return the first weights of a network with 32 hidden units."""
    rng = np.random.default_rng(0)
    return {
        "w1": (rng.standard_normal((64, 32)) / 8).astype(dtype),
        "b1": np.zeros(32, dtype),
        "w2": (rng.standard_normal((32, 10)) / 6).astype(dtype),
        "b2": np.zeros(10, dtype),
    }


def batches(x, y):
    """Yield the batch of each step."""
    order = np.random.default_rng(1).permutation(len(x))
    for k in range(STEPS):
        chosen = order[np.arange(k * BATCH_SIZE, (k + 1) * BATCH_SIZE) % len(order)]
        yield x[chosen], y[chosen]
