"""``minimize``: one evaluation an iteration, why runs end, batches, derivatives, sets, and what is refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from gradchain import Reason, minimize, projections
from tests.trees import assert_close

MATRIX = np.random.default_rng(0).normal(size=(12, 4))
TARGET = np.random.default_rng(1).normal(size=12)


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def ridge(w, penalty, target):
    return 0.5 * jnp.sum((jnp.asarray(MATRIX, w.dtype) @ w - target) ** 2) + 0.5 * penalty * jnp.sum(w**2)


def closed_form(penalty, target):
    matrix = jnp.asarray(MATRIX)
    return jnp.linalg.solve(matrix.T @ matrix + penalty * jnp.eye(4), matrix.T @ target)


def above_one(x):
    """Return a function with a minimum that float32 doesn't hold."""
    return 1 + rosenbrock(1.7 * x)


START = np.array([-1.2, 1.0])


def test_the_gradient_test_holds_at_the_solution(x64):
    solution = minimize(rosenbrock, jnp.asarray(START), gtol=1e-8)
    assert Reason(int(solution.reason)) is Reason.gradient
    assert solution.converged
    gradient = jax.grad(rosenbrock)(solution.params)
    assert jnp.max(jnp.abs(gradient)) <= 1e-8
    assert_close(solution.params, jnp.ones(2), 1e-7)
    assert_close(solution.grad, gradient, 1e-6)
    assert abs(solution.value - rosenbrock(solution.params)) <= 1e-20
    assert solution.check() is solution
    assert solution.summary().startswith("converged (gradient)")


def test_the_program_holds_one_copy_of_the_function_and_one_of_its_derivative():
    text = jax.jit(lambda x: minimize(lambda x: jnp.sum(jnp.sin(x) + x**2), x)).lower(jnp.ones(3)).as_text()
    assert len(re.findall(r"stablehlo\.sine", text)) == 1
    assert len(re.findall(r"stablehlo\.cosine", text)) == 1


def counted(fun, calls):
    """Return the function, which notes each evaluation that is carried out; that of a whole batch counts once."""

    @jax.custom_vjp
    def f(x):
        return fun(x)

    def forward(x):
        jax.debug.callback(lambda: calls.append(1))
        return jax.vjp(fun, x)

    f.defvjp(forward, lambda back, c: back(c))
    return f


@pytest.mark.slow
def test_a_batch_takes_the_evaluations_of_its_slowest_member(x64):
    starts = jnp.concatenate(
        [jnp.asarray([[1.0, 1.0 + 1e-3]]), jnp.asarray(np.random.default_rng(0).normal(size=(15, 2)))]
    )
    calls = []
    batch = jax.block_until_ready(jax.vmap(minimize, (None, 0))(counted(rosenbrock, calls), starts))
    jax.effects_barrier()
    assert len(calls) == int(jnp.max(batch.evals))
    single = [minimize(rosenbrock, start) for start in starts]
    assert [int(s.evals) for s in single] == batch.evals.tolist()
    assert_close(batch.params, jnp.stack([s.params for s in single]), 1e-6)
    best = batch.best()
    assert best.value == jnp.min(batch.value)
    assert best.params.shape == (2,)
    assert batch.summary().count("\n") == len(starts) - 1


def test_another_start_tolerance_number_or_argument_compiles_nothing():
    compiled = []
    listener = lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None  # noqa: E731
    target = jnp.asarray(TARGET, jnp.float32)

    def run(start, gtol, ftol, c2, penalty, evals):
        search = gc.scale_by_hager_zhang_linesearch(curv_rtol=c2)
        tx = gc.chain(gc.scale_by_lbfgs(), gc.scale(-1.0), search)
        return minimize(ridge, start, tx, args=(penalty, target), gtol=gtol, ftol=ftol, max_evals=evals).value

    run(jnp.zeros(4), 1e-3, 0.0, 0.9, jnp.float32(1.0), 100)
    start, penalty = jnp.ones(4), jnp.float32(2.0)
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        run(start, 1e-4, 1e-6, 0.8, penalty, None)
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert not compiled


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"ftol": 1e-3, "gtol": 0.0}, Reason.value),
        ({"xtol": 1e-2, "gtol": 0.0}, Reason.step),
        ({"gtol": 0.0}, Reason.precision),
        ({"max_steps": 3}, Reason.max_steps),
        ({"max_evals": 5}, Reason.max_evals),
        ({"callback": lambda solution: solution.steps >= 2}, Reason.callback),
    ],
)
def test_runs_end_for_the_reason_they_say(options, reason):
    solution = minimize(above_one, jnp.asarray(START, jnp.float32), **options)
    assert Reason(int(solution.reason)) is reason
    assert solution.converged == (reason in (Reason.value, Reason.step))
    assert solution.value <= above_one(jnp.asarray(START, jnp.float32))
    if not solution.converged:
        with pytest.raises(RuntimeError, match=re.escape(solution.summary())):
            solution.check()


