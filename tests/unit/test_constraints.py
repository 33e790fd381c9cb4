"""project: constrained descent is a chain."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import gradchain as gc
from gradchain import projections, tree
from tests import trees

TARGET = {"a": jnp.array([1.5, -0.4]), "b": {"c": jnp.array([[0.3], [-2.0]])}}
CURVATURE = {"a": jnp.array([1.0, 0.5]), "b": {"c": jnp.array([[2.0], [0.8]])}}
BALL = functools.partial(projections.projection_l2_ball, scale=0.7)


def loss(params):
    return 0.5 * tree.sum(tree.mul(CURVATURE, jax.tree.map(jnp.square, tree.sub(params, TARGET))))


@functools.partial(jax.jit, static_argnums=1)
def descend(tx, steps=600):
    """Return where ``tx`` gets to on the quadratic."""
    params = tree.full_like(TARGET, 0.1)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params, value=1.0)
        return (gc.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), length=steps)[0][0]


def optimum(**constraints):
    """Return the constrained optimum by SciPy, in double precision."""
    target, curvature = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (TARGET, CURVATURE))

    def value(x):
        return 0.5 * np.sum(curvature * (x - target) ** 2)

    def slope(x):
        return curvature * (x - target)

    start = np.full(4, 0.1)
    return optimize.minimize(value, start, jac=slope, method="SLSQP", tol=1e-12, **constraints).x


def inside(function):
    return {"constraints": [{"type": "ineq", "fun": function}]}


def exactly(function):
    return {"type": "eq", "fun": function}


SETS = [
    (projections.projection_non_negative, {"bounds": [(0, None)] * 4}),
    (projections.projection_hypercube, {"bounds": [(0, 1)] * 4}),
    (BALL, inside(lambda x: 0.49 - np.sum(x**2))),
    (projections.projection_simplex, {"bounds": [(0, None)] * 4, "constraints": [exactly(lambda x: np.sum(x) - 1)]}),
    (
        functools.partial(projections.projection_halfspace, a=tree.ones_like(TARGET), b=-1.0),
        inside(lambda x: -1 - np.sum(x)),
    ),
]


@pytest.mark.parametrize(("projection", "constraints"), SETS)
@pytest.mark.parametrize("momentum", [None, 0.5])
def test_projected_descent_finds_the_constrained_optimum(projection, constraints, momentum):
    found = descend(gc.chain(gc.sgd(0.3, momentum=momentum), gc.project(projection)))
    flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(found)])
    np.testing.assert_allclose(flat, optimum(**constraints), atol=2e-5)


def once(tx, updates, params):
    """Return what ``tx`` makes of its first updates."""
    return tx.update(updates, tx.init(params), params)[0]


def test_every_step_stays_in_the_set_whatever_the_optimizer():
    tx = gc.chain(gc.adam(0.5), gc.project(BALL))
    for steps in (1, 2, 5):
        assert tree.norm(descend(tx, steps)) <= 0.7 * (1 + 1e-6)


def test_the_first_update_leads_into_the_set_from_outside():
    params = {"w": jnp.array([3.0, 4.0])}
    updates = once(gc.project(BALL), {"w": jnp.zeros(2)}, params)
    trees.assert_close(gc.apply_updates(params, updates), {"w": np.array([0.42, 0.56])}, 1e-6)


def test_it_does_what_keep_params_nonnegative_does():
    params, updates = {"w": jnp.array([0.5, 0.1, 2.0])}, {"w": jnp.array([-1.0, 0.3, -0.5])}
    ours = once(gc.project(projections.projection_non_negative), updates, params)
    trees.assert_close(ours, once(gc.keep_params_nonnegative(), updates, params), 1e-6)


def test_half_precision_parameters_are_projected_in_single():
    params = {"w": jnp.full(300, 0.1, "bfloat16")}
    updates = once(gc.float32_updates(gc.project(BALL)), {"w": jnp.zeros(300, "bfloat16")}, params)
    landed = np.asarray(params["w"], np.float64) + np.asarray(updates["w"], np.float64)
    np.testing.assert_allclose(np.linalg.norm(landed), 0.7, rtol=1e-6)


def test_transforms_with_the_same_projection_are_equal():
    assert gc.project(BALL) == gc.project(BALL)
    assert gc.project(BALL) != gc.project(projections.projection_l2_ball)


def test_projections_that_change_the_tree_are_errors():
    params = {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"project: .*the projection"):
        once(gc.project(lambda params: {"v": params["w"]}), params, params)
    with pytest.raises(ValueError, match=r"project: \['w'\] has shape \(1,\) in the projection but \(2,\) in updates"):
        once(gc.project(lambda params: {"w": params["w"][:1]}), params, params)
    with pytest.raises(ValueError, match="project needs params"):
        gc.project(BALL).update(params, gc.project(BALL).init(params))
