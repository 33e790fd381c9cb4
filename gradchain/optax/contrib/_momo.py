"""Momo and Momo-Adam: steps by an averaged linear model of the loss."""

from typing import Any

import jax
import jax.numpy as jnp

from gradchain.combinators._weights import stored, widened
from gradchain.core.hyper import Hyper
from gradchain.core.transform import Transform
from gradchain.core.value import register
from gradchain.numerics import divide, one_minus_power, safe_increment, sqrt
from gradchain.optax import _states as _s
from gradchain.optax import tree as optax_tree
from gradchain.optax._around import Around
from gradchain.optax._parts import inner_product, needed, scalar, value_of, wide_zeros
from gradchain.optax._shown import loose
from gradchain.tree import Tree
from gradchain.tree import norm as full_norm


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


@register
class Momo(Around):
    """See :func:`gradchain.optax.contrib.momo`."""

    name = "momo"
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


def momo(
    learning_rate: Any = 1.0,
    beta: Any = 0.9,
    lower_bound: Any = 0.0,
    weight_decay: Any = 0.0,
    adapt_lower_bound: bool = False,
) -> Any:
    """Optax's signature of :func:`gradchain.momo`."""
    values = {"learning_rate": learning_rate, "beta": beta, "lower_bound": lower_bound}
    return loose(Momo, **values, weight_decay=weight_decay, adapt_lower_bound=adapt_lower_bound)


@register
class MomoAdam(Around):
    """See :func:`gradchain.optax.contrib.momo_adam`."""

    name = "momo_adam"
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
    return loose(MomoAdam, **values, weight_decay=weight_decay, adapt_lower_bound=adapt_lower_bound)
