"""SGD, RMSprop and Adam."""

import numpy as np
import optax

import gradchain as gc
from gradchain.schedules import linear_schedule
from tests import oracles
from tests.registry.row import HALF_MOMENT, MASK, Row, descent, inverse_time, is_matrix, ramp, ramp_traced, ramp_value

SGD = [
    Row("sgd", lambda: gc.sgd(0.01), descent, lambda: optax.sgd(0.01), torch="sgd"),
    Row("sgd_scheduled", lambda: gc.sgd(ramp()), lambda: descent(rate=ramp_value), lambda: optax.sgd(ramp_traced)),
    Row(
        "sgd_momentum",
        lambda: gc.sgd(0.01, momentum=0.9),
        lambda: descent(oracles.trace(0.9)),
        lambda: optax.sgd(0.01, momentum=0.9),
        torch="sgd_momentum",
    ),
    Row(
        "sgd_nesterov",
        lambda: gc.sgd(0.01, momentum=0.9, nesterov=True),
        lambda: descent(oracles.trace(0.9, nesterov=True)),
        lambda: optax.sgd(0.01, momentum=0.9, nesterov=True),
        torch="sgd_nesterov",
    ),
    Row(
        "sgd_l2",
        lambda: gc.chain(gc.add_l2_penalty(0.1), gc.sgd(0.01, momentum=0.9)),
        lambda: descent(oracles.weight_decay(0.1), oracles.trace(0.9)),
        lambda: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.01, momentum=0.9)),
        torch="sgd_weight_decay",
        needs_params=True,
    ),
    Row(
        "sgd_weight_decay",
        lambda: gc.sgd(0.01, momentum=0.9, weight_decay=0.1),
        lambda: descent(oracles.weight_decay(0.1), oracles.trace(0.9)),
        torch="sgd_weight_decay",
        needs_params=True,
    ),
    Row(
        "sgd_half_trace",
        lambda: gc.sgd(0.01, momentum=0.9, accumulator_dtype="bfloat16"),
        smooth=False,
        excludes=HALF_MOMENT,
    ),
]

RMS = [
    Row("adagrad", lambda: gc.adagrad(0.01), lambda: descent(oracles.rss()), lambda: optax.adagrad(0.01)),
    Row(
        "adagrad_no_eps",
        lambda: gc.adagrad(0.1, 0.1, eps=0.0),
        lambda: descent(oracles.rss(0.1, 0.0), rate=0.1),
        lambda: optax.adagrad(0.1, 0.1, eps=0.0),
        torch="adagrad",
    ),
    Row(
        "adagrad_decaying",
        lambda: gc.chain(gc.add_l2_penalty(0.1), gc.adagrad(inverse_time, 0.1, eps=0.0)),
        lambda: descent(oracles.weight_decay(0.1), oracles.rss(0.1, 0.0), rate=inverse_time),
        torch="adagrad_decay",
        needs_params=True,
        rebuilds=False,
    ),
    Row("rmsprop", lambda: gc.rmsprop(0.01), lambda: descent(oracles.rms()), lambda: optax.rmsprop(0.01)),
    Row(
        "rmsprop_eps_outside",
        lambda: gc.rmsprop(0.01, eps_in_sqrt=False),
        lambda: descent(oracles.rms(inside=False)),
        lambda: optax.rmsprop(0.01, eps_in_sqrt=False),
    ),
    Row(
        "rmsprop_centered",
        lambda: gc.rmsprop(0.01, eps=1e-4, centered=True),
        lambda: descent(oracles.rms(eps=1e-4, centered=True)),
        lambda: optax.rmsprop(0.01, eps=1e-4, centered=True),
    ),
    Row(
        "rmsprop_momentum",
        lambda: gc.rmsprop(ramp(), momentum=0.9),
        lambda: oracles.chain(descent(oracles.rms(), rate=ramp_value), oracles.trace(0.9)),
        lambda: optax.rmsprop(ramp_traced, momentum=0.9),
    ),
    Row(
        "rmsprop_nesterov",
        lambda: gc.rmsprop(0.01, momentum=0.9, nesterov=True, bias_correction=True),
        lambda: oracles.chain(descent(oracles.rms(debias=True)), oracles.trace(0.9, nesterov=True)),
        lambda: optax.rmsprop(0.01, momentum=0.9, nesterov=True, bias_correction=True),
    ),
    Row(
        "rmsprop_torch",
        lambda: gc.rmsprop_torch(0.01),
        lambda: descent(oracles.weight_decay(0.0), oracles.rms(0.99, inside=False)),
        torch="rmsprop",
        needs_params=True,
    ),
    Row(
        "rmsprop_torch_momentum",
        lambda: gc.rmsprop_torch(0.01, momentum=0.9, weight_decay=0.1),
        lambda: descent(oracles.weight_decay(0.1), oracles.rms(0.99, inside=False), oracles.trace(0.9)),
        torch="rmsprop_momentum",
        needs_params=True,
    ),
    Row(
        "rmsprop_torch_centered",
        lambda: gc.rmsprop_torch(0.01, centered=True),
        lambda: descent(oracles.weight_decay(0.0), oracles.rms(0.99, inside=False, centered=True)),
        torch="rmsprop_centered",
        needs_params=True,
    ),
    Row(
        "rmsprop_tf",
        lambda: gc.rmsprop_tf(0.01, momentum=0.9),
        lambda: oracles.chain(descent(oracles.rms(eps=1e-10, initial=1.0)), oracles.trace(0.9)),
        lambda: optax.rmsprop(0.01, eps=1e-10, initial_scale=1.0, momentum=0.9),
    ),
]

