"""Programs written for Optax run unchanged with ``gradchain.optax``; checkpoints go from one to the other."""

from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import flax.serialization
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax as theirs
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from gradchain import optax as ours

pytestmark = pytest.mark.accept

STEPS = 20
INPUTS = jnp.sin(jnp.arange(48.0).reshape(16, 3))
TARGETS = jnp.cos(INPUTS @ jnp.array([1.0, -2.0, 0.5]))[:, None]
PROGRAMS = {}


def program(function):
    PROGRAMS[function.__name__] = function
    return function


def network(seed=0):
    first, second = jax.random.split(jax.random.key(seed))
    return {
        "encoder": {"w": jax.random.normal(first, (3, 4)) / 2, "b": jnp.zeros(4)},
        "head": {"w": jax.random.normal(second, (4, 1)) / 2, "b": jnp.zeros(1)},
    }


def mse(params, x=INPUTS, y=TARGETS):
    hidden = jnp.tanh(x @ params["encoder"]["w"] + params["encoder"]["b"][None])
    return jnp.mean((hidden @ params["head"]["w"] + params["head"]["b"][None] - y) ** 2)


def train(optax, tx, params=None, steps=STEPS):
    params = network() if params is None else params
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(mse)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@program
def linen_train_state(optax):
    model = nn.Dense(1)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(0.05, STEPS)))
    state = TrainState.create(apply_fn=model.apply, params=model.init(jax.random.key(0), INPUTS), tx=tx)

    @jax.jit
    def step(state):
        loss = lambda params: jnp.mean(optax.l2_loss(state.apply_fn(params, INPUTS), TARGETS))  # noqa: E731
        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    for _ in range(STEPS):
        state = step(state)
    return state.params


@program
def nnx_optimizer(optax):
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.05), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda model: jnp.mean((model(INPUTS) - TARGETS) ** 2))(model)
        optimizer.update(model, grads)

    for _ in range(STEPS):
        step(model, optimizer)
    return jax.tree.map(jnp.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))


@program
def equinox_filtered(optax):
    model = eqx.nn.MLP(3, 1, 4, 1, key=jax.random.key(0))
    tx = optax.adabelief(0.01)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state):
        grads = eqx.filter_grad(lambda model: jnp.mean((jax.vmap(model)(INPUTS) - TARGETS) ** 2))(model)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state

    for _ in range(STEPS):
        model, state = step(model, state)
    return eqx.filter(model, eqx.is_inexact_array)


@program
def haiku_transformed(optax):
    model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([4, 1])(x)))
    params = model.init(jax.random.key(0), INPUTS)
    tx = optax.rmsprop(0.01, momentum=0.9)
    state = tx.init(params)
    for _ in range(STEPS):
        grads = jax.grad(lambda p: jnp.mean((model.apply(p, INPUTS) - TARGETS) ** 2))(params)
        updates, state = tx.update(grads, state)
        params = optax.apply_updates(params, updates)
    return params


@program
def agents_with_rates_in_the_state(optax):
    @optax.inject_hyperparams
    def make(learning_rate, max_norm=0.5):
        return optax.chain(optax.clip_by_global_norm(max_norm), optax.adam(learning_rate, eps=1e-5))

    tx = make(learning_rate=optax.linear_schedule(0.05, 0.0, STEPS))

    def agent(seed):
        params = network(seed)

        def body(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(mse)(params), state, params)
            return (optax.apply_updates(params, updates), state), state.hyperparams["learning_rate"]

        (params, _), rates = jax.lax.scan(body, (params, tx.init(params)), length=STEPS)
        return params, rates

    return jax.jit(jax.vmap(agent))(jnp.arange(3))


@program
def rate_edited_by_hand(optax):
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9)
    params = network()
    state = tx.init(params)
    for index in range(STEPS):
        if index == 10:
            state.hyperparams["learning_rate"] = jnp.asarray(0.01)
        updates, state = tx.update(jax.grad(mse)(params), state, params)
        params = optax.apply_updates(params, updates)
    return params


@program
def multi_steps(optax):
    tx = optax.MultiSteps(optax.adam(0.02), every_k_schedule=4)
    params = network()
    state = tx.init(params)
    whole = []
    for index in range(STEPS):
        part = slice(4 * (index % 4), 4 * (index % 4) + 4)
        updates, state = tx.update(jax.grad(mse)(params, INPUTS[part], TARGETS[part]), state, params)
        params = optax.apply_updates(params, updates)
        whole.append(tx.has_updated(state))
    return params, jnp.stack(whole), state.gradient_step


