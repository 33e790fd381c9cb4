"""parallel: every branch sees the same gradient; merges, grafting among them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from tests import trees

PARAMS = trees.standard()
GRADS = trees.at(trees.stream(1), 0)


def update_of(tx, grads=GRADS):
    return tx.update(grads, tx.init(PARAMS), PARAMS)[0]


def test_a_merge_gets_all_branches_in_order():
    tx = gc.parallel(gc.scale(1.0), gc.scale(2.0), gc.scale(4.0), merge=lambda a, b, c: gc.tree.add_scale(a, 10.0, c))
    trees.assert_close(update_of(tx), gc.tree.scale(41.0, GRADS), 1e-6)


def test_weighted_sums_are_built_from_scale_and_add():
    tx = gc.parallel(gc.chain(gc.scale_by_sign(), gc.scale(0.1)), gc.scale(0.9), merge=gc.tree.add)
    expected = jax.tree.map(lambda g: 0.1 * jnp.sign(g) + 0.9 * g, GRADS)
    trees.assert_close(update_of(tx), expected, 1e-6)
    assert list(gc.hyperparams(tx)) == ["scale.step_size", "scale_2.step_size"]


def test_grafting_takes_each_arrays_size():
    updates = update_of(gc.parallel(gc.scale(3.0), gc.scale_by_sign(), merge=gc.graft))
    for name, g in GRADS.items():
        np.testing.assert_allclose(jnp.linalg.norm(updates[name]), 3 * jnp.linalg.norm(g), rtol=1e-6)
        np.testing.assert_array_equal(jnp.sign(updates[name]), jnp.sign(g))
        assert np.ptp(np.abs(updates[name])) < 1e-6 * np.max(np.abs(updates[name]))


def test_global_grafting_takes_the_size_of_all_and_keeps_proportions():
    updates = update_of(gc.parallel(gc.scale(3.0), gc.scale_by_sign(), merge=gc.graft_global))
    np.testing.assert_allclose(gc.global_norm(updates), 3 * gc.global_norm(GRADS), rtol=1e-6)
    assert len({f"{float(jnp.max(jnp.abs(u))):.5f}" for u in updates.values()}) == 1


@pytest.mark.parametrize("merge", [gc.graft, gc.graft_global])
def test_grafting_on_a_direction_of_zero_gives_zero(merge):
    updates = update_of(gc.parallel(gc.scale(3.0), gc.set_to_zero(), merge=merge))
    trees.assert_close(updates, gc.tree.zeros_like(GRADS), 0)


@pytest.mark.parametrize("merge", [gc.graft, gc.graft_global])
def test_sizes_are_in_single_precision_for_foreign_half_precision_updates(merge):
    big = {"w": jnp.full(4096, 8.0, "float16")}
    merged = merge(big, {"w": jnp.full(4096, 100.0, "float16")})
    assert merged["w"].dtype == jnp.float32
    np.testing.assert_allclose(merged["w"], 8.0, rtol=1e-6)


def test_a_merge_that_changes_the_structure_is_an_error():
    with pytest.raises(ValueError, match=r"parallel: the merged updates and the incoming updates differ .*\['bias'\]"):
        update_of(gc.parallel(gc.scale(1.0), merge=lambda u: {"kernel": u["kernel"]}))


def test_what_cant_be_is_refused_when_it_is_built():
    with pytest.raises(TypeError, match="takes transforms and a function merge="):
        gc.parallel(merge=gc.graft)
    with pytest.raises(TypeError, match="got 1 transforms and 'sum'"):
        gc.parallel(gc.sgd(0.1), merge="sum")
    with pytest.raises(TypeError, match="expected a transform"):
        gc.parallel(gc.sgd, merge=gc.graft)
