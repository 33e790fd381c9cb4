"""Hyperparameters by name: listing, reading, changing, batching."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.core.hyperparams import walk

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}
GRADS = {"w": jnp.full((2, 3), 0.5), "b": jnp.ones(3)}


def test_lists_numbers_by_dotted_name_in_chain_order():
    tx = gc.chain(gc.clip_by_global_norm(1.0), gc.sgd(0.1, momentum=0.9))
    assert gc.hyperparams(tx) == {
        "clip_by_global_norm.max_norm": 1.0,
        "trace.decay": 0.9,
        "scale_by_learning_rate.learning_rate": 0.1,
    }


def test_second_of_a_name_is_numbered_and_insertion_keeps_the_rest():
    tx = gc.chain(gc.trace(0.5), gc.trace(0.6))
    longer = gc.chain(gc.trace(0.5), gc.clip(1.0), gc.trace(0.6))
    assert list(gc.hyperparams(tx)) == ["trace.decay", "trace_2.decay"]
    assert gc.hyperparams(longer).items() >= gc.hyperparams(tx).items()


def test_named_chain_labels_its_parts():
    tx = gc.named_chain(("slow", gc.sgd(0.1)), ("fast", gc.scale(2.0)))
    assert gc.hyperparams(tx) == {"slow.scale_by_learning_rate.learning_rate": 0.1, "fast.scale.step_size": 2.0}


def test_schedule_is_listed_with_its_own_numbers_and_evaluated_at_the_states_count():
    tx = gc.sgd(gc.linear_schedule(1.0, 0.0, 4))
    name = "scale_by_learning_rate.learning_rate"
    assert gc.hyperparams(tx)[f"{name}.transition_steps"] == 4.0
    state, seen = tx.init(PARAMS), []
    for _ in range(3):
        seen.append(float(gc.hyperparams(tx, state)[name]))
        updates, state = tx.update(GRADS, state, PARAMS)
        np.testing.assert_allclose(updates["b"], -seen[-1] * GRADS["b"])
    assert seen == [1.0, 0.75, 0.5]


@pytest.mark.parametrize("name", ["learning_rate", "scale_by_learning_rate.learning_rate"])
def test_set_takes_full_and_shortened_names(name):
    assert gc.set_hyperparams(gc.adam(0.1), {name: 0.5}) == gc.adam(0.5)
    assert gc.adam(0.1).replace(**{name: 0.5}) == gc.adam(0.5)


def test_set_reaches_into_schedules_sums_and_nested_chains():
    tx = gc.chain(gc.clip(1.0), gc.chain(gc.sgd(2 * gc.linear_schedule(1.0, 0.0, 4))))
    expected = gc.chain(gc.clip(1.0), gc.chain(gc.sgd(3 * gc.linear_schedule(1.0, 0.0, 8))))
    assert tx.replace(transition_steps=8, left=3) == expected


def test_set_replaces_a_number_by_a_schedule_static_fields_and_absent_numbers_too():
    schedule = gc.linear_schedule(1.0, 0.0, 4)
    assert gc.sgd(0.1).replace(learning_rate=schedule) == gc.sgd(schedule)
    assert gc.adam(0.1).replace(nesterov=True) == gc.nadam(0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"lr": 1.0},
            r"'lr' is unknown; did you mean 'learning_rate'\? Known are: .*scale_by_learning_rate\.learning_rate",
        ),
        ({"decay": 0.5}, r"'decay' fits several: trace\.decay, trace_2\.decay"),
        ({"learning_rate": -1}, r"scale_by_learning_rate: learning_rate must be in \[0, inf\], got -1"),
        ({"trace.decay": None}, r"trace: decay can't be None"),
    ],
)
def test_set_refuses(changes, message):
    tx = gc.chain(gc.trace(0.1), gc.trace(0.2), gc.scale_by_learning_rate(0.1))
    with pytest.raises((ValueError, TypeError), match=message):
        gc.set_hyperparams(tx, changes)


def test_walk_gives_each_rule_its_state():
    tx = gc.chain(gc.clip(1.0), gc.named_chain(("a", gc.adam(0.1))))
    parts = {part.name: part for part in walk(tx, tx.init(PARAMS), PARAMS)}
    assert list(parts) == ["clip", "a.scale_by_adam", "a.scale_by_learning_rate"]
    assert parts["a.scale_by_adam"].state._fields == ("count", "weight_sums", "mu", "nu")


def test_batch_axes_marks_arrays_only():
    tx = gc.adam(jnp.logspace(-4, 0, 8), b1=0.8)
    axes = gc.batch_axes(tx)
    assert gc.hyperparams(axes) == {"scale_by_learning_rate.learning_rate": 0}
    run = jax.vmap(lambda tx: tx.update(GRADS, tx.init(PARAMS), PARAMS)[0]["b"], in_axes=(axes,))
    expected = [
        gc.adam(r, b1=0.8).update(GRADS, gc.adam(0.1).init(PARAMS), PARAMS)[0]["b"] for r in np.logspace(-4, 0, 8)
    ]
    np.testing.assert_allclose(run(tx), expected, rtol=1e-6)


def test_a_batch_of_seeds_is_a_batch_of_noises():
    tx = gc.chain(gc.add_noise(1.0, 0.0, jnp.arange(3)))
    run = jax.vmap(lambda tx: tx.update(GRADS, tx.init(PARAMS), PARAMS)[0]["b"], in_axes=(gc.batch_axes(tx),))
    for seed, noise in enumerate(run(tx)):
        single = gc.add_noise(1.0, 0.0, seed)
        np.testing.assert_allclose(noise, single.update(GRADS, single.init(PARAMS), PARAMS)[0]["b"], rtol=1e-6)


def test_mixed_kinds_of_scalars_are_one_trace():
    traces = 0

    @jax.jit
    def step(tx, state):
        nonlocal traces
        traces += 1
        return tx.update(GRADS, state, PARAMS)

    kinds = [float, int, np.float32, np.float64, np.int64, jnp.float32, jnp.asarray]
    for i in range(100):
        kind = kinds[i % len(kinds)]
        tx = gc.sgd(gc.cosine_decay_schedule(kind(i + 1), kind(10 + i)), momentum=kind(i) / 100)
        step(tx, tx.init(PARAMS))
    assert traces == 1


@pytest.mark.parametrize("value", ["x", True, 1j, [0.1], object()])
def test_what_is_no_number_is_refused_by_name(value):
    with pytest.raises(TypeError, match="scale_by_learning_rate: learning_rate must be"):
        gc.adam(value)


@pytest.mark.parametrize("value", [float("nan"), jnp.nan, np.array([0.1, np.nan]), -0.1, jnp.array([0.1, -0.1])])
def test_what_is_out_of_range_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"learning_rate must be in \[0, inf\]"):
        gc.adam(value)


def test_fields_that_belong_together_are_set_together_and_checked():
    tx = gc.sgd(gc.warmup_cosine_decay_schedule(0.0, 0.1, 10, 100))
    assert tx.replace(warmup_steps=200, decay_steps=1000) == gc.sgd(
        gc.warmup_cosine_decay_schedule(0.0, 0.1, 200, 1000)
    )
    with pytest.raises(ValueError, match="decay_steps must be at least warmup_steps"):
        tx.replace(decay_steps=5)
    with pytest.raises(ValueError, match="boundary 1 must be at least boundary 0"):
        gc.sgd(gc.piecewise_constant_schedule(0.1, {10: 0.5, 20: 0.5})).replace(**{"boundaries.1": 5})


def test_a_name_and_a_part_of_it_are_refused_together():
    schedule = gc.linear_schedule(1.0, 0.0, 4)
    with pytest.raises(ValueError, match="is given twice: by itself, and as a part of another"):
        gc.sgd(schedule).replace(learning_rate=schedule, transition_steps=3)


def test_a_number_behind_a_taken_name_gets_the_next_one():
    @gc.elementwise()
    def trace_2(g, slot, at, decay: gc.Hyper):
        return decay * g

    names = gc.hyperparams(gc.chain(trace_2(0.1), gc.trace(0.2), gc.trace(0.3)))
    assert names == {"trace_2.decay": 0.1, "trace.decay": 0.2, "trace_3.decay": 0.3}


def test_a_schedule_that_is_a_pytree_is_differentiated_and_never_retraced():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Hyperbolic:
        scale: jax.Array

        def __call__(self, count):
            return self.scale / (count + 1)

    traces = 0

    @jax.jit
    def run(tx):
        nonlocal traces
        traces += 1
        return tx.update(GRADS, tx.init(PARAMS), PARAMS)[0]["b"].sum()

    for scale in (0.1, 0.2):
        assert run(gc.sgd(Hyperbolic(jnp.asarray(scale)))) == pytest.approx(-3 * scale)
    assert traces == 1
    assert jax.grad(lambda a: run(gc.sgd(Hyperbolic(a))))(0.1) == pytest.approx(-3.0)


@pytest.mark.parametrize("dtype", ["int8", "complex64", "no dtype"])
def test_slots_are_stored_in_floating_point_only(dtype):
    with pytest.raises(TypeError, match="scale_by_adam: mu_dtype must be a"):
        gc.adam(0.1, mu_dtype=dtype)


def test_seeds_must_fit_into_32_bits():
    with pytest.raises(ValueError, match="add_noise: key must fit into 32 bits"):
        gc.add_noise(0.1, 0.5, 2**31)