@program
def multi_steps_that_skip(optax):
    tx = optax.MultiSteps(optax.sgd(0.1), 2, should_skip_update_fn=optax.skip_not_finite).gradient_transformation()
    params = network()
    state = tx.init(params)
    for index in range(STEPS):
        grads = jax.tree.map(lambda g, bad=index % 5 == 2: jnp.where(bad, jnp.nan, g), jax.grad(mse)(params))
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


@program
def decay_of_kernels_only(optax):
    kernels = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
    decay = optax.masked(optax.add_decayed_weights(0.1), kernels)
    return train(optax, optax.chain(optax.scale_by_adam(), decay, optax.scale(-0.02)))[0]


@program
def frozen_encoder(optax):
    labels = {"encoder": "frozen", "head": "trained"}
    tx = optax.multi_transform({"frozen": optax.set_to_zero(), "trained": optax.adam(0.05)}, labels)
    return train(optax, tx)[0]


@program
def labels_that_are_bools(optax):
    labels = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
    return train(optax, optax.partition({True: optax.lamb(0.05), False: optax.sgd(0.1)}, labels))[0]


@program
def frozen_biases(optax):
    biases = jax.tree.map(lambda p: p.ndim == 1, network())
    return train(optax, optax.chain(optax.adam(0.05), optax.transforms.freeze(biases)))[0]


class HeavyBallState(NamedTuple):
    count: jax.Array
    velocity: Any


@program
def a_transformation_of_ones_own(optax):
    def heavy_ball(decay):
        def init(params):
            return HeavyBallState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))

        def update(updates, state, params=None):
            del params
            velocity = jax.tree.map(lambda v, g: decay * v + g, state.velocity, updates)
            return velocity, HeavyBallState(optax.safe_increment(state.count), velocity)

        return optax.GradientTransformation(init, update)

    tx = optax.chain(heavy_ball(0.9), optax.scale_by_schedule(lambda count: -0.05 / (1 + count)))
    init, update = tx
    assert isinstance(tx, optax.GradientTransformation)
    assert callable(init)
    assert callable(update)
    params, state = train(optax, tx)
    return params, state[0].velocity, state[0].count


@program
def extra_arguments_of_ones_own(optax):
    def update(updates, state, params=None, *, loss, **extra_args):
        return jax.tree.map(lambda g: loss * g, updates), state

    scale = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx = optax.chain(optax.clip(1.0), scale, optax.sgd(0.1))
    params = network()
    state = tx.init(params)
    for _ in range(STEPS):
        loss, grads = jax.value_and_grad(mse)(params)
        updates, state = tx.update(grads, state, params, loss=loss)
        params = optax.apply_updates(params, updates)
    return params


@program
def layouts_of_states(optax):
    tx = optax.adam(0.05)
    params, state = train(optax, tx)
    names = jax.tree.map(lambda p: f"{p.ndim}d", params)
    specs = optax.tree_map_params(tx, lambda _, n: n, state, names, transform_non_params=lambda _: "all")
    assert sorted(jax.tree.leaves(specs)) == sorted(["1d", "2d"] * 4 + ["all"])
    return optax.tree_map_params(tx, lambda x: 2 * x, state)[0].mu


@program
def gradients_that_are_not_finite(optax):
    tx = optax.apply_if_finite(optax.adam(0.05), max_consecutive_errors=3)
    params = network()
    state = tx.init(params)
    for index in range(STEPS):
        grads = jax.tree.map(lambda g, bad=index % 4 == 1: g / 0 if bad else g, jax.grad(mse)(params))
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state.total_notfinite, state.last_finite


@program
def lookahead_pairs(optax):
    tx = optax.lookahead(optax.sgd(0.1), sync_period=5, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(network())
    state = tx.init(params)
    for _ in range(STEPS):
        updates, state = tx.update(jax.grad(mse)(params.fast), state, params)
        params = optax.apply_updates(params, updates)
    return params.fast, params.slow


@program
def averaged_weights(optax):
    average = optax.ema(0.9)
    params = network()
    state = average.init(params)
    tx = optax.lion(0.01)
    inner = tx.init(params)
    target = params
    for _ in range(STEPS):
        updates, inner = tx.update(jax.grad(mse)(params), inner, params)
        params = optax.apply_updates(params, updates)
        mean, state = average.update(params, state)
        target = optax.incremental_update(params, target, 0.05)
    return params, mean, target


@program
def warmup_and_clips(optax):
    rate = optax.warmup_cosine_decay_schedule(0.0, 0.05, 5, STEPS, 0.001)
    clips = (optax.zero_nans(), optax.clip(0.5), optax.adaptive_grad_clip(0.1))
    return train(optax, optax.chain(*clips, optax.scale_by_adam(), optax.scale_by_learning_rate(rate)))[0]


@program
def lbfgs_loop(optax):
    tx = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(mse)
    params = network()
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        value, grad = value_and_grad(params, state=state)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=mse)
        return optax.apply_updates(params, updates), state

    for _ in range(5):
        params, state = step(params, state)
    return params, optax.tree.get(state, "value")


