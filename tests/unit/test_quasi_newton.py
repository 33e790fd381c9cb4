"""Directions of L-BFGS and of nonlinear conjugate gradients, without a line search: where they must not follow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from tests import oracles, trees

PARAMS = trees.standard()


def close(tree, reference, tolerance=2e-6):
    trees.assert_close(trees.as_numpy(tree), trees.as_numpy(reference), tolerance)


def after(tx, points, gradients):
    """Return the last update and state after one update at each point."""
    state = tx.init(points[0])
    updates = None
    for point, gradient in zip(points, gradients, strict=True):
        updates, state = tx.update(gradient, state, point)
    return updates, state


def shorter(tree):
    return jax.tree.map(lambda g: g / jnp.maximum(1, gc.global_norm(tree)), tree)


TX = gc.scale_by_lbfgs(3)
BEYOND = gc.tree.scale(2.0, PARAMS)


def test_a_pair_gives_its_curvature_back():
    """After the step s that changed the gradient by y, the estimate turns y into s."""
    change = {"bias": 3 * PARAMS["bias"], "kernel": 5 * PARAMS["kernel"], "scale": PARAMS["scale"]}
    _, state = after(TX, [PARAMS, BEYOND], [gc.tree.scale(0.0, PARAMS), change])
    assert state.position == 1
    direction, _ = TX.update(change, state, gc.tree.scale(3.0, PARAMS))
    assert gc.tree.vdot(direction, change) > 0
    updates, _ = after(TX, [PARAMS, BEYOND], [gc.tree.scale(0.0, PARAMS), change])
    close(updates, PARAMS)


def test_a_pair_without_positive_curvature_is_not_kept():
    uphill = gc.tree.scale(-1.0, BEYOND)
    updates, state = after(TX, [PARAMS, BEYOND], [gc.tree.scale(-1.0, PARAMS), uphill])
    assert state.count == 2
    assert state.position == 0
    assert not state.weights_memory.any()
    close(updates, shorter(uphill))


def test_a_pair_of_rounding_is_not_kept_and_the_one_before_stays():
    """The gradient changes by less than its rounding while the parameters move far, with a positive product."""
    large = gc.tree.scale(1e6, PARAMS)
    barely = jax.tree.map(lambda g: jnp.nextafter(g, 2 * g), large)
    _, state = after(TX, [PARAMS, BEYOND], [PARAMS, large])
    assert state.position == 1
    _, later = TX.update(barely, state, gc.tree.scale(3.0, PARAMS))
    assert later.position == 1
    np.testing.assert_array_equal(later.weights_memory, state.weights_memory)
    trees.assert_close(later.diff_updates_memory, state.diff_updates_memory, 0)


def test_a_search_that_found_nothing_empties_the_memory():
    _, state = after(TX, [PARAMS, BEYOND], [PARAMS, BEYOND])
    assert state.weights_memory.any()
    updates, state = TX.update(BEYOND, state, BEYOND)
    assert not state.weights_memory.any()
    close(updates, shorter(BEYOND))


def test_a_direction_that_is_not_downhill_is_replaced_by_the_gradient():
    """Optax's states may hold pairs of negative curvature, such as the first one here, which turns (1, 0) around."""
    point, gradient = jnp.zeros(2), jnp.array([1.0, 0.0])
    state = TX.init(point)._replace(
        count=jnp.asarray(3),
        updates=gradient,
        diff_params_memory=jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]),
        diff_updates_memory=jnp.array([[-1.0, 0.0], [0.0, 100.0], [0.0, 0.0]]),
        weights_memory=jnp.array([-1.0, 0.01, 0.0]),
        position=jnp.asarray(2),
    )
    updates, state = TX.update(gradient, state, point + 1)
    close(updates, gradient, 0)
    assert not state.weights_memory.any()


