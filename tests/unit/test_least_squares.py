"""Nonlinear least squares: certified fits, units, trees, batches, reasons and errors; and the direction alone."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.solvers.solution import Reason
from tests import trees

NIST = json.loads((Path(__file__).parents[1] / "recorded" / "nist.json").read_text())
"""NIST's Statistical Reference Datasets for nonlinear regression: data, starts, certified parameters and deviations."""
MODELS = {
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "Misra1a": lambda b, x: b[0] * (1 - jnp.exp(-b[1] * x)),
    "Rat42": lambda b, x: b[0] / (1 + jnp.exp(b[1] - b[2] * x)),
    "MGH09": lambda b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
}


def digits(found, certified):
    """Return the fewest correct digits of any number."""
    return np.min(-np.log10(np.maximum(np.abs(np.asarray(found) / certified - 1), 1e-16)))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "Misra1a" else pytest.mark.slow) for name in MODELS]
)
def test_certified_parameters_and_deviations_are_met_from_both_starts(name, x64):
    data = {k: np.asarray(v) for k, v in NIST[name].items()}

    def residuals(b, x, y):
        return MODELS[name](b, x) - y

    for start in ("start1", "start2"):
        fit = gc.least_squares(residuals, data[start], args=(data["x"], data["y"])).check()
        assert digits(fit.params, data["certified"]) > 6
        assert digits(2 * fit.value, data["rss"]) > 8
    r = np.linalg.qr(jax.jacfwd(residuals)(fit.params, data["x"], data["y"]), mode="r")
    free = len(data["y"]) - len(fit.params)
    assert digits(np.linalg.norm(np.linalg.inv(r), axis=1) * np.sqrt(2 * fit.value / free), data["sd"]) > 5


def decay(p, x, y):
    return p["a"] * jnp.exp(-p["k"] * x) - y


X = np.linspace(0, 4, 9, dtype="float32")
Y = np.asarray(3 * np.exp(-0.5 * X) + 0.05 * np.sin(9 * X), "float32")
START = {"a": 1.0, "k": 1.5}


def test_units_of_the_parameters_dont_matter():
    """With powers of 2 as units all roundings are the same, and so are the steps."""
    plain = gc.least_squares(decay, START, args=(X, Y))
    units = {"a": 2.0**-20, "k": 2.0**30}
    scaled = gc.least_squares(
        lambda p: decay({n: p[n] * units[n] for n in p}, X, Y), {n: START[n] / units[n] for n in START}
    )
    assert plain.converged
    assert int(plain.steps) == int(scaled.steps) > 3
    trees.assert_close({n: scaled.params[n] * units[n] for n in units}, plain.params, 0)


def test_the_jacobian_isnt_squared():
    """In float32 the product of this matrix with its transpose is singular, and all digits would be lost."""
    matrix = np.vander(np.linspace(0, 1, 12), 7).astype("float32")
    fit = gc.least_squares(lambda w: jnp.asarray(matrix) @ w - matrix.sum(1), jnp.zeros(7), damping=1e-10)
    assert np.linalg.cond(matrix) > 1e4
    trees.assert_close(fit.params, np.ones(7), 2e-2)


A = trees.normal(np.random.default_rng(0), (8, 3), np.complex64)
B = trees.normal(np.random.default_rng(1), (8,), np.complex64)


def in_parts(p):
    """Return the residuals of A w = B in a tree of three arrays, and one number more."""
    w = jnp.concatenate([p["pair"][0], p["pair"][1][None]])
    r = jnp.asarray(A) @ w - B
    return {"first": r[:2], "rest": (r[2:6].reshape(2, 2), r[6:])}, jnp.abs(w[0])


@pytest.mark.parametrize("method", ["dense", pytest.param("cg", marks=pytest.mark.slow)])
def test_complex_trees_with_auxiliary_output(method):
    exact = np.linalg.lstsq(A, B)[0]
    start = {"pair": (jnp.zeros(2, jnp.complex64), jnp.zeros((), jnp.complex64))}
    fit = gc.least_squares(in_parts, start, method=method, has_aux=True, cg_tol=1e-3)
    assert fit.converged
    trees.assert_close(fit.params, {"pair": (exact[:2], exact[2])}, 1e-4)
    trees.assert_close((fit.value, fit.aux), (np.linalg.norm(A @ exact - B) ** 2 / 2, np.abs(exact[0])), 1e-4)
    trees.assert_same_kind((fit.params, fit.grad), (start, start))
    assert fit.grad_norm < 1e-3 * fit.first_grad_norm


