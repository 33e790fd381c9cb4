"""Line searches: alone on functions of one variable, as stages of a chain, and where there is no way down."""

import functools
import re

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from gradchain import training
from tests import trees

SEARCHES = {
    "backtracking": gc.scale_by_backtracking_linesearch(40, store_grad=True),
    "zoom": gc.scale_by_zoom_linesearch(20),
    "hager_zhang": gc.scale_by_hager_zhang_linesearch(20, initial_guess_strategy="keep"),
}
each_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES.keys())


def down(search):
    return gc.chain(gc.scale(-1.0), search)


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def bowl(x):
    return jnp.sum(jnp.square(x - 1))


def start(search, point, fun=bowl):
    """Return (value, grad, state) at a point, before the first update."""
    value, grad = jax.value_and_grad(fun)(point)
    return value, gc.tree.conj(grad), search.init(point)


@functools.partial(jax.jit, static_argnums=1)
def told(search, tx, value, slope):
    return tx.tell(search, value, slope)


def trials(tx, function, guess=1.0, dtype=jnp.float64):
    """Return the search that ends on a function of one variable with its slope, and the trials that it has made."""
    value, slope = (jnp.asarray(x, dtype) for x in function(0.0))
    search, made = tx.begin(tx.init(jnp.zeros(1, dtype)), value, slope), []
    search = search._replace(step=jnp.asarray(guess, dtype))
    while not (search.done or search.failed):
        made.append(float(search.step))
        search = told(search, tx, *(jnp.asarray(x, dtype) for x in function(made[-1])))
    return search, made


def wave(t):
    return -np.sin(10 * t), -10 * np.cos(10 * t)


def far(t):
    return (t - 1e4) ** 2, 2 * (t - 1e4)


def short_domain(t):
    return (np.log(1e-6 - t), -1 / (1e-6 - t)) if t < 1e-6 else (np.nan, np.nan)


def rational(t):
    return -t / (t**2 + 2), (t**2 - 2) / (t**2 + 2) ** 2


BY_HAND = [(wave, 0.9, 3), (wave, 0.1, 4), (far, 0.9, 4), (far, 0.1, 5), (rational, 0.1, 3)]
"""Functions of one variable, the fraction of the slope that is asked for, and how many trials that takes from 1 on."""


@pytest.mark.parametrize(("function", "curv_rtol", "count"), BY_HAND)
def test_hager_zhang_finds_steps_with_both_conditions(function, curv_rtol, count, x64):
    search, made = trials(gc.scale_by_hager_zhang_linesearch(curv_rtol=curv_rtol), function)
    value, slope = function(float(search.taken))
    first, steepest = function(0.0)
    assert search.done
    assert value <= first + 1e-4 * float(search.taken) * steepest
    assert abs(slope) <= curv_rtol * abs(steepest)
    assert len(made) == int(search.count) == count


@pytest.mark.parametrize("name", ["zoom", "hager_zhang"])
def test_a_tiny_domain_is_found_in_tenths(name, x64):
    search, made = trials(SEARCHES[name], short_domain)
    np.testing.assert_allclose(made[:8], 10.0 ** -np.arange(8), rtol=1e-12)
    assert 0 < float(search.taken) < 1e-6


@pytest.mark.parametrize("name", ["zoom", "hager_zhang"])
def test_a_slope_that_isnt_finite_is_a_trial_outside_the_domain(name, x64):
    def edge(t):
        return (1 - t, -1.0) if t < 0.5 else (-10.0, np.nan)

    search, made = trials(SEARCHES[name], edge)
    assert made[1] == pytest.approx(0.1)
    assert float(search.taken) < 0.5


def family(x, seed):
    """Return one of many smooth functions with curved valleys."""
    weights = 1 + 9 * jnp.abs(jnp.sin(jnp.arange(1, 6) * (seed + 1.0)))
    return jnp.sum(weights * jnp.square(x)) / 2 + 20 * jnp.sum(jnp.sqrt(1 + jnp.square(x[1:] - jnp.square(x[:-1]))))


def trajectories(library, search, points):
    """Return values, steps and counts of 10 steps of steepest descent from several points, each on its function."""

    def run(x, seed):
        tx = library.chain(library.scale(-1.0), search)

        def body(carry, _):
            x, state = carry
            value, grad = jax.value_and_grad(family)(x, seed)
            updates, state = tx.update(grad, state, x, value=value, grad=grad, value_fn=family, seed=seed)
            found = state[1].value, state[1].learning_rate, state[1].info.num_linesearch_steps
            return (x + updates, state), found

        return jax.lax.scan(body, (x, tx.init(x)), None, 10)[1]

    return jax.jit(jax.vmap(run))(points, jnp.arange(len(points), dtype=points.dtype))


