"""The one table of what the contract tests run on: every transform, optimizer and flag that changes the maths.

Adding an optimizer to the tests is adding a row. No test looks at a row's name.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradchain as gc
from gradchain.core.transform import Transform
from gradchain.schedules import linear_schedule
from tests import oracles
from tests.oracles import Oracle


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One transform under test, and what is true of it."""

    name: str
    build: Callable[[], Transform]
    oracle: Callable[[], Oracle] | None = None
    """The same rule in NumPy."""
    optax: Callable[[], Any] | None = None
    """The same rule in Optax."""
    optax_complex: bool = True
    """Whether Optax does the same with complex gradients."""
    torch: str | None = None
    """The name of the recorded PyTorch run that it must reproduce."""
    needs_params: bool = False
    random: bool = False
    descends: bool = False
    """Whether it is a whole optimizer: its updates, added to the parameters, lead downhill."""
    rebuilds: bool = True
    """Whether ``eval(repr(tx))`` works: it holds no bare function."""
    numbers_in_state: bool = False
    """Whether it keeps its numbers in the state, those inside schedules included, by their names."""
    any_tree: bool = True
    """Whether it fits every parameter tree; a mask given as a tree fits only its own."""
    smooth: bool = True
    """Whether finite differences make sense: no slot is stored in half precision, which makes a staircase, and no
    number stands where the rule jumps, as SM3's ``b2 = 1`` does, bends, as Adafactor's
    bound of 1 on a first update of size 1 does, or is about as small as their step, as AdaDelta's ``eps``."""
    excludes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Dtypes of parameters that its maths excludes, each with (part of) the error that then comes."""

    def __str__(self) -> str:
        return self.name


RAMP = {"init_value": 0.1, "end_value": 0.01, "transition_steps": 60.5, "transition_begin": 0.25}
MASK = {"bias": False, "kernel": True, "scale": False}


def ramp() -> Any:
    """Return a schedule without a kink at a whole count."""
    return linear_schedule(**RAMP)


def ramp_value(count: Any) -> Any:
    """Return what ``ramp()`` is at ``count``."""
    return 0.1 - 0.09 * np.clip((count - 0.25) / 60.5, 0, 1)


def ramp_traced(count: Any) -> Any:
    """Return what ``ramp()`` is at a traced ``count``."""
    return 0.1 - 0.09 * jnp.clip((count - 0.25) / 60.5, 0, 1)


def inverse_time(count: Any) -> Any:
    """Return PyTorch's ``lr_decay=0.1`` with ``lr=0.1``, as a schedule."""
    return 0.1 / (1 + 0.1 * count)


def is_matrix(x: Any) -> bool:
    """Whether decay applies, for masks given as a function."""
    return x.ndim > 1


def matrices(params: Any) -> Any:
    """Return the mask that selects matrices."""
    return jax.tree.map(is_matrix, params)


def tanh(updates: Any, params: Any) -> Any:
    """Squash all updates."""
    return jax.tree.map(jnp.tanh, updates)


def tanh_leaf(update: Any, param: Any) -> Any:
    """Squash one update."""
    return jnp.tanh(update)


def power_decay(count: Any, rate: Any) -> Any:
    """Return Optax's default decay in the default precision; its own is always in float32."""
    return 1 - (count + 1.0) ** -rate


def late_decay(count: Any, rate: Any) -> Any:
    """Return a decay of the second moment that grows to ``rate``."""
    return rate * count / (count + 1)


HALF_MOMENT = {"complex64": "can't hold the slot of a complex64 parameter"}


def twin(
    name: str, oracle: Callable[[], Oracle], label: str = "", /, *args: Any, kwargs: Any = None, **row: Any
) -> Row:
    """Return the row of a name that gradchain and Optax share, called with the same arguments.

    ``name`` and ``label`` name the row, ``args`` and ``kwargs`` go to both constructors, ``row`` are the row's fields.
    """
    theirs = row.pop("theirs", optax)
    given = kwargs or {}
    return Row(
        f"{name}_{label}" if label else name,
        lambda: getattr(gc, name)(*args, **given),
        oracle,
        lambda: getattr(theirs, name)(*args, **given),
        **row,
    )


