"""gradchain: gradient transformations for JAX that are values.

``chain`` rules into an optimizer, ``init`` its state, ``update`` gradients with it and ``apply_updates`` to parameters.
The submodules ``losses``, ``projections``, ``training`` and ``plots`` load when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gradchain import numerics, schedules, tree
from gradchain.combinators.chain import chain, named_chain
from gradchain.combinators.precision import float32_updates
from gradchain.combinators.steering import hyperparams_in_state, inject_hyperparams
from gradchain.core.hyper import Count, Decay, DType, Fraction, Hyper, Key, Mask, NonNegative, Positive, Schedule
from gradchain.core.hyperparams import batch_axes, hyperparams, set_hyperparams
from gradchain.core.rule import elementwise, leafwise, treewise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.transform import Part, Transform, apply_updates
from gradchain.interop import from_optax, to_optax
from gradchain.optimizers.adam import adam, adamw, nadam, nadamw
from gradchain.optimizers.rms import adagrad, rmsprop, rmsprop_tf, rmsprop_torch
from gradchain.optimizers.sgd import sgd
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
from gradchain.transforms.adaptive import scale_by_adam, scale_by_rms, scale_by_rss, scale_by_stddev
from gradchain.transforms.clipping import clip, clip_by_global_norm, zero_nans
from gradchain.transforms.decay import add_decayed_weights, add_l1_penalty, add_l2_penalty
from gradchain.transforms.momentum import ema, trace
from gradchain.transforms.noise import add_noise
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
    "adagrad",
    "adam",
    "adamw",
    "add_decayed_weights",
    "add_l1_penalty",
    "add_l2_penalty",
    "add_noise",
    "apply_updates",
    "batch_axes",
    "centralize",
    "chain",
    "clip",
    "clip_by_global_norm",
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "elementwise",
    "ema",
    "exponential_decay",
    "float32_updates",
    "from_optax",
    "global_norm",
    "hyperparams",
    "hyperparams_in_state",
    "identity",
    "inject_hyperparams",
    "inverse_sqrt_schedule",
    "join_schedules",
    "leafwise",
    "linear_onecycle_schedule",
    "linear_schedule",
    "losses",
    "nadam",
    "nadamw",
    "named_chain",
    "numerics",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "plots",
    "polynomial_schedule",
    "projections",
    "rmsprop",
    "rmsprop_tf",
    "rmsprop_torch",
    "scale",
    "scale_by_adam",
    "scale_by_learning_rate",
    "scale_by_rms",
    "scale_by_rss",
    "scale_by_schedule",
    "scale_by_sign",
    "scale_by_stddev",
    "schedules",
    "set_hyperparams",
    "set_to_zero",
    "sgd",
    "sgdr_schedule",
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
    "zero_nans",
]
