"""SAM, cautious updates, Mechanic, MARS and constraints: what they promise, and where Optax differs."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import gradchain as gc
from tests import public, trees

PARAMS = trees.standard()
GRADIENT = trees.at(trees.stream(1), 0)
UPHILL = gc.chain(gc.normalize_by_update_norm(eps=0.0), gc.sgd(0.05))
THEIR_UPHILL = optax.chain(contrib.normalize(), optax.sgd(0.05))


def loss(params):
    """A bowl with different curvatures, and some waves on it."""
    leaves = jax.tree.leaves(params)
    return sum((i + 1) * jnp.sum(x**2) + jnp.sum(jnp.sin(3 * x)) for i, x in enumerate(leaves))


def descend(tx, steps, **extra):
    """Return parameters and state after some steps."""
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(steps):
        updates, state = tx.update(jax.grad(loss)(params), state, params, **extra)
        params = gc.apply_updates(params, updates)
    return params, state


def climb_and_descend(params, rho=0.05, rate=0.01):
    """Foret et al. 2021, algorithm 1."""
    gradient = jax.grad(loss)(params)
    size = gc.tree.norm(gradient)
    above = jax.tree.map(lambda w, g: w + rho * g / size, params, gradient)
    return jax.tree.map(lambda w, g: w - rate * g, params, jax.grad(loss)(above))


@pytest.mark.parametrize(
    "name",
    ["sam", "mechanize", "schedule_free", "schedule_free_sgd", "schedule_free_adamw", "schedule_free_eval_params"],
)
def test_names_arguments_and_defaults_are_those_of_optax_contrib(name):
    ours, theirs = (
        [(p.name, p.default) for p in inspect.signature(getattr(module, name)).parameters.values()]
        for module in (gc, contrib)
    )
    assert ours[: len(theirs)] == theirs


def test_both_forms_of_sam_are_the_paper_and_optax():
    params = PARAMS
    for _ in range(5):
        params = climb_and_descend(params)
    extra = {"grad_fn": lambda w, i: jax.grad(loss)(w)}
    for opaque in (False, True):
        steps, given = (5, extra) if opaque else (10, {})
        ours = gc.sam(gc.sgd(0.01), UPHILL, opaque_mode=opaque)
        theirs = contrib.sam(optax.sgd(0.01), THEIR_UPHILL, opaque_mode=opaque)
        trees.assert_close(descend(ours, steps, **given)[0], params, 1e-6)
        trees.assert_close(descend(theirs, steps, **given)[0], params, 1e-6)


def test_longer_climbs_get_their_number_and_keep_their_momentum():
    uphill, extra = gc.sgd(0.05, momentum=0.9), {"grad_fn": lambda w, i: jax.grad(loss)(gc.tree.scale(1 + i, w))}
    for reset in (True, False):
        ours = gc.sam(gc.adam(0.01), uphill, 4, reset, opaque_mode=True)
        theirs = contrib.sam(optax.adam(0.01), optax.sgd(0.05, momentum=0.9), 4, reset, opaque_mode=True)
        trees.assert_close(descend(ours, 5, **extra)[0], descend(theirs, 5, **extra)[0], 1e-5)


def test_opaque_sam_is_a_value_and_says_what_it_needs():
    tx = gc.sam(gc.sgd(0.01), UPHILL, opaque_mode=True)
    assert eval(repr(tx), public.NAMES) == tx
    assert next(iter(gc.hyperparams(tx))) == "scale_by_learning_rate.learning_rate"
    with pytest.raises(ValueError, match="sam needs 'grad_fn'"):
        tx.update(GRADIENT, tx.init(PARAMS), PARAMS)
    for name in ("grad_fn", "value_fn"):
        with pytest.raises(TypeError, match=f"sam: {name} must be a function of the parameters, got 1.0"):
            tx.update(GRADIENT, tx.init(PARAMS), PARAMS, **{name: 1.0})
    with pytest.raises(ValueError, match="sam needs params"):
        tx.update(GRADIENT, tx.init(PARAMS))
    with pytest.raises(ValueError, match="must be a Python int"):
        gc.sam(gc.sgd(0.01), UPHILL, jnp.ones(()), opaque_mode=True)


def test_opaque_sam_in_half_precision_keeps_state_and_updates_in_kind():
    tx, params = gc.sam(gc.sgd(0.01, momentum=0.9), UPHILL, opaque_mode=True), trees.standard("bfloat16")
    state = tx.init(params)
    step = jax.jit(lambda s, w: tx.update(jax.grad(loss)(w), s, w, grad_fn=lambda w, i: jax.grad(loss)(w)))
    updates, after = step(state, params)
    trees.assert_same_kind(updates, params)
    trees.assert_same_kind(after, state)


def test_opaque_sam_averages_the_climb_over_a_mapped_axis():
    tx = gc.sam(gc.sgd(0.01), UPHILL, opaque_mode=True, batch_axis_name="batch")
    shifts = jnp.asarray([-0.5, 0.5])

    def update(shift):
        def gradient(w, i):
            return jax.grad(lambda w: loss(w) + shift * sum(jnp.sum(x) for x in jax.tree.leaves(w)))(w)

        mean = jax.lax.pmean(gradient(PARAMS, 0), "batch")
        return tx.update(mean, tx.init(PARAMS), PARAMS, grad_fn=gradient)[0]

    updates = jax.vmap(update, axis_name="batch")(shifts)
    expected = gc.tree.sub(climb_and_descend(PARAMS), PARAMS)
    trees.assert_close(trees.at(updates, 0), expected, 1e-5)
    trees.assert_close(trees.at(updates, 1), expected, 1e-5)


def test_evaluation_weights_of_sam_are_home_during_the_climb():
    tx = gc.sam(gc.sgd(0.01), UPHILL, 3)
    home, state = descend(tx, 3)
    trees.assert_close(gc.eval_params(tx, state, home), home, 0)
    for steps in (4, 5):
        above, state = descend(tx, steps)
        assert trees.relative_error(above, home) > 1e-3
        trees.assert_close(gc.eval_params(tx, state, above), home, 0)


def test_sam_without_a_climb_is_the_optimizer_here_and_falls_behind_in_optax():
    plain = descend(gc.sgd(0.01), 5)[0]
    trees.assert_close(descend(gc.sam(gc.sgd(0.01), UPHILL, 1), 5)[0], plain, 1e-6)
    theirs = contrib.sam(optax.sgd(0.01), THEIR_UPHILL, 1)
    assert trees.relative_error(descend(theirs, 5)[0], plain) > 1e-2


def test_an_infinite_step_that_isnt_taken_does_no_harm_here_and_much_in_optax():
    gradient = jax.tree.map(lambda x: jnp.full_like(x, 1e30), PARAMS)
    steep, theirs = gc.sam(gc.sgd(1e20), UPHILL), contrib.sam(optax.sgd(1e20), optax.sgd(1e-30))
    updates, _ = steep.update(gradient, steep.init(PARAMS), PARAMS)
    assert np.all(np.isfinite(updates["kernel"]))
    assert np.all(np.isnan(theirs.update(gradient, theirs.init(PARAMS), PARAMS)[0]["kernel"]))


def test_zero_gradients_climb_nowhere_here_and_are_nan_in_optax():
    zeros = gc.tree.zeros_like(PARAMS)
    ours, theirs = gc.sam(gc.sgd(0.01), UPHILL), contrib.sam(optax.sgd(0.01), THEIR_UPHILL)
    assert np.all(ours.update(zeros, ours.init(PARAMS), PARAMS)[0]["kernel"] == 0)
    assert np.all(np.isnan(theirs.update(zeros, theirs.init(PARAMS), PARAMS)[0]["kernel"]))


def test_cautious_updates_never_go_uphill_and_keep_their_size_when_all_agree():
    tx = gc.cautious(gc.sgd(0.1, momentum=0.9), xi=0.0)
    first, state = tx.update(GRADIENT, tx.init(PARAMS))
    trees.assert_close(first, gc.tree.scale(-0.1, GRADIENT), 1e-6)
    turned = {**GRADIENT, "kernel": -0.1 * GRADIENT["kernel"].at[0].multiply(-1)}
    second, _ = tx.update(turned, state)
    plain = -0.1 * (0.9 * GRADIENT["kernel"] + turned["kernel"])
    expected = jnp.where(jnp.arange(3)[:, None] == 0, 3 * plain, 0)
    np.testing.assert_allclose(second["kernel"], expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("base", [gc.sgd(1.0), gc.adam(1.0)], ids=["sgd", "adam"])
def test_mechanic_finds_a_rate(base):
    """Without any tuning it does better than the same optimizer with rates ten times too large or too small."""
    start = float(loss(PARAMS))
    reached = float(loss(descend(gc.mechanize(base, s_init=1e-3), 150)[0]))
    lowest = min(float(loss(descend(gc.adam(rate), 300)[0])) for rate in (0.03, 0.1))
    assert reached < lowest + 0.05 * (start - lowest)


def test_mars_without_strength_and_bound_is_adamw():
    plain = gc.mars(0.01, 0.9, 0.999, gamma=0.0, max_norm=float("inf"), weight_decay=0.1)
    trees.assert_close(descend(plain, 5)[0], descend(gc.adamw(0.01, weight_decay=0.1), 5)[0], 1e-6)


def test_mars_of_a_steady_gradient_is_the_gradient_up_to_the_bound():
    tx = gc.scale_by_mars(max_norm=2.0)
    state = tx.init(PARAMS)
    for _ in range(3):
        updates, state = tx.update(GRADIENT, state)
        for name, g in GRADIENT.items():
            size = jnp.linalg.norm(g)
            np.testing.assert_allclose(updates[name], g * min(1, 2 / size), rtol=1e-6)


def test_the_hyperball_keeps_norms_through_many_steps_in_every_dtype():
    for dtype, tolerance in (("float32", 1e-6), ("bfloat16", 1e-2)):
        params = {**trees.standard(dtype), "zero": jnp.zeros(3, dtype)}
        radii = {name: float(jnp.linalg.norm(w.astype("float32").ravel())) for name, w in params.items()}
        tx = gc.chain(gc.scale_by_adam(), gc.scale_by_trust_ratio(), gc.scale_by_learning_rate(0.05), gc.keep_norm())

        def body(carry, _, tx=tx):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (gc.apply_updates(params, updates), state), None

        (after, _), _ = jax.lax.scan(body, (params, tx.init(params)), length=300)
        for name in trees.SHAPES:
            size = float(jnp.linalg.norm(after[name].astype("float32").ravel()))
            assert abs(size / radii[name] - 1) < tolerance
        assert jnp.any(after["zero"] != 0)
        assert loss(after) < loss(params)


def test_what_controls_norms_can_be_masked():
    mask = {"bias": False, "kernel": True, "scale": False}
    for tx in (
        gc.keep_norm(mask=mask),
        gc.pin_norm(mask),
        gc.brake_norm(mask=mask),
        gc.limit_update_ratio(0.01, mask=mask),
        gc.add_cautious_decayed_weights(0.1, mask),
        gc.decay_updated_weights(0.1, mask),
    ):
        updates, _ = tx.update(GRADIENT, tx.init(PARAMS), PARAMS)
        assert np.all(updates["bias"] == GRADIENT["bias"])
        assert np.any(updates["kernel"] != GRADIENT["kernel"])


def test_the_ratio_of_update_to_weights_stays_within_its_limits():
    tx = gc.limit_update_ratio(0.1, 0.01)
    for size, expected in ((1e-6, 0.01), (0.05, 0.05), (1e6, 0.1)):
        gradient = jax.tree.map(lambda w, size=size: size * jnp.flip(w) if w.ndim else size * w, PARAMS)
        updates, _ = tx.update(gradient, tx.init(PARAMS), PARAMS)
        for name, w in PARAMS.items():
            ratio = jnp.linalg.norm(updates[name].ravel()) / jnp.linalg.norm(w.ravel())
            np.testing.assert_allclose(ratio, expected, rtol=1e-5)


def test_cautious_decay_needs_the_updates_consent():
    params, gradient = jnp.array([2.0, 2.0, -2.0, 2.0]), jnp.array([1.0, -1.0, -1.0, 0.0])
    tx = gc.add_cautious_decayed_weights(0.1)
    np.testing.assert_allclose(tx.update(gradient, tx.init(params), params)[0], [1.2, -1.0, -1.2, 0.2], rtol=1e-6)
