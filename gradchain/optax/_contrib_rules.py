"""Transforms of Optax's contrib whose states or formulas are others than those of gradchain's rules."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradchain.combinators._weights import stored, widened
from gradchain.core.combinator import combinator
from gradchain.core.foreign import Child
from gradchain.core.hyper import DType, Hyper
from gradchain.core.transform import Part, Transform, apply_updates, difference, scalar_dtype
from gradchain.matrices.refreshing import refresh
from gradchain.numerics import abs_sq, compute_dtype, divide, one_minus_power, safe_increment, sqrt
from gradchain.optax import _states as _s
from gradchain.optax import tree as optax_tree
from gradchain.optax._around import Around, Inner
from gradchain.optax._base import NO_PARAMS_MSG, identity
from gradchain.tree import Tree
from gradchain.tree import norm as full_norm
from gradchain.tree import vdot as full_vdot
from gradchain.tree import where as choose


def wide_zeros(params: Tree) -> Tree:
    """Return zeros like the parameters, in at least float32."""
    return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=compute_dtype(jnp.result_type(x))), params)


def own(params: Tree) -> Tree:
    """Return a copy of the parameters, in at least float32."""
    return jax.tree.map(lambda x: jnp.array(x, compute_dtype(jnp.result_type(x)), copy=True), params)


def scalar(x: Any, params: Tree) -> Array:
    """Return one number as states keep it."""
    return jnp.array(x, scalar_dtype(params), copy=True)


def inner_product(x: Tree, y: Tree) -> Array:
    """Return the real part of an inner product."""
    return jnp.real(full_vdot(x, y))


def needed(where: str, params: Tree | None) -> Tree:
    """Return parameters in at least float32, or raise ``ValueError`` where they are missing."""
    if params is None:
        raise ValueError(f"{where}: {NO_PARAMS_MSG}")
    return widened(params)


def value_of(where: str, extra: dict[str, Any]) -> Any:
    """Return the extra argument ``value``, which must be there."""
    if "value" not in extra:
        raise TypeError(f"{where}.update() missing 1 required keyword-only argument: 'value'")
    if extra["value"] is None:
        raise ValueError(f"{where}: pass the latest loss as update(..., value=loss), got None")
    return extra["value"]


class Model:
    """What Momo and Momo-Adam share: the step to a lower bound on an averaged linear model of the loss."""

    def __init__(self, tx: Transform, state: Any, extra: dict[str, Any]):
        dtype = state.barf.dtype
        self.value = jnp.asarray(value_of(tx.name, extra), dtype)
        self.rate = tx.number("learning_rate", state.count, dtype)
        self.decay = self.rate * tx.number("weight_decay", state.count, dtype)
        self.least = tx.number("lower_bound", state.count, dtype)

    def step(self, gap: Any, product: Any, size: Any, rho: Any, bound: Any, adapts: bool) -> tuple[Any, Any]:
        """Return the step size and the next bound."""
        c = 1 + self.decay
        if adapts:
            cap = c * gap + product
            bound = jnp.where(cap < c * rho * bound, jnp.maximum(cap / (2 * c * rho), self.least), bound)
        t = divide(jnp.maximum(c * (gap - rho * bound) + product, 0), size)
        tau = jnp.minimum(self.rate / rho, jnp.where(size <= jnp.finfo(float).eps, 0, t))
        return tau, jnp.maximum((gap + product - tau * size / 2) / rho, self.least) if adapts else bound

    def update(self, tau: Any, directions: Tree, params: Tree) -> Tree:
        """Return the update."""
        shrink = self.decay / (1 + self.decay)
        return jax.tree.map(lambda d, w: -shrink * w - tau * d, directions, params)


@combinator
class momo(Around):
    """See :func:`gradchain.optax.contrib.momo`."""

    learning_rate: Hyper = 1.0
    beta: Hyper = 0.9
    lower_bound: Hyper = 0.0
    weight_decay: Hyper = 0.0
    adapt_lower_bound: bool = False

    def init(self, params: Tree) -> _s.MomoState:
        zero, bound = scalar(0, params), scalar(self.lower_bound, params)
        return _s.MomoState(wide_zeros(params), zero, jnp.zeros_like(zero), bound, jnp.zeros((), jnp.int32))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        params, g, model = needed(self.name, params), widened(updates), Model(self, state, extra)
        beta = jnp.where(state.count == 0, 0, self.number("beta", state.count)).astype(state.barf.dtype)
        barf, gamma = (
            beta * old + (1 - beta) * new
            for old, new in ((state.barf, model.value), (state.gamma, inner_product(g, params)))
        )
        d = optax_tree.update_moment(g, state.exp_avg, beta, 1)
        size, product = full_norm(d, squared=True), inner_product(d, params)
        tau, bound = model.step(barf - gamma, product, size, 1, state.lb, self.adapt_lower_bound)
        new = stored(_s.MomoState(d, barf, gamma, bound, safe_increment(state.count)), state)
        return model.update(tau, d, params), new


@combinator
class momo_adam(Around):
    """See :func:`gradchain.optax.contrib.momo_adam`."""

    learning_rate: Hyper = 1e-2
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    lower_bound: Hyper = 0.0
    weight_decay: Hyper = 0.0
    adapt_lower_bound: bool = False

    def init(self, params: Tree) -> _s.MomoAdamState:
        zero, bound = scalar(0, params), scalar(self.lower_bound, params)
        count = jnp.zeros((), jnp.int32)
        return _s.MomoAdamState(wide_zeros(params), wide_zeros(params), zero, jnp.zeros_like(zero), bound, count)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        params, g, model = needed(self.name, params), widened(updates), Model(self, state, extra)
        count, dtype = safe_increment(state.count), state.barf.dtype
        b1, b2, eps = (self.number(name, state.count) for name in ("b1", "b2", "eps"))
        barf = b1 * state.barf + (1 - b1) * model.value
        gamma = b1 * state.gamma + (1 - b1) * inner_product(g, params)
        d, v = optax_tree.update_moment(g, state.exp_avg, b1, 1), optax_tree.update_moment(g, state.exp_avg_sq, b2, 2)
        rho, weight = one_minus_power(b1, count.astype(dtype)), one_minus_power(b2, count.astype(dtype))
        scaled = jax.tree.map(lambda d, v: divide(d, eps + sqrt(v / weight)), d, v)
        size, product = inner_product(d, scaled), inner_product(d, params)
        tau, bound = model.step(barf - gamma, product, size, rho, state.lb, self.adapt_lower_bound)
        return model.update(tau, scaled, params), stored(_s.MomoAdamState(d, v, barf, gamma, bound, count), state)


@combinator
class reduce_on_plateau(Around):
    """See :func:`gradchain.optax.contrib.reduce_on_plateau`."""

    factor: Hyper = 0.1
    patience: Hyper = 10
    rtol: Hyper = 1e-4
    atol: Hyper = 0.0
    cooldown: Hyper = 0
    accumulation_size: Hyper = 1
    min_scale: Hyper = 0.0

    def init(self, params: Tree) -> _s.ReduceLROnPlateauState:
        a, b, c = (jnp.zeros((), jnp.int32) for _ in range(3))
        return _s.ReduceLROnPlateauState(scalar(1, params), scalar(jnp.inf, params), a, b, c, scalar(0, params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        value, count = jnp.asarray(value_of(self.name, extra), state.avg_value.dtype), safe_increment(state.count)
        mean = (state.count * state.avg_value + value) / count
        new = choose(count == self.accumulation_size, self._judged(state, mean), state._replace(count=count))
        new = stored(new._replace(avg_value=jnp.where(count == self.accumulation_size, 0, mean)), state)
        return jax.tree.map(lambda g: new.scale.astype(g.real.dtype) * g, widened(updates)), new

    def _judged(self, state: Any, mean: Array) -> Any:
        """Return the state after a whole mean."""
        improved = mean < (1 - self.rtol) * state.best_value - self.atol
        waited = jnp.where(improved, 0, safe_increment(state.plateau_count))
        cools, reduces = state.cooldown_count > 0, (waited == self.patience) & (state.cooldown_count <= 0)
        reduced = jnp.maximum(jnp.where(reduces, self.factor * state.scale, state.scale), self.min_scale)
        judged = _s.ReduceLROnPlateauState(
            scale=jnp.where(cools, state.scale, reduced),
            best_value=jnp.where(improved, mean, state.best_value),
            plateau_count=jnp.where(cools | reduces, 0, waited),
            cooldown_count=jnp.where(cools, state.cooldown_count - 1, jnp.where(reduces, self.cooldown, 0)),
            count=jnp.zeros_like(state.count),
            avg_value=state.avg_value,
        )
        return stored(judged, state)


@combinator
class scale_by_dog(Around):
    """DoG's scaling: see :func:`gradchain.scale_by_dog`."""

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


