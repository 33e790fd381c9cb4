"""Constraints on parameters."""

import gradchain as gc
from gradchain.projections import projection_l2_ball
from tests import oracles
from tests.registry.row import Row, ramp, ramp_value

CONSTRAINTS = [
    Row(
        "project",
        lambda: gc.project(projection_l2_ball),
        lambda: oracles.project_on_ball(1.0),
        needs_params=True,
        rebuilds=False,
    ),
    *(  # the second stage makes it more than rounding errors where gradients are multiples of the weights
        Row(
            name,
            lambda radius=radius: gc.chain(gc.keep_norm(radius), gc.add_decayed_weights(0.1)),
            lambda size=size: oracles.chain(oracles.keep_norm(size), oracles.weight_decay(0.1)),
            needs_params=True,
        )
        for name, radius, size in (
            ("keep_norm", "initial", "initial"),
            ("keep_norm_present", "present", "present"),
            ("keep_norm_number", ramp(), ramp_value),
        )
    ),
    Row("pin_norm", lambda: gc.pin_norm(), oracles.pin_norm, needs_params=True),
    Row("brake_norm", lambda: gc.brake_norm(0.4, 0.9), lambda: oracles.brake_norm(0.4, 0.9), needs_params=True),
    Row(
        "limit_update_ratio",
        lambda: gc.limit_update_ratio(0.5, 0.2),
        lambda: oracles.limit_update_ratio(0.2, 0.5),
        needs_params=True,
    ),
    Row(
        "limit_update_ratio_outputs",
        lambda: gc.limit_update_ratio(0.5, 0.2, axis="outputs"),
        lambda: oracles.limit_update_ratio(0.2, 0.5, outputs=True),
        needs_params=True,
    ),
    Row(
        "add_cautious_decayed_weights",
        lambda: gc.add_cautious_decayed_weights(0.1),
        lambda: oracles.cautious_decay(0.1),
        needs_params=True,
    ),
    Row(
        "decay_updated_weights",
        lambda: gc.decay_updated_weights(ramp(), cautious=True),
        lambda: oracles.decay_updated_weights(ramp_value, cautious=True),
        needs_params=True,
    ),
]
