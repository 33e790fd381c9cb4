"""What Optax calls stages and what they keep, and what of it follows from what is kept here."""

from collections.abc import Callable
from typing import Any

ALIASES: dict[str, tuple[str, ...]] = {
    "accumulate": ("multi_steps",),
    "descend_and_shrink": ("scale_by_schedule",),
    "inject_hyperparams": ("inject_stateful_hyperparams", "inject_hyperparams"),
    "mechanize": ("mechanic",),
    "outer_steps": ("lookahead",),
    "reduce_on_plateau": ("reduce_lron_plateau",),
    "scale": ("scale_by_schedule",),
    "scale_by_acprop": ("scale_by_belief",),
    "scale_by_adadelta": ("scale_by_ada_delta",),
    "scale_by_adamax": ("scale_by_adam",),
    "scale_by_adopt": ("scale_by_adam",),
    "scale_by_cocob": ("cocob",),
    "scale_by_dadapt_adam": ("dadapt_adam_w",),
    "scale_by_dog": ("do_g",),
    "scale_by_dowg": ("do_wg",),
    "scale_by_factored_rms": ("factored",),
    "scale_by_learning_rate": ("scale_by_schedule",),
    "scale_by_muon": ("muon",),
    "scale_by_prodigy": ("prodigy",),
    "scale_by_radam": ("scale_by_adam",),
    "scale_by_rms": ("scale_by_rms", "scale_by_rms_with_count"),
    "scale_by_simplified_ademamix": ("scale_by_simplified_ad_emamix",),
    "scale_by_sophia": ("sophia",),
    "scale_by_stddev": ("scale_by_rstd_dev", "scale_by_rstd_dev_with_count"),
    "scale_by_yogi": ("scale_by_adam",),
}
"""What stages are called in Optax, where their states' classes have other names."""
ESTIMATES = {"d": "estim_lr", "r": "numerator_weighted", "m": "exp_avg", "v": "exp_avg_sq", "s": "grad_sum"}
SLOTS: dict[str, dict[str, str]] = {
    "accumulate": {"count": "gradient_step"},
    "conditionally_mask": {"count": "step"},
    "conditionally_transform": {"count": "step"},
    "reduce_on_plateau": {"avg_count": "count", "count": ""},
    "scale_by_adan": {"count": "t"},
    "scale_by_dadapt_adam": ESTIMATES,
    "scale_by_dog": {"grad_sum_of_squares": "sum_sq_norm_grads"},
    "scale_by_prodigy": ESTIMATES | {"init_params": "params0"},
    "scale_by_simplified_ademamix": {"count": "t"},
}
"""What their slots are called there; "" where there is none."""
Stage = dict[str, Any]
"""Values of one stage by slot: those of its arrays that belong to no parameter."""
ONLY_THERE: dict[str, Callable[[Stage], Any]] = {
    "count": lambda ours: ours["count"],
    "count_m2": lambda ours: ours["count"],
    "step_count": lambda ours: ours["count"] + 1,
    "is_initial_step": lambda ours: ours["count"] == 0,
    "is_init_step": lambda ours: ours["count"] == 0,
}
"""What Optax alone keeps, made of what we keep in the same stage."""
