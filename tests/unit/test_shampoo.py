"""Shampoo: against its oracle on arrays of every order, in blocks, from one side; and what it keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain import matrices
from tests import oracles, trees

SHAPES = {"square": (4, 4), "tall": (6, 3), "wide": (2, 5), "vector": (3,), "conv": (2, 2, 3, 2), "cube": (3, 2, 4)}
SINGULAR = {"ridge": 0.01, "update_interval": 3}
"""Numbers with which rounding errors in the null space of a factor don't grow."""


def gradients_of(steps, shapes=SHAPES, dtype="float64", rank_one=False):
    rng = np.random.default_rng(0)

    def one(shape):
        if rank_one:
            return rng.standard_normal((shape[0], *[1] * (len(shape) - 1))) * rng.standard_normal((1, *shape[1:]))
        return trees.normal(rng, shape, np.dtype(dtype))

    return [{name: one(shape) for name, shape in shapes.items()} for _ in range(steps)]


def updates_of(tx, gradients):
    """Return all updates, in one compiled program."""
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *gradients)

    def step(state, g):
        u, state = tx.update(g, state)
        return state, u

    return jax.jit(lambda: jax.lax.scan(step, tx.init(trees.at(stacked, 0)), stacked)[1])()


def of_oracle(oracle, gradients):
    state, updates = oracle.init(gradients[0]), []
    for g in gradients:
        u, state = oracle.update(g, state, g)
        updates.append(u)
    return jax.tree.map(lambda *xs: np.stack(xs), *updates)


def check(gradients, options, given):
    tx = gc.scale_by_shampoo(**{"weight_dimension_numbers": "axes"} | options)
    trees.assert_close(updates_of(tx, gradients), of_oracle(oracles.shampoo(**given), gradients), 1e-10)


@pytest.mark.slow
def test_it_is_its_oracle_in_ragged_blocks(x64):
    check(gradients_of(30, {"w": (5, 3)}), SINGULAR | {"block_size": 2}, {"ridge": 0.01, "every": 3, "block": 2})


