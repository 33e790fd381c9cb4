"""A user's program without mistakes, whose types come through."""

from typing import Any, NamedTuple, assert_type

import jax
import jax.numpy as jnp
import optax
from jax import Array

import gradchain as gc
from gradchain import training, tree


class Params(NamedTuple):
    weight: Array
    bias: Array


Batch = tuple[Array, Array]


def loss_fn(params: Params, batch: Batch) -> Array:
    x, y = batch
    return jnp.mean((x @ params.weight + params.bias - y) ** 2)


start = Params(jnp.zeros(3), jnp.zeros(()))
data: Batch = jnp.eye(8, 3), jnp.arange(8.0)

# Hyperparameters are numbers, arrays, schedules, and functions of the count.
schedule = gc.cosine_decay_schedule(1e-3, decay_steps=100)
tx = gc.chain(gc.clip_by_global_norm(1.0), gc.adam(schedule), optax.scale(1.0))
assert_type(tx, gc.Transform)
for rate in (0.1, 1, jnp.float32(0.1), jnp.logspace(-4, 0, 8), 2 * schedule):
    assert_type(gc.adam(rate), gc.Transform)
gc.adamw(lambda count: 0.1 / (count + 1), mu_dtype=jnp.bfloat16, mask=lambda params: True)
gc.scale_by_adam(b1=gc.linear_schedule(0.9, 0.95, 10), mu_dtype="bfloat16")
gc.add_noise(0.1, 0.55, jax.random.key(0))
assert_type(tx.replace(b1=0.95), gc.Transform)

# Transforms hold transforms, Optax's too.
gc.average_params(gc.lookahead(optax.sgd(0.1), 5, 0.5), decay=0.99)
gc.named_chain(("clip", gc.clip(1.0)), ("sgd", gc.sgd(0.1, momentum=0.9)))
gc.partition({"a": gc.sgd(0.1), "b": optax.adam(0.1)}, lambda params: "a")
gc.parallel(gc.sgd(0.1), optax.adam(0.1), merge=tree.add)

# Steps by hand.
params, state = start, tx.init(start)
value, grads = jax.value_and_grad(loss_fn)(params, data)
updates, state = tx.update(grads, state, params)
params = gc.apply_updates(params, updates)
assert_type(params, Params)
assert_type(gc.eval_params(tx, state, params), Params)


def one_step(tx: gc.Transform, grads: Params, state: tuple[Any, ...], params: Params) -> None:
    assert_type(tx.update(grads, state, params), tuple[Params, tuple[Any, ...]])
    assert_type(tx.update(grads, state), tuple[Params, tuple[Any, ...]])


one_step(tx, grads, state, params)

# Arithmetic on trees.
assert_type(tree.sub(params, tree.scale(0.5, params)), Params)
assert_type(tree.zeros_like(params, jnp.bfloat16), Params)
assert_type(tree.add_scale({"a": jnp.ones(1)}, 2.0, {"a": jnp.ones(1)}), dict[str, Array])
assert_type(tree.norm(params), Array)

# Training.
step = training.make_step(loss_fn, tx)
params, state, metrics = step(params, state, data)
assert_type(params, Params)
assert_type(metrics, training.Metrics)
epoch = training.scan_epoch(loss_fn, params, tx, state, data, batch_size=4, key=0)
assert_type(epoch.params, Params)
result = training.fit(loss_fn, epoch.params, tx, data, epochs=1, batch_size=4)
assert_type(result, training.FitResult[Params])
assert_type(result.eval_params, Params)
rates = gc.adam(jnp.logspace(-4, -1, 4))
swept = training.sweep(loss_fn, start, rates, data, epochs=1, batch_size=4)
assert_type(swept, training.SweepResult[Params])
assert_type(swept.params, Params | None)
assert_type(swept.winner, gc.Transform)
restarted = training.sweep(loss_fn, None, rates, data, epochs=1, batch_size=4, init=lambda key: start)
assert_type(restarted.params, Params | None)
compared = training.sweep(loss_fn, start, {"adam": rates, "sgd": gc.sgd(0.1)}, data, epochs=1, batch_size=4)
assert_type(compared.params, Params | None)
assert_type(compared.winner, gc.Transform)
half = training.mixed_precision(loss_fn, keep_in_batch=["1"])
assert_type(half(start, data), Array)
ramp = training.learning_rate_range_test(half, start, gc.adam(0.1), data, batch_size=4)
assert_type(ramp.suggestion, float)
path = training.trace_path(lambda w: jnp.sum(w**2), jnp.ones(2), gc.sgd(0.1), 50)
assert_type(path.points, Array)


def last_loss(result: training.FitResult) -> float:
    return float(result.history["loss"][-1])


last_loss(result)
solution = gc.minimize(lambda params: loss_fn(params, data), start, gtol=1e-3)
assert_type(solution.params, Params)
assert_type(solution.value, Array)


# A rule and a combinator of one's own.
@gc.elementwise(["mu"])
def heavy_ball(g: Array, slot: gc.Slots, at: gc.At, decay: gc.Decay, scale: gc.Hyper = 1.0) -> tuple[Array, gc.Slots]:
    mu = decay * slot.mu + g
    return scale * jnp.sqrt(1 - decay) * mu / at.t, slot(mu=mu)


class HalvedState(NamedTuple):
    tx_state: Any


@gc.combinator
class halved(gc.Transform):
    """Halve the updates of a transform."""

    tx: gc.Child
    factor: gc.Hyper = 0.5

    def init(self, params: Any) -> HalvedState:
        return HalvedState(self.tx.init(params))

    def step(self, updates: Any, state: Any, params: Any, extra: dict[str, Any]) -> tuple[Any, HalvedState]:
        updates, inner = self.tx.step(updates, state.tx_state, params, extra)
        return tree.scale(self.factor, updates), HalvedState(inner)


gc.chain(halved(heavy_ball(0.9)), halved(heavy_ball(decay=schedule, scale=2), factor=0.1)).init(params)

# What comes back has the parameters' type, and labels may be of any type.
assert_type(gc.projections.projection_l2_ball(params), Params)
assert_type(gc.projections.projection_box(params, 0.0, 1.0), Params)
assert_type(tree.overlay(params, params), Params)
assert_type(tree.update_moment(params, params, 0.9, 1), Params)
by_label: dict[bool, gc.Transform] = {True: gc.sgd(0.1, weight_decay=1e-4, mask=lambda params: True), False: tx}
gc.partition(by_label, {"weight": True, "bias": False})
gc.sgd(0.1).init(jax.eval_shape(lambda: params))
