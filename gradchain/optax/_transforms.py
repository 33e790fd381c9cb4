"""Optax's transforms that are one rule each, with its names, arguments and states."""

import importlib
import warnings
from typing import Any

import jax
import jax.numpy as jnp

from gradchain.optax import _states as _s
from gradchain.optax._base import identity
from gradchain.optax._shown import shown
from gradchain.signatures import public


def _ours(name: str) -> Any:
    """Return a rule's constructor by module and name; its module is imported when it is first needed."""
    module, _, function = name.partition(".")
    package = "gradchain.optax" if module == "_rules" else "gradchain.transforms"
    return getattr(importlib.import_module(f"{package}.{module}"), function)


def decay_rate_pow(i: Any, exponent: Any = 0.8) -> jax.Array:
    """Return Adafactor's decay after ``i`` updates, in float32."""
    return 1.0 - jnp.asarray(i + 1, jnp.float32) ** (-exponent)


@public
def scale_by_rss(initial_accumulator_value: Any = 0.1, eps: Any = 1e-07) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_rss`."""
    return shown(
        _ours("adaptive.scale_by_rss"), _s.ScaleByRssState, initial_accumulator_value=initial_accumulator_value, eps=eps
    )


@public
def scale_by_rms(
    decay: Any = 0.9,
    eps: Any = 1e-08,
    initial_scale: Any = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_rms`."""
    return shown(
        _ours("adaptive.scale_by_rms"),
        _s.ScaleByRmsWithCountState if bias_correction else _s.ScaleByRmsState,
        decay=decay,
        eps=eps,
        initial_scale=initial_scale,
        eps_in_sqrt=eps_in_sqrt,
        bias_correction=bias_correction,
    )


@public
def scale_by_stddev(
    decay: Any = 0.9,
    eps: Any = 1e-08,
    initial_scale: Any = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_stddev`."""
    return shown(
        _ours("adaptive.scale_by_stddev"),
        _s.ScaleByRStdDevWithCountState if bias_correction else _s.ScaleByRStdDevState,
        decay=decay,
        eps=eps,
        initial_scale=initial_scale,
        eps_in_sqrt=eps_in_sqrt,
        bias_correction=bias_correction,
    )


