"""Losses, one value an example: take ``jnp.mean`` (or a sum, or weights) of what they return.

None of them broadcasts: shapes that differ are errors, since ``(n, 1)`` predictions against ``(n,)`` targets would
otherwise give an ``(n, n)`` table whose mean looks like a loss. They compute in at least float32 and return the dtype
that their inputs promote to, as Optax does: a half-precision loss is exact until it is rounded once, at the end.
"""

from gradchain.losses.classification import (
    hinge_loss,
    sigmoid_binary_cross_entropy,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from gradchain.losses.regression import huber_loss, l2_loss, log_cosh, squared_error

__all__ = [
    "hinge_loss",
    "huber_loss",
    "l2_loss",
    "log_cosh",
    "sigmoid_binary_cross_entropy",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "squared_error",
]
