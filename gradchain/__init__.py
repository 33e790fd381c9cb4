"""gradchain: gradient transformations for JAX that are values.

``chain`` rules into an optimizer, ``init`` its state, ``update`` gradients with it and ``apply_updates`` to parameters.
The submodules ``losses``, ``projections``, ``training`` and ``plots`` load when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gradchain import numerics, schedules, tree
from gradchain.combinators.accumulation import accumulate, has_updated
from gradchain.combinators.chain import chain, named_chain
from gradchain.combinators.conditional import conditionally_mask, conditionally_transform
from gradchain.combinators.guards import apply_if_finite, skip_large_updates, skip_not_finite, skip_spikes
from gradchain.combinators.precision import float32_updates
from gradchain.combinators.steering import hyperparams_in_state, inject_hyperparams
from gradchain.combinators.watching import measure_with_ema, metrics, monitor, share_rounded_away, snapshot, watch
from gradchain.core.hyper import Count, Decay, DType, Fraction, Hyper, Key, Mask, NonNegative, Positive, Schedule
from gradchain.core.hyperparams import batch_axes, hyperparams, set_hyperparams
from gradchain.core.rule import elementwise, leafwise, treewise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.transform import Part, Transform, apply_updates
from gradchain.interop import from_optax, to_optax
from gradchain.optimizers.adam import adam, adamw, nadam, nadamw
from gradchain.optimizers.adam_variants import (
    adabelief,
    adamax,
    adamaxw,
    adan,
    amsgrad,
    optimistic_adam_v2,
    radam,
    yogi,
)
from gradchain.optimizers.factored import adafactor, sm3
from gradchain.optimizers.layerwise import fromage, lamb, lars, novograd
from gradchain.optimizers.rms import adadelta, adagrad, rmsprop, rmsprop_tf, rmsprop_torch
from gradchain.optimizers.sgd import noisy_sgd, optimistic_gradient_descent, sgd
from gradchain.optimizers.signs import lion, rprop, sign_sgd, signum
from gradchain.schedules import (
    constant_schedule,
    cosine_decay_schedule,
    cosine_onecycle_schedule,
    exponential_decay,
    inverse_sqrt_schedule,
    join_schedules,
    linear_onecycle_schedule,
    linear_schedule,
    piecewise_constant_schedule,
    piecewise_interpolate_schedule,
    polynomial_schedule,
    sgdr_schedule,
    warmup_constant_schedule,
    warmup_cosine_decay_schedule,
    warmup_exponential_decay_schedule,
    warmup_stable_decay_schedule,
)
from gradchain.transforms.accumulation import apply_every
from gradchain.transforms.adam_variants import (
    scale_by_adamax,
    scale_by_adan,
    scale_by_amsgrad,
    scale_by_belief,
    scale_by_radam,
    scale_by_yogi,
)
from gradchain.transforms.adaptive import scale_by_adadelta, scale_by_adam, scale_by_rms, scale_by_rss, scale_by_stddev
from gradchain.transforms.clipping import (
    adaptive_grad_clip,
    clip,
    clip_by_block_rms,
    clip_by_global_norm,
    keep_params_nonnegative,
    normalize_by_update_norm,
    zero_nans,
)
from gradchain.transforms.decay import add_decayed_weights, add_l1_penalty, add_l2_penalty
from gradchain.transforms.factored import scale_by_factored_rms, scale_by_sm3
from gradchain.transforms.layerwise import (
    descend_and_shrink,
    scale_by_novograd,
    scale_by_param_block_norm,
    scale_by_param_block_rms,
    scale_by_trust_ratio,
)
from gradchain.transforms.momentum import ema, scale_by_optimistic_gradient, trace
from gradchain.transforms.noise import add_noise
from gradchain.transforms.plateau import reduce_on_plateau
from gradchain.transforms.scaling import (
    centralize,
    identity,
    scale,
    scale_by_learning_rate,
    scale_by_schedule,
    scale_by_sign,
    set_to_zero,
    stateless,
    stateless_with_tree_map,
)
from gradchain.transforms.signs import scale_by_lion, scale_by_rprop
from gradchain.tree import global_norm

if TYPE_CHECKING:
    from gradchain import losses, plots, projections, training

_LAZY = ("losses", "plots", "projections", "training")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"gradchain.{name}")
    raise AttributeError(f"module 'gradchain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


__all__ = [
    "At",
    "Count",
    "DType",
    "Decay",
    "Fraction",
    "Hyper",
    "Key",
    "Mask",
    "NonNegative",
    "Part",
    "Positive",
    "Schedule",
    "Slot",
    "Slots",
    "Transform",
    "accumulate",
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "adan",
    "adaptive_grad_clip",
    "add_decayed_weights",
    "add_l1_penalty",
    "add_l2_penalty",
    "add_noise",
    "amsgrad",
    "apply_every",
    "apply_if_finite",
    "apply_updates",
    "batch_axes",
    "centralize",
    "chain",
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "conditionally_mask",
    "conditionally_transform",
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "descend_and_shrink",
    "elementwise",
    "ema",
    "exponential_decay",
    "float32_updates",
    "from_optax",
    "fromage",
    "global_norm",
    "has_updated",
    "hyperparams",
    "hyperparams_in_state",
    "identity",
    "inject_hyperparams",
    "inverse_sqrt_schedule",
    "join_schedules",
    "keep_params_nonnegative",
    "lamb",
    "lars",
    "leafwise",
    "linear_onecycle_schedule",
    "linear_schedule",
    "lion",
    "losses",
    "measure_with_ema",
    "metrics",
    "monitor",
    "nadam",
    "nadamw",
    "named_chain",
    "noisy_sgd",
    "normalize_by_update_norm",
    "novograd",
    "numerics",
    "optimistic_adam_v2",
    "optimistic_gradient_descent",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "plots",
    "polynomial_schedule",
    "projections",
    "radam",
    "reduce_on_plateau",
    "rmsprop",
    "rmsprop_tf",
    "rmsprop_torch",
    "rprop",
    "scale",
    "scale_by_adadelta",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_adan",
    "scale_by_amsgrad",
    "scale_by_belief",
    "scale_by_factored_rms",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_novograd",
    "scale_by_optimistic_gradient",
    "scale_by_param_block_norm",
    "scale_by_param_block_rms",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rprop",
    "scale_by_rss",
    "scale_by_schedule",
    "scale_by_sign",
    "scale_by_sm3",
    "scale_by_stddev",
    "scale_by_trust_ratio",
    "scale_by_yogi",
    "schedules",
    "set_hyperparams",
    "set_to_zero",
    "sgd",
    "sgdr_schedule",
    "share_rounded_away",
    "sign_sgd",
    "signum",
    "skip_large_updates",
    "skip_not_finite",
    "skip_spikes",
    "sm3",
    "snapshot",
    "stateless",
    "stateless_with_tree_map",
    "to_optax",
    "trace",
    "training",
    "tree",
    "treewise",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "warmup_stable_decay_schedule",
    "watch",
    "yogi",
    "zero_nans",
]