@public
def scale_by_adam(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-08,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_adam`."""
    return shown(
        _ours("adaptive.scale_by_adam"),
        _s.ScaleByAdamState,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        mu_dtype=mu_dtype,
        nesterov=nesterov,
    )


@public
def scale_by_amsgrad(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-08,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_amsgrad`."""
    return shown(
        _ours("adam_variants.scale_by_amsgrad"),
        _s.ScaleByAmsgradState,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        mu_dtype=mu_dtype,
        bias_correction_mu=bias_correction_mu,
        bias_correction_nu=bias_correction_nu,
    )


@public
def scale_by_adamax(b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-08) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_adamax`."""
    return shown(_ours("adam_variants.scale_by_adamax"), _s.ScaleByAdamState, b1=b1, b2=b2, eps=eps)


@public
def scale_by_lion(
    b1: Any = 0.9, b2: Any = 0.99, mu_dtype: Any = None, *, mode: Any = "hard", smooth_beta: Any = 1.0
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_lion`."""
    return shown(
        _ours("signs.scale_by_lion"),
        _s.ScaleByLionState,
        b1=b1,
        b2=b2,
        mu_dtype=mu_dtype,
        mode=mode,
        smooth_beta=smooth_beta,
    )


@public
def scale(step_size: Any) -> Any:
    """Optax's signature of :func:`gradchain.scale`."""
    return shown(_ours("scaling.scale"), _s.EmptyState, step_size=step_size)


@public
def scale_by_param_block_norm(min_scale: Any = 0.001) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_param_block_norm`."""
    return shown(_ours("layerwise.scale_by_param_block_norm"), _s.EmptyState, min_scale=min_scale)


@public
def scale_by_param_block_rms(min_scale: Any = 0.001) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_param_block_rms`."""
    return shown(_ours("layerwise.scale_by_param_block_rms"), _s.EmptyState, min_scale=min_scale)


@public
def scale_by_adadelta(rho: Any = 0.9, eps: Any = 1e-06) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_adadelta`."""
    return shown(_ours("adaptive.scale_by_adadelta"), _s.ScaleByAdaDeltaState, rho=rho, eps=eps)


@public
def scale_by_adan(b1: Any = 0.98, b2: Any = 0.92, b3: Any = 0.99, eps: Any = 1e-08, eps_root: Any = 0.0) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_adan`."""
    return shown(
        _ours("adam_variants.scale_by_adan"), _s.ScaleByAdanState, b1=b1, b2=b2, b3=b3, eps=eps, eps_root=eps_root
    )


@public
def scale_by_belief(
    b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-16, eps_root: Any = 1e-16, *, nesterov: bool = False
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_belief`."""
    return shown(
        _ours("adam_variants.scale_by_belief"),
        _s.ScaleByBeliefState,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        nesterov=nesterov,
    )


@public
def scale_by_yogi(
    b1: Any = 0.9, b2: Any = 0.999, eps: Any = 0.001, eps_root: Any = 0.0, initial_accumulator_value: Any = 1e-06
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_yogi`."""
    return shown(
        _ours("adam_variants.scale_by_yogi"),
        _s.ScaleByAdamState,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        initial_accumulator_value=initial_accumulator_value,
    )


@public
def scale_by_radam(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-08,
    eps_root: Any = 0.0,
    threshold: Any = 5.0,
    *,
    nesterov: bool = False,
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_radam`."""
    return shown(
        _ours("adam_variants.scale_by_radam"),
        _s.ScaleByAdamState,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        threshold=threshold,
        nesterov=nesterov,
    )


@public
def scale_by_rprop(
    learning_rate: Any, eta_minus: Any = 0.5, eta_plus: Any = 1.2, min_step_size: Any = 1e-06, max_step_size: Any = 50.0
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_rprop`."""
    return shown(
        _ours("_rules.scale_by_rprop"),
        _s.ScaleByRpropState,
        learning_rate=learning_rate,
        eta_minus=eta_minus,
        eta_plus=eta_plus,
        min_step_size=min_step_size,
        max_step_size=max_step_size,
    )


@public
def scale_by_sign() -> Any:
    """Optax's signature of :func:`gradchain.scale_by_sign`."""
    return shown(_ours("scaling.scale_by_sign"), _s.EmptyState)


@public
def scale_by_schedule(step_size_fn: Any) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_schedule`."""
    return shown(_ours("scaling.scale_by_schedule"), _s.ScaleByScheduleState, step_size_fn=step_size_fn)


@public
def scale_by_trust_ratio(min_norm: Any = 0.0, trust_coefficient: Any = 1.0, eps: Any = 0.0) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_trust_ratio`."""
    return shown(
        _ours("layerwise.scale_by_trust_ratio"),
        _s.EmptyState,
        min_norm=min_norm,
        trust_coefficient=trust_coefficient,
        eps=eps,
    )


@public
def apply_every(k: Any = 1) -> Any:
    """Optax's signature of :func:`gradchain.apply_every`."""
    return shown(_ours("_rules.apply_every"), _s.ApplyEvery, k=k)


@public
def centralize() -> Any:
    """Optax's signature of :func:`gradchain.centralize`."""
    return shown(_ours("scaling.centralize"), _s.EmptyState)


@public
def scale_by_sm3(b1: Any = 0.9, b2: Any = 1.0, eps: Any = 1e-08) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_sm3`."""
    return shown(_ours("_rules.scale_by_sm3"), _s.ScaleBySM3State, b1=b1, b2=b2, eps=eps)


@public
def scale_by_novograd(
    b1: Any = 0.9, b2: Any = 0.25, eps: Any = 1e-08, eps_root: Any = 0.0, weight_decay: Any = 0.0, mu_dtype: Any = None
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_novograd`."""
    return shown(
        _ours("layerwise.scale_by_novograd"),
        _s.ScaleByNovogradState,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        weight_decay=weight_decay,
        mu_dtype=mu_dtype,
    )


@public
def scale_by_optimistic_gradient(alpha: Any = 1.0, beta: Any = 1.0) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_optimistic_gradient`."""
    return shown(
        _ours("momentum.scale_by_optimistic_gradient"), _s.ScaleByOptimisticGradientState, alpha=alpha, beta=beta
    )


@public
def scale_by_distance_over_gradients(
    reps_rel: Any = 1e-06, eps: Any = 1e-08, param_dtype: Any = jnp.float32, global_scale: Any = 1.0
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_distance_over_gradients`."""
    return shown(
        _ours("_rules.scale_by_distance_over_gradients"),
        _s.ScaleByDistanceOverGradientsState,
        reps_rel=reps_rel,
        eps=eps,
        param_dtype=param_dtype,
        global_scale=global_scale,
    )


@public
def scale_by_polyak(f_min: Any = 0.0, max_learning_rate: Any = 1.0, eps: Any = 0.0, variant: str = "sps") -> Any:
    """Optax's signature of :func:`gradchain.scale_by_polyak`."""
    return shown(
        _ours("polyak.scale_by_polyak"),
        _s.EmptyState,
        f_min=f_min,
        max_learning_rate=max_learning_rate,
        eps=eps,
        variant=variant,
    )


@public
def normalize_by_update_norm(scale_factor: Any = 1.0, eps: Any = 1e-06) -> Any:
    """Optax's signature of :func:`gradchain.normalize_by_update_norm`."""
    return shown(_ours("clipping.normalize_by_update_norm"), _s.EmptyState, scale_factor=scale_factor, eps=eps)


@public
def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: Any = 0.8,
    step_offset: Any = 0,
    min_dim_size_to_factor: int = 128,
    epsilon: Any = 1e-30,
    decay_rate_fn: Any = decay_rate_pow,
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_factored_rms`."""
    return shown(
        _ours("_rules.scale_by_factored_rms"),
        _s.FactoredState,
        factored=factored,
        decay_rate=decay_rate,
        step_offset=step_offset,
        min_dim_size_to_factor=min_dim_size_to_factor,
        epsilon=epsilon,
        decay_rate_fn=decay_rate_fn,
    )


@public
def trace(decay: Any, nesterov: bool = False, accumulator_dtype: Any = None) -> Any:
    """Optax's signature of :func:`gradchain.trace`."""
    return shown(
        _ours("momentum.trace"), _s.TraceState, decay=decay, nesterov=nesterov, accumulator_dtype=accumulator_dtype
    )


@public
def ema(decay: Any, debias: bool = True, accumulator_dtype: Any = None) -> Any:
    """Optax's signature of :func:`gradchain.ema`."""
    return shown(_ours("momentum.ema"), _s.EmaState, decay=decay, debias=debias, accumulator_dtype=accumulator_dtype)


@public
def clip(max_delta: Any) -> Any:
    """Optax's signature of :func:`gradchain.clip`."""
    return shown(_ours("clipping.clip"), _s.EmptyState, max_delta=max_delta)


@public
def clip_by_block_rms(threshold: Any) -> Any:
    """Optax's signature of :func:`gradchain.clip_by_block_rms`."""
    return shown(_ours("clipping.clip_by_block_rms"), _s.EmptyState, threshold=threshold)


@public
def clip_by_global_norm(max_norm: Any) -> Any:
    """Optax's signature of :func:`gradchain.clip_by_global_norm`."""
    return shown(_ours("clipping.clip_by_global_norm"), _s.EmptyState, max_norm=max_norm)


@public
def adaptive_grad_clip(clipping: Any, eps: Any = 0.001, axis: Any = None) -> Any:
    """Optax's signature of :func:`gradchain.adaptive_grad_clip`."""
    return shown(_ours("clipping.adaptive_grad_clip"), _s.EmptyState, clipping=clipping, eps=eps, axis=axis)


@public
def keep_params_nonnegative() -> Any:
    """Optax's signature of :func:`gradchain.keep_params_nonnegative`."""
    return shown(_ours("clipping.keep_params_nonnegative"), _s.EmptyState)


@public
def zero_nans() -> Any:
    """Optax's signature of :func:`gradchain.zero_nans`."""
    return shown(_ours("clipping.zero_nans"), _s.ZeroNansState)


@public
def scale_by_learning_rate(learning_rate: Any = None, *, flip_sign: bool = True) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_learning_rate`; ``None`` leaves updates as they are."""
    if learning_rate is None:
        return identity()
    cls = _s.ScaleByScheduleState if callable(learning_rate) else _s.EmptyState
    return shown(_ours("scaling.scale_by_learning_rate"), cls, learning_rate=learning_rate, flip_sign=flip_sign)


@public
def add_decayed_weights(weight_decay: Any = 0.0, mask: Any = None) -> Any:
    """Optax's signature of :func:`gradchain.add_decayed_weights`."""
    cls = _s.WeightDecaySchedule if callable(weight_decay) else _s.EmptyState
    return shown(
        _ours("decay.add_decayed_weights"), cls, mask is not None, weight_decay=weight_decay, mask=as_bools(mask)
    )


def as_bools(mask: Any) -> Any:
    """Return a mask whose leaves may be arrays of one bool, with Python's bools."""
    if mask is None or callable(mask):
        return mask
    return jax.tree.map(bool, mask)


@public
def add_noise(eta: Any, gamma: Any, key: Any = None, *, seed: int | None = None) -> Any:
    """Optax's signature of :func:`gradchain.add_noise`."""
    if seed is not None:
        warnings.warn("add_noise: seed is deprecated; pass it as key", DeprecationWarning, stacklevel=3)
        if key is not None:
            raise ValueError(f"add_noise: give one of seed and key, got seed={seed} and key={key}")
        key = seed
    if key is None:
        warnings.warn("add_noise: a key will be required; key=0 is used", stacklevel=3)
        key = 0
    return shown(_ours("_rules.add_noise"), _s.AddNoiseState, eta=eta, gamma=gamma, key=key)


def masked_trust_ratio(trust_coefficient: Any, eps: Any, mask: Any) -> Any:
    """Return ``scale_by_trust_ratio`` for the arrays that a mask selects, with the state of ``masked``."""
    numbers = {"trust_coefficient": trust_coefficient, "eps": eps}
    return shown(_ours("layerwise.scale_by_trust_ratio"), _s.EmptyState, True, mask=as_bools(mask), **numbers)
