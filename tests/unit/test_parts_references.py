"""Parts of recent optimizers, put together as other implementations have them, against recorded trajectories."""

from typing import Any

import jax
import pytest

import gradchain as gc
from tests.references import assert_reproduces

QUINTIC = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""Emerging-Optimizers' coefficients of this name."""


def matrices(params: Any) -> Any:
    """Return the mask that selects matrices: the references below have no other arrays."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


def test_rmsprop_on_the_hyperball_is_heavyballs():
    """Which calls it HyperBallAdamW, though it has no first moment. Its eps is a lower bound, of no effect here."""
    tx = gc.chain(
        gc.scale_by_rms(0.95, eps=0.0, eps_in_sqrt=False, bias_correction=True),
        gc.scale_by_trust_ratio(),
        gc.scale_by_learning_rate(0.02),
        gc.keep_norm(),
    )
    assert_reproduces("hyperball-adamw/heavyball", gc.masked(tx, matrices))


@pytest.mark.slow
@pytest.mark.parametrize("radius", ["initial", "present"])
def test_muon_on_the_hyperball_is_emerging_optimizers(radius):
    """Its momentum isn't Nesterov's; the norms of the start and of the present are the same but for rounding."""
    tx = gc.chain(
        gc.trace(0.95),
        gc.scale_by_muon(QUINTIC, beta=0.0, nesterov=False, eps=0.0),
        gc.scale_by_trust_ratio(),
        gc.scale_by_learning_rate(0.02),
        gc.keep_norm(radius),
    )
    assert_reproduces("muon-hyperball/emerging", gc.masked(tx, matrices))
