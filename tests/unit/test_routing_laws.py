"""Laws of routing, over random trees, masks and transforms: few examples by default, many under -m slow."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

import gradchain as gc
from tests import trees
from tests.registry import ROWS
from tests.registry.row import no_extra

STEPS = 2
LEAVES = st.sampled_from([(), (2,), (3,), (2, 3)])
NAMES = st.sampled_from(["bias", "embed", "head", "kernel", "layer"])


def nest(children):
    return st.dictionaries(NAMES, children, max_size=3) | st.lists(children, max_size=2).map(tuple)


TREES = st.recursive(LEAVES.map(lambda shape: np.ones(shape, "float32")), nest, max_leaves=5)
ALONE = [row for row in ROWS if row.any_tree and not row.random and row.extra is no_extra]
TRANSFORMS = st.sampled_from(ALONE).map(lambda row: row.build())
SEEDS = st.integers(0, 2**16)


def law(*given, few=10, many=60):
    """Check a function on random examples: ``few`` by default, ``many`` under the marker slow."""

    def decorate(check):
        @pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])
        def test(examples):
            hypothesis.settings(max_examples=examples)(hypothesis.given(*given)(check))()

        return test

    return decorate


def like(tree, seed):
    """Return a tree of the same shapes, filled with normal numbers."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), "float32"), tree)


def run(tx, tree, seed):
    """Return the updates of a few steps and the last state, with the parameters at rest."""
    params = like(tree, seed)
    state, results = tx.init(params), []
    for k in range(STEPS):
        updates, state = tx.update(like(tree, seed + 1 + k), state, params)
        results.append(updates)
    return results, state


def flags(tree, seed, values=(True, False)):
    """Return a tree of values drawn at random."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda _: values[int(rng.integers(len(values)))], tree)


@law(TRANSFORMS, TREES, SEEDS)
def test_masked_with_all_true_is_the_transform(tx, tree, seed):
    expected, state = run(tx, tree, seed)
    for mask in (True, jax.tree.map(lambda _: True, tree)):
        updates, masked_state = run(gc.masked(tx, mask), tree, seed)
        trees.assert_close(updates, expected, 0)
        trees.assert_close(masked_state.inner_state, state, 0)


@law(TRANSFORMS, TREES, SEEDS)
def test_masked_with_all_false_is_the_identity(tx, tree, seed):
    expected, _ = run(gc.identity(), tree, seed)
    for mask in (False, jax.tree.map(lambda _: False, tree)):
        trees.assert_close(run(gc.masked(tx, mask), tree, seed)[0], expected, 0)


@law(TRANSFORMS, TREES, SEEDS)
def test_partition_with_one_label_is_the_transform(tx, tree, seed):
    expected, state = run(tx, tree, seed)
    for labels in ("all", jax.tree.map(lambda _: "all", tree), gc.by_leaf(lambda path, leaf: "all")):
        updates, own = run(gc.partition({"all": tx}, labels), tree, seed)
        trees.assert_close(updates, expected, 0)
        trees.assert_close(own.inner_states["all"], state, 0)


@law(TRANSFORMS, TRANSFORMS, TREES, SEEDS)
def test_partition_is_masks_one_after_another(first, second, tree, seed):
    mask = flags(tree, seed)
    opposite = jax.tree.map(lambda on: not on, mask)
    labels = jax.tree.map(lambda on: "first" if on else "second", mask)
    updates, _ = run(gc.partition({"first": first, "second": second}, labels), tree, seed)
    chained, _ = run(gc.chain(gc.masked(first, mask), gc.masked(second, opposite)), tree, seed)
    trees.assert_close(updates, chained, 0)


@law(TRANSFORMS, TRANSFORMS, TREES, SEEDS)
def test_parallel_with_a_projection_is_either_branch(first, second, tree, seed):
    for tx, merge in ((first, lambda a, b: a), (second, lambda a, b: b)):
        trees.assert_close(run(gc.parallel(first, second, merge=merge), tree, seed)[0], run(tx, tree, seed)[0], 0)


@law(TRANSFORMS, TREES, SEEDS)
def test_grafting_a_transform_on_itself_is_the_transform(tx, tree, seed):
    expected, _ = run(tx, tree, seed)
    hypothesis.assume(all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(expected)))
    for merge in (gc.graft, gc.graft_global):
        trees.assert_close(run(gc.parallel(tx, tx, merge=merge), tree, seed)[0], expected, 1e-6)


@law(TREES, SEEDS, st.sampled_from([0.0, 0.5, 0.9]))
def test_equal_to_optax_step_for_step(tree, seed, momentum):
    labels = flags(tree, seed, ("a", "b", "c"))

    def build(library, route):
        return route(
            {
                "a": library.sgd(0.1, momentum=momentum),
                "b": library.masked(library.adam(0.1), flags(tree, seed + 1)),
                "c": library.chain(library.clip_by_global_norm(0.5), library.scale(-0.1)),
                "unused": library.sgd(1.0),
            },
            labels,
        )

    ours, _ = run(build(gc, gc.partition), tree, seed)
    theirs, _ = run(build(optax, optax.partition), tree, seed)
    trees.assert_close(ours, theirs, 1e-5)