def test_more_parameters_than_residuals_and_half_precision():
    fit = gc.least_squares(lambda w: jnp.stack([w[0] * w[1] - 2, w[2] + w[0]]), jnp.ones(3, jnp.bfloat16))
    assert fit.params.dtype == jnp.bfloat16
    assert fit.value.dtype == jnp.float32
    w = np.asarray(fit.params, float)
    assert abs(w[0] * w[1] - 2) + abs(w[2] + w[0]) < 0.05


def test_a_batch_ends_member_by_member_as_single_runs_do():
    starts = {"a": jnp.array([1.0, 2.9, 10.0]), "k": jnp.array([1.5, 0.5, 0.1])}
    solve = jax.jit(lambda p: gc.least_squares(decay, p, args=(X, Y), history=True, max_steps=30))
    batch = jax.vmap(solve)(starts)
    assert len({*batch.steps.tolist()}) > 1
    for k in range(3):
        alone, member = solve(trees.at(starts, k)), trees.at(batch, k)
        assert (int(alone.steps), int(alone.reason)) == (int(member.steps), int(member.reason))
        trees.assert_close(member.params, alone.params, 2e-5)
        course = np.asarray(member.history["value"])
        assert np.isfinite(course).sum() == member.steps == member.evals - 1
        assert np.all(np.diff(course[: member.steps]) <= 1e-5 * course[0])


@pytest.mark.slow
def test_forward_derivatives_are_those_of_the_solution(x64):
    """A linear fit in closed form: the mean, whose derivative by each number is 1 / n."""
    solve = lambda y: gc.least_squares(lambda w, y: w - y, jnp.zeros(1), args=(y,)).params[0]  # noqa: E731
    trees.assert_close(jax.jacfwd(solve)(jnp.arange(4.0)), np.full(4, 0.25), 1e-6)


def test_reasons():
    def run(residuals, start, **arguments):
        fit = gc.least_squares(residuals, jnp.asarray(start), **arguments)
        return Reason(int(fit.reason)), fit

    reason, fit = run(lambda w: jnp.log(w), [-1.0])
    assert (reason, int(fit.evals), bool(fit.converged), float(fit.params[0])) == (Reason.not_finite, 1, False, -1.0)
    reason, fit = run(lambda w: jnp.sqrt(w) - 2, [100.0])  # whose first step leads to negative numbers
    assert fit.converged
    np.testing.assert_allclose(fit.params, 4, rtol=1e-4)
    reason, fit = run(lambda w: jnp.exp(w) - 1e6, [0.0], max_steps=2)
    assert (reason, int(fit.steps), bool(fit.converged)) == (Reason.max_steps, 2, False)
    with pytest.raises(RuntimeError, match="max_steps"):
        fit.check()
    reason, fit = run(lambda w: jnp.abs(w) + 1, [0.4])  # whose minimum is a kink
    assert (reason, bool(fit.converged)) == (Reason.precision, False)
    assert run(lambda w: w - w, [1.0, 2.0])[0] == Reason.gradient


def test_it_compiles_once_for_a_function():
    traces = []

    def residuals(w, y):
        traces.append(0)
        return w**2 - y

    one, two = np.ones(2, "float32"), np.full(2, 2, "float32")
    gc.least_squares(residuals, one, args=(one,))
    first = len(traces)
    gc.least_squares(residuals, two, args=(two,), gtol=1e-3, damping=1.0, max_steps=7)
    assert len(traces) <= first + 1  # for its shapes


