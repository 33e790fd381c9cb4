"""``split_real_and_imaginary``: complex arrays as two real ones, for everything that looks into a transform too."""

import jax
import jax.numpy as jnp
import numpy as np

import gradchain as gc
from tests import trees

PARAMS = {"w": jnp.array([3 + 4j, 1 - 2j], "complex64"), "b": jnp.array([1.0, 2.0])}


def test_parts_have_moments_of_their_own():
    tx, gradient = gc.split_real_and_imaginary(gc.adam(1.0, eps=0.0)), {"w": PARAMS["w"], "b": PARAMS["b"]}
    updates, _ = tx.update(gradient, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["w"], [-1 - 1j, -1 + 1j], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [-1, -1], rtol=1e-6)
    together, _ = gc.adam(1.0, eps=0.0).update(gradient, gc.adam(1.0).init(PARAMS), PARAMS)
    np.testing.assert_allclose(together["w"], -PARAMS["w"] / jnp.abs(PARAMS["w"]), rtol=1e-6)


def test_real_parameters_pass_as_they_are():
    real = {"b": PARAMS["b"]}
    tx, plain = gc.split_real_and_imaginary(gc.adam(0.1)), gc.adam(0.1)
    trees.assert_close(tx.update(real, tx.init(real), real)[0], plain.update(real, plain.init(real), real)[0], 0)


def test_it_shows_in_the_table_and_keeps_evaluation_weights():
    tx = gc.split_real_and_imaginary(gc.average_params(gc.scale_by_learning_rate(0.1)))
    rows = gc.describe(tx, jax.eval_shape(lambda: PARAMS)).to_dict()["parameters"]
    assert rows["w"]["state_bytes"] == 16
    assert rows["b"]["state_bytes"] == 8
    assert rows["w"]["transforms"] == rows["b"]["transforms"] == ["scale_by_learning_rate"]
    state = tx.init(PARAMS)
    updates, state = tx.update(PARAMS, state, PARAMS)
    later = gc.apply_updates(PARAMS, updates)
    updates, state = tx.update(PARAMS, state, later)
    latest = gc.apply_updates(later, updates)
    mean = jax.tree.map(lambda x, y: (x + y) / 2, later, latest)
    trees.assert_close(gc.eval_params(tx, state, latest), mean, 1e-6)
    plain = gc.split_real_and_imaginary(gc.sgd(0.1))
    assert gc.eval_params(plain, plain.init(PARAMS), PARAMS)["w"] is PARAMS["w"]


def test_labels_by_pattern_reach_both_parts():
    tx = gc.split_real_and_imaginary(gc.masked(gc.set_to_zero(), gc.by_path([("w", True)], default=False)))
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    trees.assert_close(updates, {"w": jnp.zeros(2, "complex64"), "b": PARAMS["b"]}, 0)
