"""Transforms that act on some steps only, and those that watch."""

from typing import Any

import jax.numpy as jnp
import optax
import optax.contrib

import gradchain as gc
from gradchain.schedules import linear_schedule
from tests import oracles
from tests.registry.row import Row, descent, loss, ramp, ramp_value, twin, with_value


def rounds(count: Any) -> Any:
    """Return how many micro-steps the accumulation with a schedule takes: 2 at first, later up to 5."""
    return linear_schedule(1.5, 4.2, 7.3)(count)


def whole_rounds(count: Any) -> Any:
    """Return ``rounds`` rounded up, as Optax wants it."""
    return jnp.ceil(rounds(count)).astype("int32")


def on_even_steps(count: Any) -> Any:
    """Whether a transform acts: on the first update, the third and so on."""
    return count % 2 == 0


def multi_steps(*args: Any, **kwargs: Any) -> Any:
    """Return Optax's accumulation in the parameters' precision; by default it is single, of double ones too."""
    return optax.MultiSteps(*args, **kwargs, accumulator_dtype=None).gradient_transformation()


ADAFACTOR = descent(oracles.factored_rms(least=2), oracles.clip_by_block_rms(1.0), oracles.param_block_rms())

ACCUMULATION = [
    twin("apply_every", lambda: oracles.apply_every(3), "", 3),
    Row(
        "accumulate_momentum",
        lambda: gc.accumulate(gc.sgd(ramp(), momentum=0.9), 3),
        lambda: oracles.accumulate(descent(oracles.trace(0.9), rate=ramp_value), 3),
        lambda: multi_steps(optax.sgd(ramp(), momentum=0.9), 3),
        optax_complex=False,
    ),
    Row(
        "accumulate_adam",
        lambda: gc.accumulate(gc.adam(0.01), linear_schedule(1.5, 4.2, 7.3), use_grad_mean=False),
        lambda: oracles.accumulate(descent(oracles.adam()), lambda k: float(rounds(k)), mean=False),
        lambda: multi_steps(optax.adam(0.01), whole_rounds, use_grad_mean=False),
        optax_complex=False,
    ),
    Row(
        "accumulate_adafactor",
        lambda: gc.accumulate(
            gc.adafactor(0.01, min_dim_size_to_factor=2), 2, should_skip_update_fn=gc.skip_not_finite
        ),
        lambda: oracles.accumulate(ADAFACTOR, 2),
        needs_params=True,
        rebuilds=False,
        smooth=False,
    ),
]

GUARDS = [
    Row(
        "apply_if_finite",
        lambda: gc.apply_if_finite(gc.sgd(0.01, momentum=0.9), 2),
        lambda: descent(oracles.trace(0.9)),
        lambda: optax.apply_if_finite(optax.sgd(0.01, momentum=0.9), 2),
    ),
    Row(
        "skip_spikes",
        lambda: gc.skip_spikes(gc.adam(0.01), 0.4, decay=0.8, warmup=3, max_consecutive_skips=2),
        lambda: oracles.skip_spikes(descent(oracles.adam()), 0.4, 0.8, 3, 2),
    ),
]

LOSS = [
    Row(
        "reduce_on_plateau",
        lambda: gc.reduce_on_plateau(0.9, 1, cooldown=2, min_scale=0.1),
        lambda: oracles.reduce_on_plateau(loss, 0.9, 1, cooldown=2, least=0.1),
        lambda: optax.contrib.reduce_on_plateau(0.9, 1, cooldown=2, min_scale=0.1),
        optax_complex=False,
        extra=with_value,
    ),
    Row(
        "skip_spikes_by_value",
        lambda: gc.skip_spikes(gc.adam(0.01), by_value=True),
        lambda: descent(oracles.adam()),
        extra=with_value,
    ),
]

CONDITIONAL = [
    Row(
        "conditionally_transform",
        lambda: gc.conditionally_transform(gc.adam(ramp()), on_even_steps),
        lambda: oracles.when(descent(oracles.adam(), rate=ramp_value), lambda k: k % 2 == 0, masks=False),
        lambda: optax.conditionally_transform(optax.adam(ramp()), on_even_steps),
        rebuilds=False,
    ),
    Row(
        "conditionally_mask",
        lambda: gc.conditionally_mask(gc.sgd(ramp(), momentum=0.9), on_even_steps),
        lambda: oracles.when(descent(oracles.trace(0.9), rate=ramp_value), lambda k: k % 2 == 0, masks=True),
        lambda: optax.conditionally_mask(optax.sgd(ramp(), momentum=0.9), on_even_steps),
        rebuilds=False,
    ),
]

WATCHING = [
    Row(
        "watch_and_monitor",
        lambda: gc.watch(
            gc.chain(gc.watch(gc.clip(0.3), "clip"), gc.monitor({"average": gc.ema(0.9), "norm": gc.global_norm}))
        ),
        lambda: oracles.clip(0.3),
        needs_params=True,
        rebuilds=False,
    ),
    Row(
        "nest",
        lambda: gc.accumulate(
            gc.skip_spikes(gc.conditionally_mask(gc.accumulate(gc.adamw(ramp()), 2), on_even_steps), 9.0), 2
        ),
        lambda: oracles.accumulate(
            oracles.when(
                oracles.accumulate(descent(oracles.adam(), oracles.weight_decay(1e-4), rate=ramp_value), 2),
                lambda k: k % 2 == 0,
                masks=True,
            ),
            2,
        ),
        needs_params=True,
        rebuilds=False,
    ),
]
WHEN = [*ACCUMULATION, *GUARDS, *LOSS, *CONDITIONAL, *WATCHING]
