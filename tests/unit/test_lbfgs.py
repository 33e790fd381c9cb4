"""L-BFGS with its line search: Optax's step by step, and where Optax's fails."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from tests.problems import PROBLEMS, objective, start

STEPS = 20


OURS, THEIRS = gc.lbfgs(), optax.lbfgs()
STEPS = 20


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def run(tx, function, steps, params, *arguments):
    """Return the parameters after some updates, and values, values after the search, steps and evaluations of each."""

    def value_fn(x):
        return function(*arguments, x)

    def step(carry, _):
        params, state = carry
        value, grad = jax.value_and_grad(value_fn)(params)
        grad = jax.tree.map(jnp.conj, grad)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
        found = [gc.tree.get(state, name) for name in ("value", "learning_rate", "num_linesearch_steps")]
        return (gc.apply_updates(params, updates), state), [value, *found]

    (params, _), records = jax.lax.scan(step, (params, tx.init(params)), length=steps)
    return params, records


def assert_is_optax_s(function, point, *arguments):
    """Assert equal values, steps and evaluations until the value is 0 exactly, where Optax goes on to search."""
    (_, ours), (_, theirs) = (run(tx, function, STEPS, point, *arguments) for tx in (OURS, THEIRS))
    moving = np.asarray(theirs[0]) > 0
    assert moving.sum() >= 19
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine[moving], other[moving], rtol=1e-6)


def test_it_is_optax_s_step_by_step(x64):
    function, _ = PROBLEMS["rosenbrock"]
    assert_is_optax_s(function, start("rosenbrock"))


@pytest.mark.as_users  # near the end of a run, roundings decide
@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_it_is_optax_s_on_every_problem(name, x64):
    assert_is_optax_s(objective, start(name), [*PROBLEMS].index(name))


def two_wells(limit, x):
    """Two wells for each number, coupled; NaN beyond a plane."""
    wells = jnp.sum(x**4 / 4 - x**2 / 2 + 0.3 * jnp.sin(5 * x)) + jnp.sum(jnp.square(jnp.diff(x))) / 2
    return jnp.where(jnp.sum(x * jnp.arange(1.0, 7)) < limit, wells, jnp.nan)


BACKTRACKING = gc.lbfgs(linesearch=gc.scale_by_backtracking_linesearch(20, increase_factor=2.0, store_grad=True))


@pytest.mark.slow
@pytest.mark.parametrize("tx", [OURS, BACKTRACKING], ids=["zoom", "backtracking"])
def test_no_step_raises_the_value(tx):
    """Where curvature is negative, from 20 starts (Optax's with backtracking goes uphill); and where half space is NaN.

    The first twenty may go everywhere, and end as close to a minimum as values of this precision tell:
    sqrt(2 h eps |f|) is 4e-3 with curvatures h of 10. The others must stay where they begin.
    """
    starts = 2 * jnp.asarray(np.random.default_rng(0).normal(size=(20, 6)), jnp.float32)
    ahead = starts @ jnp.arange(1.0, 7) + 1
    limits = jnp.concatenate([jnp.full(20, jnp.inf), ahead])
    ends, (values, *_) = jax.vmap(lambda limit, x: run(tx, two_wells, 60, x, limit))(limits, jnp.tile(starts, (2, 1)))
    allowed = (1e-6 + 8 * float(jnp.finfo(jnp.float32).eps)) * jnp.abs(values[:, :-1])
    assert jnp.all(jnp.isfinite(ends))
    assert jnp.all(jnp.diff(values) <= allowed)
    assert jnp.all(values[:, -1] < values[:, 0])
    slopes = jax.vmap(jax.grad(two_wells, argnums=1))(limits, ends)
    assert jnp.all(jnp.linalg.norm(slopes[:20], axis=1) < 1e-2)


def of_complex(z):
    return jnp.sum(jnp.abs(z - 1j) ** 4) + jnp.sum(jnp.abs(z[1:] - z[:-1] ** 2) ** 2)


def of_parts(parts):
    return of_complex(jax.lax.complex(*parts))


@pytest.mark.as_users  # near the end of a run, roundings decide
@pytest.mark.slow
@pytest.mark.parametrize("tx", [OURS, BACKTRACKING], ids=["zoom", "backtracking"])
def test_complex_numbers_run_like_their_parts(tx, x64):
    z = jnp.asarray([1.0 - 0.5j, 0.3 + 1j, -0.7j, 0.2])
    end, records = run(tx, of_complex, STEPS, z)
    parts, reference = run(tx, of_parts, STEPS, (z.real, z.imag))
    for mine, other in zip(records, reference, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(end, jax.lax.complex(*parts), atol=1e-6)


def test_eager_updates_compile_nothing_after_the_first(caplog):
    def loss(params):
        return jnp.sum(jnp.array([1.0, 30.0]) * jnp.square(params["w"]))

    params = {"w": jnp.array([1.0, 2.0])}
    state = OURS.init(params)
    with jax.log_compiles():
        for k in range(4):
            caplog.clear()
            value, grad = jax.value_and_grad(loss)(params)
            extra = {"value": value, "grad": grad, "value_fn": loss}
            updates, state = OURS.update(grad, state, params, **extra)
            params = gc.apply_updates(params, updates)
            assert k < 2 or "Compiling" not in caplog.text


@pytest.mark.slow
def test_training_loops_hand_the_objective_on():
    """On one full batch: linear regression, solved in a few epochs of one step."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(40, 3)) * [1, 10, 100], jnp.float32)
    y = x @ jnp.array([1.0, 2.0, 3.0])

    def loss_fn(params, batch):
        x, y = batch
        return jnp.mean(jnp.square(x @ params - y))

    result = gc.training.fit(loss_fn, jnp.zeros(3), OURS, (x, y), epochs=12, batch_size=40, seed=0)
    np.testing.assert_allclose(result.params, [1, 2, 3], rtol=1e-3)
