"""Slots in fewer bits, parameters in half precision, and scaled losses."""

import gradchain as gc
from tests import oracles
from tests.registry.row import Row, descent

STORAGE = [
    Row(
        "store_float32",
        lambda: gc.store(gc.adam(0.01), nu="float32", min_size=0),
        lambda: descent(oracles.adam()),
        descends=True,
    ),
    Row(
        "store_int8_adam",
        lambda: gc.store(gc.adam(0.01), "int8", min_size=0),
        smooth=False,
        descends=True,
        composed=True,
    ),
    Row(
        "store_mixed_adamw",
        lambda: gc.store(gc.adamw(0.01), mu="bfloat16", nu=gc.codec("int4", 4, rounding="nearest"), min_size=2, key=3),
        needs_params=True,
        smooth=False,
        descends=True,
        composed=True,
    ),
]
ROUNDING = [
    Row(
        "stochastic_rounding",
        lambda: gc.stochastic_rounding(gc.adam(0.01)),
        lambda: descent(oracles.adam()),
        needs_params=True,
        descends=True,
        rounds=True,
    ),
    Row(
        "kahan",
        lambda: gc.kahan(gc.sgd(0.01, momentum=0.9)),
        lambda: descent(oracles.trace(0.9)),
        needs_params=True,
        descends=True,
        rounds=True,
    ),
    Row(
        "master_weights",
        lambda: gc.master_weights(gc.adam(0.01), 16),
        lambda: descent(oracles.adam()),
        needs_params=True,
        descends=True,
        rounds=True,
    ),
]
LOSS_SCALES = [
    Row(
        "loss_scale",
        lambda: gc.loss_scale(gc.adam(0.01), 1.0, growth_interval=None),
        lambda: descent(oracles.adam()),
        descends=True,
    ),
]
PRECISION = [*STORAGE, *ROUNDING, *LOSS_SCALES]