SCALING = [
    Row("identity", gc.identity, oracles.identity, optax.identity),
    Row("set_to_zero", gc.set_to_zero, oracles.set_to_zero, optax.set_to_zero),
    Row("scale", lambda: gc.scale(-0.3), lambda: oracles.scale(-0.3), lambda: optax.scale(-0.3)),
    Row("scale_scheduled", lambda: gc.scale(ramp()), lambda: oracles.scale(ramp_value)),
    Row(
        "scale_by_learning_rate",
        lambda: gc.scale_by_learning_rate(0.3),
        lambda: oracles.learning_rate(0.3),
        lambda: optax.scale_by_learning_rate(0.3),
    ),
    Row(
        "scale_by_learning_rate_uphill",
        lambda: gc.scale_by_learning_rate(0.3, flip_sign=False),
        lambda: oracles.scale(0.3),
        lambda: optax.scale_by_learning_rate(0.3, flip_sign=False),
    ),
    Row(
        "scale_by_schedule",
        lambda: gc.scale_by_schedule(ramp()),
        lambda: oracles.scale(ramp_value),
        lambda: optax.scale_by_schedule(ramp_traced),
    ),
    Row(
        "scale_by_schedule_function",
        lambda: gc.scale_by_schedule(ramp_traced),
        lambda: oracles.scale(ramp_value),
        lambda: optax.scale_by_schedule(ramp_traced),
        rebuilds=False,
    ),
    Row("scale_by_sign", gc.scale_by_sign, oracles.sign, optax.scale_by_sign),
    Row("centralize", gc.centralize, oracles.centralize, optax.centralize),
    Row("stateless", lambda: gc.stateless(tanh), lambda: oracles.plain(lambda g, w: np.tanh(g)), rebuilds=False),
    Row(
        "stateless_with_tree_map",
        lambda: gc.stateless_with_tree_map(tanh_leaf),
        lambda: oracles.plain(lambda g, w: np.tanh(g)),
        rebuilds=False,
    ),
]

MOMENTUM = [
    Row("trace", lambda: gc.trace(0.9), lambda: oracles.trace(0.9), lambda: optax.trace(0.9)),
    Row(
        "trace_nesterov",
        lambda: gc.trace(0.9, nesterov=True),
        lambda: oracles.trace(0.9, nesterov=True),
        lambda: optax.trace(0.9, nesterov=True),
    ),
    Row("trace_half", lambda: gc.trace(0.9, accumulator_dtype="bfloat16"), smooth=False, excludes=HALF_MOMENT),
    Row("ema", lambda: gc.ema(0.9), lambda: oracles.ema(0.9), lambda: optax.ema(0.9)),
    Row(
        "ema_biased",
        lambda: gc.ema(0.9, debias=False),
        lambda: oracles.ema(0.9, debias=False),
        lambda: optax.ema(0.9, debias=False),
    ),
    Row("ema_half", lambda: gc.ema(0.9, accumulator_dtype="bfloat16"), smooth=False, excludes=HALF_MOMENT),
    twin("scale_by_optimistic_gradient", oracles.optimistic),
    twin("scale_by_optimistic_gradient", lambda: oracles.optimistic(0.5, 0.7), "weights", 0.5, 0.7),
]

