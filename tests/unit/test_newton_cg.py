"""Newton's method by conjugate gradients in a trust region: its course, what it refuses, sizes, and loops around it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain import training
from tests import oracles
from tests.trees import as_numpy, assert_close, assert_same_kind

TX = gc.scale_by_newton_cg()
START = {"a": np.array([-1.0, 0.5, 1.5]), "b": np.array(0.25)}


def hills(w):
    """Return a function with a saddle at 0, of JAX's or NumPy's arrays."""
    a, b = w["a"], w["b"]
    return (a**4 / 4 - a**2 / 2).sum() + (b - a[0] ** 2) ** 2


def hills_product(w, v):
    a, b = w["a"], w["b"]
    along, across = (3 * a**2 - 1) * v["a"], v["b"] - 2 * a[0] * v["a"][0]
    along = along - np.array([4 * a[0] * across + 4 * (b - a[0] ** 2) * v["a"][0], 0, 0])
    return {"a": along, "b": 2 * across}


@functools.partial(jax.jit, static_argnums=(0, 3))
def run(function, tx, params, steps):
    """Return parameters and state after each step, taking value and gradient from the state."""
    value_and_grad = gc.value_and_grad_from_state(function)

    def body(carry, _):
        params, state = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = tx.update(gc.tree.conj(grad), state, params, value=value, value_fn=function)
        params = gc.apply_updates(params, updates)
        return (params, state), (params, state)

    return jax.lax.scan(body, (params, tx.init(params)), length=steps)[1]


def last(stacked):
    return jax.tree.map(lambda x: x[-1], stacked)


@pytest.mark.usefixtures("x64")
def test_the_course_is_the_textbooks():
    params = jax.tree.map(jnp.asarray, START)
    ours, states = run(hills, TX, params, 8)
    oracle, w = oracles.newton_cg(hills, hills_product), as_numpy(params)
    memory = oracle.init(w)
    for k in range(8):
        u, memory = oracle.update(as_numpy(jax.grad(hills)(w)), memory, w)
        w = {name: w[name] + u[name] for name in w}
        assert_close({name: x[k] for name, x in ours.items()}, w, 1e-9)
        assert_close(states.radius[k], memory[0], 1e-9)
    assert np.linalg.norm(jax.grad(hills)(w)["a"]) < 1e-3


@pytest.mark.usefixtures("x64")
def test_it_leaves_a_saddle_and_ends_in_a_minimum():
    params = {"a": jnp.array([1e-3, -1e-3, 0.0]), "b": jnp.array(0.0)}
    found, states = last(run(hills, TX, params, 20))
    assert_close(found, {"a": jnp.array([1.0, -1.0, 0.0]), "b": jnp.array(1.0)}, 1e-6)
    assert_close(states.value, hills(found), 1e-12)
    assert_close(states.grad, jax.grad(hills)(found), 1e-12)


def test_a_step_that_does_not_gain_is_refused_and_the_radius_shrinks():
    tx, w = gc.scale_by_newton_cg(initial_radius=8.0), jnp.array([1.0, 0.0])

    def function(w):  # its curvature at the start says nothing about what comes
        return jnp.sum(w) + 0.5 * jnp.sum(w**2) + 10 * jnp.maximum(0, -0.5 - w[0])

    value, grad = jax.value_and_grad(function)(w)
    updates, state = tx.update(grad, tx.init(w), w, value=value, value_fn=function)
    assert_close(updates, jnp.zeros(2), 0)
    assert_close((state.value, state.grad), (value, grad), 0)
    assert_close(state.radius, jnp.linalg.norm(grad) / 4, 1e-6)  # Newton's step has this length
    assert state.info.gain_ratio < 0


@pytest.mark.parametrize("power", [-80, pytest.param(80, marks=pytest.mark.slow)])
def test_the_course_does_not_depend_on_the_units_of_the_function(power):
    params = jax.tree.map(jnp.float32, START)
    plain, _ = run(hills, TX, params, 5)
    scaled, states = run(lambda w: 2.0**power * hills(w), TX, params, 5)
    assert_close(scaled, plain, 1e-4)
    assert_close(2.0**-power * last(states).value, hills(last(plain)), 1e-4)


def test_the_gradient_decides_where_the_value_has_no_digits_left():
    params = jnp.array([1e-2, -2e-2, 1e-2])
    curvatures = jnp.array([1.0, 4.0, 9.0])
    found, _ = last(run(lambda w: 1e4 + 0.5 * jnp.sum(curvatures * w**2), TX, params, 12))
    assert jnp.max(jnp.abs(found)) < 1e-6


def test_values_that_are_no_numbers_are_refused_and_the_run_goes_on():
    def barrier(w):
        return jnp.sum(w - 1e-3 * jnp.log(w))

    found, states = run(barrier, gc.scale_by_newton_cg(initial_radius=100.0), jnp.ones(2), 20)
    assert jnp.all(found > 0)
    assert_close(found[-1], jnp.full(2, 1e-3), 1e-3)
    assert jnp.all(jnp.isfinite(states.value))


def test_a_gradient_that_is_no_number_is_handed_on_and_changes_nothing_else():
    w, state = jnp.ones(2), TX.init(jnp.ones(2))._replace(radius=jnp.float32(0.5))
    updates, after = TX.update(jnp.array([jnp.nan, 1.0]), state, w, value=1.0, value_fn=lambda w: jnp.sum(w**2))
    np.testing.assert_array_equal(updates, [np.nan, 1.0])
    assert_close((after.radius, after.first_norm), (state.radius, state.first_norm), 0)


@pytest.mark.usefixtures("x64")
def test_complex_parameters_take_the_steps_of_their_parts():
    def function(z):
        return jnp.sum(jnp.abs(z - (1 + 2j)) ** 2 + jnp.abs(z) ** 4) + jnp.real(z[0] * z[1])

    def by_parts(x):
        return function(jax.lax.complex(x[0], x[1]))

    start = jnp.array([[0.5, -1.0], [2.0, 0.1]])
    parts, _ = run(by_parts, TX, start, 6)
    found, _ = run(function, TX, jax.lax.complex(start[0], start[1]), 6)
    assert_close(jnp.stack([found.real, found.imag], 1), parts, 1e-9)


def test_a_batch_takes_the_steps_of_its_members_and_radii_may_differ():
    starts = jnp.array([[3.0, -1.0], [0.1, 0.2], [-2.0, 5.0]])

    def function(w):
        return jnp.sum(jnp.cosh(w)) + w[0] * w[1] / 4

    batch = gc.scale_by_newton_cg(initial_radius=jnp.array([0.1, 1.0, 10.0]))
    together = jax.vmap(lambda tx, w: run(function, tx, w, 8)[0], (gc.batch_axes(batch), 0))(batch, starts)
    for radius, start, found in zip((0.1, 1.0, 10.0), starts, together, strict=True):
        assert_close(found, run(function, gc.scale_by_newton_cg(initial_radius=radius), start, 8)[0], 1e-5)


def test_fit_on_one_full_batch_solves_logistic_regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)).astype("float32")
    data = {"x": x, "y": (x @ [1.0, -2.0, 0.5] + rng.normal(size=40) > 0).astype("float32")}

    def loss_fn(w, batch):
        margins = jnp.asarray(batch["x"]) @ w
        return jnp.mean(gc.losses.sigmoid_binary_cross_entropy(margins, batch["y"])) + 0.01 * jnp.sum(w**2)

    result = training.fit(loss_fn, jnp.zeros(3), TX, data, batch_size=40, epochs=8, seed=0)
    assert jnp.max(jnp.abs(jax.grad(loss_fn)(result.params, data))) < 1e-5


def test_state_and_config_come_back_and_the_run_goes_on_as_it_would_have():
    params = jax.tree.map(jnp.float32, START)
    whole, states = run(hills, TX, params, 4)
    halfway, state = jax.tree.map(lambda x: x[1], (whole, states))
    again = gc.from_state_dict(gc.from_config(gc.to_config(TX)), halfway, gc.to_state_dict(TX, state))
    assert_same_kind(again, state)
    value = again.value
    updates, _ = TX.update(again.grad, again, halfway, value=value, value_fn=hills)
    assert_close(gc.apply_updates(halfway, updates), jax.tree.map(lambda x: x[2], whole), 1e-5)
    assert gc.metrics(TX, state).keys() >= {"scale_by_newton_cg.radius", "scale_by_newton_cg.gain_ratio"}


def test_what_is_missing_is_named():
    w = jnp.ones(2)
    with pytest.raises(
        ValueError, match=r"needs 'value' and 'value_fn': call update\(updates, state, params, value=..."
    ):
        TX.update(w, TX.init(w), w)
    with pytest.raises(ValueError, match="scale_by_newton_cg needs params"):
        TX.update(w, TX.init(w), value=1.0, value_fn=jnp.sum)
    with pytest.raises(ValueError, match=r"max_radius must be in \(0, inf\]"):
        gc.scale_by_newton_cg(max_radius=0.0)
