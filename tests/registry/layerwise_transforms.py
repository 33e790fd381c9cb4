"""Rules that see a whole parameter array."""

import numpy as np
import optax

import gradchain as gc
from tests import oracles
from tests.registry.row import HALF_MOMENT, MASK, Row, is_matrix, late_decay, power_decay, ramp, ramp_value, twin

LAYERWISE = [
    twin("scale_by_param_block_norm", oracles.param_block_norm, needs_params=True),
    twin("scale_by_param_block_norm", lambda: oracles.param_block_norm(2.0), "least", 2.0, needs_params=True),
    twin("scale_by_param_block_rms", oracles.param_block_rms, needs_params=True),
    twin("scale_by_param_block_rms", lambda: oracles.param_block_rms(0.9), "least", 0.9, needs_params=True),
    twin("scale_by_trust_ratio", oracles.trust_ratio, needs_params=True),
    twin(
        "scale_by_trust_ratio",
        lambda: oracles.trust_ratio(1.0, 0.5, 0.1),
        "bounds",
        *(1.0, 0.5, 0.1),
        needs_params=True,
    ),
    Row(
        "scale_by_trust_ratio_mask",
        lambda: gc.scale_by_trust_ratio(mask=MASK),
        lambda: oracles.trust_ratio(on=is_matrix),
        lambda: optax.masked(optax.scale_by_trust_ratio(), MASK),
        needs_params=True,
        any_tree=False,
    ),
    Row(
        "descend_and_shrink",
        lambda: gc.descend_and_shrink(ramp()),
        lambda: oracles.descend_and_shrink(ramp_value),
        needs_params=True,
    ),
    Row("scale_by_spectral_norm", gc.scale_by_spectral_norm, oracles.spectral_norm, any_tree=False),
    twin("scale_by_novograd", oracles.novograd, needs_params=True),
    twin(
        "scale_by_novograd",
        lambda: oracles.novograd(0.8, 0.5, 1e-3, 1e-2, 0.1),
        "decay",
        *(0.8, 0.5, 1e-3, 1e-2, 0.1),
        needs_params=True,
    ),
    Row(
        "scale_by_novograd_mask",
        lambda: gc.scale_by_novograd(0.8, 0.5, 1e-3, 1e-2, 0.1, weight_decay_mask=MASK),
        lambda: oracles.novograd(0.8, 0.5, 1e-3, 1e-2, 0.1, is_matrix),
        needs_params=True,
        any_tree=False,
    ),
    Row(
        "scale_by_novograd_half",
        lambda: gc.scale_by_novograd(mu_dtype="bfloat16"),
        needs_params=True,
        smooth=False,
        excludes=HALF_MOMENT,
    ),
]

FACTORED = [
    Row("scale_by_sm3", gc.scale_by_sm3, oracles.sm3, smooth=False),
    Row("scale_by_sm3_average", lambda: gc.scale_by_sm3(0.8, 0.9, 1e-3), lambda: oracles.sm3(0.8, 0.9, 1e-3)),
    Row(
        "scale_by_factored_rms",
        gc.scale_by_factored_rms,
        oracles.factored_rms,
        lambda: optax.scale_by_factored_rms(decay_rate_fn=power_decay),
        needs_params=True,
        steep_at_zero=("float16",),
    ),
    Row(
        "scale_by_factored_rms_small",
        lambda: gc.scale_by_factored_rms(min_dim_size_to_factor=2),
        lambda: oracles.factored_rms(least=2),
        lambda: optax.scale_by_factored_rms(min_dim_size_to_factor=2, decay_rate_fn=power_decay),
        needs_params=True,
        steep_at_zero=("float16",),
    ),
    Row(
        "scale_by_factored_rms_whole",
        lambda: gc.scale_by_factored_rms(False, 0.5, 0, 2, 1e-3),
        lambda: oracles.factored_rms(0.5, eps=1e-3, least=np.inf),
        lambda: optax.scale_by_factored_rms(False, 0.5, 0, 2, 1e-3, power_decay),
        needs_params=True,
    ),
    Row(
        "scale_by_factored_rms_offset",
        lambda: gc.scale_by_factored_rms(step_offset=3, min_dim_size_to_factor=2),
        lambda: oracles.factored_rms(offset=3, least=2),
        needs_params=True,
        steep_at_zero=("float16",),
    ),
    twin(
        "scale_by_factored_rms",
        lambda: oracles.factored_rms(0.9, least=2, decay=late_decay),
        "decay_function",
        kwargs={"decay_rate": 0.9, "min_dim_size_to_factor": 2, "decay_rate_fn": late_decay},
        needs_params=True,
        steep_at_zero=("float16",),
        rebuilds=False,
    ),
]
