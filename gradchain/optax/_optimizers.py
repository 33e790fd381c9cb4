"""Optax's optimizers: each is one chain, with Optax's arguments and states."""

import functools
import warnings
from typing import Any

import jax.numpy as jnp

from gradchain.optax._base import identity
from gradchain.optax._combining import chain
from gradchain.optax._transforms import (
    add_decayed_weights,
    add_noise,
    clip_by_block_rms,
    ema,
    masked_trust_ratio,
    scale,
    scale_by_adadelta,
    scale_by_adam,
    scale_by_adamax,
    scale_by_adan,
    scale_by_amsgrad,
    scale_by_belief,
    scale_by_factored_rms,
    scale_by_learning_rate,
    scale_by_lion,
    scale_by_novograd,
    scale_by_optimistic_gradient,
    scale_by_param_block_rms,
    scale_by_polyak,
    scale_by_radam,
    scale_by_rms,
    scale_by_rprop,
    scale_by_rss,
    scale_by_sign,
    scale_by_sm3,
    scale_by_stddev,
    scale_by_trust_ratio,
    scale_by_yogi,
    trace,
)
from gradchain.signatures import public


@public
def adabelief(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    eps_root: Any = 1e-16,
    weight_decay: Any = None,
    weight_decay_mask: Any = None,
    *,
    nesterov: bool = False,
) -> Any:
    """Optax's signature of :func:`gradchain.adabelief`, with the weight decay of Optax's next release."""
    scaling = scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov)
    decay = [] if weight_decay is None else [add_decayed_weights(weight_decay, weight_decay_mask)]
    return chain(scaling, *decay, scale_by_learning_rate(learning_rate))


@public
def adadelta(
    learning_rate: Any = None, rho: Any = 0.9, eps: Any = 1e-6, weight_decay: Any = 0.0, weight_decay_mask: Any = None
) -> Any:
    """Optax's signature of :func:`gradchain.adadelta`."""
    decay = add_decayed_weights(weight_decay, weight_decay_mask)
    return chain(decay, scale_by_adadelta(rho, eps), scale_by_learning_rate(learning_rate))


