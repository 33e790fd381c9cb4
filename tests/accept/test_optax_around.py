"""optax's wrappers around gradchain transforms: as they are, or by ``to_optax`` where extra arguments must pass."""

import jax
import jax.numpy as jnp
import optax
import pytest

import gradchain as gc
from tests.accept.problem import (
    STEPS,
    TOLERANCE,
    assert_close,
    assert_dtype,
    data,
    each_dtype,
    mlp,
    mlp_loss,
    optimizer,
    train_mlp,
    with_float32_state,
)

pytestmark = pytest.mark.accept

KERNELS = {"kernel_1": True, "bias_1": False, "kernel_2": True, "bias_2": False}
BIASES = {name: not on for name, on in KERNELS.items()}
LABELS = {name: "inner" if on else "sgd" for name, on in KERNELS.items()}

WRAPPERS = {
    "chain": lambda tx: optax.chain(optax.clip(0.5), tx),
    "named_chain": lambda tx: optax.named_chain(("clip", optax.clip(0.5)), ("inner", tx)),
    "masked": lambda tx: optax.chain(optax.masked(optax.sgd(0.1), BIASES), optax.masked(tx, KERNELS)),
    "partition": lambda tx: optax.partition({"inner": tx, "sgd": optax.sgd(0.1)}, LABELS),
    "flatten": optax.flatten,
    "MultiSteps": lambda tx: optax.MultiSteps(tx, every_k_schedule=3),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, max_consecutive_errors=2),
    "conditionally_transform": lambda tx: optax.chain(
        optax.scale(0.1), optax.conditionally_transform(tx, lambda step: step % 2 == 0)
    ),
    "conditionally_mask": lambda tx: optax.conditionally_mask(tx, lambda step: step % 2 == 0),
    "inject_hyperparams": lambda tx: optax.inject_hyperparams(
        lambda factor: optax.chain(tx, optax.scale(factor)), hyperparam_dtype=jnp.float32
    )(factor=0.5),
    "schedule_free": lambda tx: optax.contrib.schedule_free(tx, learning_rate=0.03, state_dtype=jnp.float32),
    "mechanize": optax.contrib.mechanize,
}
each_wrapper = pytest.mark.parametrize("name", WRAPPERS)


@gc.elementwise(extra=("value",))
def scale_by_value(g, slot, at):
    """Descend at a rate proportional to the loss."""
    return -0.1 * at.value * g


def optax_scale_by_value():
    def update(updates, state, params=None, *, value, **extra):
        return jax.tree.map(lambda g: (-0.1 * value * g).astype(g.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


@each_dtype
@each_wrapper
def test_wrapped_transform_trains_like_wrapped_optax(name, dtype):
    params, losses = train_mlp(WRAPPERS[name](optimizer(gc)), dtype)
    want, want_losses = train_mlp(WRAPPERS[name](with_float32_state(optimizer(optax))), dtype)
    assert_dtype(params, dtype)
    assert_close(losses, want_losses, TOLERANCE[dtype])
    assert_close(params, want, TOLERANCE[dtype])


@each_dtype
@each_wrapper
def test_extra_arguments_arrive_through_to_optax(name, dtype):
    params, _ = train_mlp(WRAPPERS[name](gc.to_optax(scale_by_value())), dtype)
    want, _ = train_mlp(WRAPPERS[name](optax_scale_by_value()), dtype)
    assert_close(params, want, TOLERANCE[dtype])


def test_without_to_optax_the_missing_argument_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="scale_by_value needs 'value'"):
        train_mlp(optax.chain(scale_by_value()), "float32")


@each_dtype
def test_apply_if_finite_keeps_the_state_through_a_bad_step(dtype):
    tx, params = optax.apply_if_finite(gc.adam(0.1), max_consecutive_errors=2), mlp(dtype)
    grads = jax.tree.map(jnp.ones_like, params)
    _, state = tx.update(grads, tx.init(params), params)
    updates, after = jax.jit(tx.update)(jax.tree.map(lambda g: g * jnp.nan, grads), state, params)
    assert int(after.total_notfinite) == 1
    assert_close(after.inner_state, state.inner_state, 0)
    assert all((u == 0).all() for u in jax.tree.leaves(updates))


def train_lookahead(tx, dtype):
    tx, batch = optax.lookahead(tx, sync_period=5, slow_step_size=0.5), data(dtype)
    params = optax.LookaheadParams.init_synced(mlp(dtype))

    def body(carry, _):
        params, state = carry
        grads = jax.grad(mlp_loss)(params.fast, batch)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda carry: jax.lax.scan(body, carry, length=STEPS)[0])((params, tx.init(params)))[0]


@each_dtype
def test_lookahead_trains_like_with_optax(dtype):
    params, want = train_lookahead(optimizer(gc), dtype), train_lookahead(with_float32_state(optimizer(optax)), dtype)
    assert_dtype(params, dtype)
    assert_close(params, want, TOLERANCE[dtype])


@each_dtype
def test_injected_learning_rates_reach_a_gradchain_constructor(dtype):
    def steered(build):
        return optax.inject_hyperparams(build, hyperparam_dtype=jnp.float32)(learning_rate=lambda k: 0.05 / (1 + k))

    got, _ = train_mlp(steered(lambda learning_rate: optimizer(gc, learning_rate)), dtype)
    want, _ = train_mlp(steered(lambda learning_rate: with_float32_state(optimizer(optax, learning_rate))), dtype)
    assert_close(got, want, TOLERANCE[dtype])