def test_a_start_that_is_not_finite_ends_after_one_evaluation_where_it_is():
    start = jnp.asarray([jnp.nan, 1.0])
    solution = minimize(rosenbrock, start)
    assert Reason(int(solution.reason)) is Reason.not_finite
    assert (int(solution.steps), int(solution.evals)) == (0, 1)
    np.testing.assert_array_equal(solution.params, start)


def test_a_wrong_gradient_ends_with_a_search_that_finds_nothing():
    @jax.custom_vjp
    def f(x):
        return jnp.sum(x)

    f.defvjp(lambda x: (f(x), None), lambda _, c: (-c * jnp.ones(2),))
    solution = minimize(f, jnp.array([1.0, -1.0]))
    assert Reason(int(solution.reason)) is Reason.linesearch
    assert solution.value <= 0


def test_evaluations_that_end_within_the_first_search_leave_the_start():
    steep = lambda x: jnp.sum(jnp.where(x > 0.5, 1e6, x**2) + x)  # noqa: E731
    solution = minimize(
        steep, -5.0 * jnp.ones(1), gc.chain(gc.scale(-100.0), gc.scale_by_hager_zhang_linesearch()), max_evals=2
    )
    assert Reason(int(solution.reason)) is Reason.max_evals
    np.testing.assert_array_equal(solution.params, [-5.0])


def test_huge_gradients_in_float32_are_followed_down():
    solution = minimize(lambda x: jnp.sum(jnp.exp(10 * x) - 10 * x), 5 * jnp.ones(4, jnp.float32), gtol=1e-3)
    assert_close(solution.value, jnp.float32(4), 1e-5)


def test_the_units_of_the_function_and_of_the_parameters_dont_matter_in_float32():
    """Squares of slopes vanish or overflow there, and the first trial, of length 1, changes the value by nothing."""

    def fun(w, unit, scale):
        return unit * jnp.sum(jnp.arange(1, 4) * (scale * w - 1) ** 2)

    for unit, scale in ((1e-30, 1.0), (1e30, 1.0), (1.0, 1e-12), (1.0, 1e15)):
        solution = minimize(fun, jnp.zeros(3), args=(jnp.float32(unit), jnp.float32(scale)))
        assert solution.check().evals <= 25
        assert_close(scale * solution.params, jnp.ones(3), 1e-3)


@pytest.mark.parametrize(
    "nest",
    [
        pytest.param(lambda *s: gc.chain(gc.chain(*s[:2]), s[2]), marks=pytest.mark.slow),
        lambda *s: gc.named_chain(*zip("abc", s, strict=True)),
    ],
)
def test_nested_chains_with_a_search_are_one_flat_loop(nest):
    stages = gc.scale_by_lbfgs(), gc.scale(-1.0), gc.scale_by_hager_zhang_linesearch()
    flat, tx = (minimize(rosenbrock, jnp.asarray(START), t) for t in (gc.chain(*stages), nest(*stages)))
    assert flat.evals == tx.evals
    reference = nest(*stages)
    assert jax.tree.structure(tx.state) == jax.tree.structure(reference.init(jnp.asarray(START)))
    assert int(gc.tree.get(tx.state, "searches")) == int(tx.steps)


def test_a_transform_without_a_search_takes_its_own_steps():
    tx, start = gc.adam(0.1), jnp.asarray(START)
    solution = minimize(rosenbrock, start, tx, max_steps=20, gtol=0.0, history=True)
    params, state = start, tx.init(start)
    for step in range(20):
        updates, state = tx.update(jax.grad(rosenbrock)(params), state, params)
        params = gc.apply_updates(params, updates)
        assert_close(solution.history["value"][step], rosenbrock(params), 1e-4)
    assert int(solution.evals) == 21
    assert_close(solution.state, state, 1e-3)
    lowest = min(float(rosenbrock(start)), float(jnp.min(solution.history["value"])))
    assert float(solution.value) == lowest


def test_history_is_nan_after_the_end():
    solution = minimize(rosenbrock, jnp.asarray(START), history=True, max_steps=60)
    steps = int(solution.steps)
    assert {x.shape for x in solution.history.values()} == {(60,)}
    assert all(np.isfinite(x[:steps]).all() and np.isnan(x[steps:]).all() for x in solution.history.values())
    assert solution.history["value"][steps - 1] == solution.value
    assert solution.history["evals"][steps - 1] == solution.evals


