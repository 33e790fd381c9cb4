"""Averages and slow weights, other transforms around transforms, and constraints on the weights to come."""

from typing import Any, NamedTuple

import optax
from optax import contrib

import gradchain as gc
from tests import oracles
from tests.registry.row import MASK, Row, descent, loss, ramp, ramp_value, with_value


class OptaxLookahead(NamedTuple):
    """Optax's lookahead with the slow weights in the state: parameters are the fast ones, as in gradchain."""

    tx: Any

    def init(self, params: Any) -> Any:
        return params, self.tx.init(optax.LookaheadParams.init_synced(params))

    def update(self, updates: Any, state: Any, params: Any) -> Any:
        slow, inner = state
        updates, inner = self.tx.update(updates, inner, optax.LookaheadParams(params, slow))
        return updates.fast, (optax.apply_updates(slow, updates.slow), inner)


def adversary() -> Any:
    """Return Optax's usual step uphill."""
    return optax.chain(optax.normalize_by_update_norm(), optax.sgd(0.05))


def scaled_adafactor() -> Any:
    """Return the oracle of ``adafactor(0.1, min_dim_size_to_factor=2, eps=1e-12)``."""
    return descent(
        oracles.factored_rms(least=2, eps=1e-12), oracles.clip_by_block_rms(1.0), oracles.param_block_rms(), rate=0.1
    )


AVERAGES = [
    Row(
        "average_params",
        lambda: gc.average_params(gc.sgd(0.01, momentum=0.9), decay=0.9, start=2),
        lambda: descent(oracles.trace(0.9)),
        needs_params=True,
        descends=True,
    ),
    Row(
        "average_params_tail",
        lambda: gc.average_params(gc.sgd(0.01), start=1, time_constant=4.0, blend=0.6),
        lambda: descent(),
        needs_params=True,
        descends=True,
    ),
    Row(
        "lookahead",
        lambda: gc.lookahead(gc.adam(0.1), 2, 0.6),
        lambda: oracles.outer_steps(descent(oracles.adam(), rate=0.1), oracles.scale(0.6), 2),
        lambda: OptaxLookahead(optax.lookahead(optax.adam(0.1), 2, 0.6)),
        needs_params=True,
        descends=True,
    ),
    Row(
        "lookahead_reset",
        lambda: gc.lookahead(gc.sgd(0.01, momentum=0.9), 3, 0.5, reset_state=True),
        lambda: oracles.outer_steps(descent(oracles.trace(0.9)), oracles.scale(0.5), 3, reset=True),
        lambda: OptaxLookahead(optax.lookahead(optax.sgd(0.01, momentum=0.9), 3, 0.5, reset_state=True)),
        needs_params=True,
        descends=True,
    ),
    Row(
        "outer_nesterov",
        lambda: gc.outer_nesterov(gc.adafactor(0.1, min_dim_size_to_factor=2, eps=1e-12), 2),
        lambda: oracles.outer_steps(
            scaled_adafactor(), oracles.chain(oracles.trace(0.9, nesterov=True), oracles.scale(0.7)), 2
        ),
        needs_params=True,
        smooth=False,
        descends=True,
    ),
    Row(
        "primal_averaging",
        lambda: gc.primal_averaging(gc.adamw(0.1, weight_decay=0.1), mu_x=0.95),
        lambda: oracles.interpolated(
            descent(oracles.adam(), oracles.weight_decay(0.1), rate=0.1), 0.9, lambda k: 1 - 0.95
        ),
        needs_params=True,
        descends=True,
    ),
    Row(
        "ema_nesterov",
        lambda: gc.ema_nesterov(gc.sgd(0.01, momentum=0.9), 10 * ramp(), 0.9),
        lambda: oracles.ema_nesterov(descent(oracles.trace(0.9)), lambda k: 10 * ramp_value(k), 0.9),
        descends=True,
    ),
    Row(
        "ema_nesterov_from_weights",
        lambda: gc.ema_nesterov(gc.sgd(0.01), 4.5, 0.8, step_from="weights"),
        lambda: oracles.ema_nesterov(descent(), lambda k: 4.5, 0.8, from_weights=True),
        descends=True,
    ),
    Row(
        "schedule_free_sgd",
        lambda: gc.schedule_free_sgd(0.1, b1=0.8, weight_decay=0.1, weight_lr_power=0.0),
        lambda: oracles.schedule_free(descent(oracles.weight_decay(0.1), rate=0.1), lambda k: 0.1, 0.8, 0.0),
        lambda: contrib.schedule_free_sgd(0.1, b1=0.8, weight_decay=0.1, weight_lr_power=0.0),
        needs_params=True,
        descends=True,
    ),
    Row(
        "schedule_free_adamw",
        lambda: gc.schedule_free_adamw(0.05, weight_decay=0.1),
        lambda: oracles.schedule_free(
            descent(oracles.adam(0.0), oracles.weight_decay(0.1), rate=0.05), lambda k: 0.05, 0.9, 2.0
        ),
        lambda: contrib.schedule_free_adamw(0.05, weight_decay=0.1),
        needs_params=True,
        descends=True,
    ),
    Row(
        "schedule_free_plus_adamw",
        lambda: gc.schedule_free_plus_adamw(
            0.2, weight_decay=0.5, sf_b1=0.8, norm_decay=0.5, start=2, weight_lr_power=1.0, mask=MASK
        ),
        lambda: oracles.schedule_free_plus(
            oracles.chain(oracles.adam(0.9, 0.95), oracles.scale(-1.0)),
            *(loss, lambda k: 0.2, 0.8, 0.5, 0.5, 2, 1.0, lambda name: MASK[name]),
        ),
        needs_params=True,
        any_tree=False,
        extra=with_value,
        descends=True,
    ),
    Row(
        "schedule_free_scheduled",
        lambda: gc.schedule_free(gc.sgd(ramp()), ramp(), r=1.0),
        lambda: oracles.schedule_free(descent(rate=ramp_value), ramp_value, 0.9, 2.0, 1.0),
        needs_params=True,
        descends=True,
    ),
]

