"""Shampoo and PSGD-Kron."""

import gradchain as gc
from tests import oracles
from tests.registry.matrices import by_kind
from tests.registry.row import Row, descent

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
FACTORS_OF_MATRICES = [
    Row(
        "shampoo",
        lambda: gc.shampoo(0.01, weight_decay=0.1, ridge=0.01, update_interval=2),
        lambda: by_kind(
            descent(oracles.shampoo(ridge=0.01, every=2), oracles.weight_decay(0.1)), descent(oracles.adam())
        ),
        needs_params=True,
        any_tree=False,  # as for soap
    ),
    Row(
        "kron",
        lambda: gc.kron(0.01, 0.9, 0.5, 0.999, key=7),
        random=True,
        needs_params=True,
    ),
]
