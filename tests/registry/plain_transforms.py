"""Scaling, momentum, decay and bounds."""

import numpy as np
import optax

import gradchain as gc
from tests import oracles
from tests.registry.row import (
    HALF_MOMENT,
    MASK,
    Row,
    is_matrix,
    matrices,
    ramp,
    ramp_traced,
    ramp_value,
    tanh,
    tanh_leaf,
    twin,
)

SCALING = [
    Row("identity", gc.identity, oracles.identity, optax.identity),
    Row("set_to_zero", gc.set_to_zero, oracles.set_to_zero, optax.set_to_zero, any_dtype=True),
    Row("scale", lambda: gc.scale(-0.3), lambda: oracles.scale(-0.3), lambda: optax.scale(-0.3)),
    Row("scale_scheduled", lambda: gc.scale(ramp()), lambda: oracles.scale(ramp_value)),
    Row(
        "scale_by_learning_rate",
        lambda: gc.scale_by_learning_rate(0.3),
        lambda: oracles.learning_rate(0.3),
        lambda: optax.scale_by_learning_rate(0.3),
    ),
    Row(
        "scale_by_learning_rate_uphill",
        lambda: gc.scale_by_learning_rate(0.3, flip_sign=False),
        lambda: oracles.scale(0.3),
        lambda: optax.scale_by_learning_rate(0.3, flip_sign=False),
    ),
    Row(
        "scale_by_schedule",
        lambda: gc.scale_by_schedule(ramp()),
        lambda: oracles.scale(ramp_value),
        lambda: optax.scale_by_schedule(ramp_traced),
    ),
    Row(
        "scale_by_schedule_function",
        lambda: gc.scale_by_schedule(ramp_traced),
        lambda: oracles.scale(ramp_value),
        lambda: optax.scale_by_schedule(ramp_traced),
        rebuilds=False,
    ),
    Row("scale_by_sign", gc.scale_by_sign, oracles.sign, optax.scale_by_sign),
    Row("centralize", gc.centralize, oracles.centralize, optax.centralize),
    Row("stateless", lambda: gc.stateless(tanh), lambda: oracles.plain(lambda g, w: np.tanh(g)), rebuilds=False),
    Row(
        "stateless_with_tree_map",
        lambda: gc.stateless_with_tree_map(tanh_leaf),
        lambda: oracles.plain(lambda g, w: np.tanh(g)),
        rebuilds=False,
    ),
]

MOMENTUM = [
    Row("trace", lambda: gc.trace(0.9), lambda: oracles.trace(0.9), lambda: optax.trace(0.9)),
    Row(
        "trace_nesterov",
        lambda: gc.trace(0.9, nesterov=True),
        lambda: oracles.trace(0.9, nesterov=True),
        lambda: optax.trace(0.9, nesterov=True),
    ),
    Row("trace_half", lambda: gc.trace(0.9, accumulator_dtype="bfloat16"), smooth=False, excludes=HALF_MOMENT),
    Row("ema", lambda: gc.ema(0.9), lambda: oracles.ema(0.9), lambda: optax.ema(0.9)),
    Row(
        "ema_biased",
        lambda: gc.ema(0.9, debias=False),
        lambda: oracles.ema(0.9, debias=False),
        lambda: optax.ema(0.9, debias=False),
    ),
    Row("ema_half", lambda: gc.ema(0.9, accumulator_dtype="bfloat16"), smooth=False, excludes=HALF_MOMENT),
    twin("scale_by_optimistic_gradient", oracles.optimistic),
    twin("scale_by_optimistic_gradient", lambda: oracles.optimistic(0.5, 0.7), "weights", 0.5, 0.7),
]

DECAY = [
    Row(
        "add_decayed_weights",
        lambda: gc.add_decayed_weights(0.1),
        lambda: oracles.weight_decay(0.1),
        lambda: optax.add_decayed_weights(0.1),
        needs_params=True,
    ),
    Row(
        "add_decayed_weights_scheduled",
        lambda: gc.add_decayed_weights(ramp()),
        lambda: oracles.weight_decay(ramp_value),
        needs_params=True,
    ),
    Row(
        "add_decayed_weights_mask",
        lambda: gc.add_decayed_weights(0.1, mask=MASK),
        lambda: oracles.weight_decay(0.1, is_matrix),
        lambda: optax.add_decayed_weights(0.1, mask=MASK),
        needs_params=True,
        any_tree=False,
    ),
    Row(
        "add_decayed_weights_mask_function",
        lambda: gc.add_decayed_weights(0.1, mask=matrices),
        lambda: oracles.weight_decay(0.1, is_matrix),
        lambda: optax.add_decayed_weights(0.1, mask=matrices),
        needs_params=True,
        rebuilds=False,
    ),
    Row("add_l1_penalty", lambda: gc.add_l1_penalty(0.1), lambda: oracles.l1_penalty(0.1), needs_params=True),
    Row(
        "add_l1_penalty_mask",
        lambda: gc.add_l1_penalty(0.1, mask=MASK),
        lambda: oracles.l1_penalty(0.1, is_matrix),
        needs_params=True,
        any_tree=False,
    ),
    Row("add_l2_penalty", lambda: gc.add_l2_penalty(0.1), lambda: oracles.weight_decay(0.1), needs_params=True),
]

BOUNDS = [
    Row("clip", lambda: gc.clip(0.3), lambda: oracles.clip(0.3), lambda: optax.clip(0.3), optax_complex=False),
    Row(
        "clip_by_global_norm",
        lambda: gc.clip_by_global_norm(0.7),
        lambda: oracles.clip_by_global_norm(0.7),
        lambda: optax.clip_by_global_norm(0.7),
    ),
    twin("normalize_by_update_norm", oracles.normalize),
    twin("normalize_by_update_norm", lambda: oracles.normalize(2.0, 0.1), "size", 2.0, 0.1),
    twin("clip_by_block_rms", lambda: oracles.clip_by_block_rms(0.3), "", 0.3),
    twin("adaptive_grad_clip", lambda: oracles.adaptive_clip(0.1), "", 0.1, needs_params=True),
    twin("adaptive_grad_clip", lambda: oracles.adaptive_clip(0.1, 0.5, ()), "axis", 0.1, 0.5, (), needs_params=True),
    twin("keep_params_nonnegative", oracles.nonnegative, needs_params=True, optax_complex=False),
    Row("zero_nans", gc.zero_nans, oracles.zero_nans, optax.zero_nans),
    Row("add_noise", lambda: gc.add_noise(0.1, 0.55, 7), random=True),
]
