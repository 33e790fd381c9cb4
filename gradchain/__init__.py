"""gradchain: gradient transformations for JAX that are values."""

from gradchain import numerics, tree
from gradchain.combinators.chain import chain, named_chain
from gradchain.combinators.steering import hyperparams_in_state, inject_hyperparams
from gradchain.core.foreign import as_transform
from gradchain.core.hyper import Schedule
from gradchain.core.hyperparams import batch_axes, hyperparams, set_hyperparams
from gradchain.core.rule import elementwise, leafwise, treewise
from gradchain.core.spec import Slot
from gradchain.core.transform import Transform, apply_updates
from gradchain.optimizers.adam import adam, adamw, nadam, nadamw
from gradchain.optimizers.rms import adagrad, rmsprop, rmsprop_tf, rmsprop_torch
from gradchain.optimizers.sgd import sgd
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