@pytest.mark.parametrize(
    ("residuals", "arguments", "error", "message"),
    [
        (lambda w: jnp.sum(w**2), {}, TypeError, "one number; least_squares wants the residuals themselves"),
        (lambda w: {"a": jnp.arange(3)}, {}, TypeError, r"residuals returns int32 at \['a'\]"),
        (lambda w: jnp.zeros(0), {}, ValueError, "there must be parameters and residuals"),
        (lambda w: w, {"method": "qr"}, ValueError, "one of 'auto', 'dense', 'cg', got 'qr'"),
        (lambda w: w, {"gtol": -1.0}, ValueError, r"gtol must be in \[0, inf\), got -1.0"),
        (lambda w: w, {"damping": 0.0}, ValueError, r"damping must be in \(0, inf\), got 0.0"),
        (lambda w: w, {"max_steps": 0}, ValueError, "max_steps must be a whole number, at least 1, got 0"),
    ],
)
def test_errors(residuals, arguments, error, message):
    with pytest.raises(error, match=message):
        gc.least_squares(residuals, jnp.ones(2), **arguments)


def test_parameters_must_be_inexact():
    with pytest.raises(TypeError, match=r"params .* is an array of shape \(2,\) of int32"):
        gc.least_squares(lambda w: w, jnp.ones(2, int))


def model(params):
    return jnp.tanh(jnp.asarray(A.real) @ params["w"]) @ params["v"] + params["b"][None]


def cross_entropy(logits):
    return jnp.sum(jax.nn.logsumexp(logits, axis=1) - logits[:, 0])


WEIGHTS = {"b": jnp.zeros(2), "v": jnp.asarray(A.real[:2, :2]), "w": jnp.asarray(A.imag[:3, :2])}
WHOLE = {"value": 1.0, "model_fn": model, "outer": cross_entropy}


@pytest.mark.slow
def test_the_direction_solves_the_damped_system_of_a_network():
    model = WHOLE["model_fn"]
    gradient = jax.grad(lambda p: cross_entropy(model(p)))(WEIGHTS)
    tx = gc.scale_by_gauss_newton(0.1, cg_tol=1e-6)
    u, state = tx.update(gradient, tx.init(WEIGHTS), WEIGHTS, **WHOLE)
    product = gc.ggn_product(model, cross_entropy, WEIGHTS, u)
    along = gc.tree.vdot(gradient, gc.ggn_product(model, cross_entropy, WEIGHTS, gradient))
    scale = along / gc.tree.vdot(gradient, gradient)
    trees.assert_close(gc.tree.add_scale(product, 0.1 * scale, u), gradient, 1e-4)
    predicted = gc.tree.vdot(gradient, u) - gc.tree.vdot(u, product) / 2
    trees.assert_close((state.scale, state.predicted), (scale, predicted), 1e-4)


def test_a_mask_shows_the_direction_its_share_of_the_model():
    gradient = jax.grad(lambda p: cross_entropy(model(p)))(WEIGHTS)
    tx = gc.masked(gc.scale_by_gauss_newton(), {"b": True, "v": False, "w": False})
    u = tx.update(gradient, tx.init(WEIGHTS), WEIGHTS, **WHOLE)[0]
    share = {"model_fn": lambda b: model(WEIGHTS | {"b": b})}
    alone = gc.scale_by_gauss_newton()
    own = alone.update(gradient["b"], alone.init(WEIGHTS["b"]), WEIGHTS["b"], **WHOLE | share)[0]
    trees.assert_close(u, gradient | {"b": own}, 1e-6)


def test_the_damping_shrinks_by_three_where_the_model_is_right_and_grows_where_it_isnt():
    matrix = jnp.asarray(A.real)
    residuals = lambda w: matrix @ w - jnp.asarray(B.real)  # noqa: E731
    tx, w, factors = gc.scale_by_gauss_newton(1.0), jnp.zeros(3), []
    state = tx.init(w)
    for step in (-1.0, 1.0, 0.0):
        value, gradient = jax.value_and_grad(lambda w: jnp.sum(residuals(w) ** 2) / 2)(w)
        u, state = tx.update(gradient, state, w, value=value, residual_fn=residuals)
        factors.append(float(state.factor))
        w = w + step * u
    assert factors == pytest.approx([1, 1 / 3, 2 / 3])
    assert state.growth == 4