@program
def schedule_free(optax):
    params, state = train(optax, optax.contrib.schedule_free_adamw(0.05, warmup_steps=3))
    return optax.contrib.schedule_free_eval_params(state, params)


@program
def gradients_added_up(optax):
    tx = optax.novograd(0.05)
    params = network()
    state = tx.init(params)
    for _ in range(STEPS):
        total = optax.tree_utils.tree_zeros_like(params)
        for part in range(2):
            grads = jax.grad(mse)(params, INPUTS[part::2], TARGETS[part::2])
            total = optax.tree_utils.tree_add_scale(total, 0.5, grads)
        updates, state = tx.update(total, state, params)
        params = optax.apply_updates(params, updates)
    return params


@program
def states_found_by_class(optax):
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.05))
    params, state = train(optax, tx)
    found = [s for s in jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, optax.ScaleByAdamState))
             if isinstance(s, optax.ScaleByAdamState)]  # fmt: skip
    assert isinstance(state[0], optax.EmptyState)
    assert len(found) == 1
    renewed = found[0]._replace(mu=optax.tree.zeros_like(found[0].mu))
    state = (state[0], (renewed, *state[1][1:]))
    updates, state = tx.update(jax.grad(mse)(params), state, params)
    return optax.apply_updates(params, updates), state[1][0].count


@program
def state_read_by_name(optax):
    params, state = train(optax, optax.adamw(0.05))
    halved = optax.tree.set(state, mu=optax.tree.scale(0.5, optax.tree.get(state, "mu")))
    return params, optax.tree.get(halved, "mu"), optax.tree.get(state, "count")


@program
def plateau(optax):
    tx = optax.chain(optax.adam(0.2), optax.contrib.reduce_on_plateau(patience=2, factor=0.5))
    params = network()
    state = tx.init(params)
    for _ in range(STEPS):
        loss, grads = jax.value_and_grad(mse)(params)
        updates, state = tx.update(grads, state, params, value=loss)
        params = optax.apply_updates(params, updates)
    return params, optax.tree.get(state, "scale")


def assert_close(got, want):
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_ends_with_the_parameters_that_it_has_under_optax(name):
    assert_close(PROGRAMS[name](ours), PROGRAMS[name](theirs))


def rates(count):
    return 0.05 / (1 + 0.1 * count)


SAVED = {
    "adamw": lambda optax: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rates)),
    "injected": lambda optax: optax.inject_hyperparams(optax.sgd)(learning_rate=rates, momentum=0.9),
    "multi_steps": lambda optax: optax.MultiSteps(optax.adam(0.05), 2).gradient_transformation(),
    "partition": lambda optax: optax.partition(
        {"frozen": optax.set_to_zero(), "trained": optax.adam(0.05)}, {"encoder": "frozen", "head": "trained"}
    ),
    "masked": lambda optax: optax.masked(optax.lion(0.01), {"encoder": False, "head": True}),
    "ema": lambda optax: optax.chain(optax.rmsprop(0.01, momentum=0.9), optax.ema(0.5)),
    "schedule_free": lambda optax: optax.contrib.schedule_free_adamw(0.05, warmup_steps=3),
    "guarded": lambda optax: optax.apply_if_finite(optax.adafactor(0.05), 3),
}


def msgpack(saved, like, path):
    path.write_bytes(flax.serialization.to_bytes(saved))
    return flax.serialization.from_bytes(like, path.read_bytes())


def orbax(saved, like, path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, saved)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path, jax.eval_shape(lambda: like))


def resumed(optax, tx, run, steps):
    params, state = run
    for _ in range(steps):
        updates, state = tx.update(jax.grad(mse)(params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("through", [msgpack, orbax])
@pytest.mark.parametrize(("writer", "reader"), [(theirs, ours), (ours, theirs)], ids=["load", "back"])
@pytest.mark.parametrize("name", SAVED)
def test_a_checkpoint_goes_from_one_to_the_other_and_the_run_goes_on(name, writer, reader, through, tmp_path):
    first, second = SAVED[name](writer), SAVED[name](reader)
    start = network()
    params, state = resumed(writer, first, (start, first.init(start)), 5)
    like = (start, second.init(start))
    loaded = through((params, state), like, tmp_path / "run")
    assert jax.tree.structure(loaded) == jax.tree.structure(like)
    went_on = resumed(reader, second, loaded, 5)
    assert_close(went_on, resumed(writer, first, (params, state), 5))