PARITY = [
    ("scale_by_zoom_linesearch", {"max_linesearch_steps": 30, "curv_rtol": 0.1}),
    pytest.param("scale_by_zoom_linesearch", {"max_linesearch_steps": 20}, marks=pytest.mark.slow),
    pytest.param(
        "scale_by_zoom_linesearch",
        {"max_linesearch_steps": 20, "initial_guess_strategy": "one"},
        marks=pytest.mark.slow,
    ),
    ("scale_by_backtracking_linesearch", {"max_backtracking_steps": 40, "increase_factor": 2.0}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), PARITY)
def test_steps_are_optaxs(name, options, x64):
    points = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5)))
    ours, theirs = (trajectories(lib, getattr(lib, name)(**options), points) for lib in (gc, optax))
    np.testing.assert_array_equal(ours[2], theirs[2])
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-9)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6)
    assert np.max(ours[2]) > 2  # so that there was something to search


@each_search
@pytest.mark.parametrize("updates", [jnp.ones(3), jnp.zeros(3), jnp.full(3, jnp.nan)], ids=["uphill", "zero", "NaN"])
def test_without_a_way_down_nothing_is_evaluated_and_nothing_moves(search, updates):
    params = jnp.full(3, 2.0)
    value, grad, state = start(search, params)
    moves, after = search.update(
        updates, state, params, value=value, grad=grad, value_fn=lambda p: pytest.fail("evaluated")
    )
    np.testing.assert_array_equal(moves, 0)
    assert int(after.info.num_linesearch_steps) == 0
    assert np.isinf(after.info.decrease_error)
    np.testing.assert_array_equal(after.value, value)
    np.testing.assert_array_equal(after.grad, grad)


@each_search
def test_where_no_trial_has_decrease_nothing_moves_and_the_next_search_goes_on(search):
    params, tx = jnp.full(3, 2.0), search.replace(**{next(iter(search.kinds)): 3})
    value, grad, state = start(tx, params)
    seen = []

    def cliff(p):
        jax.debug.callback(lambda t: seen.append(float(t)), p[0])
        return 100 + p[0]

    for _ in range(2):
        moves, state = tx.update(-grad, state, params, value=value, grad=grad, value_fn=cliff)
        jax.effects_barrier()
        np.testing.assert_array_equal(moves, 0)
        assert float(state.info.decrease_error) > 0
        np.testing.assert_array_equal(state.value, value)
        np.testing.assert_array_equal(state.grad, grad)
    lengths = 2 - np.array(seen)
    assert len(lengths) == 2 * int(state.info.num_linesearch_steps)
    assert lengths[len(lengths) // 2] < lengths[len(lengths) // 2 - 1]  # shorter than the last one of the first search


def test_backtracking_remembers_the_last_accepted_step_when_no_trial_is_finite():
    tx, params = gc.scale_by_backtracking_linesearch(3), jnp.full(3, 2.0)
    value, grad, state = start(tx, params)
    _, state = tx.update(-grad, state, params, value=value, grad=grad, value_fn=bowl)
    accepted = float(state.learning_rate)
    moves, state = tx.update(-grad, state, params, value=value, grad=grad, value_fn=lambda p: jnp.sum(p) * jnp.nan)
    np.testing.assert_array_equal(moves, 0)
    assert float(state.learning_rate) == accepted > 0
    moves, state = tx.update(-grad, state, params, value=value, grad=grad, value_fn=bowl)
    assert np.all(moves < 0)


def two_wells(x):
    return jnp.sum(x**4 / 4 - x**2 / 2 + 0.3 * jnp.sin(5 * x)) + 0.5 * jnp.sum(jnp.square(x[1:] - x[:-1]))


@pytest.mark.slow
@each_search
def test_no_step_raises_the_value_even_along_a_poor_direction(search):
    """With momentum, whose direction is often uphill; by more than rounding and the approximate condition allow."""
    tx = gc.chain(gc.trace(0.9), gc.scale(-1.0), search)

    def run(x):
        def body(carry, _):
            x, state = carry
            value, grad = jax.value_and_grad(two_wells)(x)
            updates, state = tx.update(grad, state, x, value=value, grad=grad, value_fn=two_wells)
            return (x + updates, state), (value, two_wells(x + updates), jnp.max(jnp.abs(updates)))

        return jax.lax.scan(body, (x, tx.init(x)), None, 60)[1]

    before, after, moved = jax.jit(jax.vmap(run))(
        jnp.asarray(np.random.default_rng(0).normal(size=(20, 6)) * 2, "float32")
    )
    assert np.all(after <= before + (1e-6 + 8 * np.finfo("float32").eps) * np.abs(before))
    assert np.any(moved == 0)
    assert np.all(after[:, -1] < before[:, 0])


def test_a_users_loop_holds_the_objective_twice_and_no_more():
    def fun(x):
        return jnp.sum(jnp.sin(x) + jnp.square(x))

    def run(x):
        tx, value_and_grad = down(SEARCHES["zoom"]), gc.value_and_grad_from_state(fun)

        def body(_, carry):
            value, grad = value_and_grad(carry[0], state=carry[1])
            updates, state = tx.update(grad, carry[1], carry[0], value=value, grad=grad, value_fn=fun)
            return carry[0] + updates, state

        return jax.lax.fori_loop(0, 10, body, (x, tx.init(x)))[0]

    text = jax.jit(run).lower(jnp.ones(3)).as_text()
    assert len(re.findall("stablehlo.sine", text)) == len(re.findall("stablehlo.cosine", text)) == 2


COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: COMPILED.append(event) if "backend_compile" in event else None
)


