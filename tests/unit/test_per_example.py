"""Gradients of single examples: input with a batch axis, output without, so that the registry's contract doesn't fit.

What it asks of every transform is asked here: an oracle, jit, vmap, scan, all dtypes, zero gradients, keys, errors.
"""

import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from tests import public, trees

BATCH = 8
EVERY = (
    "float32",
    *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in ("bfloat16", "float16", "float64", "complex64")),
)


def batch_of(dtype="float32", seed=0, size=BATCH):
    """Return ``size`` gradients whose norms differ a hundredfold, stacked along a first axis."""
    return trees.stream(size, dtype, seed)


def scalar(x):
    return np.sqrt(sum(np.sum(np.abs(v) ** 2) for v in x.values()))


def clipped_sum(grads, bound):
    """Abadi et al. 2016, algorithm 1, in NumPy: the sum of clipped gradients, and how many were clipped."""
    total, clipped = {n: np.zeros(g.shape[1:], g.dtype) for n, g in grads.items()}, 0
    for i in range(len(next(iter(grads.values())))):
        example = {n: g[i] for n, g in grads.items()}
        norm = scalar(example)
        clipped += int(norm > bound)
        total = {n: t + example[n] / max(1.0, norm / bound if bound else np.inf) for n, t in total.items()}
    return total, clipped


@pytest.mark.parametrize("dtype", EVERY)
@pytest.mark.parametrize("bound", [0.5, 2.0, 1e6])
def test_the_clipped_sum_is_that_of_the_paper(dtype, bound):
    with jax.enable_x64(dtype == "float64"):
        grads = batch_of(dtype)
        sums, clipped = jax.jit(gc.per_example_global_norm_clip)(grads, bound)
        exact, number = clipped_sum(trees.as_numpy(grads), bound)
        trees.assert_close(trees.as_numpy(sums), exact, 1e-14 if dtype == "float64" else 1e-6)
        assert clipped == number
        assert {x.dtype for x in jax.tree.leaves(sums)} == {jnp.promote_types(dtype, "float32")}


@pytest.mark.slow
@pytest.mark.parametrize("bound", [0.0, 0.7, 3.0, jnp.inf])
def test_both_ways_of_clipping_agree_with_optax(bound):
    grads = batch_of()
    assert gc.per_example_global_norm_clip(grads, 0.7)[1] == optax.per_example_global_norm_clip(grads, 0.7)[1]
    for mine, theirs in (
        (gc.per_example_global_norm_clip(grads, bound), optax.per_example_global_norm_clip(grads, bound)),
        (gc.per_example_layer_norm_clip(grads, bound), optax.per_example_layer_norm_clip(grads, bound)),
        (gc.per_example_layer_norm_clip(grads, bound, False), optax.per_example_layer_norm_clip(grads, bound, False)),
    ):
        trees.assert_close(mine, theirs, 1e-6)


@pytest.mark.parametrize("uniform", [True, False])
def test_each_arrays_share_of_the_bound_is_that_of_the_paper(uniform):
    grads = batch_of()
    sums, numbers = gc.per_example_layer_norm_clip(grads, 1.5, uniform)
    sizes = {n: math.prod(g.shape[1:]) for n, g in grads.items()}
    for name, g in trees.as_numpy(grads).items():
        share = 1 / len(grads) if uniform else sizes[name] / sum(sizes.values())
        exact, number = clipped_sum({name: g}, 1.5 * share**0.5)
        trees.assert_close(sums[name], exact[name], 1e-6)
        assert numbers[name] == number


@pytest.mark.slow
@pytest.mark.parametrize("dtype", EVERY)
def test_zero_gradients_give_zero_with_finite_derivatives(dtype):
    with jax.enable_x64(dtype == "float64"):
        zeros = jax.tree.map(jnp.zeros_like, batch_of(dtype))
        for bound in (0.0, 1.0):
            sums, clipped = gc.per_example_global_norm_clip(zeros, bound)
            assert all(np.all(np.asarray(x, np.complex64) == 0) for x in jax.tree.leaves(sums))
            assert clipped == 0

            def total(grads, bound=bound):
                return gc.tree.sum(jax.tree.map(jnp.real, gc.per_example_global_norm_clip(grads, bound)[0]))

            for x in jax.tree.leaves(jax.grad(total)(zeros)):
                assert np.all(np.isfinite(np.asarray(x, np.complex64)))


