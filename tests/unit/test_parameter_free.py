"""Rules that estimate their step size: whole descents against Optax and the oracles, and what differs on purpose."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from tests import oracles, trees

STEPS = 100
CURVATURE = np.array([0.5, 1.0, 4.0])
START = np.array([1.0, -2.0, 0.5])


def quadratic(w):
    """Return sum(h w^2) / 2 plus a constant, with three curvatures; for JAX and NumPy."""
    return (CURVATURE.astype(w.dtype) * w * w).sum() / 2 + 0.5


def rosenbrock(w):
    """Return Rosenbrock's function of the first two numbers, and a square of the third."""
    return (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2 + w[2] ** 2


def path(tx, loss, steps=STEPS):
    """Return the parameters on the way down."""

    def step(carry, _):
        w, state = carry
        value, gradient = jax.value_and_grad(loss)(w)
        updates, state = tx.update(gradient, state, w, value=value)
        w = w + updates
        return (w, state), w

    start = jnp.asarray(START)
    return jax.lax.scan(step, (start, tx.init(start)), length=steps)[1]


def updates_of(tx, gradients, params, values=None):
    """Return the updates on a list of gradients, with the parameters at rest, and the last state."""
    state, results = tx.init(params), []
    for gradient, value in zip(gradients, values or [0.0] * len(gradients), strict=True):
        updates, state = tx.update(gradient, state, params, value=value)
        results.append(updates)
    return results, state


def oracle_path(oracle, loss, steps=STEPS):
    """Return the oracle's way down, with JAX's derivatives."""
    derive, w, state, results = jax.jit(jax.grad(loss)), START, oracle.init({"w": START}), []
    for _ in range(steps):
        updates, state = oracle.update({"w": np.asarray(derive(w))}, state, {"w": w})
        w = w + updates["w"]
        results.append(w)
    return np.stack(results)


SHARED = {
    "polyak_sgd": {"max_learning_rate": 0.5, "f_min": 0.1},
    "momo": {"learning_rate": 0.1, "lower_bound": 0.1},
    "momo_adapted": {"learning_rate": 0.3, "adapt_lower_bound": True},
    "momo_adam": {"learning_rate": 0.1, "lower_bound": 0.1},
    "momo_adam_adapted": {"learning_rate": 0.1, "adapt_lower_bound": True},
    "dog": {},
    "dowg": {},
    "dadapt_adamw": {"weight_decay": 0.01},
    "prodigy": {"weight_decay": 0.01, "estim_lr0": 1e-3},
    "prodigy_safeguarded": {"safeguard_warmup": True, "estim_lr0": 1e-3},
    "cocob": {"weight_decay": 0.01},
}


def of_optax(name):
    """Return Optax's function of that name."""
    return getattr(optax, name, None) or getattr(optax.contrib, name)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [quadratic, rosenbrock])
@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize(("x64", "tolerance"), [(True, 1e-12), pytest.param(False, 1e-4, marks=pytest.mark.slow)])
def test_descents_are_those_of_optax(name, loss, x64, tolerance):
    constructor = name.removesuffix("_adapted").removesuffix("_safeguarded")
    with jax.enable_x64(x64):
        ours, theirs = (path(f(**SHARED[name]), loss) for f in (getattr(gc, constructor), of_optax(constructor)))
        trees.assert_close(ours, theirs, tolerance)


@pytest.mark.parametrize("name", ["momo", "momo_adam"])
@pytest.mark.parametrize("loss", [quadratic, rosenbrock])
def test_an_adapted_bound_is_that_of_the_paper(name, loss, x64):
    oracle = getattr(oracles, name)(lambda params: float(loss(params["w"])), 0.2, adapt=True)
    exact = oracle_path(oracles.chain(oracle, oracles.scale(-1.0)), loss)
    trees.assert_close(path(getattr(gc, name)(0.2, adapt_lower_bound=True), loss), exact, 1e-12)


def test_an_adapted_bound_falls_where_the_loss_comes_below_it():
    """From h = 10 along a slope of 1, a step of 10 ends at 0: the bound is 5. At h = 1 it falls to 1/2, then rises."""
    tx = gc.momo(learning_rate=10.0, beta=0.0, adapt_lower_bound=True)
    updates, state = updates_of(tx, [jnp.ones(())] * 2, jnp.zeros(()), values=[10.0, 1.0])
    np.testing.assert_allclose(updates, [-10.0, -0.5], rtol=1e-6)
    np.testing.assert_allclose(state[0].lb, 0.75, rtol=1e-6)