ADAPTIVE = [
    twin("scale_by_adadelta", oracles.adadelta, optax_complex=False, smooth=False),
    twin("scale_by_adadelta", lambda: oracles.adadelta(0.95, 1e-3), "eps", 0.95, 1e-3, optax_complex=False),
    Row("scale_by_rss", gc.scale_by_rss, oracles.rss, optax.scale_by_rss),
    Row(
        "scale_by_rss_from_zero",
        lambda: gc.scale_by_rss(0.0, eps=1e-5),
        lambda: oracles.rss(0.0, 1e-5),
        lambda: optax.scale_by_rss(0.0, eps=1e-5),
    ),
    Row("scale_by_rms", gc.scale_by_rms, oracles.rms, optax.scale_by_rms),
    Row(
        "scale_by_rms_eps_outside",
        lambda: gc.scale_by_rms(0.99, eps=1e-3, eps_in_sqrt=False),
        lambda: oracles.rms(0.99, 1e-3, inside=False),
        lambda: optax.scale_by_rms(0.99, eps=1e-3, eps_in_sqrt=False),
    ),
    Row(
        "scale_by_rms_debiased",
        lambda: gc.scale_by_rms(0.99, initial_scale=0.5, bias_correction=True),
        lambda: oracles.rms(0.99, initial=0.5, debias=True),
        lambda: optax.scale_by_rms(0.99, initial_scale=0.5, bias_correction=True),
    ),
    Row(
        "scale_by_stddev",
        gc.scale_by_stddev,
        lambda: oracles.rms(centered=True),
        optax.scale_by_stddev,
    ),
    Row(
        "scale_by_stddev_eps_outside",
        lambda: gc.scale_by_stddev(0.95, eps=1e-3, initial_scale=1.0, eps_in_sqrt=False),
        lambda: oracles.rms(0.95, 1e-3, initial=1.0, inside=False, centered=True),
        lambda: optax.scale_by_stddev(0.95, eps=1e-3, initial_scale=1.0, eps_in_sqrt=False),
    ),
    Row(
        "scale_by_stddev_debiased",
        lambda: gc.scale_by_stddev(0.95, eps=1e-3, initial_scale=1.0, bias_correction=True),
        lambda: oracles.rms(0.95, 1e-3, initial=1.0, debias=True, centered=True),
        lambda: optax.scale_by_stddev(0.95, eps=1e-3, initial_scale=1.0, bias_correction=True),
    ),
    Row("scale_by_adam", gc.scale_by_adam, oracles.adam, optax.scale_by_adam),
    Row(
        "scale_by_adam_eps_root",
        lambda: gc.scale_by_adam(0.8, 0.99, 1e-3, 1e-2),
        lambda: oracles.adam(0.8, 0.99, 1e-3, 1e-2),
        lambda: optax.scale_by_adam(0.8, 0.99, 1e-3, 1e-2),
    ),
    Row(
        "scale_by_adam_nesterov",
        lambda: gc.scale_by_adam(nesterov=True),
        lambda: oracles.adam(nesterov=True),
        lambda: optax.scale_by_adam(nesterov=True),
    ),
    Row("scale_by_adam_half", lambda: gc.scale_by_adam(mu_dtype="bfloat16"), smooth=False, excludes=HALF_MOMENT),
]

VARIANTS = [
    twin("scale_by_adamax", oracles.adamax),
    twin("scale_by_adamax", lambda: oracles.adamax(0.8, 0.9, 0.01), "eps", 0.8, 0.9, 0.01),
    twin("scale_by_amsgrad", oracles.amsgrad),
    twin(
        "scale_by_amsgrad",
        lambda: oracles.amsgrad(0.8, 0.9, 1e-3, 1e-2, debias_m=False, debias_v=False),
        "uncorrected",
        *(0.8, 0.9, 1e-3, 1e-2, None, False, False),
    ),
    Row("scale_by_amsgrad_half", lambda: gc.scale_by_amsgrad(mu_dtype="bfloat16"), smooth=False, excludes=HALF_MOMENT),
    twin("scale_by_belief", oracles.belief),
    twin("scale_by_belief", lambda: oracles.belief(0.8, 0.9, 1e-3, 1e-4), "eps", 0.8, 0.9, 1e-3, 1e-4),
    twin("scale_by_belief", lambda: oracles.belief(nesterov=True), "nesterov", kwargs={"nesterov": True}),
    twin("scale_by_yogi", oracles.yogi),
    twin("scale_by_yogi", lambda: oracles.yogi(0.8, 0.9, 1e-2, 1e-3, 0.1), "eps", 0.8, 0.9, 1e-2, 1e-3, 0.1),
    twin("scale_by_radam", oracles.radam),
    twin("scale_by_radam", lambda: oracles.radam(0.8, 0.9, 1e-3, 1e-2, 4.5), "eps", 0.8, 0.9, 1e-3, 1e-2, 4.5),
    twin("scale_by_radam", lambda: oracles.radam(b2=0.5), "never", kwargs={"b2": 0.5}),
    twin(
        "scale_by_radam",
        lambda: oracles.radam(b2=0.9, nesterov=True),
        "nesterov",
        kwargs={"b2": 0.9, "nesterov": True},
    ),
    twin("scale_by_adan", oracles.adan),
    twin("scale_by_adan", lambda: oracles.adan(0.9, 0.8, 0.95, 1e-3, 1e-2), "eps", 0.9, 0.8, 0.95, 1e-3, 1e-2),
]

