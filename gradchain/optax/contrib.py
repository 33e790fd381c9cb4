"""``optax.contrib``: its optimizers and transforms, with Optax's arguments and states."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradchain.core.foreign import Child, as_transform
from gradchain.core.value import register
from gradchain.optax import _contrib_matrices as _m
from gradchain.optax import _contrib_rules as _r
from gradchain.optax import schedules
from gradchain.optax import tree as optax_tree
from gradchain.optax._around import Inner, static
from gradchain.optax._base import (
    Functions,
    GradientTransformationExtraArgs,
    Pair,
    identity,
    stateless,
)
from gradchain.optax._clipping import per_example_global_norm_clip
from gradchain.optax._combining import chain
from gradchain.optax._contrib_matrices import GaLoreDimensionNumbers, MuonDimensionNumbers
from gradchain.optax._optimizers import adamw, sgd
from gradchain.optax._routing import partition
from gradchain.optax._shown import loose, shown
from gradchain.optax._states import (
    COCOBState,
    DAdaptAdamWState,
    DifferentiallyPrivateAggregateState,
    DoGState,
    DoWGState,
    EmptyState,
    GaLoreState,
    HutchinsonState,
    MadgradState,
    MechanicState,
    MomoAdamState,
    MomoState,
    MuonState,
    ProdigyState,
    ReduceLROnPlateauState,
    SAMState,
    ScaleByAdamState,
    ScaleByAdemamixState,
    ScaleByBeliefState,
    ScaleBySimplifiedAdEMAMixState,
    ScheduleFreeState,
    SophiaState,
    SplitRealAndImaginaryState,
)
from gradchain.optax._transforms import (
    add_decayed_weights,
    scale_by_adam,
    scale_by_learning_rate,
    scale_by_rms,
    trace,
)
from gradchain.transforms import coin_betting, delayed, dual_averaging, mixed_momentum
from gradchain.tree import Tree

__all__ = [
    "COCOBState",
    "DAdaptAdamWState",
    "DifferentiallyPrivateAggregateState",
    "DoGState",
    "DoWGState",
    "GaLoreDimensionNumbers",
    "GaLoreState",
    "HutchinsonState",
    "MadgradState",
    "MechanicState",
    "MomoAdamState",
    "MomoState",
    "MuonDimensionNumbers",
    "MuonState",
    "NormalizeState",
    "ProdigyState",
    "ReduceLROnPlateauState",
    "SAMState",
    "ScaleByAdemamixState",
    "ScaleBySimplifiedAdEMAMixState",
    "ScheduleFreeState",
    "SophiaState",
    "SplitRealAndImaginaryState",
    "acprop",
    "ademamix",
    "adopt",
    "cocob",
    "dadapt_adamw",
    "differentially_private_aggregate",
    "dog",
    "dowg",
    "dpsgd",
    "galore",
    "hutchinson_estimator_diag_hessian",
    "madgrad",
    "mechanize",
    "momo",
    "momo_adam",
    "muon",
    "normalize",
    "prodigy",
    "reduce_on_plateau",
    "sam",
    "scale_by_acprop",
    "scale_by_ademamix",
    "scale_by_adopt",
    "scale_by_cocob",
    "scale_by_galore",
    "scale_by_madgrad",
    "scale_by_muon",
    "scale_by_simplified_ademamix",
    "schedule_free",
    "schedule_free_adamw",
    "schedule_free_eval_params",
    "schedule_free_sgd",
    "simplified_ademamix",
    "sophia",
    "split_real_and_imaginary",
]

NormalizeState = EmptyState


def scale_by_acprop(b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-16, eps_root: Any = 1e-16) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_acprop`."""
    return shown(delayed.scale_by_acprop, ScaleByBeliefState, b1=b1, b2=b2, eps=eps, eps_root=eps_root)


