"""Optimizers of contrib that find their own step sizes: DoG, DoWG, D-Adaptation, Prodigy and Mechanic."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradchain.combinators._weights import stored, widened
from gradchain.core.foreign import Child
from gradchain.core.hyper import Hyper
from gradchain.core.transform import difference, scalar_dtype
from gradchain.core.value import register
from gradchain.numerics import abs_sq, divide, one_minus_power, safe_increment, sqrt
from gradchain.optax import _states as _s
from gradchain.optax._around import Around, Inner, static
from gradchain.optax._base import identity
from gradchain.optax._combining import chain
from gradchain.optax._parts import inner_product, needed, own, scalar, wide_zeros
from gradchain.optax._shown import loose
from gradchain.optax._transforms import add_decayed_weights, scale_by_learning_rate
from gradchain.tree import Tree
from gradchain.tree import norm as full_norm
from gradchain.tree import where as choose


@register
class ScaleByDoG(Around):
    """DoG's scaling: see :func:`gradchain.scale_by_dog`."""

    name = "scale_by_dog"
    kind: str
    init_value: Hyper
    eps: Hyper = 1e-8

    def init(self, params: Tree) -> _s.DoGState:
        first = {"distance": lambda: self.init_value, "learning_rate": lambda: 0.0}
        first["heuristic"] = lambda: self.init_value * (1 + full_norm(params))
        if self.kind not in first:
            raise ValueError(f"Invalid init_step specification for scale_by_dog: init_step_type={self.kind!r}")
        distance, total = scalar(first[self.kind](), params), scalar(0, params)
        return _s.DoGState(jnp.ones((), bool), own(params), distance, total)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        moved = jax.tree.map(difference, state.init_params, needed(self.name, params))
        distance = jnp.maximum(state.max_dist, full_norm(moved))
        total = state.sum_sq_norm_grads + full_norm(updates, squared=True)
        rate = divide(distance, sqrt(total + self.eps))
        if self.kind == "learning_rate":
            rate = jnp.where(state.is_init_step, self.init_value, rate)
        new = stored(_s.DoGState(jnp.zeros((), bool), state.init_params, distance, total), state)
        return jax.tree.map(lambda g: rate.astype(g.real.dtype) * g, widened(updates)), new


