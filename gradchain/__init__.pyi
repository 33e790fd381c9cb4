from gradchain import (
    assignment,
    losses,
    matrices,
    numerics,
    perturbations,
    plots,
    projections,
    schedules,
    training,
    tree,
)
from gradchain.codecs import Codec, Stored, codec
from gradchain.combinators.accumulation import accumulate, has_updated
from gradchain.combinators.averaging import average_params, lookahead, outer_nesterov, outer_steps
from gradchain.combinators.cautious import cautious
from gradchain.combinators.chain import chain, named_chain
from gradchain.combinators.complex_parts import split_real_and_imaginary
from gradchain.combinators.conditional import conditionally_mask, conditionally_transform
from gradchain.combinators.flushing import flush
from gradchain.combinators.guards import apply_if_finite, skip_large_updates, skip_not_finite, skip_spikes
from gradchain.combinators.half_precision import kahan, master_weights, stochastic_rounding
from gradchain.combinators.labels import by_leaf, by_path, matrices_and_rest
from gradchain.combinators.layers import per_layer
from gradchain.combinators.loss_scaling import current_loss_scale, loss_scale
from gradchain.combinators.mechanic import mechanize
from gradchain.combinators.offloading import offload_state
from gradchain.combinators.parallel import graft, graft_global, parallel
from gradchain.combinators.precision import float32_updates
from gradchain.combinators.routing import freeze, masked, partition, selective_transform
from gradchain.combinators.schedule_free import primal_averaging, schedule_free, schedule_free_eval_params
from gradchain.combinators.sharpness import sam
from gradchain.combinators.steering import hyperparams_in_state, inject_hyperparams
from gradchain.combinators.storage import decoded, store
from gradchain.combinators.watching import measure_with_ema, metrics, monitor, share_rounded_away, snapshot, watch
from gradchain.core.combinator import combinator
from gradchain.core.evaluation import eval_params
from gradchain.core.foreign import Child, Children, NamedChildren
from gradchain.core.hyper import Count, Decay, DType, Fraction, Hyper, Key, Mask, NonNegative, Positive, Schedule
from gradchain.core.hyperparams import batch_axes, hyperparams, set_hyperparams
from gradchain.core.rule import elementwise, leafwise, treewise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.transform import Part, Transform, apply_updates
from gradchain.interop import from_optax, to_optax
from gradchain.introspect.config import from_config, to_config
from gradchain.introspect.describe import describe
from gradchain.introspect.optax_states import from_optax_state, to_optax_state
from gradchain.introspect.paths import state_paths
from gradchain.introspect.shardings import bytes_per_device, state_shardings, zero_shardings
from gradchain.introspect.state_dict import from_state_dict, to_state_dict
from gradchain.introspect.torch_states import from_torch_state
from gradchain.linear_algebra import matrix_inverse_pth_root, nnls, power_iteration
from gradchain.linesearch.backtracking import scale_by_backtracking_linesearch
from gradchain.linesearch.from_state import value_and_grad_from_state
from gradchain.linesearch.hager_zhang import scale_by_hager_zhang_linesearch
from gradchain.linesearch.wolfe import ZoomLinesearchInfo
from gradchain.linesearch.zoom import scale_by_zoom_linesearch
from gradchain.matrices.views import GaLoreDimensionNumbers, MuonDimensionNumbers
from gradchain.numerics import safe_increment, safe_norm, safe_root_mean_squares
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
from gradchain.optimizers.curvature import sophia
from gradchain.optimizers.delayed import acprop, adopt
from gradchain.optimizers.dual_averaging import madgrad
from gradchain.optimizers.factored import adafactor, sm3
from gradchain.optimizers.galore import galore
from gradchain.optimizers.layerwise import fromage, lamb, lars, novograd
from gradchain.optimizers.mixed_momentum import ademamix, simplified_ademamix
from gradchain.optimizers.muon import muon
from gradchain.optimizers.parameter_free import cocob, dadapt_adamw, dog, dowg, momo, momo_adam, polyak_sgd, prodigy
from gradchain.optimizers.private import dpsgd
from gradchain.optimizers.rms import adadelta, adagrad, rmsprop, rmsprop_tf, rmsprop_torch
from gradchain.optimizers.schedule_free import schedule_free_adamw, schedule_free_sgd
from gradchain.optimizers.sgd import noisy_sgd, optimistic_gradient_descent, sgd
from gradchain.optimizers.signs import lion, rprop, sign_sgd, signum
from gradchain.optimizers.variance_reduction import mars
from gradchain.quasi_newton.lbfgs import lbfgs, scale_by_lbfgs
from gradchain.quasi_newton.nonlinear_cg import scale_by_nonlinear_cg
from gradchain.rounding import stochastic_round
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
from gradchain.second_order.gauss_newton import scale_by_gauss_newton
from gradchain.second_order.newton_cg import scale_by_newton_cg
from gradchain.second_order.products import ggn_product, hvp
from gradchain.solvers.least_squares import least_squares
from gradchain.solvers.minimize import minimize
from gradchain.solvers.solution import Reason, Solution
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
from gradchain.transforms.coin_betting import scale_by_cocob
from gradchain.transforms.constraints import add_cautious_decayed_weights, keep_norm, limit_update_ratio, project
from gradchain.transforms.curvature import hutchinson_estimator_diag_hessian, scale_by_sophia
from gradchain.transforms.d_adaptation import scale_by_dadapt_adam, scale_by_prodigy
from gradchain.transforms.decay import add_decayed_weights, add_l1_penalty, add_l2_penalty
from gradchain.transforms.delayed import scale_by_acprop, scale_by_adopt
from gradchain.transforms.distance import scale_by_distance_over_gradients, scale_by_dog, scale_by_dowg
from gradchain.transforms.dual_averaging import scale_by_madgrad
from gradchain.transforms.factored import scale_by_factored_rms, scale_by_sm3
from gradchain.transforms.layerwise import (
    descend_and_shrink,
    scale_by_novograd,
    scale_by_param_block_norm,
    scale_by_param_block_rms,
    scale_by_trust_ratio,
)
from gradchain.transforms.low_rank import scale_by_galore
from gradchain.transforms.mixed_momentum import scale_by_ademamix, scale_by_simplified_ademamix
from gradchain.transforms.momentum import ema, scale_by_optimistic_gradient, trace
from gradchain.transforms.noise import add_noise
from gradchain.transforms.orthogonal import orthogonalize_via_newton_schulz, scale_by_muon, scale_by_shape
from gradchain.transforms.per_example import (
    differentially_private_aggregate,
    per_example_global_norm_clip,
    per_example_layer_norm_clip,
)
from gradchain.transforms.plateau import reduce_on_plateau
from gradchain.transforms.polyak import scale_by_momo, scale_by_momo_adam, scale_by_polyak
from gradchain.transforms.scaling import (
    centralize,
    identity,
    negate,
    scale,
    scale_by_learning_rate,
    scale_by_schedule,
    scale_by_sign,
    set_to_zero,
    stateless,
    stateless_with_tree_map,
)
from gradchain.transforms.signs import scale_by_lion, scale_by_rprop
from gradchain.transforms.variance_reduction import scale_by_mars
from gradchain.tree import (
    bias_correction,
    global_norm,
    incremental_update,
    periodic_update,
    scale_gradient,
    update_infinity_moment,
    update_moment,
    update_moment_per_elem_norm,
)