def test_large_half_precision_gradients_are_bounded_here_and_lost_there():
    grads = jnp.full((2, 4), 1000.0, "float16")
    np.testing.assert_allclose(gc.per_example_global_norm_clip(grads, 1.0)[0], np.full(4, 1.0), rtol=1e-6)
    assert not np.allclose(optax.per_example_global_norm_clip(grads, 1.0)[0], 1.0)


def test_an_example_that_is_not_a_number_is_not_hidden():
    grads = {"a": jnp.asarray([[1.0, 2.0], [jnp.nan, 3.0]]), "b": jnp.ones(2)}
    sums, _ = gc.per_example_global_norm_clip(grads, 1.0)
    assert all(np.all(np.isnan(x)) for x in jax.tree.leaves(sums))


@pytest.mark.parametrize("function", [gc.per_example_global_norm_clip, gc.per_example_layer_norm_clip])
def test_trees_without_arrays_or_examples(function):
    assert function({}, 1.0)[0] == {}
    sums, _ = function({"a": jnp.zeros((0, 3)), "none": None}, 1.0)
    np.testing.assert_array_equal(sums["a"], np.zeros(3))
    assert sums["none"] is None


FUNCTIONS = {
    "per_example_global_norm_clip": lambda g: gc.per_example_global_norm_clip(g, 1.0),
    "per_example_layer_norm_clip": lambda g: gc.per_example_layer_norm_clip(g, 1.0),
    "differentially_private_aggregate": lambda g: gc.differentially_private_aggregate(1.0, 0.0, 0).update(
        g, gc.differentially_private_aggregate(1.0, 0.0, 0).init({"a": jnp.ones(3), "b": jnp.ones(())})
    ),
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_missing_and_different_batch_axes_are_named(name):
    with pytest.raises(ValueError, match=rf"{name}: \['b'\] is a scalar and lacks the leading batch axis"):
        FUNCTIONS[name]({"a": jnp.ones((2, 3)), "b": jnp.ones(())})
    with pytest.raises(ValueError, match=rf"{name}: batch axes differ: \['a'\] has shape \(2, 3\), \['b'\] has \(4,\)"):
        FUNCTIONS[name]({"a": jnp.ones((2, 3)), "b": jnp.ones(4)})


def test_gradients_without_a_batch_axis_are_an_error_where_parameters_are_given():
    params = trees.standard()
    for tx in (gc.differentially_private_aggregate(1.0, 0.0, 0), gc.dpsgd(0.1, 1.0, 0.0, 0)):
        with pytest.raises(ValueError, match=rf"{tx.name}: .*batch ax"):
            tx.update(params, tx.init(params), params)
        kernel = {"kernel": params["kernel"]}
        with pytest.raises(
            ValueError, match=r"\['kernel'\] has shape \(3, 2\) in params but \(2,\) in updates without"
        ):
            tx.update(kernel, tx.init(kernel), kernel)


AGGREGATE = gc.differentially_private_aggregate(0.7, 0.0, 0)


@pytest.mark.parametrize("with_params", [True, False])
@pytest.mark.parametrize("dtype", EVERY)
def test_the_aggregate_without_noise_is_the_mean_of_clipped_gradients(dtype, with_params):
    with jax.enable_x64(dtype == "float64"):
        grads, params = batch_of(dtype), trees.standard(dtype)
        exact, _ = clipped_sum(trees.as_numpy(grads), 0.7)
        exact = {n: x / BATCH for n, x in exact.items()}
        state = AGGREGATE.init(params)
        for update in (AGGREGATE.update, jax.jit(AGGREGATE.update)):
            updates, new = update(grads, state, params if with_params else None)
            trees.assert_same_kind(updates, params)
            trees.assert_same_kind(new, state)
            trees.assert_close(trees.as_numpy(updates), exact, float(jnp.finfo(dtype).eps) * 4)


def test_without_bound_and_noise_it_is_the_mean():
    grads = batch_of()
    tx = gc.differentially_private_aggregate(jnp.inf, 0.0, 0)
    updates, _ = tx.update(grads, tx.init(trees.standard()))
    trees.assert_close(updates, jax.tree.map(lambda g: g.mean(0), grads), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_the_noise_has_the_deviation_of_the_paper_and_in_complex_numbers_each_part_has_it(dtype):
    like = jnp.zeros((100, 100), dtype)
    tx = gc.differentially_private_aggregate(0.5, 3.0, 1)
    updates, _ = tx.update(jnp.zeros((4, *like.shape), dtype), tx.init(like), like)
    for part in [updates.real, updates.imag] if dtype == "complex64" else [updates]:
        assert abs(float(jnp.std(part)) / (0.5 * 3.0 / 4) - 1) < 5 / math.sqrt(2 * like.size)
        assert abs(float(jnp.mean(part))) < 5 * 0.375 / math.sqrt(like.size)
    if dtype == "complex64":
        theirs = optax.contrib.differentially_private_aggregate(0.5, 3.0, 1)
        noise, _ = theirs.update(jnp.zeros((4, *like.shape), dtype), theirs.init(like))
        assert float(jnp.std(noise.real)) < 0.8 * 0.375


def test_the_noise_differs_between_arrays_and_updates_and_follows_from_the_key():
    like = {"a": jnp.zeros(5), "b": jnp.zeros(5)}
    grads = jax.tree.map(lambda x: jnp.zeros((3, *x.shape)), like)

    def draws(key):
        tx = gc.differentially_private_aggregate(1.0, 1.0, key)
        first, state = tx.update(grads, tx.init(like))
        second, _ = tx.update(grads, state)
        return np.stack([first["a"], first["b"], second["a"], second["b"]])

    assert len(np.unique(draws(7))) == 20
    np.testing.assert_array_equal(draws(7), draws(jax.random.key(7)))
    assert not np.any(draws(7) == draws(8))


def test_an_empty_batch_gives_the_noise_alone():
    like = jnp.zeros(1000)
    tx = gc.differentially_private_aggregate(1.0, 2.0, 0)
    updates, _ = tx.update(jnp.zeros((0, 1000)), tx.init(like), like)
    assert abs(float(jnp.std(updates)) / 2 - 1) < 0.15


@pytest.mark.slow
def test_its_numbers_are_traced_scheduled_and_batched():
    grads, like = batch_of(), trees.standard()
    traces = []

    @jax.jit
    def run(tx):
        traces.append(1)
        first, state = tx.update(grads, tx.init(like), like)
        return first, tx.update(grads, state, like)[0]

    build = gc.differentially_private_aggregate
    alone = [run(build(c, s, k)) for c, s, k in ((0.5, 0.0, 1), (0.7, 1.0, 2), (3.0, 2.0, 3))]
    assert len(traces) == 1
    batch = build(jnp.asarray([0.5, 0.7, 3.0]), jnp.asarray([0.0, 1.0, 2.0]), jnp.asarray([1, 2, 3]))
    together = jax.vmap(run, in_axes=(gc.batch_axes(batch),))(batch)
    for k in range(3):
        trees.assert_close(trees.at(together, k), alone[k], 1e-5)
    scheduled = run(build(gc.piecewise_constant_schedule(0.5, {1: 6.0}), 0.0, 1))
    trees.assert_close(scheduled[1], run(build(3.0, 0.0, 1))[1], 1e-6)


def test_a_scan_with_donated_carry_equals_the_loop():
    tx, like = gc.dpsgd(0.1, 1.0, 0.5, 0, momentum=0.9, nesterov=True), trees.standard()
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *[batch_of(seed=k) for k in range(3)])

    def body(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (gc.apply_updates(params, updates), state), None

    params, state = like, tx.init(like)
    for k in range(3):
        (params, state), _ = body((params, state), batch_of(seed=k))
    start = jax.tree.map(lambda x: jnp.array(x, copy=True), like)
    run = jax.jit(lambda carry: jax.lax.scan(body, carry, stacked)[0], donate_argnums=0)
    trees.assert_close(run((start, tx.init(start))), (params, state), 1e-5)


@pytest.mark.slow
def test_dpsgd_without_noise_is_optaxs():
    arguments = {"learning_rate": 0.1, "l2_norm_clip": 0.8, "noise_multiplier": 0.0, "seed": 0}
    for more in ({}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}):
        ours = gc.dpsgd(**arguments, **more)
        with pytest.warns(DeprecationWarning, match="seed"):
            theirs = optax.contrib.dpsgd(**arguments, **more)
        params, like = [trees.standard()] * 2, trees.standard()
        states = [ours.init(like), theirs.init(like)]
        for k in range(20):
            for i, tx in enumerate((ours, theirs)):
                updates, states[i] = tx.update(batch_of(seed=k), states[i], params[i])
                params[i] = gc.apply_updates(params[i], updates)
        trees.assert_close(*params, 1e-6)


def test_it_learns_from_examples_one_by_one():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, 3)), "float32")
    y = x @ jnp.asarray([1.0, -2.0, 0.5])
    tx = gc.dpsgd(0.2, 1.0, 0.5, 0)

    def loss(w, x, y):
        return (x @ w - y) ** 2

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(jax.vmap(jax.grad(loss), (None, 0, 0))(w, x, y), state, w)
        return (gc.apply_updates(w, updates), state), None

    (w, _), _ = jax.jit(lambda: jax.lax.scan(step, (jnp.zeros(3), tx.init(jnp.zeros(3))), length=100))()
    np.testing.assert_allclose(w, [1.0, -2.0, 0.5], atol=0.1)