def dog(
    learning_rate: Any = 1.0,
    init_step: tuple[str, Any] = ("heuristic", 1e-6),
    eps: Any = 1e-8,
    weight_decay: Any = None,
    mask: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.dog`."""
    kind, value = init_step
    direction = loose(ScaleByDoG, kind=kind, init_value=value, eps=eps)
    return chain(_decay_or_nothing(weight_decay, mask), direction, scale_by_learning_rate(learning_rate))


@register
class ScaleByDoWG(Around):
    """DoWG's scaling: see :func:`gradchain.scale_by_dowg`."""

    name = "scale_by_dowg"
    init_estim_sq_dist: Hyper | None = None
    eps: Hyper = 1e-4

    def init(self, params: Tree) -> _s.DoWGState:
        first = self.eps if self.init_estim_sq_dist is None else self.init_estim_sq_dist
        return _s.DoWGState(own(params), scalar(0, params), scalar(first, params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        moved = jax.tree.map(difference, state.init_params, needed(self.name, params))
        square = jnp.maximum(state.estim_sq_dist, full_norm(moved, squared=True))
        total = square * full_norm(updates, squared=True) + state.weighted_sq_norm_grads
        rate = divide(square, sqrt(total) + self.eps)
        new = stored(_s.DoWGState(state.init_params, total, square), state)
        return jax.tree.map(lambda g: rate.astype(g.real.dtype) * g, widened(updates)), new


def dowg(
    learning_rate: Any = 1.0,
    init_estim_sq_dist: Any = None,
    eps: Any = 1e-4,
    weight_decay: Any = None,
    mask: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.dowg`."""
    direction = loose(ScaleByDoWG, init_estim_sq_dist=init_estim_sq_dist, eps=eps)
    return chain(_decay_or_nothing(weight_decay, mask), direction, scale_by_learning_rate(learning_rate))


def _decay_or_nothing(weight_decay: Any, mask: Any) -> Any:
    return identity() if weight_decay is None else add_decayed_weights(weight_decay, mask)


@register
class DAdaptAdamW(Around):
    """See :func:`gradchain.optax.contrib.dadapt_adamw`."""

    name = "dadapt_adamw"
    learning_rate: Hyper
    b1: Hyper
    b2: Hyper
    eps: Hyper
    estim_lr0: Hyper
    weight_decay: Hyper

    def init(self, params: Tree) -> _s.DAdaptAdamWState:
        m, v, s = (wide_zeros(params) for _ in range(3))
        first, count = scalar(self.estim_lr0, params), jnp.zeros((), jnp.int32)
        return _s.DAdaptAdamWState(m, v, s, first, scalar(0, params), count)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        params, g, (b1, b2, eps) = needed(self.name, params), widened(updates), (self.b1, self.b2, self.eps)
        b3, rate = b2**0.5, corrected_rate(self, state)
        scaled = jax.tree.map(lambda s, v: divide(s, sqrt(v) + eps), state.grad_sum, state.exp_avg_sq)
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * rate * g, state.exp_avg, g)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * abs_sq(g), state.exp_avg_sq, g)
        s = jax.tree.map(lambda s, g: b3 * s + (1 - b3) * rate * g, state.grad_sum, g)
        r = b3 * state.numerator_weighted + (1 - b3) * rate * inner_product(g, scaled)
        estimate = jnp.maximum(state.estim_lr, divide(r, (1 - b3) * full_norm(s, 1)))
        step = jax.tree.map(lambda m, v, w: -self.weight_decay * rate * w - divide(m, sqrt(v) + eps), m, v, params)
        return step, stored(_s.DAdaptAdamWState(m, v, s, estimate, r, safe_increment(state.count)), state)


def dadapt_adamw(
    learning_rate: Any = 1.0,
    betas: tuple[Any, Any] = (0.9, 0.999),
    eps: Any = 1e-8,
    estim_lr0: Any = 1e-6,
    weight_decay: Any = 0.0,
) -> Any:
    """Optax's signature of :func:`gradchain.dadapt_adamw`."""
    values = {"learning_rate": learning_rate, "b1": betas[0], "b2": betas[1], "eps": eps}
    return loose(DAdaptAdamW, **values, estim_lr0=estim_lr0, weight_decay=weight_decay)


@register
class Prodigy(Around):
    """See :func:`gradchain.optax.contrib.prodigy`."""

    name = "prodigy"
    learning_rate: Hyper
    b1: Hyper
    b2: Hyper
    beta3: Hyper | None
    eps: Hyper
    estim_lr0: Hyper
    estim_lr_coef: Hyper
    weight_decay: Hyper
    safeguard_warmup: bool
    weight_decay_mask: Any = None

    def init(self, params: Tree) -> _s.ProdigyState:
        m, v, s = (wide_zeros(params) for _ in range(3))
        first, count = scalar(self.estim_lr0, params), jnp.zeros((), jnp.int32)
        return _s.ProdigyState(m, v, s, own(params), first, scalar(0, params), count)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        params, g, d = needed(self.name, params), widened(updates), state.estim_lr
        b1, b2, b3 = self.b1, self.b2, self.b2**0.5 if self.beta3 is None else self.beta3
        rate, growth = corrected_rate(self, state), d / self.estim_lr0
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * d * g, state.exp_avg, g)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * abs_sq(d * g), state.exp_avg_sq, g)
        s = jax.tree.map(lambda s, g: b3 * s + growth * (d if self.safeguard_warmup else rate) * g, state.grad_sum, g)
        moved = jax.tree.map(difference, state.params0, params)
        r = b3 * state.numerator_weighted + growth * rate * inner_product(g, moved)
        estimate = jnp.maximum(d, divide(self.estim_lr_coef * r, full_norm(s, 1)))
        new = _s.ProdigyState(m, v, s, state.params0, estimate, r, safe_increment(state.count))
        step = jax.tree.map(lambda m, v: -rate * divide(m, sqrt(v) + estimate * self.eps), m, v)
        return self._decayed(step, rate, params), stored(new, state)

    def _decayed(self, step: Tree, rate: Array, params: Tree) -> Tree:
        mask = self.weight_decay_mask and self.weight_decay_mask.values["value"]
        mask = True if mask is None else mask(params) if callable(mask) else mask
        decay = self.weight_decay * rate

        def branch(on: Any, steps: Tree, weights: Tree) -> Tree:
            return jax.tree.map(lambda u, w: u - jnp.where(on, decay * w, 0), steps, weights)

        return jax.tree.map(branch, mask, step, params)


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
        Prodigy,
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


