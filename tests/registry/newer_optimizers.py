"""First-order optimizers since Adam."""

import numpy as np

import gradchain as gc
from tests import oracles
from tests.registry.row import MASK, Row, descent, is_matrix, ramp, ramp_value, twin

ADAM_VARIANTS = [
    twin("adamax", lambda: descent(oracles.adamax()), "", 0.01),
    twin(
        "adamaxw",
        lambda: descent(oracles.adamax(), oracles.weight_decay(0.1, is_matrix)),
        *("", 0.01, 0.9, 0.999, 1e-8, 0.1, MASK),
        needs_params=True,
        any_tree=False,
    ),
    twin("amsgrad", lambda: descent(oracles.amsgrad()), "", 0.01),
    twin("adabelief", lambda: descent(oracles.belief()), "", 0.01),
    twin("adabelief", lambda: descent(oracles.belief(nesterov=True)), "nesterov", 0.01, kwargs={"nesterov": True}),
    Row(
        "adabelief_weight_decay",
        lambda: gc.adabelief(0.01, weight_decay=0.1, weight_decay_mask=MASK),
        lambda: descent(oracles.belief(), oracles.weight_decay(0.1, is_matrix)),
        needs_params=True,
        any_tree=False,
    ),
    twin("yogi", lambda: descent(oracles.yogi()), "", 0.01),
    twin("radam", lambda: descent(oracles.radam()), "", 0.01),
    twin("radam", lambda: descent(oracles.radam(nesterov=True)), "nesterov", 0.01, kwargs={"nesterov": True}),
    twin(
        "adan",
        lambda: descent(oracles.adan(eps_root=1e-8), oracles.weight_decay(0.1)),
        *("", 0.01),
        kwargs={"weight_decay": 0.1},
        needs_params=True,
    ),
    twin(
        "optimistic_adam_v2",
        lambda: descent(oracles.adam(nesterov=True), oracles.optimistic(0.9, 0.8)),
        *("", 0.01),
        kwargs={"alpha": 0.9, "beta": 0.8},
    ),
]

SIGN_DESCENT = [
    twin("sign_sgd", lambda: descent(oracles.sign()), "", 0.01),
    twin("signum", lambda: descent(oracles.ema(0.8, debias=False), oracles.sign()), "", 0.01, 0.8, steep=True),
    twin("lion", lambda: descent(oracles.lion(), oracles.weight_decay(1e-3)), "", 0.01, needs_params=True, steep=True),
    Row(
        "rprop",
        lambda: gc.rprop(1 / 64, eta_plus=1.5, max_step_size=0.25),
        lambda: oracles.chain(oracles.rprop(1 / 64, plus=1.5, high=0.25), oracles.scale(-1.0)),
    ),
]

LARGE_BATCH = [
    twin(
        "lars",
        lambda: oracles.chain(descent(oracles.weight_decay(0.0), oracles.trust_ratio(share=1e-3)), oracles.trace(0.9)),
        *("", 0.01),
        needs_params=True,
    ),
    twin(
        "lars",
        lambda: oracles.chain(
            descent(
                oracles.weight_decay(0.1, is_matrix), oracles.trust_ratio(share=0.1, eps=0.01, on=is_matrix), rate=0.1
            ),
            oracles.trace(0.8, nesterov=True),
        ),
        *("masks", 0.1, 0.1, MASK, 0.1, 0.01, MASK, 0.8, True),
        needs_params=True,
        any_tree=False,
    ),
    twin(
        "lamb",
        lambda: descent(oracles.adam(eps=1e-6), oracles.weight_decay(0.1), oracles.trust_ratio()),
        *("", 0.01),
        kwargs={"weight_decay": 0.1},
        needs_params=True,
    ),
    twin(
        "fromage",
        lambda: oracles.chain(oracles.trust_ratio(1e-6), oracles.descend_and_shrink(0.01)),
        *("", 0.01),
        needs_params=True,
    ),
    twin(
        "fromage",
        lambda: oracles.chain(oracles.trust_ratio(1e-6), oracles.descend_and_shrink(ramp_value)),
        *("scheduled", ramp()),
        needs_params=True,
    ),
    twin(
        "novograd",
        lambda: descent(oracles.novograd(eps=1e-6, decay=0.1)),
        *("", 0.01),
        kwargs={"weight_decay": 0.1},
        needs_params=True,
    ),
]

LITTLE_MEMORY = [
    Row("sm3", lambda: gc.sm3(0.1, 0.8), lambda: descent(oracles.sm3(0.8), rate=0.1), smooth=False),
    Row(
        "adafactor",
        lambda: gc.adafactor(0.01, min_dim_size_to_factor=2),
        lambda: descent(oracles.factored_rms(least=2), oracles.clip_by_block_rms(1.0), oracles.param_block_rms()),
        smooth=False,
        needs_params=True,
        steep_at_zero=("float16",),
    ),
    Row(
        "adafactor_plain",
        lambda: gc.adafactor(
            0.01, multiply_by_parameter_scale=False, clipping_threshold=None, weight_decay_rate=1e-3, factored=False
        ),
        lambda: oracles.chain(
            oracles.factored_rms(least=np.inf), oracles.scale(0.01), oracles.weight_decay(1e-3), oracles.scale(-1.0)
        ),
        needs_params=True,
        steep_at_zero=("float16",),
    ),
    Row(
        "adafactor_momentum",
        lambda: gc.adafactor(min_dim_size_to_factor=2, momentum=0.9, dtype_momentum=None),
        lambda: descent(
            oracles.factored_rms(least=2),
            oracles.clip_by_block_rms(1.0),
            oracles.param_block_rms(),
            oracles.ema(0.9, debias=False),
            rate=1.0,
        ),
        smooth=False,
        needs_params=True,
        steep_at_zero=("float16",),
    ),
]

NOISE_AND_GAMES = [
    Row("noisy_sgd", lambda: gc.noisy_sgd(0.01, key=7), random=True),
    twin("optimistic_gradient_descent", lambda: descent(oracles.optimistic(0.9, 0.8)), "", 0.01, 0.9, 0.8),
    twin(
        "adadelta",
        lambda: descent(oracles.weight_decay(0.1), oracles.adadelta(0.95, 1e-3), rate=0.5),
        *("", 0.5, 0.95, 1e-3, 0.1),
        needs_params=True,
        optax_complex=False,
    ),
    Row(
        "adadelta_unit_rate",
        lambda: gc.adadelta(),
        lambda: descent(oracles.weight_decay(0.0), oracles.adadelta(), rate=1.0),
        smooth=False,
        needs_params=True,
    ),
]