def acprop(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    eps_root: Any = 1e-16,
    weight_decay: Any = 0.0,
    mask: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.acprop`."""
    return chain(
        scale_by_acprop(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def scale_by_ademamix(
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = 0.9999,
    alpha: Any = 6.0,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_ademamix`."""
    values = {"b1": b1, "b2": b2, "b3": b3, "alpha": alpha, "eps": eps, "eps_root": eps_root, "mu_dtype": mu_dtype}
    return shown(mixed_momentum.scale_by_ademamix, ScaleByAdemamixState, **values)


def ademamix(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = 0.9999,
    alpha: Any = 5.0,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 0.0,
    mask: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.ademamix`."""
    return chain(
        scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def scale_by_simplified_ademamix(
    b1: Any = 0.99, b2: Any = 0.95, alpha: Any = 0.0, eps: Any = 1e-8, eps_root: Any = 0.0
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_simplified_ademamix`."""
    values = {"b1": b1, "b2": b2, "alpha": alpha, "eps": eps, "eps_root": eps_root}
    return shown(mixed_momentum.scale_by_simplified_ademamix, ScaleBySimplifiedAdEMAMixState, **values)


def simplified_ademamix(
    learning_rate: Any,
    b1: Any = 0.99,
    b2: Any = 0.95,
    alpha: Any = 0.0,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    weight_decay: Any = 0.0,
    mask: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.simplified_ademamix`."""
    return chain(
        scale_by_simplified_ademamix(b1, b2, alpha, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def _fourth_root(count: Any) -> Any:
    """Return ADOPT's bound after ``count`` updates."""
    return count**0.25


def scale_by_adopt(
    b1: Any = 0.9,
    b2: Any = 0.9999,
    eps: Any = 1e-6,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[Any], Any] = _fourth_root,
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_adopt`."""
    values = {"b1": b1, "b2": b2, "eps": eps, "mu_dtype": mu_dtype, "nesterov": nesterov}
    bound: dict[str, Any] = {"use_clipping": use_clipping, "clip_value_fn": clip_value_fn}
    return shown(delayed.scale_by_adopt, ScaleByAdamState, **values, **bound)


def adopt(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.9999,
    eps: Any = 1e-6,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[Any], Any] = _fourth_root,
) -> Any:
    """Optax's signature of :func:`gradchain.adopt`."""
    options = {"nesterov": nesterov, "use_clipping": use_clipping}
    direction = scale_by_adopt(b1, b2, eps, mu_dtype, clip_value_fn=clip_value_fn, **options)
    return chain(direction, scale_by_learning_rate(learning_rate))


def scale_by_cocob(alpha: Any = 100.0, eps: Any = 1e-8) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_cocob`."""
    return shown(coin_betting.scale_by_cocob, COCOBState, alpha=alpha, eps=eps)


def cocob(
    learning_rate: Any = 1.0, alpha: Any = 100.0, eps: Any = 1e-8, weight_decay: Any = 0.0, mask: Any = None
) -> Any:
    """Optax's signature of :func:`gradchain.cocob`."""
    return chain(
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate, flip_sign=False),
        scale_by_cocob(alpha, eps),
    )


@register
class SplitRealAndImaginary(Inner):
    """See :func:`split_real_and_imaginary`."""

    name = "split_real_and_imaginary"
    inner: Child

    def init(self, params: Tree) -> SplitRealAndImaginaryState:
        return SplitRealAndImaginaryState(self.inner.init(_split(params)))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        mine = None if params is None else _split(params)
        new, inner = self.inner.step(_split(updates), state.inner_state, mine, extra)
        whole = jax.tree.map(lambda x: x.real + 1j * x.imaginary if _is_pair(x) else x, new, is_leaf=_is_pair)
        return whole, SplitRealAndImaginaryState(inner)

    def parts(self, state: Any = None, params: Tree | None = None) -> Any:
        return super().parts(state, None if params is None else _split(params))


class SplitRealAndImaginaryArrays(NamedTuple):
    """A complex array as two real ones."""

    real: Any
    imaginary: Any


def _is_pair(x: Any) -> bool:
    return isinstance(x, SplitRealAndImaginaryArrays)


def _split(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: SplitRealAndImaginaryArrays(x.real, x.imag) if jnp.iscomplexobj(x) else x, tree)


def split_real_and_imaginary(inner: Any) -> Any:
    """Optax's signature of :func:`gradchain.split_real_and_imaginary`."""
    return SplitRealAndImaginary(as_transform(inner))


def dadapt_adamw(
    learning_rate: Any = 1.0,
    betas: tuple[Any, Any] = (0.9, 0.999),
    eps: Any = 1e-8,
    estim_lr0: Any = 1e-6,
    weight_decay: Any = 0.0,
) -> Any:
    """Optax's signature of :func:`gradchain.dadapt_adamw`."""
    values = {"learning_rate": learning_rate, "b1": betas[0], "b2": betas[1], "eps": eps}
    return loose(_r.dadapt_adamw, **values, estim_lr0=estim_lr0, weight_decay=weight_decay)


def dog(
    learning_rate: Any = 1.0,
    init_step: tuple[str, Any] = ("heuristic", 1e-6),
    eps: Any = 1e-8,
    weight_decay: Any = None,
    mask: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.dog`."""
    kind, value = init_step
    direction = loose(_r.scale_by_dog, kind=kind, init_value=value, eps=eps)
    return chain(_decay_or_nothing(weight_decay, mask), direction, scale_by_learning_rate(learning_rate))


def dowg(
    learning_rate: Any = 1.0,
    init_estim_sq_dist: Any = None,
    eps: Any = 1e-4,
    weight_decay: Any = None,
    mask: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.dowg`."""
    direction = loose(_r.scale_by_dowg, init_estim_sq_dist=init_estim_sq_dist, eps=eps)
    return chain(_decay_or_nothing(weight_decay, mask), direction, scale_by_learning_rate(learning_rate))


def _decay_or_nothing(weight_decay: Any, mask: Any) -> Any:
    return identity() if weight_decay is None else add_decayed_weights(weight_decay, mask)


def scale_by_galore(
    rank: int = 128,
    update_proj_gap: Any = 200,
    scale: Any = 1.0,
    base_optimizer: Any = None,
    weight_dimension_numbers: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_galore`."""
    if not isinstance(rank, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"`rank` must be an int, got {type(rank)}")
    if rank <= 0:
        raise ValueError(f"`rank` must be positive, got {rank}")
    return loose(
        _m.scale_by_galore,
        rank=rank,
        update_proj_gap=update_proj_gap,
        scale=scale,
        base_optimizer=scale_by_adam() if base_optimizer is None else base_optimizer,
        dimensions=static(weight_dimension_numbers),
    )


def galore(
    learning_rate: Any,
    rank: int = 128,
    update_proj_gap: Any = 200,
    scale: Any = 1.0,
    base_optimizer: Any = None,
    weight_decay: Any = 0.0,
    mask: Any = None,
    weight_dimension_numbers: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.galore`."""
    return chain(
        scale_by_galore(rank, update_proj_gap, scale, base_optimizer, weight_dimension_numbers),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def scale_by_madgrad(learning_rate: Any, momentum: Any = 0.9, eps: Any = 1e-6) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_madgrad`."""
    values = {"learning_rate": learning_rate, "momentum": momentum, "eps": eps}
    return shown(dual_averaging.scale_by_madgrad, MadgradState, **values)


def madgrad(learning_rate: Any, momentum: Any = 0.9, weight_decay: Any = 0.0, eps: Any = 1e-6) -> Any:
    """Optax's signature of :func:`gradchain.madgrad`."""
    return chain(add_decayed_weights(weight_decay), scale_by_madgrad(learning_rate, momentum, eps))


def mechanize(
    base_optimizer: Any, weight_decay: Any = 1e-2, eps: Any = 1e-8, s_init: Any = 1e-6, num_betas: int = 6
) -> Any:
    """Optax's signature of :func:`gradchain.mechanize`."""
    values = {"weight_decay": weight_decay, "eps": eps, "s_init": s_init, "num_betas": num_betas}
    return loose(_r.mechanize, base_optimizer=base_optimizer, **values)


def momo(
    learning_rate: Any = 1.0,
    beta: Any = 0.9,
    lower_bound: Any = 0.0,
    weight_decay: Any = 0.0,
    adapt_lower_bound: bool = False,
) -> Any:
    """Optax's signature of :func:`gradchain.momo`."""
    values = {"learning_rate": learning_rate, "beta": beta, "lower_bound": lower_bound}
    return loose(_r.momo, **values, weight_decay=weight_decay, adapt_lower_bound=adapt_lower_bound)


def momo_adam(
    learning_rate: Any = 1e-2,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    lower_bound: Any = 0.0,
    weight_decay: Any = 0.0,
    adapt_lower_bound: bool = False,
) -> Any:
    """Optax's signature of :func:`gradchain.momo_adam`."""
    values = {"learning_rate": learning_rate, "b1": b1, "b2": b2, "eps": eps, "lower_bound": lower_bound}
    return loose(_r.momo_adam, **values, weight_decay=weight_decay, adapt_lower_bound=adapt_lower_bound)


def scale_by_muon(
    ns_coeffs: Any = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
    beta: Any = 0.95,
    eps: Any = 1e-8,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    weight_dimension_numbers: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_muon`."""
    if preconditioning not in ("frobenius", "spectral", "aol", "schatten"):
        raise ValueError(f"Unknown preconditioning {preconditioning}")
    return loose(
        _m.scale_by_muon,
        ns_coeffs=_m.coefficients_of(ns_coeffs),
        ns_steps=ns_steps,
        beta=beta,
        eps=eps,
        mu_dtype=mu_dtype,
        nesterov=nesterov,
        adaptive=adaptive,
        preconditioning=preconditioning,
        dimensions=static(weight_dimension_numbers),
    )


def muon(
    learning_rate: Any,
    ns_coeffs: Any = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
    beta: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    muon_weight_dimension_numbers: Any = None,
    consistent_rms: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.muon`."""
    dims = muon_weight_dimension_numbers

    def labels(params: Tree) -> Tree:
        leaves, treedef = jax.tree.flatten(params)
        chosen = [x.ndim == 2 for x in leaves] if dims is None else _m.spread_dimensions(dims, params)
        return treedef.unflatten(["muon" if on else "adam" for on in chosen])

    used = MuonDimensionNumbers() if dims is None else dims
    if not callable(used) and not isinstance(used, MuonDimensionNumbers):
        used = _among(used)
    options: dict[str, Any] = {"nesterov": nesterov, "adaptive": adaptive, "preconditioning": preconditioning}
    direction = scale_by_muon(ns_coeffs, ns_steps, beta, eps, mu_dtype, **options, weight_dimension_numbers=used)
    matrices = chain(
        direction,
        loose(_m.scale_by_shape, dimensions=static(used), consistent_rms=consistent_rms),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
    rest = adamw(
        learning_rate if adam_learning_rate is None else adam_learning_rate,
        b1=adam_b1,
        b2=adam_b2,
        eps=eps,
        eps_root=adam_eps_root,
        weight_decay=adam_weight_decay,
        mu_dtype=mu_dtype,
        nesterov=nesterov,
    )
    return partition({"muon": matrices, "adam": rest}, labels)


def _among(dims: Tree) -> Callable[[Tree], Tree]:
    """Return a function to the dimension numbers of those arrays that there are."""
    return lambda tree: dims


@register
class PerExample(Pair):
    """A pair of functions that takes gradients with a leading axis of examples."""

    @property
    def per_example(self) -> bool:
        return True


def differentially_private_aggregate(
    l2_norm_clip: Any, noise_multiplier: Any, key: Any = None, *, seed: int | None = None
) -> Any:
    """Optax's signature of :func:`gradchain.differentially_private_aggregate`."""
    if seed is not None:
        warnings.warn("seed is deprecated; pass it as key", DeprecationWarning, stacklevel=2)
        if key is not None:
            raise ValueError("Only one of seed or key can be specified.")
        key = jax.random.key(seed)
    if key is None:
        warnings.warn("differentially_private_aggregate: a key will be required; key=0 is used", stacklevel=2)
        key = jax.random.key(0)
    first = jax.random.key(key) if isinstance(key, int) else key
    deviation = l2_norm_clip * noise_multiplier

    def init(params: Tree) -> DifferentiallyPrivateAggregateState:
        return DifferentiallyPrivateAggregateState(first)

    def update(updates: Tree, state: Any, params: Tree | None = None) -> tuple[Tree, Any]:
        leaves, treedef = jax.tree.flatten(updates)
        size = leaves[0].shape[0]
        sums, _ = per_example_global_norm_clip(leaves, l2_norm_clip)
        following, *keys = jax.random.split(state.rng_key, len(leaves) + 1)
        noise = [jax.random.normal(k, g.shape, g.dtype) for k, g in zip(keys, sums, strict=True)]
        noisy = [(g + deviation * e) / size for g, e in zip(sums, noise, strict=True)]
        return treedef.unflatten(noisy), DifferentiallyPrivateAggregateState(following)

    return PerExample(Functions(init, update))


def dpsgd(
    learning_rate: Any,
    l2_norm_clip: Any,
    noise_multiplier: Any,
    key: Any = None,
    momentum: Any = None,
    nesterov: bool = False,
    *,
    seed: int | None = None,
) -> Any:
    """Optax's signature of :func:`gradchain.dpsgd`."""
    return chain(
        differentially_private_aggregate(l2_norm_clip, noise_multiplier, key, seed=seed),
        identity() if momentum is None else trace(momentum, nesterov),
        scale_by_learning_rate(learning_rate),
    )


def prodigy(
    learning_rate: Any = 1.0,
    betas: tuple[Any, Any] = (0.9, 0.999),
    beta3: Any = None,
    eps: Any = 1e-8,
    estim_lr0: Any = 1e-6,
    estim_lr_coef: Any = 1.0,
    weight_decay: Any = 0.0,
    safeguard_warmup: bool = False,
    weight_decay_mask: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.prodigy`."""
    return loose(
        _r.prodigy,
        learning_rate=learning_rate,
        b1=betas[0],
        b2=betas[1],
        beta3=beta3,
        eps=eps,
        estim_lr0=estim_lr0,
        estim_lr_coef=estim_lr_coef,
        weight_decay=weight_decay,
        safeguard_warmup=safeguard_warmup,
        weight_decay_mask=None if weight_decay_mask is None else static(weight_decay_mask),
    )


def reduce_on_plateau(
    factor: Any = 0.1,
    patience: int = 10,
    rtol: Any = 1e-4,
    atol: Any = 0.0,
    cooldown: int = 0,
    accumulation_size: int = 1,
    min_scale: Any = 0.0,
) -> Any:
    """Optax's signature of :func:`gradchain.reduce_on_plateau`."""
    if factor <= 0.0 or factor >= 1.0:
        raise ValueError(f"Factor must be in the range (0, 1), got factor = {factor}.")
    if rtol < 0.0 or atol < 0.0:
        raise ValueError(f"Both rtol and atol must be non-negative, got rtol = {rtol} and atol = {atol}.")
    if rtol == 0.0 and atol == 0.0:
        raise ValueError(f"At least one of rtol or atol must be positive, got rtol = {rtol} and atol = {atol}.")
    if rtol > 1.0:
        raise ValueError(f"rtol must be less than or equal to 1.0, got rtol = {rtol}.")
    counts = {"patience": patience, "cooldown": cooldown, "accumulation_size": accumulation_size}
    return loose(_r.reduce_on_plateau, factor=factor, rtol=rtol, atol=atol, min_scale=min_scale, **counts)


def normalize() -> Any:
    """Divide updates by their norm over all arrays; zeros stay."""

    def normalized(updates: Tree, params: Tree | None) -> Tree:
        size = optax_tree.norm(updates)
        return jax.tree.map(lambda g: g / jnp.where(size == 0, 1, size), updates)

    return stateless(normalized)


def sam(
    optimizer: Any,
    adv_optimizer: Any,
    sync_period: int = 2,
    reset_state: bool = True,
    opaque_mode: bool = False,
    batch_axis_name: str | None = None,
) -> Any:
    """Optax's signature of :func:`gradchain.sam`."""
    if sync_period < 1:
        raise ValueError(f"sam: Synchronization period must be >= 1, got {sync_period}")
    return loose(
        _r.sam,
        optimizer=optimizer,
        adv_optimizer=adv_optimizer,
        sync_period=sync_period,
        reset_state=reset_state,
        opaque_mode=opaque_mode,
        batch_axis_name=batch_axis_name,
    )


def schedule_free(
    base_optimizer: Any,
    learning_rate: Any,
    b1: Any = 0.9,
    weight_lr_power: Any = 2.0,
    state_dtype: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.schedule_free`."""
    values = {"learning_rate": learning_rate, "b1": b1, "weight_lr_power": weight_lr_power}
    return loose(_r.schedule_free, base_optimizer=base_optimizer, **values, state_dtype=state_dtype)


def schedule_free_sgd(
    learning_rate: Any = 1.0,
    warmup_steps: int | None = None,
    b1: Any = 0.9,
    weight_decay: Any = None,
    weight_lr_power: Any = 2.0,
    state_dtype: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.schedule_free_sgd`."""
    rate = _warmed(learning_rate, warmup_steps)
    base = sgd(rate) if weight_decay is None else chain(add_decayed_weights(weight_decay), sgd(rate))
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype)


def schedule_free_adamw(
    learning_rate: Any = 0.0025,
    warmup_steps: int | None = None,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    weight_lr_power: Any = 2.0,
    state_dtype: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.schedule_free_adamw`."""
    rate = _warmed(learning_rate, warmup_steps)
    base = chain(
        scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(rate),
    )
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype)


def _warmed(learning_rate: Any, warmup_steps: int | None) -> Any:
    """Return a learning rate that rises from 0."""
    if warmup_steps is None:
        return learning_rate
    return schedules.warmup_constant_schedule(0, learning_rate, warmup_steps)


def schedule_free_eval_params(state: Any, params: Tree) -> Tree:
    """Return the averaged weights that a state of :func:`schedule_free` and its parameters stand for."""
    return _r.eval_params(state, params)


def hutchinson_estimator_diag_hessian(random_seed: Any = None) -> Any:
    """Optax's signature of :func:`gradchain.hutchinson_estimator_diag_hessian`; ``random_seed`` is a key."""

    def init(params: Tree) -> HutchinsonState:
        return HutchinsonState(jax.random.PRNGKey(0) if random_seed is None else random_seed)

    def update(
        updates: Tree, state: Any, params: Tree | None = None, obj_fn: Any = None, **extra_args: Any
    ) -> tuple[Tree, Any]:
        objective: Any = extra_args.get("value_fn") if obj_fn is None else obj_fn
        for name, given in (("params", params), ("obj_fn", objective)):
            if given is None:
                raise ValueError(f"{name} must be provided to hutchinson update function.")
        key, own = jax.random.split(state.key)
        signs = optax_tree.random_like(own, params, jax.random.rademacher, dtype=jnp.float32)
        signs = jax.tree.map(lambda s, w: s.astype(w.dtype), signs, params)
        _, product = jax.jvp(jax.grad(objective), (params,), (signs,))
        return jax.tree.map(lambda h, s: h * s, product, signs), HutchinsonState(key)

    return GradientTransformationExtraArgs(init, update)


_HUTCHINSON = hutchinson_estimator_diag_hessian()


def sophia(
    learning_rate: Any,
    b1: Any = 0.965,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    weight_decay_mask: Any = None,
    gamma: Any = 0.01,
    clip_threshold: Any = 1.0,
    update_interval: Any = 10,
    hessian_diagonal_fn: Any = _HUTCHINSON,
    mu_dtype: Any = None,
    verbose: bool = False,
    print_win_rate_every_n_steps: int = 0,
) -> Any:
    """Optax's signature of :func:`gradchain.sophia`."""
    direction = loose(
        _r.scale_by_sophia,
        b1=b1,
        b2=b2,
        eps=eps,
        gamma=gamma,
        clip_threshold=clip_threshold,
        update_interval=update_interval,
        hessian_diagonal_fn=hessian_diagonal_fn,
        mu_dtype=mu_dtype,
        print_every=print_win_rate_every_n_steps if verbose else 0,
    )
    decay = add_decayed_weights(weight_decay, mask=weight_decay_mask)
    return chain(direction, decay, scale_by_learning_rate(learning_rate))