@each_search
def test_eager_updates_compile_nothing_from_the_second_call_on(search):
    tx, point = down(search), jnp.zeros(5)
    state = tx.init(point)
    for k in range(5):
        value, grad = jax.value_and_grad(rosenbrock)(point)
        before = len(COMPILED)
        updates, state = tx.update(grad, state, point, value=value, grad=grad, value_fn=lambda p: rosenbrock(p))
        assert len(COMPILED) == before or k == 0
        point = gc.apply_updates(point, updates)


def test_an_eager_search_sees_what_a_function_closes_over_now():
    tx, point, target = down(SEARCHES["zoom"]), jnp.zeros(2), {"at": 1.0}

    def fun(p):
        return jnp.sum(jnp.square(p - target["at"]))

    for at in (1.0, -3.0):
        target["at"] = at
        value, grad, state = start(tx, point, fun)
        updates, _ = tx.update(grad, state, point, value=value, grad=grad, value_fn=fun)
        np.testing.assert_allclose(point + updates, at, rtol=1e-5)


@pytest.mark.slow
@each_search
def test_complex_problems_run_as_their_real_form(search, x64):
    def fun(z):
        return jnp.sum(jnp.abs(z - jnp.array([1 + 2j, -1j])) ** 1.5 * jnp.array([1.0, 5.0]))

    def descend(fun, z):
        tx, value_and_grad = down(search), gc.value_and_grad_from_state(fun)

        def body(carry, _):
            z, state = carry
            value, grad = value_and_grad(z, state=state)
            grad = jnp.conj(grad)
            updates, state = tx.update(grad, state, z, value=value, grad=grad, value_fn=fun)
            return (z + updates, state), (z + updates, state[1].info.num_linesearch_steps)

        return jax.jit(lambda z: jax.lax.scan(body, (z, tx.init(z)), None, 12)[1])(z)

    z = jnp.array([0.3 - 1j, 2 + 0.5j])
    complex_path, counts = descend(fun, z)
    real_path, real_counts = descend(lambda x: fun(x[:2] + 1j * x[2:]), jnp.concatenate([z.real, z.imag]))
    np.testing.assert_array_equal(counts, real_counts)
    np.testing.assert_allclose(complex_path, real_path[:, :2] + 1j * real_path[:, 2:], rtol=1e-9)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_value_and_gradient_come_from_the_state(dtype):
    params = {"w": jnp.asarray([2.0, -1.0], dtype)}

    def fun(p):
        return bowl(p["w"])

    tx, value_and_grad = down(SEARCHES["backtracking"]), gc.value_and_grad_from_state(fun)
    state = tx.init(params)
    value, grad = value_and_grad(params, state=state)
    updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=fun)
    params = gc.apply_updates(params, updates)
    known = gc.value_and_grad_from_state(lambda p: pytest.fail("evaluated"))(params, state=state)
    expected = jax.value_and_grad(fun)(params)
    trees.assert_close(known, expected, 1e-6)
    assert known[1]["w"].dtype == dtype
    jitted = jax.jit(lambda p, s: value_and_grad(p, state=s))(params, state)
    trees.assert_close(jitted, expected, 1e-6)