@pytest.mark.parametrize("name", ["momo", "momo_adam"])
def test_momos_step_minimises_its_model_with_the_penalty_here_and_not_there(name, x64):
    """On the first update the model is max(f + <g, y - w>, f*), and Adam's denominators are |g|."""
    alpha, decay, f_min, f = 0.7, 0.5, 0.2, 3.0
    w, g = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.3, 1.0, 2.0])
    metric = jnp.abs(g) if name == "momo_adam" else jnp.ones(3)

    def objective(y):
        model = jnp.maximum(f + jnp.vdot(g, y - w), f_min)
        return model + jnp.vdot(metric, (y - w) ** 2) / (2 * alpha) + decay / 2 * jnp.vdot(metric, y**2)

    arguments = {"learning_rate": alpha, "lower_bound": f_min, "weight_decay": decay}
    ours, theirs = (
        w + updates_of(make(**arguments), [g], w, values=[f])[0][0] for make in (getattr(gc, name), of_optax(name))
    )
    directions = np.random.default_rng(0).normal(size=(100, 3))
    assert all(objective(ours + 1e-3 * d) > objective(ours) for d in directions)
    assert objective(theirs) > objective(ours) + 1e-2


def test_twice_the_scaling_is_twice_the_step_here_and_half_of_it_there():
    w, g = jnp.ones(2), jnp.array([3.0, 4.0])
    for constructor, factor in ((gc.polyak_sgd, 2.0), (optax.polyak_sgd, 0.5)):
        (once,), _ = updates_of(constructor(), [g], w, values=[1.0])
        (twice,), _ = updates_of(constructor(scaling=2.0), [g], w, values=[1.0])
        np.testing.assert_allclose(once, -g / 25, rtol=1e-6)
        np.testing.assert_allclose(twice, factor * once, rtol=1e-6)


@pytest.mark.parametrize("name", ["polyak_sgd", "momo"])
def test_a_small_gradient_has_a_step_here_and_none_there(name):
    w, g = jnp.zeros(2), jnp.array([3e-9, 4e-9])
    (ours,), _ = updates_of(getattr(gc, name)(), [g], w, values=[1.0])
    (theirs,), _ = updates_of(of_optax(name)(), [g], w, values=[1.0])
    np.testing.assert_allclose(ours, -g, rtol=1e-6)
    assert np.all(theirs == 0)


@pytest.mark.parametrize("name", ["dadapt_adamw", "prodigy"])
def test_the_estimate_survives_a_first_gradient_of_zero_here_and_is_nan_there(name):
    w, gradients = jnp.ones(2), [jnp.zeros(2), jnp.ones(2)]
    ours, state = updates_of(getattr(gc, name)(), gradients, w)
    theirs, _ = updates_of(of_optax(name)(), gradients, w)
    assert np.all(np.isfinite(ours))
    assert state[0].d >= 1e-6
    assert np.all(np.asarray(ours[1]) < 0)
    assert np.all(np.isnan(theirs[1]))


@pytest.mark.parametrize("x64", [False, True])
def test_layerwise_dog_is_that_of_optax_and_keeps_the_shape_of_scalars(x64):
    with jax.enable_x64(x64):
        dtype = jnp.asarray(1.0).dtype
        theirs = optax.scale_by_distance_over_gradients(1e-3, global_scale=-1.0, param_dtype=dtype)
        theirs = optax.with_extra_args_support(theirs)
        ours = gc.scale_by_distance_over_gradients(1e-3, global_scale=-1.0)
        trees.assert_close(path(ours, quadratic), path(theirs, quadratic), 1e-12 if x64 else 1e-4)
        scalar = jnp.ones(())
        assert updates_of(ours, [scalar], scalar)[0][0].shape == ()
        assert updates_of(theirs, [scalar], scalar)[0][0].shape == (1,)


