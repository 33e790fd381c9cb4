"""Parts of recent optimizers, and the optimizers that are made of little else."""

import gradchain as gc
from tests import oracles
from tests.registry.row import MASK, Row, descent, is_matrix, ramp, ramp_value

PARTS = [
    Row(
        "scale_by_laprop",
        lambda: gc.scale_by_laprop(0.9, 0.8, 1e-3, 1e-4),
        lambda: oracles.laprop(0.9, 0.8, 1e-3, 1e-4),
    ),
    Row(
        "ema_mixture",
        lambda: gc.ema_mixture([0.5, 0.9], [0.7 - ramp(), 0.4], share=0.95),
        lambda: oracles.ema_mixture([0.5, 0.9], lambda count: (0.7 - ramp_value(count), 0.4), 0.95),
    ),
    Row(
        "ema_mixture_mean_age",
        lambda: gc.ema_mixture([0.5, 0.75, 0.9], mean_age=4.0 + ramp()),
        lambda: oracles.ema_mixture([0.5, 0.75, 0.9], oracles.mixed_to_age(lambda count: 4 + ramp_value(count))),
    ),
    Row(
        "descend_with_corrected_decay",
        lambda: gc.descend_with_corrected_decay(ramp(), 0.1, 0.3, MASK),
        lambda: oracles.corrected_decay(ramp_value, 0.1, 0.3, is_matrix),
        needs_params=True,
        any_tree=False,
    ),
]

OF_PARTS = [
    Row(
        "laprop",
        lambda: gc.laprop(0.01, weight_decay=0.1),
        lambda: descent(oracles.laprop(), oracles.weight_decay(0.1)),
        needs_params=True,
    ),
    Row(
        "adamc",
        lambda: gc.adamc(ramp(), 0.1, weight_decay=0.1, nesterov=True),
        lambda: oracles.chain(oracles.adam(nesterov=True), oracles.corrected_decay(ramp_value, 0.1, 0.1)),
        needs_params=True,
    ),
]
