"""Shampoo and PSGD-Kron."""

import gradchain as gc
from tests import oracles
from tests.registry.row import Row

SHAMPOO = [
    Row(
        "scale_by_shampoo",
        lambda: gc.scale_by_shampoo(ridge=0.01, update_interval=2),
        lambda: oracles.shampoo(ridge=0.01, every=2),
    ),
]
