"""Transforms made of transforms."""

import optax

import gradchain as gc
from tests import oracles
from tests.registry.row import Row, descent, ramp, ramp_traced, ramp_value

LAYERS = {"bias": 0, "kernel": 1, "scale": None}

COMBINATORS = [
    Row(
        "chain",
        lambda: gc.chain(gc.clip_by_global_norm(0.7), gc.centralize(), gc.trace(0.9), gc.adamw(0.01)),
        lambda: oracles.chain(
            oracles.clip_by_global_norm(0.7),
            oracles.centralize(),
            oracles.trace(0.9),
            descent(oracles.adam(), oracles.weight_decay(1e-4)),
        ),
        lambda: optax.chain(optax.clip_by_global_norm(0.7), optax.centralize(), optax.trace(0.9), optax.adamw(0.01)),
        needs_params=True,
    ),
    Row(
        "named_chain",
        lambda: gc.named_chain(("clip", gc.clip(0.3)), ("descend", gc.sgd(0.01, momentum=0.9))),
        lambda: oracles.chain(oracles.clip(0.3), descent(oracles.trace(0.9))),
        lambda: optax.named_chain(("clip", optax.clip(0.3)), ("descend", optax.sgd(0.01, momentum=0.9))),
        optax_complex=False,
    ),
    Row(
        "per_layer",
        lambda: gc.per_layer(gc.chain(gc.scale_by_sm3(0.8, 0.9), gc.lamb(0.01)), LAYERS),
        lambda: oracles.per_layer(
            oracles.chain(
                oracles.sm3(0.8, 0.9), descent(oracles.adam(eps=1e-6), oracles.weight_decay(0.0), oracles.trust_ratio())
            ),
            LAYERS,
        ),
        needs_params=True,
        any_tree=False,
    ),
    Row(
        "hyperparams_in_state",
        lambda: gc.hyperparams_in_state(gc.adamw(0.01, weight_decay=ramp())),
        lambda: descent(oracles.adam(), oracles.weight_decay(ramp_value)),
        needs_params=True,
        numbers_in_state=True,
    ),
    Row(
        "inject_hyperparams",
        lambda: gc.inject_hyperparams(gc.sgd)(ramp(), momentum=0.9),
        lambda: descent(oracles.trace(0.9), rate=ramp_value),
        lambda: optax.inject_hyperparams(optax.sgd)(ramp_traced, momentum=0.9),
        numbers_in_state=True,
    ),
    Row(
        "split_real_and_imaginary",
        lambda: gc.split_real_and_imaginary(gc.adam(0.01)),
        lambda: oracles.by_complex_parts(descent(oracles.adam())),
        lambda: optax.contrib.split_real_and_imaginary(optax.adam(0.01)),
    ),
]
