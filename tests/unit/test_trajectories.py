"""Whole runs beside Optax's: 100 steps on three problems, by the same call in both libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import gradchain as gc
from tests import oracles, public, quick, trees

STEPS = 100
OPTAX = {**vars(optax.contrib), **vars(optax)}
MASK = {"bias": False, "kernel": True, "scale": False}
RATE = "cosine_decay_schedule(0.01, 200)"
GIVEN = {"MASK": MASK, "QUINTIC": oracles.QUINTIC}
CALLS = f"""
    sgd(0.05)
    sgd({RATE})
    sgd(0.05, momentum=0.9)
    sgd(0.05, 0.9, True)
    adagrad(0.1)
    adagrad(0.1, 0.0, 1e-3)
    adadelta(1.0)
    adadelta(0.1, 0.8, 1e-3, weight_decay=0.1, weight_decay_mask=MASK)
    rmsprop(0.001, eps=1e-2)
    rmsprop(0.002, 0.8, 1e-3, 0.5)
    rmsprop(0.001, eps=1e-2, eps_in_sqrt=False, bias_correction=True)
    rmsprop(0.001, eps=1e-2, centered=True)
    rmsprop(0.001, eps=1e-2, centered=True, eps_in_sqrt=False, momentum=0.8)
    rmsprop(0.001, eps=1e-2, momentum=0.8, nesterov=True)
    adam(0.01)
    adam({RATE}, 0.8, 0.99, 1e-4, 1e-4)
    adam(0.01, nesterov=True)
    adamw(0.01, weight_decay=0.1)
    adamw(0.01, weight_decay=0.1, mask=MASK, nesterov=True)
    nadam(0.01)
    nadamw(0.01, weight_decay=0.1)
    adamax(0.01)
    adamaxw(0.01, 0.8, 0.99, 1e-3, 0.1, MASK)
    amsgrad(0.01)
    amsgrad(0.01, bias_correction_mu=False, bias_correction_nu=False)
    adabelief(0.01)
    adabelief(0.01, nesterov=True)
    yogi(0.01)
    radam(0.01)
    radam(0.01, threshold=10.0, nesterov=True)
    adan(0.01)
    adan(0.002, 0.9, 0.8, 0.9, weight_decay=0.1, mask=MASK)
    optimistic_gradient_descent(0.05)
    optimistic_gradient_descent(0.05, 0.7, 0.5)
    optimistic_adam_v2(0.005)
    optimistic_adam_v2(0.005, alpha=0.7, beta=0.5, nesterov=False)
    sign_sgd({RATE})
    signum({RATE})
    lion({RATE})
    lion(0.01, 0.8, 0.9, weight_decay=0.1, mask=MASK)
    sm3(0.1)
    adafactor(0.01, min_dim_size_to_factor=2)
    adafactor(0.01, 2, multiply_by_parameter_scale=False, clipping_threshold=0.5, momentum=0.9, weight_decay_rate=0.01)
    lars(0.1, 0.1, trust_coefficient=0.1)
    lars(0.1, 0.1, MASK, 0.1, 1e-3, MASK, 0.8, True)
    lamb(0.005)
    lamb(0.005, weight_decay=0.1, mask=MASK)
    fromage(0.01)
    novograd(0.001)
    novograd(0.005, 0.8, 0.5, 1e-3, 1e-3, 0.1)
    polyak_sgd(0.1)
    polyak_sgd(0.1, 1.0, -1.0, 0.1, "sps+")
    ademamix(0.005)
    ademamix(0.005, 0.8, 0.99, 0.999, 2.0, 1e-4, 1e-4, weight_decay=0.1, mask=MASK)
    simplified_ademamix(0.001)
    simplified_ademamix(0.001, 0.9, 0.99, 2.0, weight_decay=0.1)
    adopt(0.01)
    adopt(0.001, 0.8, 0.99, nesterov=True, use_clipping=False)
    acprop(0.001, eps=1e-2)
    acprop(0.001, eps=1e-2, weight_decay=0.1, mask=MASK)
    madgrad(0.01)
    madgrad(0.01, 0.5, 0.1)
    muon(0.002)
    muon(0.002, QUINTIC, weight_decay=0.1, nesterov=False, consistent_rms=0.2, adam_learning_rate=0.01)
    muon(0.002, preconditioning="spectral", adaptive=True)
    dog(1.0, ("heuristic", 1e-3))
    dog(1.0, ("distance", 1e-2), weight_decay=0.1, mask=MASK)
    dog(1.0, ("learning_rate", 1e-2))
    dowg(1.0)
    dowg(1.0, 1e-2, weight_decay=0.1)
    dadapt_adamw(0.1, estim_lr0=1e-3)
    dadapt_adamw({RATE}, (0.8, 0.99), estim_lr0=1e-2, weight_decay=0.1)
    prodigy(0.1, estim_lr0=1e-3)
    prodigy({RATE}, (0.8, 0.99), 0.9, estim_lr0=1e-2, estim_lr_coef=2.0, weight_decay=0.1, safeguard_warmup=True)
    momo(0.1)
    momo(0.1, adapt_lower_bound=True)
    momo_adam(0.01)
    momo_adam(0.01, 0.8, 0.99, adapt_lower_bound=True)
    cocob(1.0, 1000.0)
    cocob(1.0, 2000.0, weight_decay=0.01, mask=MASK)
    sophia(0.005, hessian_diagonal_fn=stateless_with_tree_map(lambda g, w: g * g))
    schedule_free_sgd(0.05)
    schedule_free_adamw(0.005, weight_decay=0.1)
