"""Schedule-free optimizers with Optax's states."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradchain.combinators._weights import stored
from gradchain.core.foreign import Child
from gradchain.core.hyper import DType, Hyper
from gradchain.core.value import register
from gradchain.numerics import safe_increment
from gradchain.optax import _states as _s
from gradchain.optax import schedules
from gradchain.optax._around import Inner
from gradchain.optax._combining import chain
from gradchain.optax._optimizers import sgd
from gradchain.optax._parts import needed, scalar
from gradchain.optax._shown import loose
from gradchain.optax._transforms import add_decayed_weights, scale_by_learning_rate, scale_by_rms
from gradchain.tree import Tree


@register
class ScheduleFree(Inner):
    """See :func:`gradchain.optax.contrib.schedule_free`."""

    name = "schedule_free"
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
        return schedule_free_eval_params(state, params)


def schedule_free_eval_params(state: Any, params: Tree) -> Tree:
    """Return the averaged weights that a state of :func:`schedule_free` and its parameters stand for."""
    b1, z = state.b1, state.z
    if b1 is None or z is None:
        raise ValueError("schedule_free_eval_params requires a ScheduleFreeState as input")
    return jax.tree.map(lambda y, z: (y - (1 - b1) * z) / b1, params, z)


def schedule_free(
    base_optimizer: Any,
    learning_rate: Any,
    b1: Any = 0.9,
    weight_lr_power: Any = 2.0,
    state_dtype: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.schedule_free`."""
    values = {"learning_rate": learning_rate, "b1": b1, "weight_lr_power": weight_lr_power}
    return loose(ScheduleFree, base_optimizer=base_optimizer, **values, state_dtype=state_dtype)


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