@public
def adafactor(
    learning_rate: Any = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: Any = 0.8,
    decay_offset: Any = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: Any = 1.0,
    momentum: Any = None,
    dtype_momentum: Any = jnp.float32,
    weight_decay_rate: Any = None,
    eps: Any = 1e-30,
    factored: bool = True,
    weight_decay_mask: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.adafactor`."""
    stages = [
        scale_by_factored_rms(factored, decay_rate, decay_offset, min_dim_size_to_factor, eps),
        None if clipping_threshold is None else clip_by_block_rms(clipping_threshold),
        None if learning_rate is None else scale_by_learning_rate(learning_rate, flip_sign=False),
        scale_by_param_block_rms() if multiply_by_parameter_scale else None,
        None if momentum is None else ema(momentum, debias=False, accumulator_dtype=dtype_momentum),
        None if weight_decay_rate is None else add_decayed_weights(weight_decay_rate, weight_decay_mask),
        scale(-1),
    ]
    return chain(*(stage for stage in stages if stage is not None))


@public
def adagrad(learning_rate: Any, initial_accumulator_value: Any = 0.1, eps: Any = 1e-7) -> Any:
    """Optax's signature of :func:`gradchain.adagrad`."""
    return chain(scale_by_rss(initial_accumulator_value, eps), scale_by_learning_rate(learning_rate))


@public
def adam(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> Any:
    """Optax's signature of :func:`gradchain.adam`."""
    scaling = scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    return chain(scaling, scale_by_learning_rate(learning_rate))


nadam = functools.partial(adam, nesterov=True)


@public
def adamw(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
) -> Any:
    """Optax's signature of :func:`gradchain.adamw`."""
    scaling = scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    return chain(scaling, add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))


nadamw = functools.partial(adamw, nesterov=True)


@public
def adan(
    learning_rate: Any,
    b1: Any = 0.98,
    b2: Any = 0.92,
    b3: Any = 0.99,
    eps: Any = 1e-8,
    eps_root: Any = 1e-8,
    weight_decay: Any = 0.0,
    mask: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.adan`."""
    decay = add_decayed_weights(weight_decay, mask)
    return chain(scale_by_adan(b1, b2, b3, eps, eps_root), decay, scale_by_learning_rate(learning_rate))


@public
def lion(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.99,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-3,
    mask: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.lion`."""
    decay = add_decayed_weights(weight_decay, mask)
    return chain(scale_by_lion(b1, b2, mu_dtype), decay, scale_by_learning_rate(learning_rate))


@public
def amsgrad(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
) -> Any:
    """Optax's signature of :func:`gradchain.amsgrad`."""
    scaling = scale_by_amsgrad(b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu)
    return chain(scaling, scale_by_learning_rate(learning_rate))


@public
def fromage(learning_rate: Any, min_norm: Any = 1e-6) -> Any:
    """Optax's signature of :func:`gradchain.fromage`."""

    def shrinkage(rate: Any) -> Any:
        return 1 / (1 + rate**2) ** 0.5

    if callable(learning_rate):
        rate, decay = _then(learning_rate, lambda r: shrinkage(r) * r), _then(learning_rate, lambda r: shrinkage(r) - 1)
    else:
        rate, decay = learning_rate * shrinkage(learning_rate), shrinkage(learning_rate) - 1
    return chain(scale_by_trust_ratio(min_norm), scale_by_learning_rate(rate), add_decayed_weights(decay))


def _then(schedule: Any, function: Any) -> Any:
    """Return the schedule whose values are the function's of another's."""
    return lambda count: function(schedule(count))


@public
def lars(
    learning_rate: Any,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = True,
    trust_coefficient: Any = 0.001,
    eps: Any = 0.0,
    trust_ratio_mask: Any = True,
    momentum: Any = 0.9,
    nesterov: bool = False,
) -> Any:
    """Optax's signature of :func:`gradchain.lars`."""
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        masked_trust_ratio(trust_coefficient, eps, trust_ratio_mask),
        scale_by_learning_rate(learning_rate),
        trace(momentum, nesterov),
    )