def corrected_rate(tx: Any, state: Any) -> Array:
    """Return the estimate times the learning rate and Adam's corrections for averages that start at zero."""
    dtype, t = state.estim_lr.dtype, safe_increment(state.count).astype(state.estim_lr.dtype)
    correction = sqrt(one_minus_power(tx.b2, t)) / one_minus_power(tx.b1, t)
    return (state.estim_lr * tx.number("learning_rate", state.count, dtype) * correction).astype(dtype)


@register
class Mechanize(Inner):
    """See :func:`gradchain.optax.contrib.mechanize`."""

    name = "mechanize"
    child = "base_optimizer"
    state_field = "base_optimizer_state"
    base_optimizer: Child
    weight_decay: Hyper = 1e-2
    eps: Hyper = 1e-8
    s_init: Hyper = 1e-6
    num_betas: int = 6

    def init(self, params: Tree) -> _s.MechanicState:
        r, m, v = (jnp.zeros(self.num_betas, scalar_dtype(params)) for _ in range(3))
        s = jnp.full_like(r, self.s_init)
        return _s.MechanicState(self.base_optimizer.init(params), jnp.zeros((), jnp.int32), r, m, v, s, own(params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        weights, g, eps = needed(self.name, params), widened(updates), self.eps
        base, base_state = self.base_optimizer.step(updates, state.base_optimizer_state, params, extra)
        start = choose(state.count == 0, stored(weights, state.x0), state.x0)
        total = jnp.sum(state.s)
        pull = self.weight_decay * total * full_norm(g) / (full_norm(weights) + eps)
        g = jax.tree.map(lambda g, w: g + pull * w, g, weights)
        before = jax.tree.map(lambda w, x0: (x0 - w) / (total + eps), weights, start)
        delta = jax.tree.map(lambda d, u: d - u, before, base)
        h = inner_product(g, before)
        betas = jnp.array([1 - 0.1**k for k in range(1, self.num_betas + 1)], state.s.dtype)
        m = jnp.maximum(betas * state.m, jnp.abs(h) + eps)
        v = betas**2 * state.v + h**2
        r = betas * state.r + jnp.clip(h, -state.m, state.m) * state.s
        s = (self.s_init / self.num_betas * m + jnp.maximum(r, 0)) / (sqrt(v) + eps)
        step = jax.tree.map(lambda x0, d, w: (x0 - jnp.sum(s) * d) - w, start, delta, weights)
        new = _s.MechanicState(base_state, safe_increment(state.count), r, m, v, s, start)
        return step, new._replace(**stored(_numbers(new), _numbers(state)))


def _numbers(state: _s.MechanicState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in ("r", "m", "v", "s", "x0")}


def mechanize(
    base_optimizer: Any, weight_decay: Any = 1e-2, eps: Any = 1e-8, s_init: Any = 1e-6, num_betas: int = 6
) -> Any:
    """Optax's signature of :func:`gradchain.mechanize`."""
    values = {"weight_decay": weight_decay, "eps": eps, "s_init": s_init, "num_betas": num_betas}
    return loose(Mechanize, base_optimizer=base_optimizer, **values)
