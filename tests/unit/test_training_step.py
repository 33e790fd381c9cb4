"""One step: what the loss function may be, what the transform is told, donation, no second compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from gradchain.training import make_step, trace_path, train_step


def squared(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 3)).astype(np.float32)
    return {"w": jnp.zeros(3)}, {"x": x, "y": x @ np.array([1.0, -2.0, 0.5], np.float32)}


def test_a_step_is_gradient_descent():
    params, batch = problem()
    tx = gc.sgd(0.1)
    new, _, metrics = train_step(squared, params, tx, tx.init(params), batch)
    x, y = batch["x"], batch["y"]
    np.testing.assert_allclose(new["w"], 0.1 * 2 / 16 * x.T @ y, rtol=1e-5)
    np.testing.assert_allclose(metrics.loss, np.mean(y**2), rtol=1e-6)
    assert metrics.aux is None


def test_make_step_agrees_with_train_step_and_donates():
    params, batch = problem()
    tx = gc.sgd(0.1, momentum=0.5)
    expected = train_step(squared, params, tx, tx.init(params), batch)
    given = jax.tree.map(jnp.copy, params)
    got = make_step(squared, tx)(given, tx.init(given), batch)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), got, expected)
    assert given["w"].is_deleted()


def test_another_learning_rate_does_not_trace_again():
    traces = []

    def loss_fn(params, batch):
        traces.append(1)
        return squared(params, batch)

    params, batch = problem()
    tx = gc.sgd(0.1)
    step = make_step(loss_fn, tx)
    first, state, _ = step(params, tx.init(params), batch)
    step(first, state, batch, tx=tx.replace(learning_rate=0.5))
    assert len(traces) == 1


def test_numbers_are_copied_to_the_device_once():
    params, batch = problem()
    step, state, batch = make_step(squared, gc.adam(0.1)), gc.adam(0.1).init(params), jax.device_put(batch)
    for x64 in (False, True):
        with jax.enable_x64(x64):
            params, state, _ = step(params, state, batch)
            with jax.transfer_guard("disallow"):
                params, state, _ = step(params, state, batch)
    with jax.transfer_guard("disallow"), pytest.raises(jax.errors.JaxRuntimeError, match="transfer"):
        step(params, state, batch, tx=gc.adam(0.2))


def test_the_given_transform_is_used():
    params, batch = problem()
    step = make_step(squared, gc.sgd(0.1))
    one, _, _ = step({"w": jnp.zeros(3)}, gc.sgd(0.1).init(params), batch)
    two, _, _ = step({"w": jnp.zeros(3)}, gc.sgd(0.1).init(params), batch, tx=gc.sgd(0.2))
    np.testing.assert_allclose(two["w"], 2 * one["w"], rtol=1e-6)


def test_aux_and_key_reach_the_loss_and_come_back():
    def loss_fn(params, batch, key):
        noise = jax.random.normal(key, ())
        return squared(params, batch) + noise, {"noise": noise}

    params, batch = problem()
    tx, key = gc.sgd(0.1), jax.random.key(3)
    state = tx.init(params)
    _, _, metrics = train_step(loss_fn, params, tx, state, batch, key, has_aux=True, takes_key=True)
    assert metrics.aux["noise"] == jax.random.normal(key, ())
    with pytest.raises(ValueError, match="needs a PRNG key"):
        train_step(loss_fn, params, tx, state, batch, has_aux=True, takes_key=True)


@pytest.mark.parametrize(
    ("result", "has_aux", "message"),
    [
        (lambda w: (w.sum(), {}), False, "has_aux=True allows"),
        (lambda w: w.sum(), True, r"pair \(loss, aux\)"),
        (lambda w: w, False, r"one real number, got an array of shape \(3,\)"),
        (lambda w: w.sum() + 1j, False, "complex64"),
    ],
)
def test_a_loss_that_is_not_one_real_number_is_refused(result, has_aux, message):
    tx = gc.sgd(0.1)
    with pytest.raises(TypeError, match=message):
        train_step(lambda w, batch: result(w), jnp.ones(3), tx, tx.init(jnp.ones(3)), None, has_aux=has_aux)


def test_complex_parameters_descend():
    target = jnp.array([1 + 2j, -0.5j], jnp.complex64)
    path = trace_path(lambda z: jnp.sum(gc.numerics.abs_sq(z - target)), jnp.zeros(2, jnp.complex64), gc.sgd(0.1), 60)
    np.testing.assert_allclose(path.points[-1], target, atol=1e-4)


def test_transforms_are_told_value_gradient_and_value_fn():
    told = {}

    def update(updates, state, params=None, *, value, grad, value_fn, **extra):
        told.update(value=value, grad=grad, again=value_fn(params))
        return updates, state

    spy = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    params, batch = problem()
    train_step(squared, params, spy, spy.init(params), batch)
    np.testing.assert_allclose(told["value"], told["again"])
    np.testing.assert_allclose(told["grad"]["w"], jax.grad(squared)(params, batch)["w"])


def test_optax_transformations_train_the_same():
    params, batch = problem()
    ours, theirs = gc.adam(0.1), optax.adam(0.1)
    mine = make_step(squared, ours)({"w": jnp.zeros(3)}, ours.init(params), batch)
    other = make_step(squared, theirs)({"w": jnp.zeros(3)}, theirs.init(params), batch)
    np.testing.assert_allclose(mine[0]["w"], other[0]["w"], rtol=1e-5)


def test_trace_path_on_a_quadratic_is_the_closed_form():
    path = trace_path(lambda w: w[0] ** 2 + 4 * w[1] ** 2, jnp.array([2.0, 1.0]), gc.sgd(0.1), 10)
    k = np.arange(11)
    np.testing.assert_allclose(path.points, np.stack([2 * 0.8**k, 0.2**k], 1), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(path.values, path.points[:, 0] ** 2 + 4 * path.points[:, 1] ** 2, rtol=1e-5)


@pytest.mark.parametrize("steps", [-1, 2.0])
def test_trace_path_needs_a_whole_number_of_steps(steps):
    with pytest.raises(ValueError, match=f"steps must be a whole number, at least 0, got {steps}"):
        trace_path(lambda w: w**2, 1.0, gc.sgd(0.1), steps)


def test_steps_of_the_same_function_share_their_program():
    traces = []

    def loss_fn(params, batch):
        traces.append(1)
        return squared(params, batch)

    params, batch = problem()
    for rate in (0.1, 0.2):
        make_step(loss_fn, gc.sgd(rate))({"w": jnp.zeros(3)}, gc.sgd(rate).init(params), batch)
    assert len(traces) == 1


def test_trace_path_takes_trees_and_no_steps():
    path = trace_path(lambda w: w["a"] ** 2 + w["b"] ** 2, {"a": 1.0, "b": 2.0}, gc.sgd(0.1), 0)
    assert path.points["b"].shape == (1,)
    np.testing.assert_allclose(path.values, [5.0])


def product(params, batch):
    return (params["a"] * params["b"]).sum() ** 2 + 0 * batch.sum()


def twin(x):
    """Return another array in the same memory."""
    other = jax.device_put(x, x.device)
    assert other.unsafe_buffer_pointer() == x.unsafe_buffer_pointer()
    return other


SHARED = {
    "two names": lambda x, y: ({"a": x, "b": x}, y, 0.1),
    "two arrays in one memory": lambda x, y: ({"a": x, "b": twin(x)}, y, 0.1),
    "the batch": lambda x, y: ({"a": x, "b": y}, twin(y), 0.1),
    "a hyperparameter": lambda x, y: ({"a": x[0], "b": y}, y, x[0]),
}


@pytest.mark.parametrize("name", SHARED)
def test_arrays_that_share_memory_are_trained_apart(name):
    params, batch, rate = SHARED[name](jnp.ones(3), jnp.arange(3.0))
    tx = gc.sgd(rate, momentum=0.9)
    want, want_state = jax.tree.map(jnp.array, params), tx.init(params)
    given, state = params, tx.init(params)
    step = make_step(product, tx)
    for _ in range(2):
        want, want_state, _ = train_step(product, want, tx, want_state, batch)
        given, state, _ = step(given, state, batch)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), given, want)
    assert not any(x.is_deleted() for x in jax.tree.leaves((batch, rate)) if isinstance(x, jax.Array))


def test_weights_tied_anew_after_each_step_and_states_that_hold_the_parameters():
    tx = gc.trace(0.9)
    a = jnp.ones(3)
    params, state = {"a": a, "b": a}, tx.init({"a": a, "b": a})._replace(trace={"a": a, "b": a})
    step = make_step(product, tx)
    copied = jax.tree.map(jnp.array, (params, state))
    want, want_state, _ = train_step(product, copied[0], tx, copied[1], a)
    params, state, _ = step(params, state, jnp.zeros(3))
    np.testing.assert_allclose(params["b"], want["b"], rtol=1e-6)
    np.testing.assert_allclose(state.trace["a"], want_state.trace["a"], rtol=1e-6)
    params = {"a": params["a"], "b": params["a"]}
    params, _, _ = step(params, state, params["b"])
    np.testing.assert_array_equal(params["a"], params["b"])


def test_arrays_in_memory_of_their_own_are_not_copied():
    tx, a = gc.sgd(0.1), jnp.ones(3)
    step = make_step(product, tx)
    params = {"a": a, "b": jnp.ones(3)}
    step(params, tx.init(params), jnp.zeros(3))
    assert a.is_deleted()


def in_batches(params, batch, tx, sizes):
    """Return the parameters after one step on each part of a batch."""
    state, step, begin = tx.init(params), make_step(squared, tx), 0
    for size in sizes:
        part = jax.tree.map(lambda x, at=begin, n=size: x[at : at + n], batch)
        params, state, _ = step(params, state, part)
        begin += size
    return params


@pytest.mark.parametrize("around", [lambda tx, k: gc.accumulate(tx, k), lambda tx, k: gc.accumulate(gc.chain(tx), k)])
def test_a_short_batch_counts_by_its_examples_in_a_round(around):
    params, batch = problem()
    expected = train_step(squared, params, gc.sgd(0.1), gc.sgd(0.1).init(params), batch)[0]
    for sizes in ([6, 6, 4], [16], [8, 8]):
        new = in_batches(jax.tree.map(jnp.copy, params), batch, around(gc.sgd(0.1), len(sizes)), sizes)
        np.testing.assert_allclose(new["w"], expected["w"], rtol=1e-5)


def test_batches_of_one_size_count_as_they_did_in_sums_too():
    params, batch = problem()
    twice = in_batches(
        jax.tree.map(jnp.copy, params), batch, gc.accumulate(gc.sgd(0.1), 2, use_grad_mean=False), [8, 8]
    )
    once = in_batches(jax.tree.map(jnp.copy, params), batch, gc.sgd(0.2), [16])
    np.testing.assert_allclose(twice["w"], once["w"], rtol=1e-5)


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (None, None),
        (jnp.ones(()), None),
        ({"x": jnp.ones((5, 2)), "scale": 2.0, "key": jax.random.key(0)}, 5),
        ({"x": np.ones((5, 2)), "table": np.ones(3)}, None),
        ((np.ones((5, 2), bool), ["text"]), 5),
    ],
)
def test_transforms_are_told_how_many_examples_a_batch_has(batch, size):
    told = {}

    def update(updates, state, params=None, **extra):
        told.update(extra)
        return updates, state

    spy = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    train_step(lambda w, batch: w**2, jnp.ones(()), spy, spy.init(None), batch)
    assert (told.get("weight"), told.get("examples")) == (size, size)


def coupled(params, batch):
    """Return a loss in which parameters act on each other, so that a share of them alone makes none."""
    x, y = batch["x"], batch["y"]
    return jnp.mean(jnp.abs((x @ params["w"]) * params["v"] - y) ** 2).astype(jnp.float32)


CLIMB = gc.chain(gc.normalize_by_update_norm(eps=0.0), gc.sgd(0.05))
OF_FUNCTIONS = {
    "sophia": gc.sophia(0.1),
    "sophia_in_single": gc.float32_updates(gc.sophia(0.1)),
    "sophia_in_rounds": gc.accumulate(gc.sophia(0.1), 1),
    "sophia_of_parts": gc.split_real_and_imaginary(gc.sophia(0.1)),
    "sam": gc.sam(gc.sgd(0.1), CLIMB, 3, opaque_mode=True),
    "sam_scaled": gc.loss_scale(gc.sam(gc.sgd(0.1), CLIMB, opaque_mode=True)),
    "masked": gc.chain(gc.masked(gc.sophia(0.1), {"w": True, "v": False}), gc.freeze({"w": False, "v": True})),
    "partition": gc.partition(
        {"a": gc.sophia(0.1), "b": gc.sam(gc.sgd(0.1), CLIMB, opaque_mode=True)}, {"w": "a", "v": "b"}
    ),
    "selective": gc.selective_transform(gc.sophia(0.1), freeze_mask={"w": False, "v": True}),
    "optax": optax.contrib.sophia(0.1),
}


@pytest.mark.parametrize(
    "dtype", ["float32", *(pytest.param(x, marks=pytest.mark.slow) for x in ("bfloat16", "complex64"))]
)
@pytest.mark.parametrize("name", OF_FUNCTIONS)
def test_transforms_that_need_the_loss_as_a_function_train(name, dtype):
    """Their parts get functions of their own parameters, with the others as they are."""
    if name == "optax" and dtype == "complex64":
        return  # Optax's estimate isn't made for complex numbers
    tx, (_, batch) = gc.from_optax(OF_FUNCTIONS[name]), problem()
    params = {"w": jnp.full(3, 0.1, dtype), "v": jnp.ones((), dtype)}
    state, losses = tx.init(params), []
    for _ in range(4):
        params, state, metrics = train_step(coupled, params, tx, state, batch)
        losses.append(float(metrics.loss))
    assert losses[-1] < losses[0]


def test_a_parts_function_is_that_of_all_parameters():
    """Sophia's curvature of v in (x w v - y)^2 is 2 (x w)^2, which nothing but w can tell; SAM climbs as by hand."""
    _, batch = problem()
    params = {"w": jnp.array([0.3, -0.2, 0.1]), "v": jnp.array(1.5)}
    gradients = jax.grad(coupled)(params, batch)
    value_fn, grad_fn = (lambda p: coupled(p, batch)), (lambda p, i: jax.grad(coupled)(p, batch))
    for functions in ({"value_fn": value_fn}, {"obj_fn": value_fn}):
        tx = gc.masked(gc.scale_by_sophia(b2=0.0), {"w": False, "v": True})
        _, state = tx.update(gradients, tx.init(params), params, **functions)
        np.testing.assert_allclose(state.inner_state.nu["v"], jnp.mean(2 * (batch["x"] @ params["w"]) ** 2), rtol=1e-5)
    for functions in ({"value_fn": value_fn}, {"grad_fn": grad_fn}):
        sam = gc.sam(gc.sgd(1.0), gc.sgd(0.05), opaque_mode=True)
        tx = gc.partition({"climb": sam, "still": gc.set_to_zero()}, {"w": "still", "v": "climb"})
        updates, _ = tx.update(gradients, tx.init(params), params, **functions)
        worse = params | {"v": params["v"] + 0.05 * gradients["v"]}
        np.testing.assert_allclose(updates["v"], -grad_fn(worse, 0)["v"], rtol=1e-5)