@combinator
class scale_by_dowg(Around):
    """DoWG's scaling: see :func:`gradchain.scale_by_dowg`."""

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


@combinator
class dadapt_adamw(Around):
    """See :func:`gradchain.optax.contrib.dadapt_adamw`."""

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


def corrected_rate(tx: Any, state: Any) -> Array:
    """Return the estimate times the learning rate and Adam's corrections for averages that start at zero."""
    dtype, t = state.estim_lr.dtype, safe_increment(state.count).astype(state.estim_lr.dtype)
    correction = sqrt(one_minus_power(tx.b2, t)) / one_minus_power(tx.b1, t)
    return (state.estim_lr * tx.number("learning_rate", state.count, dtype) * correction).astype(dtype)


@combinator
class prodigy(Around):
    """See :func:`gradchain.optax.contrib.prodigy`."""

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


@combinator
class mechanize(Inner):
    """See :func:`gradchain.optax.contrib.mechanize`."""

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


@combinator
class schedule_free(Inner):
    """See :func:`gradchain.optax.contrib.schedule_free`."""

    relies = True
    child = "base_optimizer"
    state_field = "base_optimizer_state"
    base_optimizer: Child
    learning_rate: Hyper
    b1: Hyper = 0.9
    weight_lr_power: Hyper = 2.0
    state_dtype: DType | None = None

    def init(self, params: Tree) -> _s.ScheduleFreeState:
        z = jax.tree.map(lambda x: jnp.array(x, self.state_dtype, copy=True), params)
        return _s.ScheduleFreeState(
            b1=scalar(self.b1, params),
            weight_sum=scalar(0, params),
            step_count=jnp.ones((), jnp.int32),
            max_lr=scalar(0, params),
            base_optimizer_state=self.base_optimizer.init(params),
            z=z,
        )

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        b1, y = self.b1, needed(self.name, params)
        rate = self.number("learning_rate", state.step_count, state.max_lr.dtype)
        top = jnp.maximum(state.max_lr, rate)
        weight = top**self.weight_lr_power
        total = state.weight_sum + weight
        share = jnp.where(total == 0, 0, weight / jnp.where(total == 0, 1, total))
        base, base_state = self.base_optimizer.step(updates, state.base_optimizer_state, params, extra)
        z = jax.tree.map(lambda z, u: (z + u).astype(z.dtype), state.z, base)

        def moved(y: Array, old: Array, new: Array) -> Array:
            x = (1 - share) * ((y - (1 - b1) * old) / b1) + share * new
            return b1 * x + (1 - b1) * new - y

        new = state._replace(
            weight_sum=total,
            step_count=safe_increment(state.step_count),
            max_lr=top,
            base_optimizer_state=base_state,
            z=z,
        )
        return jax.tree.map(moved, y, state.z, z), stored(new, state)

    def eval_params(self, state: Any, params: Tree) -> Tree:
        return eval_params(state, params)