@pytest.mark.parametrize("wrong", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_is_returned_and_changes_nothing(wrong):
    _, state = after(TX, [PARAMS, BEYOND], [PARAMS, BEYOND])
    broken = PARAMS | {"scale": jnp.asarray(wrong)}
    for tx, before in ((TX, state), (gc.scale_by_nonlinear_cg(), None)):
        before = after(tx, [PARAMS, BEYOND], [PARAMS, BEYOND])[1] if before is None else before
        updates, unchanged = tx.update(broken, before, gc.tree.scale(3.0, PARAMS))
        np.testing.assert_array_equal(updates["kernel"], broken["kernel"])
        np.testing.assert_array_equal(updates["scale"], broken["scale"])
        trees.assert_close(unchanged, before, 0)


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_gradients_may_be_as_large_and_small_as_single_precision_allows(size):
    """The squares of such gradients aren't numbers in single precision."""
    gradients = [gc.tree.scale(size, PARAMS), gc.tree.scale(size, BEYOND)]
    first, _ = after(TX, [PARAMS], gradients[:1])
    assert jnp.isclose(gc.global_norm(first), min(1.0, gc.global_norm(gradients[0])), rtol=1e-5)
    updates, state = after(TX, [PARAMS, BEYOND], gradients)
    assert state.position == 1
    close(updates, BEYOND, 1e-5)


def test_half_precision_parameters_have_memories_in_single_precision():
    state = gc.scale_by_lbfgs(2).init(trees.standard("bfloat16"))
    assert {x.dtype for x in jax.tree.leaves(state) if x.ndim} == {jnp.dtype("float32")}
    assert state.diff_params_memory["kernel"].shape == (2, 3, 2)


def test_it_computes_the_same_with_complex_numbers_as_with_their_parts():
    def loss(z, matrix):
        return jnp.sum(jnp.abs(z) ** 4) + jnp.real(jnp.conj(z) @ matrix @ z)

    rng = np.random.default_rng(3)
    half = rng.normal(size=(4, 4)) + 1j * rng.normal(size=(4, 4))
    matrix, z = jnp.asarray(half @ half.conj().T, "complex64"), jnp.asarray(rng.normal(size=8), "float32")
    ends = []
    for join in (lambda x: x, lambda x: jax.lax.complex(x[:4], x[4:])):
        tx = gc.lbfgs(0.5, 4, linesearch=None)

        def step(carry, _, tx=tx, join=join):
            params, state = carry
            whole = (lambda x: x) if jnp.iscomplexobj(params) else (lambda x: jax.lax.complex(x[:4], x[4:]))
            gradient = jnp.conj(jax.grad(lambda p: loss(whole(p), matrix))(params))
            updates, state = tx.update(gradient, state, params)
            return (gc.apply_updates(params, updates), state), None

        params = join(z)
        end = jax.lax.scan(step, (params, tx.init(params)), length=12)[0][0]
        ends.append(jnp.concatenate([end.real, end.imag]) if jnp.iscomplexobj(end) else end)
    close(ends[1], ends[0], 1e-4)


def test_the_program_is_no_longer_for_a_longer_memory():
    def lines(size):
        tx = gc.scale_by_lbfgs(size)
        state = jax.eval_shape(tx.init, PARAMS)
        return jax.jit(tx.update).lower(PARAMS, state, PARAMS).as_text().count("\n")

    assert lines(40) == lines(5)


def test_the_memory_may_be_stored_in_half_precision_and_the_last_gradient_stays():
    codec = {"min_size": 0, "diff_params_memory": "bfloat16", "diff_updates_memory": "bfloat16"}
    state = gc.store(gc.scale_by_lbfgs(2), **codec).init(PARAMS).inner_state
    assert state.diff_params_memory["kernel"].codes.dtype == jnp.bfloat16
    plain = gc.store(gc.scale_by_lbfgs(2), "bfloat16", min_size=0).init(PARAMS).inner_state
    assert plain.updates["kernel"].dtype == plain.diff_params_memory["kernel"].dtype == jnp.float32


def test_what_the_state_holds():
    tx = gc.lbfgs(memory_size=2)
    state = tx.init(PARAMS)
    assert type(state[0]).__name__ == "ScaleByLBFGSState"
    assert state[0]._fields[:6] == (
        *("count", "params", "updates"),
        *("diff_params_memory", "diff_updates_memory", "weights_memory"),
    )
    assert gc.tree.get(state, "count") == 0
    found = gc.describe(gc.scale_by_lbfgs(2), PARAMS)
    assert found.state_bytes - found.shared_bytes == 6 * sum(x.nbytes for x in PARAMS.values())


def test_errors():
    with pytest.raises(ValueError, match="memory_size must be at least 1, got 0"):
        gc.scale_by_lbfgs(0)
    with pytest.raises(ValueError, match="'hager_zhang', 'polak_ribiere', 'dai_yuan', got 'fletcher'"):
        gc.scale_by_nonlinear_cg("fletcher")
    with pytest.raises(ValueError, match="scale_by_lbfgs needs params"):
        TX.update(PARAMS, TX.init(PARAMS))
    same_batch = gc.scale_by_lbfgs(same_batch=True)
    with pytest.raises(ValueError, match="scale_by_lbfgs needs 'value_fn'"):
        same_batch.update(PARAMS, same_batch.init(PARAMS), PARAMS)


METHODS = ("hager_zhang", "polak_ribiere", "dai_yuan")


@pytest.mark.parametrize("method", METHODS)
def test_conjugate_gradients_end_after_as_many_steps_as_there_are_variables(method, x64):
    """With exact line searches on a quadratic; the directions are those of the oracle all the way."""
    rng = np.random.default_rng(0)
    factor, shift = rng.normal(size=(6, 6)), rng.normal(size=6)
    matrix = factor @ factor.T + np.eye(6)
    tx, oracle = gc.scale_by_nonlinear_cg(method), oracles.nonlinear_cg(method)
    x = np.zeros(6)
    state, exact = tx.init(jnp.asarray(x)), oracle.init({"x": x})
    for _ in range(6):
        g = matrix @ x - shift
        u, state = tx.update(jnp.asarray(g), state)
        reference, exact = oracle.update({"x": g}, exact, {"x": x})
        close(u, reference["x"], 1e-10)
        u = np.asarray(u)
        x = x - (g @ u) / (u @ matrix @ u) * u
    assert np.linalg.norm(matrix @ x - shift) < 1e-10 * np.linalg.norm(shift)


@pytest.mark.parametrize("method", METHODS)
def test_conjugate_gradients_start_again_where_the_parameters_have_not_moved(method):
    tx = gc.scale_by_nonlinear_cg(method)
    _, state = after(tx, [PARAMS] * 2, [PARAMS, gc.tree.scale(0.5, PARAMS)])
    again, _ = tx.update(gc.tree.scale(0.5, PARAMS), state, PARAMS)
    close(again, gc.tree.scale(0.5, PARAMS), 0)
