"""Writes optax_names.md: every public name of Optax beside gradchain's. Run ``python docs/optax_names.py`` to renew it.

A name is found in gradchain by itself. What has another name, or none on purpose, is in EXPLAINED.
"""

import importlib
import inspect
from pathlib import Path

PAGE = Path(__file__).with_name("optax_names.md")
THEIRS = (
    *("optax", "optax.losses", "optax.projections", "optax.schedules", "optax.tree"),
    *("optax.transforms", "optax.contrib", "optax.perturbations", "optax.assignment"),
    *("optax.second_order", "optax.microbatching"),
)
OURS = (
    *("gradchain", "gradchain.losses", "gradchain.projections", "gradchain.schedules"),
    *("gradchain.perturbations", "gradchain.assignment", "gradchain.numerics"),
    *("gradchain.tree", "gradchain.training"),
)

EXPLAINED = {
    "GradientTransformation": "`Transform`; `to_optax(tx)` returns Optax's class",
    "GradientTransformationExtraArgs": "`Transform`: every `update` takes extra arguments",
    "with_extra_args_support": "not needed: every `update` takes extra arguments",
    "TransformInitFn": "`Transform.init`",
    "TransformUpdateFn": "`Transform.update`",
    "TransformUpdateExtraArgsFn": "`Transform.update`",
    "init_empty_state": "not needed: a rule without slots has an empty state",
    "Params": "`gradchain.tree.Tree`",
    "Updates": "`gradchain.tree.Tree`",
    "OptState": "any tree of NamedTuples and tuples",
    "ScalarOrSchedule": "`Hyper`: a number, an array or a schedule",
    "MaskOrFn": "`Mask`",
    "convex_kl_divergence": "`gradchain.losses.generalized_kl_divergence`, Optax's newer name for it",
    "inject_stateful_hyperparams": "`inject_hyperparams`, or `hyperparams_in_state` around any transform",
    "StatefulSchedule": "none: a schedule is a function of the count",
    "WrappedSchedule": "not needed: any function of the count is a schedule",
    "safe_int32_increment": "`gradchain.numerics.safe_increment`, Optax's newer name for it",
    "optimistic_adam": "`optimistic_adam_v2`, Optax's newer name for it",
    "multi_normal": "none: a helper of estimators that Optax no longer has; `jax.random.normal` draws the samples",
    "tree_map_params": "`gradchain.tree.map_params`",
    "multi_transform": "`partition`, Optax's newer name for it",
    "MaskedNode": "not needed: what a transform doesn't see is `None` for it",
    "MultiSteps": "`accumulate`",
    "ShouldSkipUpdateFunction": "any function that returns a flag, see `accumulate`",
    "ConditionFn": "any function that returns a flag, see `conditionally_transform`",
    "LookaheadParams": "not needed: `lookahead` keeps the slow weights in its state, and `eval_params` returns them",
    "ApplyEvery": "the state is `apply_every.State`",
    "normalize": "`normalize_by_update_norm`",
    "unitwise_clip": "`shrink_factor` and `unitwise_norm`, both in `gradchain.numerics`",
    "flatten": "not needed: arrays of one shape share a compiled call, and concatenating them costs time and memory",
    "Accumulator": "not needed: `combine` of `training.microbatch` is a name, or a tree of names",
    "AccumulationType": "not needed: `combine` of `training.microbatch` is a name, or a tree of names",
    "micro_grad": "`training.microbatch` around `jax.grad(f)`",
    "micro_vmap": "`jax.lax.map` with its `batch_size`",
    "fisher_diag": "none: it is deprecated there, and flattens the parameters",
    "hessian_diag": "`hutchinson_estimator_diag_hessian`, an estimate on trees; the exact one is deprecated there",
    "reshape_batch_axis": "not needed: `training.microbatch` slices the batch itself",
}
"""What has another name here, or none, and why."""

NOTES = {
    "add_noise": "takes a seed or a key as `key`, not `seed` too",
    "noisy_sgd": "takes a seed or a key as `key`, not `seed` too",
    "scale_by_factored_rms": "the default of `decay_rate_fn` is `None`",
    "lbfgs": "safer where the objective isn't convex",
    "scale_by_lbfgs": "keeps pairs of positive curvature only; has `same_batch` for mini-batches",
    "scale_by_trust_ratio": "has a `mask` of its own",
    "nnls": "an iteration ahead",
    "scale_by_backtracking_linesearch": "takes no step without decrease",
    "scale_by_zoom_linesearch": "takes no step without decrease",
    "hvp": "`hvp(fun, params, v)`, on trees",
    "value_and_grad_from_state": "takes `has_aux`, too",
}
"""What has other arguments, or other results on purpose, in a few words; docstrings say more."""


def their_names(module: str) -> list[str]:
    """Return the public names of one of Optax's modules, without submodules, states and what it only imports."""
    found = vars(importlib.import_module(module)).items()
    public = {
        n: x for n, x in found if not n.startswith("_") and not inspect.ismodule(x)
    }
    own = [
        n
        for n, x in public.items()
        if not getattr(x, "__module__", "").startswith("jax")
    ]
    return sorted(n for n in own if not n.endswith("State") or n in EXPLAINED)


def our_name(name: str, module: str = "optax") -> str | None:
    """Return where gradchain has a name, or None; first where Optax has it, then in every module."""
    for ours in (module.replace("optax", "gradchain"), *OURS):
        if ours in OURS and hasattr(importlib.import_module(ours), name):
            return f"{ours}.{name}"
    return None


def counterpart(name: str, module: str) -> str | None:
    """Return what stands beside a name of Optax: gradchain's name, an explanation, or None."""
    if name in EXPLAINED:
        return EXPLAINED[name]
    if found := our_name(name, module):
        return f"`{found}`" + (f": {NOTES[name]}" if name in NOTES else "")
    return None


def page() -> str:
    """Return the page's text."""
    import optax

    lines = [
        "# Optax's names",
        "",
        f"Every public name of Optax {optax.__version__}, and what gradchain has for it. States (`ScaleByAdamState`) "
        "aren't listed: each constructor carries its own (`scale_by_adam.State`). Differences in behaviour are in the "
        "docstrings and in [Coming from Optax](coming_from_optax.md). `docs/optax_names.py` writes this page.",
    ]
    for module in THEIRS:
        lines += ["", f"## `{module}`", "", "| Optax | gradchain |", "|---|---|"]
        lines += [
            f"| `{name}` | {counterpart(name, module) or '**missing**'} |"
            for name in their_names(module)
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