CASES = {
    "all defaults but a larger ridge": ({"ridge": 0.01}, {"ridge": 0.01}),
    "blocks": (SINGULAR | {"block_size": 2}, {"ridge": 0.01, "every": 3, "block": 2}),
    "no norm of Adam's": (SINGULAR | {"graft": False}, {"ridge": 0.01, "every": 3, "graft": False}),
    "a late start": (SINGULAR | {"start_preconditioning_step": 5}, {"ridge": 0.01, "every": 3, "start": 5}),
    "a late start without Adam": (
        SINGULAR | {"start_preconditioning_step": 5, "graft": False},
        {"ridge": 0.01, "every": 3, "start": 5, "graft": False},
    ),
    "looking ahead": (SINGULAR | {"nesterov": True}, {"ridge": 0.01, "every": 3, "nesterov": True}),
    "another exponent": (SINGULAR | {"exponent": 0.3}, {"ridge": 0.01, "every": 3, "exponent": 0.3}),
    "a shift": ({"ridge": 0.0, "shift": 0.5}, {"ridge": 0.0, "shift": 0.5}),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("case", CASES)
def test_it_is_its_oracle(case, dtype, x64):
    check(gradients_of(30, dtype=dtype), *CASES[case])


@pytest.mark.slow
@pytest.mark.parametrize(("sides", "axes"), [("rows", (0,)), ("columns", (1,)), ("smaller", None)])
def test_one_side(sides, axes, x64):
    for name in ("tall", "wide"):
        gradients = gradients_of(30, {name: SHAPES[name]})
        chosen = axes or ((1,) if name == "tall" else (0,))
        check(gradients, SINGULAR | {"sides": sides}, {"ridge": 0.01, "every": 3, "axes": chosen})


@pytest.mark.slow
def test_gradients_of_rank_one(x64):
    """The null space's directions are amplified, but hold nothing."""
    check(gradients_of(30, rank_one=True), SINGULAR, {"ridge": 0.01, "every": 3})


@pytest.mark.slow
def test_stacked_layers_are_matrices_of_their_own():
    stack = gradients_of(4, {"w": (3, 4, 2)})
    kernel = [{"w": g["w"].transpose(1, 0, 2)} for g in stack]
    options = {"update_interval": 2, "b1": 0.5}
    together = updates_of(gc.scale_by_shampoo(**options, weight_dimension_numbers=gc.MuonDimensionNumbers(1, 2)), stack)
    layers = [{str(i): jnp.asarray(g["w"][i]) for i in range(3)} for g in stack]
    apart = updates_of(gc.scale_by_shampoo(**options), layers)
    trees.assert_close(together["w"], np.stack([apart[str(i)] for i in range(3)], axis=1), 1e-5)
    heads = updates_of(gc.scale_by_shampoo(**options, weight_dimension_numbers=gc.MuonDimensionNumbers(0, 2)), kernel)
    trees.assert_close(heads["w"], together["w"].swapaxes(1, 2), 1e-5)


def test_vectors_without_dimension_numbers_get_adams_update(x64):
    gradients = gradients_of(3, {"vector": (3,), "scalar": ()})
    given = {"b1": 0.9, "b2": 0.95}
    trees.assert_close(
        updates_of(gc.scale_by_shampoo(**given), gradients), updates_of(gc.scale_by_adam(**given), gradients), 1e-14
    )


def test_an_array_of_three_axes_needs_to_be_told_apart():
    with pytest.raises(ValueError, match=r"\['w'\]: an array of shape \(2, 3, 4\).*MuonDimensionNumbers, or 'axes'"):
        gc.scale_by_shampoo().init({"w": jnp.zeros((2, 3, 4))})


def test_where_there_was_no_gradient_yet_the_root_is_the_identity():
    """So that hidden layers behind a head of zeros, whose first gradients are zero, move at the second update."""
    w = jnp.ones((2, 3))
    first, second = updates_of(gc.scale_by_shampoo(update_interval=100), [w * 0, w])
    assert np.all(first == 0)
    assert np.all(second > 0.1)


@pytest.mark.slow
def test_roots_are_computed_when_they_are_due_and_in_turn_if_asked():
    g = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}

    def refreshed(**options):
        tx, seen = gc.scale_by_shampoo(update_interval=4, shampoo_beta=0.5, ridge=1.0, **options), []
        state = tx.init(g)
        for k in range(8):
            _, new = jax.jit(tx.update)(jax.tree.map(lambda x, k=k: x * (k + 1.0), g), state)
            pairs = [(new.roots[name][0][0], state.roots[name][0][0]) for name in g]
            seen.append("".join("x" if np.any(x != y) else "." for x, y in pairs))
            state = new
        return " ".join(seen)

    assert refreshed() == "xx .. .. .. xx .. .. .."
    assert refreshed(stagger=True) == "xx .. .x .. x. .. .x .."
    assert refreshed(start_preconditioning_step=3) == ".. .. xx .. .. .. xx .."


def test_what_has_no_second_moment_keeps_none():
    state = jax.eval_shape(gc.scale_by_shampoo(graft=False, sides="smaller").init, jnp.zeros((3, 5)))
    assert state.nu == ()
    assert [x.shape for x in jax.tree.leaves(state.factors)] == [(3, 3)]


@pytest.mark.slow
def test_newtons_method_gives_nearly_the_same():
    gradients = gradients_of(10, {"square": (4, 4), "tall": (6, 3)})
    eigh, newton = (updates_of(gc.scale_by_shampoo(ridge=1e-3, method=m), gradients) for m in ("eigh", "newton"))
    trees.assert_close(newton, eigh, 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("p", [4, 2.5])
@pytest.mark.parametrize("rank", [2, 5])
def test_the_derivative_of_an_inverse_root_is_finite_where_eigenvalues_are_equal(p, rank, x64):
    """Eigenvectors have none there: a matrix of rank 2 has three zero eigenvalues."""
    rng = np.random.default_rng(0)
    x, direction = rng.standard_normal((2, 5, rank))

    def root(t):
        return matrices.inverse_root(matrices.gram(x + t * direction), p + t, ridge=0.1 + t, shift=0.01 - 0.3 * t)

    derivative = jax.jacfwd(root)(0.0)
    np.testing.assert_allclose(derivative, (root(1e-6) - root(-1e-6)) / 2e-6, rtol=1e-6, atol=1e-7)
    assert np.all(np.isfinite(jax.grad(lambda x: matrices.inverse_root(matrices.gram(x), p).sum())(jnp.zeros((3, 3)))))