def test_private_descent_gets_the_gradient_of_each_example():
    params, batch = problem()
    tx = gc.dpsgd(0.1, l2_norm_clip=0.5, noise_multiplier=0.0, seed=0)
    new, _, metrics = train_step(squared, params, tx, tx.init(params), batch)
    each = jax.vmap(lambda x, y: jax.grad(squared)(params, {"x": x[None], "y": y[None]}))(batch["x"], batch["y"])
    norms = jnp.linalg.norm(each["w"], axis=1)
    clipped = jnp.mean(each["w"] * jnp.minimum(1, 0.5 / norms)[:, None], 0)
    np.testing.assert_allclose(new["w"], -0.1 * clipped, rtol=1e-5)
    np.testing.assert_allclose(metrics.loss, squared(params, batch), rtol=1e-6)


def test_a_line_search_of_optax_runs_in_the_loops():
    tx = gc.chain(gc.sgd(1.0), optax.scale_by_backtracking_linesearch(10))
    loss = lambda w, batch: jnp.mean((batch @ w - 1) ** 2)  # noqa: E731
    data = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)), jnp.float32)
    params, state, before = jnp.zeros(2), tx.init(jnp.zeros(2)), loss(jnp.zeros(2), data)
    for _ in range(3):
        params, state, _ = train_step(loss, params, tx, state, data)
    assert loss(params, data) < 0.9 * before
