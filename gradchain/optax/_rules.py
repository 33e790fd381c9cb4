"""Rules that do what Optax does where gradchain's own rules do something else, or keep their slots in other shapes."""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from gradchain import tree
from gradchain.core.hyper import Hyper, Key
from gradchain.core.rule import elementwise, leafwise, treewise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Integer
from gradchain.numerics import by_parts, sqrt
from gradchain.transforms import distance, factored
from gradchain.tree import Tree


@elementwise(slots={"step_sizes": Slot(lambda p, hyper: jnp.full_like(p, hyper.learning_rate)), "prev_updates": Slot()})
def scale_by_rprop(
    g: Array,
    slot: Slots,
    at: At,
    learning_rate: Hyper,
    eta_minus: Hyper = 0.5,
    eta_plus: Hyper = 1.2,
    min_step_size: Hyper = 1e-6,
    max_step_size: Hyper = 50.0,
):
    """Resilient propagation, whose updates lag one step behind: the first is 0."""

    def rule(g: Array, step: Array, previous: Array) -> tuple[Array, Array, Array]:
        agree = jnp.sign(g) * jnp.sign(previous)
        changed = jnp.clip(step * jnp.where(agree > 0, eta_plus, eta_minus), min_step_size, max_step_size)
        step = jnp.where(agree == 0, step, changed)
        return jnp.where(agree < 0, 0, previous), step, jnp.where(agree < 0, 0, step * jnp.sign(g))

    update, step, now = by_parts(rule, g, slot.step_sizes, slot.prev_updates)
    return update, slot(step_sizes=step, prev_updates=now)


@treewise(random=True)
def add_noise(updates: Tree, slot: Slots, at: At, eta: Hyper, gamma: Hyper, key: Key):
    """Annealed noise, drawn with one key for each array; ``None`` has none."""
    noise = tree.random_like(at.key, updates, jax.random.normal)
    return tree.add_scale(updates, sqrt(eta / at.t**gamma), noise)


@elementwise(slots=("grad_acc",))
def apply_every(g: Array, slot: Slots, at: At, k: Hyper = 1):
    """Emit the sum of ``k`` gradients at every ``k``-th update, and keep it until the next one."""
    turn = at.count % k
    total = jnp.where(turn != 0, slot.grad_acc, 0) + g
    return jnp.where(turn == k - 1, total, 0), slot(grad_acc=total)


FACTORED: Any = factored.scale_by_factored_rms
SM3: Any = factored.scale_by_sm3
DISTANCE: Any = distance.scale_by_distance_over_gradients


def _moment_slot(name: str) -> Slot:
    """Return a slot of factored moments: where gradchain has none, one zero stands."""
    ours = FACTORED.Value.spec.slots[name]

    def init(p: Array, hyper: Any) -> Array:
        first = ours.init(p, hyper) if ours.init else None
        return jnp.zeros((1,), jnp.real(p).dtype) if first is None else first

    return ours._replace(init=init)


@leafwise(slots={name: _moment_slot(name) for name in ("v_row", "v_col", "v")}, param=True)
def scale_by_factored_rms(
    g: Array,
    slot: Slots,
    at: At,
    factored: bool = True,
    decay_rate: Hyper = 0.8,
    step_offset: Hyper = 0,
    min_dim_size_to_factor: Annotated[int, Integer()] = 128,
    epsilon: Hyper = 1e-30,
    decay_rate_fn: Callable[[Any, Any], Any] | None = None,
):
    """Adafactor's scaling, with one zero in the place of each moment that an array doesn't have."""
    fields = {"factored": factored, "decay_rate": decay_rate, "step_offset": step_offset, "epsilon": epsilon}
    fields |= {"min_dim_size_to_factor": min_dim_size_to_factor, "decay_rate_fn": decay_rate_fn}
    update, new = _ours(FACTORED, g, slot, at, fields)
    kept = {name: slot.values[name] if x is None else x for name, x in new.items()}
    return update, slot(**kept)


def _ours(constructor: Any, g: Array, slot: Slots, at: At, fields: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Call the function of one of gradchain's rules."""
    update, new = constructor.Value.spec.function(g, slot, at, **fields)
    return update, new.values


def _cover(p: Array, hyper: Any) -> list[Array]:
    if jnp.iscomplexobj(p):
        raise ValueError(f"scale_by_sm3 takes no complex parameters, got one of {p.dtype}")
    return list(SM3.Value.spec.slots["mu"].init(p, hyper))


@leafwise(slots={"mu": Slot(_cover, real=True, nonnegative=True), "nu": Slot()})
def scale_by_sm3(g: Array, slot: Slots, at: At, b1: Hyper = 0.9, b2: Hyper = 1.0, eps: Hyper = 1e-8):
    """SM3, whose vectors lie in a list for each array."""
    update, new = _ours(SM3, g, slot, at, {"b1": b1, "b2": b2, "eps": eps})
    return update, slot(mu=list(new["mu"]), nu=new["nu"])


@leafwise(
    slots=dict(DISTANCE.Value.spec.slots)
    | {"grad_sum_of_squares": Slot(lambda p, hyper: jnp.zeros((1,), jnp.real(p).dtype), real=True)},
    param=True,
)
def scale_by_distance_over_gradients(
    g: Array,
    slot: Slots,
    at: At,
    reps_rel: Hyper = 1e-6,
    eps: Hyper = 1e-8,
    param_dtype: Any = None,
    global_scale: Hyper = 1.0,
):
    """Distance over gradients, with sums of squares in arrays of one element."""
    fields = {"reps_rel": reps_rel, "eps": eps, "param_dtype": param_dtype, "global_scale": global_scale}
    inner = Slots(slot.values | {"grad_sum_of_squares": slot.grad_sum_of_squares[0]})
    update, new = _ours(DISTANCE, g, inner, at, fields)
    return update, slot(**new | {"grad_sum_of_squares": new["grad_sum_of_squares"][None]})