@public
def lamb(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-6,
    eps_root: Any = 0.0,
    weight_decay: Any = 0.0,
    mask: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.lamb`."""
    return chain(
        scale_by_adam(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(),
        scale_by_learning_rate(learning_rate),
    )


@public
def noisy_sgd(
    learning_rate: Any, eta: Any = 0.01, gamma: Any = 0.55, key: Any = None, *, seed: int | None = None
) -> Any:
    """Optax's signature of :func:`gradchain.noisy_sgd`."""
    return chain(add_noise(eta, gamma, key, seed=seed), scale_by_learning_rate(learning_rate))


@public
def sign_sgd(learning_rate: Any) -> Any:
    """Optax's signature of :func:`gradchain.sign_sgd`."""
    return chain(scale_by_sign(), scale_by_learning_rate(learning_rate))


@public
def signum(learning_rate: Any, beta: Any = 0.9, accumulator_dtype: Any = None) -> Any:
    """Optax's signature of :func:`gradchain.signum`."""
    average = ema(beta, debias=False, accumulator_dtype=accumulator_dtype)
    return chain(average, scale_by_sign(), scale_by_learning_rate(learning_rate))


@public
def novograd(
    learning_rate: Any, b1: Any = 0.9, b2: Any = 0.25, eps: Any = 1e-6, eps_root: Any = 0.0, weight_decay: Any = 0.0
) -> Any:
    """Optax's signature of :func:`gradchain.novograd`."""
    return chain(scale_by_novograd(b1, b2, eps, eps_root, weight_decay), scale_by_learning_rate(learning_rate))


@public
def optimistic_gradient_descent(learning_rate: Any, alpha: Any = 1.0, beta: Any = 1.0) -> Any:
    """Optax's signature of :func:`gradchain.optimistic_gradient_descent`."""
    return chain(scale_by_optimistic_gradient(alpha, beta), scale_by_learning_rate(learning_rate))


@public
def optimistic_adam(
    learning_rate: Any,
    optimism: Any = None,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
) -> Any:
    """Deprecated: :func:`optimistic_adam_v2`, with the learning rate in the place of ``alpha``."""
    warnings.warn("optimistic_adam is deprecated; use optimistic_adam_v2", DeprecationWarning, stacklevel=3)
    if callable(learning_rate):
        raise ValueError("optimistic_adam takes no schedule for its learning_rate; optimistic_adam_v2 does")
    beta = learning_rate if optimism is None else optimism
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(learning_rate, beta),
        scale_by_learning_rate(1.0),
    )


@public
def optimistic_adam_v2(
    learning_rate: Any,
    *,
    alpha: Any = 1.0,
    beta: Any = 1.0,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    nesterov: bool = True,
) -> Any:
    """Optax's signature of :func:`gradchain.optimistic_adam_v2`."""
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(alpha, beta),
        scale_by_learning_rate(learning_rate),
    )


@public
def radam(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    threshold: Any = 5.0,
    *,
    nesterov: bool = False,
) -> Any:
    """Optax's signature of :func:`gradchain.radam`."""
    scaling = scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov)
    return chain(scaling, scale_by_learning_rate(learning_rate))


@public
def rmsprop(
    learning_rate: Any,
    decay: Any = 0.9,
    eps: Any = 1e-8,
    initial_scale: Any = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Any = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> Any:
    """Optax's signature of :func:`gradchain.rmsprop`."""
    scale_by = scale_by_stddev if centered else scale_by_rms
    return chain(
        scale_by(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
        scale_by_learning_rate(learning_rate),
        identity() if momentum is None else trace(momentum, nesterov),
    )


@public
def sgd(learning_rate: Any, momentum: Any = None, nesterov: bool = False, accumulator_dtype: Any = None) -> Any:
    """Optax's signature of :func:`gradchain.sgd`."""
    first = identity() if momentum is None else trace(momentum, nesterov, accumulator_dtype)
    return chain(first, scale_by_learning_rate(learning_rate))


@public
def sm3(learning_rate: Any, momentum: Any = 0.9) -> Any:
    """Optax's signature of :func:`gradchain.sm3`."""
    return chain(scale_by_sm3(momentum), scale(-learning_rate))


@public
def yogi(learning_rate: Any, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-3) -> Any:
    """Optax's signature of :func:`gradchain.yogi`."""
    return chain(scale_by_yogi(b1, b2, eps), scale_by_learning_rate(learning_rate))


@public
def adamax(learning_rate: Any, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8) -> Any:
    """Optax's signature of :func:`gradchain.adamax`."""
    return chain(scale_by_adamax(b1, b2, eps), scale_by_learning_rate(learning_rate))


@public
def adamaxw(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    mask: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.adamaxw`."""
    decay = add_decayed_weights(weight_decay, mask)
    return chain(scale_by_adamax(b1, b2, eps), decay, scale_by_learning_rate(learning_rate))


@public
def rprop(
    learning_rate: Any, eta_minus: Any = 0.5, eta_plus: Any = 1.2, min_step_size: Any = 1e-6, max_step_size: Any = 50.0
) -> Any:
    """Optax's signature of :func:`gradchain.rprop`, whose updates lag one step behind here."""
    return chain(scale_by_rprop(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size), scale(-1.0))


@public
def polyak_sgd(
    max_learning_rate: Any = 1.0, scaling: Any = 1.0, f_min: Any = 0.0, eps: Any = 0.0, variant: str = "sps"
) -> Any:
    """Optax's signature of :func:`gradchain.polyak_sgd`."""
    return chain(sgd(scaling), scale_by_polyak(f_min, max_learning_rate, eps, variant))
