"""What the parts that control norms of weights and steps do, alone and in chains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from tests import trees

W = jnp.array([[3.0, 0.0], [0.0, 4.0]])
ACROSS = jnp.array([[0.0, 2.0], [-1.0, 0.0]])  # at right angles to W


def step(tx, g, w):
    """Return the first update."""
    return tx.update(g, tx.init(w), w)[0]


@pytest.mark.parametrize(("radius", "kept"), [("initial", 5.0), ("present", 5.0), (2.0, 2.0)])
def test_every_radius_is_kept_whatever_the_steps(radius, kept):
    tx, w = gc.chain(gc.scale_by_learning_rate(0.1), gc.keep_norm(radius)), W
    state = tx.init(w)
    for _ in range(3):
        updates, state = tx.update(w + ACROSS, state, w)
        w = w + updates
        np.testing.assert_allclose(jnp.linalg.norm(w), kept, rtol=1e-6)


def test_the_initial_norm_is_that_of_init_and_the_present_one_follows_the_weights():
    """As after a restart from other weights, or a step from outside."""
    for radius, kept in (("initial", 5.0), ("present", 10.0)):
        tx = gc.keep_norm(radius)
        updates, state = tx.update(ACROSS, tx.init(W), 2 * W)
        np.testing.assert_allclose(jnp.linalg.norm(2 * W + updates), kept, rtol=1e-6)
        np.testing.assert_allclose(state.radius, kept, rtol=1e-6)


def test_a_step_to_zero_has_no_direction_to_keep_and_passes():
    for tx in (gc.keep_norm(), gc.keep_norm("present"), gc.keep_norm(2.0), gc.pin_norm()):
        trees.assert_close(step(tx, -W, W), -W, 0)


def test_a_radius_may_follow_a_schedule():
    tx, w = gc.keep_norm(gc.schedules.linear_schedule(1.0, 3.0, 2)), W
    state = tx.init(w)
    for kept in (1.0, 2.0, 3.0):
        updates, state = tx.update(ACROSS, state, w)
        w = w + updates
        np.testing.assert_allclose(jnp.linalg.norm(w), kept, rtol=1e-6)


def test_weights_that_start_at_zero_move_freely_or_keep_the_norm_of_their_first_step():
    for radius, norms in (("initial", (1.0, 2.0)), ("present", (1.0, 1.0)), (3.0, (3.0, 3.0))):
        tx, w = gc.keep_norm(radius), jnp.zeros(4)
        state = tx.init(w)
        for expected in norms:
            updates, state = tx.update(jnp.full(4, 0.5), state, w)
            w = w + updates
            np.testing.assert_allclose(jnp.linalg.norm(w), expected, rtol=1e-6)


@pytest.mark.parametrize("radius", ["initial", "present", 5.0])
def test_an_average_of_weights_on_a_sphere_is_brought_back_to_it(radius):
    """Whether the average is taken inside the stage that keeps the norm, or around it."""
    for tx in (
        gc.chain(gc.average_params(gc.sgd(0.2), 0.9), gc.keep_norm(radius)),
        gc.average_params(gc.chain(gc.sgd(0.2), gc.keep_norm(radius)), 0.9),
    ):
        w, state = W, tx.init(W)
        for k in range(4):
            updates, state = tx.update(ACROSS * (-1) ** k + W[::-1], state, w)
            w = w + updates
        weights = gc.eval_params(tx, state, w)
        assert jnp.max(jnp.abs(weights - w)) > 0.05
        np.testing.assert_allclose(jnp.linalg.norm(weights), 5.0, rtol=1e-6)


def test_stacked_layers_are_each_on_a_sphere_of_their_own():
    stacked = jnp.stack([W, 2 * W, 3 * W])
    updates = step(gc.per_layer(gc.keep_norm("present"), 0), jnp.ones_like(stacked), stacked)
    np.testing.assert_allclose(jnp.linalg.norm(stacked + updates, axis=(1, 2)), [5.0, 10.0, 15.0], rtol=1e-6)


def test_the_pin_takes_the_growth_of_the_norm_that_a_step_across_makes_and_leaves_the_rest():
    for along in (0.3, 0.0, -0.3):
        updates = step(gc.pin_norm(), ACROSS + along * W, W)
        new = W + updates
        np.testing.assert_allclose(jnp.linalg.norm(new), 5 * (1 + along), rtol=1e-6)
        np.testing.assert_allclose(new / jnp.linalg.norm(new), _unit(W + ACROSS + along * W), rtol=1e-6, atol=1e-7)
    trees.assert_close(step(gc.pin_norm(), -2 * W, W), -2 * W, 0)  # through zero: there is no such radius
    trees.assert_close(step(gc.pin_norm(), ACROSS, 0 * W), ACROSS, 0)


def _unit(x):
    return x / jnp.linalg.norm(x)


def test_the_brake_scales_what_is_along_the_weights_by_where_it_leads():
    tx = gc.brake_norm(outward=0.5, inward=2.0)
    trees.assert_close(step(tx, ACROSS + 0.4 * W, W), ACROSS + 0.2 * W, 1e-6)
    trees.assert_close(step(tx, ACROSS - 0.4 * W, W), ACROSS - 0.8 * W, 1e-6)
    trees.assert_close(step(gc.brake_norm(0.0, 0.0), ACROSS - 0.4 * W, W), ACROSS, 1e-6)
    trees.assert_close(step(tx, ACROSS, 0 * W), ACROSS, 0)


def test_the_brake_does_the_same_before_and_after_the_learning_rate():
    rate = gc.scale_by_learning_rate(0.1)
    for g in (ACROSS + W, ACROSS - W):
        before = step(gc.chain(gc.brake_norm(0.2, 0.7, downhill=False), rate), g, W)
        trees.assert_close(before, step(gc.chain(rate, gc.brake_norm(0.2, 0.7)), g, W), 1e-6)


def test_a_floor_for_each_output_lifts_the_columns_that_move_too_little():
    w, g = jnp.array([[3.0, 6.0], [4.0, 8.0]]), jnp.array([[0.0, 0.3], [2.0, 0.4]])
    floor = gc.limit_update_ratio(float("inf"), 0.1, axis="outputs")
    trees.assert_close(step(floor, g, w), jnp.array([[0.0, 0.6], [2.0, 0.8]]), 1e-6)
    trees.assert_close(step(floor.replace(axis=0), g, w), step(floor, g, w), 0)
    trees.assert_close(step(floor.replace(axis=(0, 1)), g, w), step(floor.replace(axis=None), g, w), 1e-6)
    trees.assert_close(step(floor.replace(axis=None), g, w), g, 0)  # the whole moves enough
    trees.assert_close(
        step(gc.limit_update_ratio(0.1, min_norm=2.0, axis=0), g, 0 * w), g * jnp.array([[0.1, 0.4]]), 1e-6
    )
    layers = step(gc.per_layer(floor, 0), jnp.stack([g, 0 * g]), jnp.stack([w, w]))
    trees.assert_close(layers, jnp.stack([step(floor, g, w), 0 * g]), 1e-6)


def test_axes_that_a_limit_cant_have_are_errors():
    with pytest.raises(TypeError, match=r"limit_update_ratio: axis must be .*, 'outputs' or None, got 'rows'"):
        gc.limit_update_ratio(axis="rows")
    with pytest.raises(ValueError, match=r"limit_update_ratio: \['b'\] has shape \(2,\), which axis=1 doesn't fit"):
        gc.limit_update_ratio(axis=1).init({"b": jnp.zeros(2)})
    with pytest.raises(
        TypeError, match=r"keep_norm: radius must be a number or one of 'initial', 'present', got 'now'"
    ):
        gc.keep_norm("now")
    with pytest.raises(ValueError, match=r"keep_norm: radius must be in \(0, inf\), got 0"):
        gc.keep_norm(0)


def test_decay_of_the_updated_weights_is_not_undone_by_what_keeps_their_norm():
    tx = gc.chain(gc.scale_by_learning_rate(0.1), gc.keep_norm(), gc.decay_updated_weights(0.01))
    np.testing.assert_allclose(jnp.linalg.norm(W + step(tx, ACROSS, W)), 5 * 0.99, rtol=1e-6)


def test_cautious_decay_of_the_updated_weights_looks_at_the_step():
    w, u = jnp.array([2.0, 2.0, -2.0, 2.0]), jnp.array([-1.0, 1.0, 1.0, 0.0])
    expected = jnp.array([0.9, 3.0, -0.9, 1.8]) - w
    trees.assert_close(step(gc.decay_updated_weights(0.1, cautious=True), u, w), expected, 1e-6)
    trees.assert_close(step(gc.decay_updated_weights(0.1), u, w), 0.9 * (w + u) - w, 1e-6)


def test_parts_of_norm_control_are_finite_for_gradients_of_any_size():
    parts = gc.chain(gc.brake_norm(), gc.limit_update_ratio(axis="outputs"), gc.pin_norm(), gc.keep_norm("present"))
    for size in (0.0, 1e-30, 1e30):
        updates = step(parts, size * (ACROSS + W), W)
        assert jnp.all(jnp.isfinite(updates))
        np.testing.assert_allclose(jnp.linalg.norm(W + updates), 5.0, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_stack_of_norm_control_in_a_scan_keeps_the_kind_of_its_state(dtype):
    params = trees.standard(dtype)
    tx = gc.chain(
        gc.brake_norm(downhill=False),
        gc.limit_update_ratio(float("inf"), 0.3825, axis="outputs"),
        gc.scale_by_learning_rate(0.05),
        gc.pin_norm(),
        gc.decay_updated_weights(0.01, cautious=True),
        gc.keep_norm("present"),
    )

    def body(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (gc.apply_updates(params, updates), state), None

    (after, state), _ = jax.lax.scan(body, (params, tx.init(params)), trees.stream(20, dtype))
    trees.assert_same_kind(state, tx.init(params))
    for name, w in params.items():
        sizes = [float(jnp.linalg.norm(x.astype("float32").ravel())) for x in (w, after[name])]
        assert abs(sizes[1] / sizes[0] - 1) < (3e-2 if dtype == "bfloat16" else 1e-5)