def test_aux_belongs_to_the_solution():
    fun = lambda x: (jnp.sum((x - 3) ** 2), {"twice": 2 * x})  # noqa: E731
    solution = minimize(fun, jnp.zeros(2), has_aux=True)
    np.testing.assert_array_equal(solution.aux["twice"], 2 * solution.params)


@pytest.mark.slow
def test_callbacks_see_each_step_of_each_member_once():
    seen = []
    run = lambda x: minimize(rosenbrock, x, callback=lambda s: seen.append((int(s.steps), float(s.value))), max_steps=4)  # noqa: E731
    jax.block_until_ready(jax.vmap(run)(jnp.asarray([[-1.2, 1.0], [2.0, 2.0]])))
    jax.effects_barrier()
    assert sorted(step for step, _ in seen) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.slow
def test_complex_parameters_go_the_way_of_their_parts():
    fun = lambda z: jnp.sum(jnp.abs(z - (1 + 2j)) ** 1.5 * jnp.arange(1, 4))  # noqa: E731
    start = jnp.asarray([0.3 + 1j, 2 - 1j, -1j])
    whole = minimize(fun, start, history=True, max_steps=15)
    parts = minimize(lambda p: fun(p[0] + 1j * p[1]), (start.real, start.imag), history=True, max_steps=15)
    assert_close(whole.history["value"][:8], parts.history["value"][:8], 1e-4)


def by_implicit(penalty, target):
    return minimize(ridge, jnp.zeros(4), args=(penalty, target), implicit=True, gtol=1e-10)


@pytest.mark.slow
def test_derivatives_of_the_solution_are_those_of_the_closed_form(x64):
    target = jnp.asarray(TARGET)
    for argument in (0, 1):
        found = jax.jit(jax.jacrev(lambda *a: by_implicit(*a).params, argument))(0.7, target)
        assert_close(found, jax.jacrev(closed_form, argument)(0.7, target), 1e-6)
    forward = jax.jvp(lambda p: by_implicit(p, target).params, (0.7,), (1.0,))[1]
    assert_close(forward, jax.jvp(lambda p: closed_form(p, target), (0.7,), (1.0,))[1], 1e-6)
    penalties = jnp.array([0.3, 2.0])
    mapped = jax.vmap(jax.grad(lambda p: by_implicit(p, target).value))(penalties)
    exact = jax.vmap(jax.grad(lambda p: ridge(closed_form(p, target), p, target)))(penalties)
    assert_close(mapped, exact, 1e-6)


@pytest.mark.slow
def test_derivatives_reach_what_the_function_closes_over(x64):
    def closed_over(penalty):
        return minimize(lambda w: ridge(w, penalty, TARGET), jnp.zeros(4), implicit=True, gtol=1e-10).params

    assert_close(jax.jacrev(closed_over)(0.7), jax.jacrev(closed_form)(0.7, jnp.asarray(TARGET)), 1e-6)


@pytest.mark.slow
def test_reverse_mode_through_the_steps_is_an_error_that_names_the_cure(x64):
    value = lambda p: minimize(ridge, jnp.zeros(4), args=(p, jnp.asarray(TARGET))).value  # noqa: E731
    with pytest.raises(TypeError, match="implicit=True"):
        jax.grad(value)(0.7)
    exact = jax.grad(lambda p: ridge(closed_form(p, jnp.asarray(TARGET)), p, jnp.asarray(TARGET)))(0.7)
    assert_close(jax.jvp(value, (0.7,), (1.0,))[1], exact, 1e-4)


@pytest.mark.slow
def test_the_function_is_evaluated_inside_the_set_only(x64):
    def nan_outside(w):
        return ridge(w, 0.0, TARGET) + jnp.where(jnp.all(w >= 0), 0.0, jnp.nan)

    solution = minimize(nan_outside, -jnp.ones(4), projection=projections.projection_non_negative)
    assert solution.converged
    assert_close(solution.params, gc.nnls(jnp.asarray(MATRIX), jnp.asarray(TARGET), iters=500), 1e-5)