__version__: str

__all__ = [
    "At",
    "Child",
    "Children",
    "Codec",
    "Count",
    "DType",
    "Decay",
    "Fraction",
    "GaLoreDimensionNumbers",
    "Hyper",
    "Key",
    "Mask",
    "MuonDimensionNumbers",
    "NamedChildren",
    "NonNegative",
    "Part",
    "Positive",
    "Reason",
    "Schedule",
    "Slot",
    "Slots",
    "Solution",
    "Stored",
    "Transform",
    "ZoomLinesearchInfo",
    "accumulate",
    "acprop",
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
    "add_cautious_decayed_weights",
    "add_decayed_weights",
    "add_l1_penalty",
    "add_l2_penalty",
    "add_noise",
    "ademamix",
    "adopt",
    "amsgrad",
    "apply_every",
    "apply_if_finite",
    "apply_updates",
    "assignment",
    "average_params",
    "batch_axes",
    "bias_correction",
    "by_leaf",
    "by_path",
    "bytes_per_device",
    "cautious",
    "centralize",
    "chain",
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "cocob",
    "codec",
    "combinator",
    "conditionally_mask",
    "conditionally_transform",
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "current_loss_scale",
    "dadapt_adamw",
    "decoded",
    "descend_and_shrink",
    "describe",
    "differentially_private_aggregate",
    "dog",
    "dowg",
    "dpsgd",
    "elementwise",
    "ema",
    "eval_params",
    "exponential_decay",
    "float32_updates",
    "flush",
    "freeze",
    "from_config",
    "from_optax",
    "from_optax_state",
    "from_state_dict",
    "from_torch_state",
    "fromage",
    "galore",
    "ggn_product",
    "global_norm",
    "graft",
    "graft_global",
    "has_updated",
    "hutchinson_estimator_diag_hessian",
    "hvp",
    "hyperparams",
    "hyperparams_in_state",
    "identity",
    "incremental_update",
    "inject_hyperparams",
    "inverse_sqrt_schedule",
    "join_schedules",
    "kahan",
    "keep_norm",
    "keep_params_nonnegative",
    "lamb",
    "lars",
    "lbfgs",
    "leafwise",
    "least_squares",
    "limit_update_ratio",
    "linear_onecycle_schedule",
    "linear_schedule",
    "lion",
    "lookahead",
    "loss_scale",
    "losses",
    "madgrad",
    "mars",
    "masked",
    "master_weights",
    "matrices",
    "matrices_and_rest",
    "matrix_inverse_pth_root",
    "measure_with_ema",
    "mechanize",
    "metrics",
    "minimize",
    "momo",
    "momo_adam",
    "monitor",
    "muon",
    "nadam",
    "nadamw",
    "named_chain",
    "negate",
    "nnls",
    "noisy_sgd",
    "normalize_by_update_norm",
    "novograd",
    "numerics",
    "offload_state",
    "optimistic_adam_v2",
    "optimistic_gradient_descent",
    "orthogonalize_via_newton_schulz",
    "outer_nesterov",
    "outer_steps",
    "parallel",
    "partition",
    "per_example_global_norm_clip",
    "per_example_layer_norm_clip",
    "per_layer",
    "periodic_update",
    "perturbations",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "plots",
    "polyak_sgd",
    "polynomial_schedule",
    "power_iteration",
    "primal_averaging",
    "prodigy",
    "project",
    "projections",
    "radam",
    "reduce_on_plateau",
    "rmsprop",
    "rmsprop_tf",
    "rmsprop_torch",
    "rprop",
    "safe_increment",
    "safe_norm",
    "safe_root_mean_squares",
    "sam",
    "scale",
    "scale_by_acprop",
    "scale_by_adadelta",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_adan",
    "scale_by_ademamix",
    "scale_by_adopt",
    "scale_by_amsgrad",
    "scale_by_backtracking_linesearch",
    "scale_by_belief",
    "scale_by_cocob",
    "scale_by_dadapt_adam",
    "scale_by_distance_over_gradients",
    "scale_by_dog",
    "scale_by_dowg",
    "scale_by_factored_rms",
    "scale_by_galore",
    "scale_by_gauss_newton",
    "scale_by_hager_zhang_linesearch",
    "scale_by_lbfgs",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_madgrad",
    "scale_by_mars",
    "scale_by_momo",
    "scale_by_momo_adam",
    "scale_by_muon",
    "scale_by_newton_cg",
    "scale_by_nonlinear_cg",
    "scale_by_novograd",
    "scale_by_optimistic_gradient",
    "scale_by_param_block_norm",
    "scale_by_param_block_rms",
    "scale_by_polyak",
    "scale_by_prodigy",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rprop",
    "scale_by_rss",
    "scale_by_schedule",
    "scale_by_shape",
    "scale_by_sign",
    "scale_by_simplified_ademamix",
    "scale_by_sm3",
    "scale_by_sophia",
    "scale_by_stddev",
    "scale_by_trust_ratio",
    "scale_by_yogi",
    "scale_by_zoom_linesearch",
    "scale_gradient",
    "schedule_free",
    "schedule_free_adamw",
    "schedule_free_eval_params",
    "schedule_free_sgd",
    "schedules",
    "selective_transform",
    "set_hyperparams",
    "set_to_zero",
    "sgd",
    "sgdr_schedule",
    "share_rounded_away",
    "sign_sgd",
    "signum",
    "simplified_ademamix",
    "skip_large_updates",
    "skip_not_finite",
    "skip_spikes",
    "sm3",
    "snapshot",
    "sophia",
    "split_real_and_imaginary",
    "state_paths",
    "state_shardings",
    "stateless",
    "stateless_with_tree_map",
    "stochastic_round",
    "stochastic_rounding",
    "store",
    "to_config",
    "to_optax",
    "to_optax_state",
    "to_state_dict",
    "trace",
    "training",
    "tree",
    "treewise",
    "update_infinity_moment",
    "update_moment",
    "update_moment_per_elem_norm",
    "value_and_grad_from_state",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "warmup_stable_decay_schedule",
    "watch",
    "yogi",
    "zero_nans",
    "zero_shardings",
]
