"""Adam's later relatives: where they differ from Optax's on purpose, and Sophia with its estimator of curvature."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from tests import public, trees

CURVATURES = {"bias": 3.0, "kernel": 2.0, "scale": 0.5}


def quadratic(params):
    """Return an objective whose Hessian is diagonal: CURVATURES by name."""
    return sum(0.5 * h * jnp.sum(jnp.abs(params[name]) ** 2) for name, h in CURVATURES.items())


def coupled(params):
    """Return an objective whose Hessian has entries off its diagonal, which is w^2 + 2, w being the kernel."""
    w = params["kernel"].ravel()
    return jnp.sum(w**4) / 12 + jnp.sum(w) ** 2 / 2 + jnp.sum(w**2) / 2


def updates_of(tx, gradients, params, **extra):
    """Return all updates on a list of gradients, with the parameters at rest."""
    state, results = tx.init(params), []
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params, **extra)
        results.append(updates)
    return results


def descend(library, tx, steps, params):
    """Return the parameters along a descent of ``quadratic``, with ``obj_fn`` for whoever asks."""

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(quadratic)(params), state, params, obj_fn=quadratic)
        return library.apply_updates(params, updates), state

    state, path = tx.init(params), []
    for _ in range(steps):
        params, state = step(params, state)
        path.append(params)
    return path


def test_contrib_names_have_optaxs_arguments():
    for name in ("scale_by_ademamix", "scale_by_simplified_ademamix", "scale_by_acprop", "scale_by_madgrad", "dpsgd"):
        ours, theirs = (inspect.signature(getattr(lib, name)).parameters for lib in (gc, optax.contrib))
        assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]
    for name in ("ademamix", "simplified_ademamix", "acprop", "madgrad", "adopt", "scale_by_adopt", "sophia"):
        ours, theirs = (inspect.signature(getattr(lib, name)).parameters for lib in (gc, optax.contrib))
        differ = {n for n in theirs if ours[n].default != theirs[n].default}
        places = [n for n, p in theirs.items() if p.kind is not p.KEYWORD_ONLY]
        assert list(ours)[: len(places)] == places
        assert set(theirs) <= set(ours)
        assert differ <= {"clip_value_fn", "hessian_diagonal_fn"}


def test_ademamixs_second_moment_is_never_in_half_precision_here_and_starts_so_there():
    params = jnp.ones(2)
    ours, theirs = (lib.scale_by_ademamix(mu_dtype="bfloat16").init(params) for lib in (gc, optax.contrib))
    assert (ours.m1.dtype, ours.m2.dtype, ours.nu.dtype) == ("bfloat16", "bfloat16", "float32")
    assert theirs.nu.dtype == "bfloat16"


def test_simplified_ademamix_of_complex_numbers_divides_by_magnitudes_here_and_not_there():
    g = jnp.asarray([3 + 4j], "complex64")
    ours, theirs = (updates_of(lib.scale_by_simplified_ademamix(), [g], g)[0] for lib in (gc, optax.contrib))
    np.testing.assert_allclose(ours, g / 5, rtol=1e-5)
    np.testing.assert_allclose(theirs, [1.0], rtol=1e-5)


@pytest.mark.parametrize("name", ["scale_by_adopt", "scale_by_acprop", "scale_by_madgrad"])
def test_zero_gradients_without_eps_give_zero_here_and_nan_there(name):
    arguments = {"eps": 0.0} | ({"eps_root": 0.0} if name == "scale_by_acprop" else {})
    arguments |= {"learning_rate": 0.1} if name == "scale_by_madgrad" else {}
    zeros, params = [jnp.zeros(2)] * 3, jnp.ones(2)
    assert np.all(np.asarray(updates_of(getattr(gc, name)(**arguments), zeros, params)) == 0)
    assert np.any(np.isnan(updates_of(getattr(optax.contrib, name)(**arguments), zeros, params)))


@pytest.mark.parametrize("bound", [0.25, lambda count: 0.1 * count, gc.linear_schedule(0.0, 1.0, 10)])
def test_adopt_clips_by_a_number_a_function_or_a_schedule(bound):
    gradients = [jnp.asarray([1.0, -2.0])] + [jnp.asarray([100.0, 0.1])] * 3
    ours = updates_of(gc.scale_by_adopt(clip_value_fn=bound), gradients, gradients[0])
    theirs = optax.contrib.scale_by_adopt(clip_value_fn=bound if callable(bound) else lambda count: bound)
    trees.assert_close(ours, updates_of(theirs, gradients, gradients[0]), 1e-6)


def test_adopt_takes_its_bound_from_the_state_when_it_is_injected():
    tx = gc.inject_hyperparams(gc.adopt)(0.1, clip_value_fn=0.5)
    state = tx.init(jnp.ones(1))
    _, state = tx.update(jnp.ones(1), state)
    state.hyperparams["clip_value_fn"] = 0.25
    updates, _ = tx.update(jnp.full(1, 9.0), state)
    np.testing.assert_allclose(updates, [-0.1 * 0.1 * 0.25], rtol=1e-6)


@pytest.mark.slow
def test_madgrad_is_optaxs_and_keeps_double_precision_where_that_does_not(x64):
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-7)):
        params, stream = trees.standard(dtype), trees.stream(50, dtype)
        gradients = [trees.at(stream, k) for k in range(50)]
        ours, theirs = (
            updates_of(tx, gradients, params)
            for tx in (gc.madgrad(0.01, weight_decay=0.1), optax.contrib.madgrad(0.01, weight_decay=0.1))
        )
        trees.assert_close(ours, theirs, tolerance)
        assert dtype == "float32" or trees.relative_error(ours, theirs) > 1e-10


def test_madgrad_steps_from_where_init_saw_the_parameters():
    tx, start = gc.madgrad(0.0, eps=0.0), jnp.asarray([1.0, 2.0])
    updates, _ = tx.update(jnp.ones(2), tx.init(start), start + 5.0)
    np.testing.assert_allclose(updates, [-0.5, -0.5], rtol=1e-6)


def test_madgrad_has_a_derivative_at_a_zero_gradient_here_and_nan_there():
    def total(gradient, tx):
        return jnp.sum(tx.update(gradient, tx.init(jnp.ones(3)), jnp.ones(3))[0])

    assert np.all(np.isfinite(jax.grad(total)(jnp.zeros(3), gc.scale_by_madgrad(0.1))))
    assert np.all(np.isnan(jax.grad(total)(jnp.zeros(3), optax.contrib.scale_by_madgrad(0.1))))


def test_cbrt_has_a_derivative_at_zero():
    x = jnp.asarray([0.0, 8.0, -8.0])
    np.testing.assert_allclose(gc.numerics.cbrt(x), [0, 2, -2], rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(gc.numerics.cbrt))(x), [0, 1 / 12, 1 / 12], rtol=1e-6)


@pytest.mark.parametrize(
    "dtype",
    ["bfloat16", "float32", "complex64", *(pytest.param(d, marks=pytest.mark.slow) for d in ("float16", "float64"))],
)
def test_hutchinsons_estimate_of_a_diagonal_hessian_is_exact(dtype):
    with jax.enable_x64(dtype == "float64"):
        tx, params = gc.hutchinson_estimator_diag_hessian(), trees.standard(dtype)
        updates, state = tx.update(params, tx.init(params), params, obj_fn=quadratic)
        trees.assert_same_kind(updates, params)
        trees.assert_same_kind(state, tx.init(params))
        unit = 1 + 1j if dtype == "complex64" else 1
        expected = {name: jnp.full_like(params[name], h * unit) for name, h in CURVATURES.items()}
        trees.assert_close(updates, expected, 1e-6 if dtype != "float64" else 1e-14)


def test_hutchinsons_estimate_has_the_diagonal_for_its_mean():
    params, number = trees.standard(), 4000
    batch = gc.hutchinson_estimator_diag_hessian(jnp.arange(number))

    def estimate(tx):
        return tx.update(params, tx.init(params), params, obj_fn=coupled)[0]

    kernel = jax.jit(jax.vmap(estimate, in_axes=(gc.batch_axes(batch),)))(batch)["kernel"]
    exact = params["kernel"] ** 2 + 2
    deviation = np.sqrt(params["kernel"].size - 1)
    np.testing.assert_allclose(np.mean(kernel, 0), exact, atol=5 * deviation / np.sqrt(number))
    np.testing.assert_allclose(np.std(kernel, 0), deviation, rtol=0.1)


def test_hutchinsons_signs_follow_from_the_seed_and_change_with_each_update():
    params = trees.standard()

    def two(seed):
        tx = gc.hutchinson_estimator_diag_hessian(seed)
        first, state = tx.update(params, tx.init(params), params, obj_fn=coupled)
        return first["kernel"], tx.update(params, state, params, obj_fn=coupled)[0]["kernel"]

    trees.assert_close(two(3), two(3), 0)
    draws = [*two(3), *two(4)]
    assert len({np.asarray(x).tobytes() for x in draws}) == 4


def test_what_the_estimator_needs_is_asked_for():
    params = trees.standard()
    for tx in (gc.hutchinson_estimator_diag_hessian(), gc.sophia(0.1)):
        for update in (tx.update, jax.jit(tx.update)):
            with pytest.raises(ValueError, match=r"hutchinson_estimator_diag_hessian needs 'value_fn': call update\("):
                update(params, tx.init(params), params)
    tx = gc.scale_by_sophia()
    with pytest.raises(ValueError, match="hutchinson_estimator_diag_hessian needs params"):
        tx.update(params, tx.init(params), obj_fn=quadratic)


def test_sophia_descends_as_optaxs_where_the_estimate_is_exact():
    arguments = {"gamma": 0.5, "update_interval": 3, "weight_decay": 0.1}
    params = trees.standard()
    ours = descend(gc, gc.sophia(0.05, **arguments), 100, params)
    theirs = descend(optax, optax.contrib.sophia(0.05, **arguments), 100, params)
    trees.assert_close(ours, theirs, 1e-5)
    assert quadratic(ours[-1]) < 0.05 * quadratic(params)


def test_sophia_clips_where_the_curvature_is_negative_or_unknown():
    g, params = jnp.asarray([0.5, -0.5]), jnp.zeros(2)
    tx = gc.scale_by_sophia(gamma=1.0, b2=0.5, update_interval=1, hessian_diagonal_fn=gc.scale(4.0))
    first, second = updates_of(tx, [g, g], params)
    np.testing.assert_allclose(first, [1.0, -1.0])
    np.testing.assert_allclose(second, [0.5, -1.0], rtol=1e-6)


def test_sophia_estimates_only_when_it_is_due():
    calls = []

    def objective(params):
        jax.debug.callback(lambda: calls.append(1))
        return quadratic(params)

    params = trees.standard()
    tx = gc.scale_by_sophia(update_interval=3)

    def count(update):
        calls.clear()
        state, curvatures = tx.init(params), []
        for _ in range(7):
            _, state = update(params, state, params, obj_fn=objective)
            curvatures.append(float(state.nu["scale"]))
        jax.effects_barrier()
        assert [a != b for a, b in itertools.pairwise(curvatures)] == [False, False, True] * 2
        return len(calls)

    assert count(tx.update) == 3
    assert count(jax.jit(tx.update, static_argnames="obj_fn")) == 3


def test_sophia_maps_over_intervals_and_states():
    params = trees.standard()
    batch = gc.scale_by_sophia(b2=0.5, gamma=1.0, update_interval=jnp.asarray([1, 2, 5]))

    def run(tx):
        return jnp.stack([u["kernel"] for u in updates_of(tx, [params] * 4, params, obj_fn=coupled)])

    together = jax.jit(jax.vmap(run, in_axes=(gc.batch_axes(batch),)))(batch)
    for k, interval in enumerate((1, 2, 5)):
        alone = run(gc.scale_by_sophia(b2=0.5, gamma=1.0, update_interval=interval))
        trees.assert_close(together[k], alone, 1e-5)


def test_sophias_state_is_a_fixed_point_with_optaxs_estimator_too():
    params = trees.standard("bfloat16")
    tx = gc.scale_by_sophia(hessian_diagonal_fn=optax.contrib.hutchinson_estimator_diag_hessian())
    state = tx.init(params)
    _, new = jax.jit(lambda g, s, p: tx.update(g, s, p, obj_fn=quadratic))(params, state, params)
    trees.assert_same_kind(new, state)


def test_sophia_is_a_value_whose_numbers_and_estimator_have_names():
    tx = gc.scale_by_sophia(clip_threshold=None)
    assert eval(repr(tx), public.NAMES) == tx
    assert gc.hyperparams(tx) == {
        "scale_by_sophia.b1": 0.965,
        "scale_by_sophia.b2": 0.99,
        "scale_by_sophia.eps": 1e-8,
        "scale_by_sophia.gamma": 0.01,
        "scale_by_sophia.update_interval": 10,
        "hutchinson_estimator_diag_hessian.random_seed": 0,
    }
    changed = gc.set_hyperparams(gc.sophia(0.1), {"gamma": 0.5, "update_interval": 3})
    assert changed == gc.sophia(0.1, gamma=0.5, update_interval=3)
    with pytest.raises(TypeError, match="expected a transform"):
        gc.scale_by_sophia(hessian_diagonal_fn=quadratic)


def test_sophia_reports_the_share_of_unclipped_numbers(capsys):
    params = {"w": jnp.asarray([0.5, 0.0, -0.5, 0.0])}
    for every, lines in ((2, ["Sophia optimizer win rate: 0.5"] * 2), (0, [])):
        tx = gc.scale_by_sophia(hessian_diagonal_fn=gc.set_to_zero(), verbose=True, print_win_rate_every_n_steps=every)
        step = jax.jit(tx.update)
        state = tx.init(params)
        for _ in range(5):
            _, state = step(params, state, params)
        jax.effects_barrier()
        assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize("options", [{}, {"eps_root": 0.0}, {"eps": 0.0, "eps_root": 0.0}])
@pytest.mark.parametrize("gradient", [1e-4, 1.0, -1e6])
def test_a_weight_that_wakes_makes_a_bounded_step_in_acprop(options, gradient):
    """Its gradients were 0 so far; with b2 = 0.99 the root counts the one that wakes it with a weight of 0.01."""
    tx, zero = gc.scale_by_acprop(b2=0.99, **options), jnp.zeros(())
    state = tx.init(zero)
    for _ in range(5):
        _, state = tx.update(zero, state)
    update, state = tx.update(jnp.asarray(gradient), state)
    np.testing.assert_allclose(update, 10 * np.sign(gradient), rtol=1e-3)
    update, _ = tx.update(jnp.asarray(gradient), state)  # from then on, the surprise before
    assert 0 < float(update * np.sign(gradient)) < 10
