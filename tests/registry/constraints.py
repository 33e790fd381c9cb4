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
]
