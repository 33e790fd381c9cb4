"""Constraints on parameters."""

import gradchain as gc
from gradchain.projections import projection_l2_ball
from tests import oracles
from tests.registry.row import Row

CONSTRAINTS = [
    Row(
        "project",
        lambda: gc.project(projection_l2_ball),
        lambda: oracles.project_on_ball(1.0),
        needs_params=True,
        rebuilds=False,
    ),
    Row(  # the second stage makes it more than rounding errors where gradients are multiples of the weights
        "keep_norm",
        lambda: gc.chain(gc.keep_norm(), gc.add_decayed_weights(0.1)),
        lambda: oracles.chain(oracles.keep_norm(), oracles.weight_decay(0.1)),
        needs_params=True,
    ),
    Row(
        "limit_update_ratio",
        lambda: gc.limit_update_ratio(0.5, 0.2),
        lambda: oracles.limit_update_ratio(0.2, 0.5),
        needs_params=True,
    ),
    Row(
        "add_cautious_decayed_weights",
        lambda: gc.add_cautious_decayed_weights(0.1),
        lambda: oracles.cautious_decay(0.1),
        needs_params=True,
    ),
]