ADAM = [
    Row("adam", lambda: gc.adam(0.01), lambda: descent(oracles.adam()), lambda: optax.adam(0.01), torch="adam"),
    Row(
        "adam_scheduled",
        lambda: gc.adam(ramp(), b1=linear_schedule(0.5, 0.9, 40.5, 0.25)),
        lambda: descent(oracles.adam(lambda k: 0.5 + 0.4 * np.clip((k - 0.25) / 40.5, 0, 1)), rate=ramp_value),
    ),
    Row(
        "adam_nesterov",
        lambda: gc.adam(0.01, nesterov=True),
        lambda: descent(oracles.adam(nesterov=True)),
        lambda: optax.adam(0.01, nesterov=True),
    ),
    Row("adam_half_moment", lambda: gc.adam(0.01, mu_dtype="bfloat16"), smooth=False, excludes=HALF_MOMENT),
    Row(
        "adamw",
        lambda: gc.adamw(0.01, weight_decay=0.1),
        lambda: descent(oracles.adam(), oracles.weight_decay(0.1)),
        lambda: optax.adamw(0.01, weight_decay=0.1),
        torch="adamw",
        needs_params=True,
    ),
    Row(
        "adamw_mask",
        lambda: gc.adamw(ramp(), weight_decay=ramp(), mask=MASK),
        lambda: descent(oracles.adam(), oracles.weight_decay(ramp_value, is_matrix), rate=ramp_value),
        needs_params=True,
        any_tree=False,
    ),
    Row(
        "adam_l2",
        lambda: gc.chain(gc.add_l2_penalty(0.1), gc.adam(0.01)),
        lambda: descent(oracles.weight_decay(0.1), oracles.adam()),
        torch="adam_weight_decay",
        needs_params=True,
    ),
    Row("nadam", lambda: gc.nadam(0.01), lambda: descent(oracles.adam(nesterov=True)), lambda: optax.nadam(0.01)),
    Row(
        "nadamw",
        lambda: gc.nadamw(0.01, weight_decay=0.1),
        lambda: descent(oracles.adam(nesterov=True), oracles.weight_decay(0.1)),
        lambda: optax.nadamw(0.01, weight_decay=0.1),
        needs_params=True,
    ),
]