def test_auxiliary_output_is_of_the_point_itself():
    def fun(p, scale):
        return scale * bowl(p), {"first": p[0]}

    tx, params, value_and_grad = (
        down(SEARCHES["zoom"]),
        jnp.full(2, 3.0),
        gc.value_and_grad_from_state(fun, has_aux=True),
    )
    state = tx.init(params)
    for _ in range(2):
        (value, aux), grad = value_and_grad(params, 2.0, state=state)
        trees.assert_close(((value, aux), grad), jax.value_and_grad(fun, has_aux=True)(params, 2.0), 1e-6)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=lambda p: fun(p, 2.0)[0])
        params = gc.apply_updates(params, updates)


def test_states_without_one_search_that_keeps_a_gradient_are_errors():
    ask, params = gc.value_and_grad_from_state(bowl), jnp.ones(2)
    with pytest.raises(ValueError, match=r"no stage keeps value and gradient; the last stage .* must be a line search"):
        ask(params, state=gc.adam(0.1).init(params))
    both = gc.chain(SEARCHES["zoom"], SEARCHES["hager_zhang"])
    with pytest.raises(
        ValueError, match=r"ScaleByZoomLinesearchState at state\[0\], ScaleByHagerZhang.* at state\[1\]"
    ):
        ask(params, state=both.init(params))
    with pytest.raises(ValueError, match=r"keeps no gradient; build the search with store_grad=True"):
        ask(params, state=gc.scale_by_backtracking_linesearch(3).init(params))


def test_arguments_that_the_function_names_are_handed_to_it():
    def fun(p, target, *, weight=1.0):
        return weight * jnp.sum(jnp.square(p - target))

    tx, params, more = down(SEARCHES["zoom"]), jnp.zeros(2), {"target": 3.0, "weight": 2.0, "nobody": "knows"}
    value, grad = jax.value_and_grad(fun)(params, 3.0, weight=2.0)
    updates, _ = tx.update(grad, tx.init(params), params, value=value, grad=grad, value_fn=fun, **more)
    np.testing.assert_allclose(updates, 3.0, rtol=1e-5)


def test_a_part_of_the_parameters_is_searched_with_its_share_of_the_gradient():
    params = {"a": jnp.full(2, 2.0), "b": jnp.full(3, 5.0)}

    def fun(p):
        return bowl(p["a"]) + bowl(p["b"])

    tx = gc.masked(down(SEARCHES["zoom"]), {"a": True, "b": False})
    value, grad, state = start(tx, params, fun)
    updates, _ = tx.update(grad | {"b": jnp.zeros(3)}, state, params, value=value, grad=grad, value_fn=fun)
    np.testing.assert_allclose(params["a"] + updates["a"], 1.0, rtol=1e-5)
    np.testing.assert_array_equal(updates["b"], 0)


@pytest.mark.slow
def test_a_search_that_sees_real_and_imaginary_parts_gets_the_gradients():
    def fun(z):
        return jnp.sum(jnp.square(jnp.abs(z - (1 + 2j))))

    params, search = jnp.array([0.5 - 1j, 3 + 0j]), down(SEARCHES["zoom"])
    found = []
    for tx in (search, gc.split_real_and_imaginary(search)):
        value, grad, state = start(tx, params, fun)
        found.append(tx.update(grad, state, params, value=value, grad=grad, value_fn=fun)[0])
    trees.assert_close(found[1], found[0], 1e-6)


def test_the_slope_predicts_the_first_trial():
    tx = gc.scale_by_hager_zhang_linesearch(initial_guess_strategy="slope")
    state = tx.init(jnp.zeros(2))._replace(learning_rate=jnp.float32(0.3), slope=jnp.float32(-4.0))
    for slope, first in ((-2.0, 0.6), (-8.0, 0.15), (-0.01, 3.0)):
        np.testing.assert_allclose(tx.begin(state, jnp.float32(1), jnp.float32(slope)).step, first, rtol=1e-6)


LINE = {"x": np.linspace(-1, 1, 8).astype("float32")}


def fit_error(params, batch):
    return jnp.mean(jnp.square(params["a"] * batch["x"] + params["b"] - 3 * batch["x"] + 1))


