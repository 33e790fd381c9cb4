"""Parts of recent optimizers, put together as other implementations have them, against recorded trajectories."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gradchain as gc
from tests.references import assert_reproduces, error

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


RATE = 0.01


def test_laprop_is_heavyballs():
    assert_reproduces("laprop/heavyball", gc.laprop(RATE, 0.9, 0.99, weight_decay=0.1), ["lstsq"])


@pytest.mark.slow
def test_laprop_is_heavyballs_in_every_problem():
    assert_reproduces("laprop/heavyball", gc.laprop(RATE, 0.9, 0.99, weight_decay=0.1))


def debiased(eps: float, decay: float, power: float) -> Any:
    """Return an eps that was added before the bias correction, as the one that has the same effect behind it."""
    return lambda count: eps / (1 - decay ** (count + 1.0)) ** power


@pytest.mark.slow
def test_laprop_is_pytorch_optimizers():
    """It decays the weights after the step, and adds 1e-15 to second moments before their bias correction."""
    tx = gc.chain(
        gc.laprop(RATE, 0.9, 0.99, eps_root=debiased(1e-15, 0.99, 1)),
        gc.decay_updated_weights(RATE * 0.1),
    )
    assert_reproduces("laprop/pytorch_optimizer", tx)


FALLING = gc.linear_schedule(RATE, 0.0, 40)


@pytest.mark.slow
def test_adamc_is_heavyballs():
    """Where eps is a lower bound, of no effect here."""
    assert_reproduces("adamc/heavyball", gc.adamc(FALLING, RATE, 0.9, 0.95, eps=0.0, weight_decay=0.1))


@pytest.mark.slow
def test_adamc_is_pytorch_optimizers():
    """It adds eps to the root, and 1e-15 inside the root, before the bias correction."""
    eps, eps_root = debiased(1e-8, 0.95, 0.5), debiased(1e-15, 0.95, 1)
    assert_reproduces("adamc/pytorch_optimizer", gc.adamc(FALLING, RATE, 0.9, 0.95, eps, eps_root, weight_decay=0.1))


def from_one(schedule: Any) -> Any:
    """Return a schedule that counts updates from 1, in double precision."""
    return lambda count: schedule(jnp.asarray(count, float) + 1)


B3 = from_one(gc.linear_half_life_schedule(0.9, 0.99, 20))
ALPHA = from_one(gc.linear_schedule(0.0, 5.0, 20))


@pytest.mark.slow
def test_ademamix_with_and_without_its_warm_ups_is_pytorch_optimizers():
    constant = gc.ademamix(RATE, 0.9, 0.95, 0.99, 5.0, weight_decay=0.1)
    assert_reproduces("ademamix/pytorch_optimizer-no-warmup", constant)
    assert_reproduces("ademamix/pytorch_optimizer", gc.ademamix(RATE, 0.9, 0.95, B3, ALPHA, weight_decay=0.1))


@pytest.mark.slow
def test_ademamix_with_its_warm_ups_is_heavyballs():
    """To 4e-7 only, by which it differs from pytorch_optimizer, too; its growing decay seems to be in float32."""
    tx = gc.ademamix(RATE, 0.9, 0.95, B3, ALPHA, weight_decay=0.1)
    for name in ("lstsq", "mlp", "conv", "square"):
        assert error("ademamix/heavyball", name, tx) < 5e-7


@pytest.mark.slow
def test_adopt_is_pytorch_optimizers():
    """It clips at k^(1/4), where the paper and gradchain have (k - 1)^(1/4)."""
    tx = gc.adopt(RATE, 0.9, 0.9999, weight_decay=0.1, clip_value_fn=lambda count: (count + 1.0) ** 0.25)
    assert_reproduces("adopt/pytorch_optimizer", tx)


@pytest.mark.slow
def test_generalised_primal_averaging_is_metas():
    tx = gc.primal_averaging(gc.adamw(RATE, 0.9, 0.95, weight_decay=0.0), mu_x=0.9, mu_y=0.7)
    assert_reproduces("gpa-adamw/meta", tx)