SIGNS = [
    twin("scale_by_lion", oracles.lion),
    twin("scale_by_lion", lambda: oracles.lion(0.8, 0.95), "decays", 0.8, 0.95),
    twin(
        "scale_by_lion",
        lambda: oracles.lion(mode="smooth", steepness=2.0),
        "smooth",
        kwargs={"mode": "smooth", "smooth_beta": 2.0},
        optax_complex=False,
    ),
    twin("scale_by_lion", lambda: oracles.lion(mode="refined"), "refined", kwargs={"mode": "refined"}),
    Row("scale_by_lion_half", lambda: gc.scale_by_lion(mu_dtype="bfloat16"), smooth=False, excludes=HALF_MOMENT),
    Row("scale_by_rprop", lambda: gc.scale_by_rprop(0.1), lambda: oracles.rprop(0.1)),
    Row(
        "scale_by_rprop_bounds",
        lambda: gc.scale_by_rprop(0.1, 0.3, 1.5, 0.02, 0.2),
        lambda: oracles.rprop(0.1, 0.3, 1.5, 0.02, 0.2),
    ),
]

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
    twin("scale_by_novograd", oracles.novograd, needs_params=True),
    twin(
        "scale_by_novograd",
        lambda: oracles.novograd(0.8, 0.5, 1e-3, 1e-2, 0.1),
        "decay",
        *(0.8, 0.5, 1e-3, 1e-2, 0.1),
        needs_params=True,
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
    ),
    Row(
        "scale_by_factored_rms_small",
        lambda: gc.scale_by_factored_rms(min_dim_size_to_factor=2),
        lambda: oracles.factored_rms(least=2),
        lambda: optax.scale_by_factored_rms(min_dim_size_to_factor=2, decay_rate_fn=power_decay),
        needs_params=True,
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
    ),
    twin(
        "scale_by_factored_rms",
        lambda: oracles.factored_rms(0.9, least=2, decay=late_decay),
        "decay_function",
        kwargs={"decay_rate": 0.9, "min_dim_size_to_factor": 2, "decay_rate_fn": late_decay},
        needs_params=True,
        rebuilds=False,
    ),
]

DECAY = [
    Row(
        "add_decayed_weights",
        lambda: gc.add_decayed_weights(0.1),
        lambda: oracles.weight_decay(0.1),
        lambda: optax.add_decayed_weights(0.1),
        needs_params=True,
    ),
    Row(
        "add_decayed_weights_scheduled",
        lambda: gc.add_decayed_weights(ramp()),
        lambda: oracles.weight_decay(ramp_value),
        needs_params=True,
    ),
    Row(
        "add_decayed_weights_mask",
        lambda: gc.add_decayed_weights(0.1, mask=MASK),
        lambda: oracles.weight_decay(0.1, is_matrix),
        lambda: optax.add_decayed_weights(0.1, mask=MASK),
        needs_params=True,
        any_tree=False,
    ),
    Row(
        "add_decayed_weights_mask_function",
        lambda: gc.add_decayed_weights(0.1, mask=matrices),
        lambda: oracles.weight_decay(0.1, is_matrix),
        lambda: optax.add_decayed_weights(0.1, mask=matrices),
        needs_params=True,
        rebuilds=False,
    ),
    Row("add_l1_penalty", lambda: gc.add_l1_penalty(0.1), lambda: oracles.l1_penalty(0.1), needs_params=True),
    Row(
        "add_l1_penalty_mask",
        lambda: gc.add_l1_penalty(0.1, mask=MASK),
        lambda: oracles.l1_penalty(0.1, is_matrix),
        needs_params=True,
        any_tree=False,
    ),
    Row("add_l2_penalty", lambda: gc.add_l2_penalty(0.1), lambda: oracles.weight_decay(0.1), needs_params=True),
]