def eval_params(state: Any, params: Tree) -> Tree:
    """Return the averaged weights."""
    b1, z = state.b1, state.z
    if b1 is None or z is None:
        raise ValueError("schedule_free_eval_params requires a ScheduleFreeState as input")
    return jax.tree.map(lambda y, z: (y - (1 - b1) * z) / b1, params, z)


@combinator
class sam(Around):
    """See :func:`gradchain.optax.contrib.sam`."""

    optimizer: Child
    adv_optimizer: Child
    sync_period: int = 2
    reset_state: bool = True
    opaque_mode: bool = False
    batch_axis_name: Any = None

    def init(self, params: Tree) -> _s.SAMState:
        cache = None if self.opaque_mode else jax.tree.map(lambda x: jnp.array(x, copy=True), params)
        zero = jnp.zeros((), jnp.int32)
        return _s.SAMState(zero, self.optimizer.init(params), self.adv_optimizer.init(params), cache)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        needed(self.name, params)
        if self.opaque_mode:
            return self._opaque(updates, state, params, extra)
        first, last = state.steps_since_sync == 0, state.steps_since_sync == self.sync_period - 1
        up, adversary = self.adv_optimizer.step(updates, state.adv_state, params, {})
        start = choose(first, params, state.cache)
        down, inner = self.optimizer.step(updates, state.opt_state, state.cache, {})
        down = jax.tree.map(lambda c, p, u: difference(c, p) + u, state.cache, params, down)
        restart = self.adv_optimizer.init(params) if self.reset_state else state.adv_state
        new = _s.SAMState(
            steps_since_sync=(state.steps_since_sync + 1) % self.sync_period,
            opt_state=choose(last, inner, state.opt_state),
            adv_state=choose(last, restart, adversary),
            cache=start,
        )
        return choose(last, down, jax.tree.map(lambda x: -x, up)), new

    def _opaque(self, updates: Tree, state: Any, params: Any, extra: dict[str, Any]) -> tuple[Tree, Any]:
        grad_fn: Callable[..., Any] | None = extra.get("grad_fn")
        if grad_fn is None:
            raise ValueError("sam: grad_fn must be provided when opaque_mode=True")
        weights, adversary = params, state.adv_state
        for i in range(self.sync_period - 1):
            up, adversary = self.adv_optimizer.step(updates, adversary, weights, {})
            weights = apply_updates(weights, jax.tree.map(lambda x: -x, up))
            updates = grad_fn(weights, i)
            if self.batch_axis_name is not None:
                updates = jax.lax.pmean(updates, self.batch_axis_name)
        adversary = self.adv_optimizer.init(params) if self.reset_state else adversary
        updates, inner = self.optimizer.step(updates, state.opt_state, params, {})
        return updates, _s.SAMState(jnp.zeros_like(state.steps_since_sync), inner, adversary, None)

    def parts(self, state: Any = None, params: Tree | None = None) -> Any:
        states = (None, None) if state is None else (state.opt_state, state.adv_state)
        return [
            Part("optimizer", self.optimizer, states[0], params),
            Part("adversary", self.adv_optimizer, states[1], params),
        ]