AROUND = [
    Row(
        "sam",
        lambda: gc.sam(gc.adamw(0.01), gc.chain(gc.normalize_by_update_norm(), gc.sgd(0.05)), 2),
        lambda: oracles.sam(
            descent(oracles.adam(), oracles.weight_decay(1e-4)),
            descent(oracles.normalize(), rate=0.05),
            2,
            True,
        ),
        lambda: contrib.sam(optax.adamw(0.01), adversary(), 2),
        needs_params=True,
        descends=True,
    ),
    Row(
        "sam_opaque",
        lambda: gc.sam(gc.sgd(0.01, momentum=0.9), gc.sgd(0.05, momentum=0.9), 3, opaque_mode=True),
        lambda: oracles.sam_opaque(descent(oracles.trace(0.9)), descent(oracles.trace(0.9), rate=0.05), 3, lambda w: w),
        lambda: contrib.sam(optax.sgd(0.01, momentum=0.9), optax.sgd(0.05, momentum=0.9), 3, opaque_mode=True),
        needs_params=True,
        extra=lambda params: {"grad_fn": lambda w, i: w},  # the gradient of |w|^2 / 2
    ),
    Row(
        "sam_longer_climb",
        lambda: gc.sam(gc.sgd(0.01), gc.sgd(0.05, momentum=0.9), 3, reset_state=False),
        lambda: oracles.sam(descent(), descent(oracles.trace(0.9), rate=0.05), 3, False),
        needs_params=True,
    ),
    Row(
        "cautious",
        lambda: gc.chain(gc.cautious(gc.scale_by_adam(), downhill=False), gc.scale_by_learning_rate(0.01)),
        lambda: descent(oracles.cautious(oracles.adam(), sign=1.0)),
    ),
    Row(
        "cautious_optimizer",
        lambda: gc.cautious(gc.sgd(0.01, momentum=0.9), xi=0.5),
        lambda: oracles.cautious(descent(oracles.trace(0.9)), 0.5),
    ),
    Row(
        "mechanize",
        lambda: gc.mechanize(gc.sgd(1.0, momentum=0.9), s_init=1e-3, num_betas=4),
        lambda: oracles.mechanize(descent(oracles.trace(0.9), rate=1.0), s_init=1e-3, n=4),
        lambda: contrib.mechanize(optax.sgd(1.0, momentum=0.9), s_init=1e-3, num_betas=4),
        optax_complex=False,
        needs_params=True,
        smooth=False,
    ),
    Row(
        "mars",
        lambda: gc.mars(0.01, weight_decay=0.1),
        lambda: descent(oracles.mars(), oracles.adam(0.95, 0.99), oracles.weight_decay(0.1)),
        needs_params=True,
        descends=True,
    ),
]