BOUNDS = [
    Row("clip", lambda: gc.clip(0.3), lambda: oracles.clip(0.3), lambda: optax.clip(0.3), optax_complex=False),
    Row(
        "clip_by_global_norm",
        lambda: gc.clip_by_global_norm(0.7),
        lambda: oracles.clip_by_global_norm(0.7),
        lambda: optax.clip_by_global_norm(0.7),
    ),
    twin("normalize_by_update_norm", oracles.normalize),
    twin("normalize_by_update_norm", lambda: oracles.normalize(2.0, 0.1), "size", 2.0, 0.1),
    twin("clip_by_block_rms", lambda: oracles.clip_by_block_rms(0.3), "", 0.3),
    twin("adaptive_grad_clip", lambda: oracles.adaptive_clip(0.1), "", 0.1, needs_params=True),
    twin("adaptive_grad_clip", lambda: oracles.adaptive_clip(0.1, 0.5, ()), "axis", 0.1, 0.5, (), needs_params=True),
    twin("keep_params_nonnegative", oracles.nonnegative, needs_params=True, optax_complex=False),
    Row("zero_nans", gc.zero_nans, oracles.zero_nans, optax.zero_nans),
    Row("add_noise", lambda: gc.add_noise(0.1, 0.55, 7), random=True),
]

TRANSFORMS = [*SCALING, *MOMENTUM, *ADAPTIVE, *VARIANTS, *SIGNS, *LAYERWISE, *FACTORED, *DECAY, *BOUNDS]


def descent(*stages: Oracle, rate: Any = 0.01) -> Oracle:
    """Return the oracles ``stages``, then the learning rate."""
    return oracles.chain(*stages, oracles.learning_rate(rate))


SGD = [
    Row("sgd", lambda: gc.sgd(0.01), descent, lambda: optax.sgd(0.01), torch="sgd"),
    Row("sgd_scheduled", lambda: gc.sgd(ramp()), lambda: descent(rate=ramp_value), lambda: optax.sgd(ramp_traced)),
    Row(
        "sgd_momentum",
        lambda: gc.sgd(0.01, momentum=0.9),
        lambda: descent(oracles.trace(0.9)),
        lambda: optax.sgd(0.01, momentum=0.9),
        torch="sgd_momentum",
    ),
    Row(
        "sgd_nesterov",
        lambda: gc.sgd(0.01, momentum=0.9, nesterov=True),
        lambda: descent(oracles.trace(0.9, nesterov=True)),
        lambda: optax.sgd(0.01, momentum=0.9, nesterov=True),
        torch="sgd_nesterov",
    ),
    Row(
        "sgd_l2",
        lambda: gc.chain(gc.add_l2_penalty(0.1), gc.sgd(0.01, momentum=0.9)),
        lambda: descent(oracles.weight_decay(0.1), oracles.trace(0.9)),
        lambda: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.01, momentum=0.9)),
        torch="sgd_weight_decay",
        needs_params=True,
    ),
    Row(
        "sgd_half_trace",
        lambda: gc.sgd(0.01, momentum=0.9, accumulator_dtype="bfloat16"),
        smooth=False,
        excludes=HALF_MOMENT,
    ),
]