def test_the_sum_of_squares_of_half_precision_gradients_grows_here_and_stalls_there():
    w, g = jnp.ones(4, "bfloat16"), jnp.full(4, 0.1, "bfloat16")

    def last_state(tx):
        return jax.lax.scan(lambda state, _: (tx.update(g, state, w)[1], None), tx.init(w), length=1000)[0]

    ours, theirs = last_state(gc.dog())[0].grad_sum_of_squares, last_state(optax.contrib.dog())[1].sum_sq_norm_grads
    np.testing.assert_allclose(ours, 1000 * 4 * float(g[0]) ** 2, rtol=1e-4)
    assert theirs < 0.5 * ours


@pytest.mark.parametrize("constructor", [gc.scale_by_cocob, optax.contrib.scale_by_cocob])
def test_a_turn_in_the_complex_plane_turns_bets_here_and_changes_them_there(constructor):
    turn, start, gradients = np.exp(2j), np.ones(2), [np.array([1.0, -2.0]), np.array([-3.0, 1.0])]

    def walk(factor):
        tx, w = constructor(10.0), jnp.asarray(factor * start, "complex64")
        state = tx.init(w)
        for gradient in gradients:
            updates, state = tx.update(jnp.asarray(factor * gradient, "complex64"), state, w)
            w = w + updates
        return w

    turns = trees.relative_error(walk(turn), turn * walk(1.0)) < 1e-5
    assert turns == (constructor is gc.scale_by_cocob)


def test_cocob_ignores_the_scale_of_gradients(x64):
    def scaled(w):
        return 1e6 * quadratic(w)

    trees.assert_close(path(gc.cocob(), scaled), path(gc.cocob(), quadratic), 1e-10)
    trees.assert_close(path(gc.cocob(learning_rate=3.0), quadratic), path(gc.cocob(), quadratic), 1e-10)


@pytest.mark.parametrize("name", ["dog", "dowg", "prodigy", "dadapt_adamw"])
def test_an_estimate_that_is_far_too_small_grows_until_the_loss_falls(name, x64):
    end = path(getattr(gc, name)(), quadratic, 1000)[-1]
    assert quadratic(end) - 0.5 < 1e-2 * (quadratic(START) - 0.5)


def test_a_loss_that_is_none_is_missing():
    with pytest.raises(ValueError, match="scale_by_polyak needs 'value': call update"):
        updates_of(gc.polyak_sgd(), [jnp.ones(2)], jnp.ones(2), values=[None])


def test_unknown_words_list_the_choices():
    with pytest.raises(
        ValueError, match="init_kind must be one of 'heuristic', 'distance', 'learning_rate', got 'far'"
    ):
        gc.dog(init_step=("far", 1.0))
    with pytest.raises(ValueError, match=r"variant must be one of 'sps', 'sps\+', got 'best'"):
        gc.polyak_sgd(variant="best")


@pytest.mark.parametrize("name", ["momo", "momo_adam", "dog", "dowg", "dadapt_adamw", "prodigy", "cocob"])
def test_arguments_and_defaults_are_those_of_optax_contrib(name):
    ours, theirs = (
        [(p.name, p.default) for p in inspect.signature(f).parameters.values()]
        for f in (getattr(gc, name), of_optax(name))
    )
    assert ours[: len(theirs)] == theirs


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [("dog", "init_step", 1e-3), ("dadapt_adamw", "betas", 0.9), ("prodigy", "betas", (0.9,))],
)
def test_what_must_be_a_pair_is_named_where_it_is_none(name, argument, value):
    with pytest.raises(TypeError, match=f"{name}: {argument} must be a pair, got"):
        getattr(gc, name)(**{argument: value})


@pytest.mark.parametrize(
    ("optimizer", "bound"),
    [
        (functools.partial(gc.polyak_sgd, variant="sps+"), "f_min"),
        (gc.momo, "lower_bound"),
        (gc.momo_adam, "lower_bound"),
    ],
)
def test_a_negative_loss_needs_a_lower_bound_of_its_own(optimizer, bound):
    params, gradients, losses = jnp.array([3.0, -4.0]), [jnp.array([1.0, -2.0])] * 3, [-20.0] * 3
    np.testing.assert_array_equal(updates_of(optimizer(), gradients, params, losses)[0], 0)
    downhill, _ = updates_of(optimizer(**{bound: -50.0}), gradients, params, losses)
    np.testing.assert_array_equal(np.sign(downhill), -np.sign(gradients))