def test_a_quadratic_on_the_simplex(x64):
    quadratic = lambda w: ridge(w, 0.1, 3 * TARGET)  # noqa: E731
    solution = minimize(quadratic, jnp.ones(4) / 4, projection=projections.projection_simplex, gtol=1e-9)

    def step(_, w):
        return projections.projection_simplex(w - 0.02 * jax.grad(quadratic)(w))

    assert_close(solution.params, jax.lax.fori_loop(0, 5000, step, jnp.ones(4) / 4), 1e-7)
    assert solution.evals < 60


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fun": lambda w: w}, TypeError, r"shape \(4,\).*reduce it"),
        ({"fun": lambda w: (jnp.sum(w), 1)}, TypeError, "has_aux=True"),
        ({"has_aux": True}, TypeError, "pair"),
        ({"params": {}}, TypeError, "no arrays"),
        ({"params": jnp.arange(3)}, TypeError, "floating-point"),
        ({"max_steps": 0}, ValueError, "max_steps"),
        ({"max_evals": 0}, ValueError, "max_evals"),
        ({"gtol": -1.0}, ValueError, "gtol"),
        ({"ftol": -1e-3}, ValueError, "ftol"),
        ({"args": jnp.ones(2)}, TypeError, "tuple"),
        ({"tx": gc.adam(0.1), "projection": lambda w: w}, ValueError, "projection"),
        ({"implicit": True, "projection": lambda w: w}, ValueError, "projection"),
        ({"tx": gc.chain(gc.scale_by_hager_zhang_linesearch(), gc.scale(0.5))}, ValueError, "scale before the search"),
    ],
)
def test_what_is_refused(options, error, message):
    call = {"fun": lambda w: jnp.sum(w**2), "params": jnp.ones(4)} | options
    with pytest.raises(error, match=message):
        minimize(**call)


def test_a_single_solution_has_no_best_and_nothing_is_known_inside_jit():
    with pytest.raises(ValueError, match="single"):
        minimize(rosenbrock, jnp.asarray(START)).best()
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda x: minimize(rosenbrock, x).check().value)(jnp.asarray(START))


def spiky(x):
    """Return a function whose Hessian at 3 is far from what the function does on the way to its minimum at 1."""
    return jnp.sum(1 + jnp.log1p(100 * (x - 1) ** 2)) + jnp.sum(jnp.where(x > 4.5, jnp.nan, 0))


@pytest.mark.parametrize("options", [{"xtol": 1e-3}, {"ftol": 1e-3}, {}], ids=str)
def test_a_step_that_newton_cg_refuses_shows_no_convergence(options):
    tx = gc.scale_by_newton_cg(initial_radius=1e6)
    solution = minimize(spiky, jnp.array([4.0, 3.0]), tx, gtol=0.0, max_steps=200, history=True, **options)
    values = solution.history["value"]
    assert jnp.all(values[:9] == spiky(jnp.array([4.0, 3.0])))  # the radius shrinks
    assert_close(solution.params, jnp.ones(2), 1e-3)
    expected = {"xtol": Reason.step, "ftol": Reason.value}.get(next(iter(options), ""), Reason.precision)
    assert Reason(int(solution.reason)) in (expected, Reason.gradient)
    assert int(solution.steps) < 100


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (gc.scale_by_newton_cg, 40),
        (lambda: gc.adam(0.1), 1000),
        (lambda: optax.adam(0.1), 1000),
        pytest.param(optax.lbfgs, 60, marks=pytest.mark.slow),
        pytest.param(gc.lbfgs, 60, marks=pytest.mark.slow),
    ],
    ids=["newton_cg", "adam", "optax_adam", "optax_lbfgs", "lbfgs"],
)
def test_any_optimizer_finds_the_minimum(make, most):
    solution = minimize(rosenbrock, jnp.asarray(START, jnp.float32), make(), max_steps=most).check()
    assert Reason(int(solution.reason)) is Reason.gradient
    assert jnp.max(jnp.abs(jax.grad(rosenbrock)(solution.params))) <= 1e-4 * solution.first_grad_norm
    assert_close(solution.params, jnp.ones(2), 0.1)


def test_steps_that_move_nothing_end_a_run_before_its_steps_are_used_up():
    rate = gc.piecewise_constant_schedule(0.1, {5: 0.0})
    solution = minimize(rosenbrock, jnp.asarray(START), gc.sgd(rate * 1e-3), ftol=1e-9, xtol=1e-9)
    assert Reason(int(solution.reason)) is Reason.precision
    assert not solution.converged
    assert int(solution.steps) == 55


@pytest.mark.parametrize("wrap", [lambda tx: tx, lambda tx: gc.masked(tx, True)], ids=["chain", "masked"])
def test_a_direction_that_needs_the_model_says_which_solver_to_call(wrap):
    tx = gc.chain(wrap(gc.scale_by_gauss_newton()), gc.scale(-1.0))
    with pytest.raises(ValueError, match=r"scale_by_gauss_newton needs a model.*least_squares.*scale_by_newton_cg"):
        minimize(rosenbrock, jnp.asarray(START), tx)