RMS = [
    Row("adagrad", lambda: gc.adagrad(0.01), lambda: descent(oracles.rss()), lambda: optax.adagrad(0.01)),
    Row(
        "adagrad_no_eps",
        lambda: gc.adagrad(0.1, 0.1, eps=0.0),
        lambda: descent(oracles.rss(0.1, 0.0), rate=0.1),
        lambda: optax.adagrad(0.1, 0.1, eps=0.0),
        torch="adagrad",
    ),
    Row(
        "adagrad_decaying",
        lambda: gc.chain(gc.add_l2_penalty(0.1), gc.adagrad(inverse_time, 0.1, eps=0.0)),
        lambda: descent(oracles.weight_decay(0.1), oracles.rss(0.1, 0.0), rate=inverse_time),
        torch="adagrad_decay",
        needs_params=True,
        rebuilds=False,
    ),
    Row("rmsprop", lambda: gc.rmsprop(0.01), lambda: descent(oracles.rms()), lambda: optax.rmsprop(0.01)),
    Row(
        "rmsprop_eps_outside",
        lambda: gc.rmsprop(0.01, eps_in_sqrt=False),
        lambda: descent(oracles.rms(inside=False)),
        lambda: optax.rmsprop(0.01, eps_in_sqrt=False),
    ),
    Row(
        "rmsprop_centered",
        lambda: gc.rmsprop(0.01, eps=1e-4, centered=True),
        lambda: descent(oracles.rms(eps=1e-4, centered=True)),
        lambda: optax.rmsprop(0.01, eps=1e-4, centered=True),
    ),
    Row(
        "rmsprop_momentum",
        lambda: gc.rmsprop(ramp(), momentum=0.9),
        lambda: oracles.chain(descent(oracles.rms(), rate=ramp_value), oracles.trace(0.9)),
        lambda: optax.rmsprop(ramp_traced, momentum=0.9),
    ),
    Row(
        "rmsprop_nesterov",
        lambda: gc.rmsprop(0.01, momentum=0.9, nesterov=True, bias_correction=True),
        lambda: oracles.chain(descent(oracles.rms(debias=True)), oracles.trace(0.9, nesterov=True)),
        lambda: optax.rmsprop(0.01, momentum=0.9, nesterov=True, bias_correction=True),
    ),
    Row(
        "rmsprop_torch",
        lambda: gc.rmsprop_torch(0.01),
        lambda: descent(oracles.weight_decay(0.0), oracles.rms(0.99, inside=False)),
        torch="rmsprop",
        needs_params=True,
    ),
    Row(
        "rmsprop_torch_momentum",
        lambda: gc.rmsprop_torch(0.01, momentum=0.9, weight_decay=0.1),
        lambda: descent(oracles.weight_decay(0.1), oracles.rms(0.99, inside=False), oracles.trace(0.9)),
        torch="rmsprop_momentum",
        needs_params=True,
    ),
    Row(
        "rmsprop_torch_centered",
        lambda: gc.rmsprop_torch(0.01, centered=True),
        lambda: descent(oracles.weight_decay(0.0), oracles.rms(0.99, inside=False, centered=True)),
        torch="rmsprop_centered",
        needs_params=True,
    ),
    Row(
        "rmsprop_tf",
        lambda: gc.rmsprop_tf(0.01, momentum=0.9),
        lambda: oracles.chain(descent(oracles.rms(eps=1e-10, initial=1.0)), oracles.trace(0.9)),
        lambda: optax.rmsprop(0.01, eps=1e-10, initial_scale=1.0, momentum=0.9),
    ),
]