"""
CASES = [line.strip() for line in CALLS.strip().splitlines()]
"""Rates are below those at which a run along Rosenbrock's valley enlarges roundings from step to step."""

IMPRECISE_THERE = {"float32": (("radam",), 1e-3), "float64": (("madgrad", "adafactor"), 1e-6)}
"""What Optax computes with fewer digits than it could, as the docstrings here say, and how much closer it can't be."""

ELSEWHERE = {
    "dpsgd": "takes gradients of single examples, and its noise has other keys",
    "galore": "turns singular vectors, which Optax leaves as they come",
    "noisy_sgd": "its noise has other keys",
    "rprop": "returns the step just computed, and Optax the one before",
}


def test_every_optimizer_that_optax_has_runs_here_or_says_why_not():
    ours = {name for name in gc.__all__ if "gradchain.optimizers" in getattr(getattr(gc, name), "__module__", "")}
    assert {call.partition("(")[0] for call in CASES} | set(ELSEWHERE) == ours & set(OPTAX)


def quadratic(params):
    """Return half the squares of the distances to 1, with curvatures from 0.1 to 2."""
    terms = jax.tree.map(lambda w: jnp.linspace(0.1, 2, w.size, dtype=w.dtype) @ jnp.square(w.ravel() - 1), params)
    return sum(jax.tree.leaves(terms)) / 2


def rosenbrock(params):
    """Return Rosenbrock's function of all numbers in a row, divided by 100."""
    x = jnp.concatenate([w.ravel() for w in jax.tree.leaves(params)])
    return jnp.sum(jnp.square(x[1:] - jnp.square(x[:-1])) + jnp.square(1 - x[:-1]) / 100)


def network(params):
    """Return the mean squared error of a small network on fixed data."""
    rng = np.random.default_rng(2)
    x, y = (jnp.asarray(rng.standard_normal(shape), params["scale"].dtype) for shape in ((16, 3), (16,)))
    prediction = params["scale"] * jnp.sum(jnp.tanh(x @ params["kernel"] + params["bias"][None]), axis=1)
    return jnp.mean(jnp.square(prediction - y))


PROBLEMS = (quadratic, rosenbrock, network)


def run(tx, params):
    """Return the parameters after each of 100 steps on each problem; one trace serves for all three."""

    def on_problem(index):
        def step(carry, _):
            params, state = carry
            value, gradient = jax.lax.switch(index, [jax.value_and_grad(loss) for loss in PROBLEMS], params)
            updates, state = tx.update(gradient, state, params, value=value)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return jax.lax.scan(step, (params, tx.init(params)), length=STEPS)[1]

    return quick.jit(lambda: jax.lax.map(on_problem, jnp.arange(len(PROBLEMS))))()


def assert_same_runs(call, dtype, tolerance):
    """Assert that a call makes the same optimizer in both libraries: finite runs that agree problem by problem.

    Some optimizers enlarge a difference of one rounding a million times on the way. Where runs differ by more than the
    tolerance, they may differ by ten times what one rounding of the start makes of our own run: the most in four tries.
    """
    params = jax.tree.map(lambda w: jnp.atleast_1d(w / 2), trees.standard(dtype))
    names, loose = IMPRECISE_THERE[dtype]
    tolerance = loose if call.startswith(names) else tolerance
    ours = run(eval(call, GIVEN, public.NAMES), params)
    theirs = run(optax.with_extra_args_support(eval(call, GIVEN, OPTAX)), params)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(ours))
    for index in range(len(PROBLEMS)):
        mine, other = trees.at(ours, index), trees.at(theirs, index)
        if trees.relative_error(mine, other) <= tolerance:
            continue
        rounding = float(jnp.finfo(dtype).eps)
        nudged = [trees.disturbed(params, rounding, np.random.default_rng(seed)) for seed in range(4)]
        moved = [trees.at(run(eval(call, GIVEN, public.NAMES), near), index) for near in nudged]
        trees.assert_close(mine, other, 10 * max(trees.relative_error(x, mine) for x in moved))


@pytest.mark.slow
@pytest.mark.parametrize("call", CASES, ids=str)
def test_in_single_precision(call):
    assert_same_runs(call, "float32", 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("call", CASES, ids=str)
def test_in_double_precision(call, x64):
    assert_same_runs(call, "float64", 1e-10)