@pytest.mark.parametrize(
    "wrap", [gc.float32_updates, gc.hyperparams_in_state, lambda tx: gc.named_chain(("private", tx))]
)
def test_combinators_around_it_take_a_batch_axis_too(wrap):
    params, tx = trees.standard(), gc.dpsgd(0.1, 1.0, 0.5, 0)
    expected, _ = tx.update(batch_of(), tx.init(params), params)
    outer = wrap(tx)
    trees.assert_close(outer.update(batch_of(), outer.init(params), params)[0], expected, 1e-6)


def test_injected_hyperparameters_work_with_it():
    params = trees.standard()
    tx = gc.inject_hyperparams(gc.dpsgd)(0.1, 1.0, 0.5, 0)
    expected, _ = gc.dpsgd(0.1, 1.0, 0.5, 0).update(batch_of(), gc.dpsgd(0.1, 1.0, 0.5, 0).init(params), params)
    trees.assert_close(tx.update(batch_of(), tx.init(params), params)[0], expected, 1e-6)


def test_it_is_a_value_and_so_is_its_state():
    tx = gc.dpsgd(0.1, 1.0, 0.5, 3, momentum=0.9)
    assert eval(repr(tx), public.NAMES) == tx
    assert pickle.loads(pickle.dumps(tx)) == tx
    state = tx.init(trees.standard())
    trees.assert_close(pickle.loads(pickle.dumps(state)), state, 0)
    assert gc.hyperparams(tx)["differentially_private_aggregate.noise_multiplier"] == 0.5
    for arguments in ((-1.0, 1.0, 0), (1.0, -1.0, 0)):
        with pytest.raises(ValueError, match=r"differentially_private_aggregate: .* must be in"):
            gc.differentially_private_aggregate(*arguments)


@pytest.mark.parametrize("nest", [name for name in trees.nests() if name != "zero_size"])
def test_any_tree(nest):
    params = trees.nests()[nest]
    grads = jax.tree.map(lambda p: jnp.stack([p, -3 * p, 2 * p]), params)
    updates, _ = AGGREGATE.update(grads, AGGREGATE.init(params), params)
    trees.assert_same_kind(updates, params)
    leaves = {str(i): g for i, g in enumerate(jax.tree.leaves(trees.as_numpy(grads)))}
    if leaves:
        exact, _ = clipped_sum(leaves, 0.7)
        trees.assert_close(jax.tree.leaves(updates), [x / 3 for x in exact.values()], 1e-6)