ADAM = [
    Row("adam", lambda: gc.adam(0.01), lambda: descent(oracles.adam()), lambda: optax.adam(0.01), torch="adam"),
    Row(
        "adam_scheduled",
        lambda: gc.adam(ramp(), b1=linear_schedule(0.5, 0.9, 40.5, 0.25)),
        lambda: descent(oracles.adam(lambda k: 0.5 + 0.4 * np.clip((k - 0.25) / 40.5, 0, 1)), rate=ramp_value),
    ),
    Row(
        "adam_nesterov",
        lambda: gc.adam(0.01, nesterov=True),
        lambda: descent(oracles.adam(nesterov=True)),
        lambda: optax.adam(0.01, nesterov=True),
    ),
    Row("adam_half_moment", lambda: gc.adam(0.01, mu_dtype="bfloat16"), smooth=False, excludes=HALF_MOMENT),
    Row(
        "adamw",
        lambda: gc.adamw(0.01, weight_decay=0.1),
        lambda: descent(oracles.adam(), oracles.weight_decay(0.1)),
        lambda: optax.adamw(0.01, weight_decay=0.1),
        torch="adamw",
        needs_params=True,
    ),
    Row(
        "adamw_mask",
        lambda: gc.adamw(ramp(), weight_decay=ramp(), mask=MASK),
        lambda: descent(oracles.adam(), oracles.weight_decay(ramp_value, is_matrix), rate=ramp_value),
        needs_params=True,
        any_tree=False,
    ),
    Row(
        "adam_l2",
        lambda: gc.chain(gc.add_l2_penalty(0.1), gc.adam(0.01)),
        lambda: descent(oracles.weight_decay(0.1), oracles.adam()),
        torch="adam_weight_decay",
        needs_params=True,
    ),
    Row("nadam", lambda: gc.nadam(0.01), lambda: descent(oracles.adam(nesterov=True)), lambda: optax.nadam(0.01)),
    Row(
        "nadamw",
        lambda: gc.nadamw(0.01, weight_decay=0.1),
        lambda: descent(oracles.adam(nesterov=True), oracles.weight_decay(0.1)),
        lambda: optax.nadamw(0.01, weight_decay=0.1),
        needs_params=True,
    ),
]

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
    twin("signum", lambda: descent(oracles.ema(0.8, debias=False), oracles.sign()), "", 0.01, 0.8),
    twin("lion", lambda: descent(oracles.lion(), oracles.weight_decay(1e-3)), "", 0.01, needs_params=True),
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
    ),
]

NOISE_AND_GAMES = [
    Row("noisy_sgd", lambda: gc.noisy_sgd(0.01, key=3), random=True),
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

FAMILIES = [SGD, RMS, ADAM, ADAM_VARIANTS, SIGN_DESCENT, LARGE_BATCH, LITTLE_MEMORY, NOISE_AND_GAMES]
OPTIMIZERS = [dataclasses.replace(row, descends=True) for family in FAMILIES for row in family]

COMBINATORS = [
    Row(
        "chain",
        lambda: gc.chain(gc.clip_by_global_norm(0.7), gc.centralize(), gc.trace(0.9), gc.adamw(0.01)),
        lambda: oracles.chain(
            oracles.clip_by_global_norm(0.7),
            oracles.centralize(),
            oracles.trace(0.9),
            descent(oracles.adam(), oracles.weight_decay(1e-4)),
        ),
        lambda: optax.chain(optax.clip_by_global_norm(0.7), optax.centralize(), optax.trace(0.9), optax.adamw(0.01)),
        needs_params=True,
    ),
    Row(
        "named_chain",
        lambda: gc.named_chain(("clip", gc.clip(0.3)), ("descend", gc.sgd(0.01, momentum=0.9))),
        lambda: oracles.chain(oracles.clip(0.3), descent(oracles.trace(0.9))),
        lambda: optax.named_chain(("clip", optax.clip(0.3)), ("descend", optax.sgd(0.01, momentum=0.9))),
        optax_complex=False,
    ),
    Row(
        "hyperparams_in_state",
        lambda: gc.hyperparams_in_state(gc.adamw(0.01, weight_decay=ramp())),
        lambda: descent(oracles.adam(), oracles.weight_decay(ramp_value)),
        needs_params=True,
        numbers_in_state=True,
    ),
    Row(
        "inject_hyperparams",
        lambda: gc.inject_hyperparams(gc.sgd)(ramp(), momentum=0.9),
        lambda: descent(oracles.trace(0.9), rate=ramp_value),
        lambda: optax.inject_hyperparams(optax.sgd)(ramp_traced, momentum=0.9),
        numbers_in_state=True,
    ),
]

ROWS = [*TRANSFORMS, *OPTIMIZERS, *COMBINATORS]