def test_fit_on_one_full_batch():
    params = {"a": jnp.zeros(()), "b": jnp.zeros(())}
    tx = gc.chain(gc.scale(-1.0), gc.scale_by_zoom_linesearch(15))
    result = training.fit(fit_error, params, tx, LINE, epochs=12, batch_size=8)
    trees.assert_close(result.params, {"a": jnp.float32(3), "b": jnp.float32(-1)}, 1e-3)
    reported = {name.split(".")[1]: x for name, x in gc.metrics(tx, result.state).items()}
    assert reported.keys() == {"learning_rate", "num_linesearch_steps", "decrease_error"}
    assert reported["learning_rate"] == result.state[1].learning_rate > 0


@pytest.mark.slow
def test_many_fractions_of_curvature_are_one_program():
    traced = []

    def loss(params, batch):
        traced.append(1)
        return fit_error(params, batch)

    params = {"a": jnp.zeros(()), "b": jnp.zeros(())}
    counts = []
    for fractions in ([0.1, 0.9], [0.2, 0.5]):
        tx = gc.chain(gc.scale(-1.0), gc.scale_by_zoom_linesearch(15, curv_rtol=jnp.array(fractions)))
        result = training.sweep(loss, params, tx, LINE, epochs=3, batch_size=8)
        assert np.all(np.isfinite(result.history["loss"]))
        counts.append(len(traced))
    assert counts[0] == counts[1]


def test_wrong_arguments_are_errors():
    with pytest.raises(ValueError, match=r"max_linesearch_steps must be in \[1, inf\], got 0"):
        gc.scale_by_zoom_linesearch(0)
    for name, bad in (("slope_rtol", 1.0), ("curv_rtol", 0.0), ("increase_factor", 0.5)):
        with pytest.raises(ValueError, match=f"{name} must be in"):
            gc.scale_by_zoom_linesearch(5, **{name: bad})
    with pytest.raises(ValueError, match=r"decrease_factor must be in \(0, 1\), got 1"):
        gc.scale_by_backtracking_linesearch(5, decrease_factor=1.0)
    with pytest.raises(ValueError, match=r"curv_rtol must be above slope_rtol.*curv_rtol=0.1 and slope_rtol=0.5"):
        gc.scale_by_hager_zhang_linesearch(slope_rtol=0.5, curv_rtol=0.1)
    with pytest.raises(ValueError, match=r"initial_guess_strategy must be one of 'one', 'keep', 'slope', got 'zero'"):
        gc.scale_by_zoom_linesearch(5, initial_guess_strategy="zero")


def test_wrong_updates_are_errors():
    tx, params = SEARCHES["zoom"], jnp.full(2, 2.0)
    value, grad, state = start(tx, params)
    given = {"value": value, "grad": grad, "value_fn": bowl}
    every = r"update\(updates, state, params, value=\.\.\., grad=\.\.\., value_fn=\.\.\.\)"
    with pytest.raises(ValueError, match=rf"scale_by_zoom_linesearch needs 'grad' and 'value_fn': call {every}"):
        tx.update(-grad, state, params, value=value)
    with pytest.raises(ValueError, match=r"scale_by_zoom_linesearch needs params"):
        tx.update(-grad, state, **given)
    with pytest.raises(ValueError, match=r"scale_by_zoom_linesearch: .* shape \(3,\) in grad but \(2,\) in updates"):
        tx.update(-grad, state, params, **given | {"grad": jnp.ones(3)})
    with pytest.raises(TypeError, match=r"value_fn must return the loss alone, got a tuple; .*aux, too"):
        tx.update(-grad, state, params, **given | {"value_fn": lambda p: (bowl(p), p)})
    with pytest.raises(ValueError, match=r"result of value_fn must be one number, got shape \(2,\)"):
        tx.update(-grad, state, params, **given | {"value_fn": jnp.square})


def test_verbose_says_why_a_search_has_failed(capsys):
    params, uphill = jnp.full(2, 2.0), jnp.ones(2)
    for search in (gc.scale_by_zoom_linesearch(5, verbose=True), gc.scale_by_backtracking_linesearch(5, verbose=True)):
        value, grad, state = start(search, params)
        update = jax.jit(functools.partial(search.update, value_fn=bowl))
        update(uphill, state, params, value=value, grad=grad)
        jax.effects_barrier()
        assert "don't lead downhill" in capsys.readouterr().out
        update(-0.1 * grad, state, params, value=value, grad=grad)
        jax.effects_barrier()
        assert capsys.readouterr().out == ""
    limited = gc.scale_by_zoom_linesearch(5, max_learning_rate=1e-3, verbose=True)
    limited.update(-grad, limited.init(params), params, value=value, grad=grad, value_fn=bowl)
    jax.effects_barrier()
    assert "still falls at max_learning_rate" in capsys.readouterr().out
