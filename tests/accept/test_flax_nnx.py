"""Flax NNX: ``nnx.Optimizer`` with a gradchain transform, and what it says about transforms that hold arrays."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import gradchain as gc
from tests.accept.problem import STEPS, TOLERANCE, assert_close, assert_trains_like_optax, data, each_dtype, rounded

pytestmark = pytest.mark.accept


class MLP(nnx.Module):
    def __init__(self, dtype):
        rngs = nnx.Rngs(0)
        self.hidden = nnx.Linear(3, 8, dtype=dtype, param_dtype="float32", rngs=rngs)
        self.out = nnx.Linear(8, 1, dtype=dtype, param_dtype="float32", rngs=rngs)
        nnx.update(self, rounded(nnx.state(self, nnx.Param), dtype))

    def __call__(self, x):
        return self.out(nnx.tanh(self.hidden(x)))


def one_step(model, optimizer, batch):
    def loss_fn(model):
        return jnp.mean((model(batch[0]) - batch[1]).astype(jnp.float32) ** 2)

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss


def train_by_loop(tx, dtype):
    model = MLP(dtype)
    optimizer, step = nnx.Optimizer(model, tx, wrt=nnx.Param), nnx.jit(one_step)
    losses = [step(model, optimizer, data(dtype)) for _ in range(STEPS)]
    assert optimizer.step[...] == STEPS
    return nnx.to_pure_dict(nnx.state(model, nnx.Param)), jnp.stack(losses)


def train_by_scan(tx, dtype):
    model, batch = MLP(dtype), data(dtype)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    @nnx.scan(length=STEPS, in_axes=(nnx.Carry,), out_axes=(nnx.Carry, 0))
    def run(carry):
        return carry, one_step(*carry, batch)

    (model, _), losses = run((model, optimizer))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param)), losses


@each_dtype
@pytest.mark.parametrize("train", [train_by_loop, train_by_scan])
def test_optimizer_trains_like_optax(train, dtype):
    assert_trains_like_optax(train, dtype)


def test_a_transform_that_holds_arrays_is_refused_and_to_optax_helps():
    tx = gc.adam(jnp.asarray([0.1, 0.2]))
    with pytest.raises(ValueError, match="data"):
        nnx.Optimizer(MLP("float32"), tx, wrt=nnx.Param)
    nnx.Optimizer(MLP("float32"), gc.to_optax(gc.adam(0.1)), wrt=nnx.Param)


@each_dtype
def test_a_batch_of_rates_is_mapped_over_through_to_optax(dtype):
    rates = jnp.asarray([0.01, 0.05])

    def final_params(tx):
        return train_by_scan(gc.to_optax(tx), dtype)[0]

    txs = gc.adam(rates)
    mapped = jax.jit(jax.vmap(final_params, in_axes=(gc.batch_axes(txs),)))(txs)
    single = [train_by_scan(gc.adam(float(rate)), dtype)[0] for rate in rates]
    assert_close(mapped, jax.tree.map(lambda *xs: jnp.stack(xs), *single), TOLERANCE[dtype])


@each_dtype
def test_extra_arguments_arrive(dtype):
    @gc.elementwise(extra=("value",))
    def divide_by_value(g, slot, at):
        return g / at.value

    model = MLP(dtype)
    optimizer = nnx.Optimizer(model, divide_by_value(), wrt=nnx.Param)
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    updates = optimizer.update(model, nnx.state(model, nnx.Param), value=jnp.float32(4.0))
    assert_close(nnx.to_pure_dict(updates), jax.tree.map(lambda x: x / 4, before), 0)


def test_evaluation_weights_from_the_optimizers_state():
    tx = gc.chain(gc.clip_by_global_norm(1.0), gc.average_params(gc.sgd(0.1)))
    model, batch = MLP("float32"), data("float32")
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    one_step(model, optimizer, batch)
    first = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    one_step(model, optimizer, batch)
    second = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    nnx.update(model, gc.eval_params(tx, nnx.as_pure(optimizer.opt_state), params))
    mean = jax.tree.map(lambda x, y: (x + y) / 2, first, second)
    assert_close(nnx.to_pure_dict(nnx.state(model, nnx.Param)), mean, TOLERANCE["float32"])