@combinator
class scale_by_sophia(Inner):
    """Sophia's scaling: see :func:`gradchain.scale_by_sophia`."""

    child = "hessian_diagonal_fn"
    state_field = "hessian_fn_state"

    b1: Hyper = 0.965
    b2: Hyper = 0.99
    eps: Hyper = 1e-8
    gamma: Hyper = 0.01
    clip_threshold: Hyper | None = 1.0
    update_interval: Hyper = 10
    hessian_diagonal_fn: Child = identity()
    mu_dtype: DType | None = None
    print_every: int = 0

    def init(self, params: Tree) -> _s.SophiaState:
        mu = jax.tree.map(lambda x: x if self.mu_dtype is None else x.astype(self.mu_dtype), wide_zeros(params))
        estimator = self.hessian_diagonal_fn.init(params)
        return _s.SophiaState(jnp.zeros((), jnp.int32), mu, wide_zeros(params), estimator)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        if params is None:
            raise ValueError("sophia: params must be provided to update")
        count, limit = safe_increment(state.count), self.clip_threshold
        mu = optax_tree.update_moment(widened(updates), state.mu, self.b1, 1)
        mean = optax_tree.bias_correction(mu, self.b1, count)
        new = jax.tree.map(lambda m, h: m / jnp.maximum(self.gamma * h, self.eps), mean, state.nu)
        if limit is not None:
            self._report(new, count)
            new = jax.tree.map(lambda u: jnp.clip(u, -limit, limit), new)

        def estimate() -> tuple[Tree, Any]:
            diagonal, inner = self.hessian_diagonal_fn.step(updates, state.hessian_fn_state, params, extra)
            return stored(optax_tree.update_moment(diagonal, state.nu, self.b2, 1), state.nu), inner

        nu, inner = refresh(state.count % self.update_interval == 0, estimate, (state.nu, state.hessian_fn_state))
        return new, _s.SophiaState(count, stored(mu, state.mu), nu, inner)

    def _report(self, scaled: Tree, count: Array) -> None:
        if not self.print_every:
            return
        limit: Any = self.clip_threshold
        inside = sum(jnp.sum(jnp.abs(u) < limit) for u in jax.tree.leaves(scaled))
        rate = inside / optax_tree.size(scaled)
        jax.lax.cond(
            count % self.print_every == 0,
            lambda: jax.debug.print("Sophia optimizer win rate: {}", rate),
            lambda: None,
        )
