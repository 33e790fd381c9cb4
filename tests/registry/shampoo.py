"""Shampoo and PSGD-Kron."""

import gradchain as gc
from tests import oracles
from tests.registry.row import Row

FACTORS = [
    Row(
        "scale_by_shampoo",
        lambda: gc.scale_by_shampoo(ridge=0.01, update_interval=2, weight_dimension_numbers="axes"),
        lambda: oracles.shampoo(ridge=0.01, every=2),
    ),
    Row(
        "scale_by_kron",
        lambda: gc.scale_by_kron(0.9, 0.5, 0.999, 0.5, damping=0.1, key=7, weight_dimension_numbers="axes"),
        random=True,
    ),
]
