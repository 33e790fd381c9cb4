"""Any optimizer keeps its promises with its slots in fewer bits, and with its weights in half precision."""

import functools

import jax
import jax.numpy as jnp
import pytest

import gradchain as gc
from gradchain.core.hyperparams import walk
from gradchain.core.rule import Rule
from tests import quick, trees
from tests.contract.cases import each, least
from tests.registry import OPTIMIZERS, TRANSFORMS

pytestmark = pytest.mark.slow
STEPS = 3


def is_stored(x):
    return isinstance(x, gc.Stored)


def run(row, tx, params, gradients):
    """Return parameters and state after all gradients, in one scan."""

    def step(carry, gradient):
        params, state = carry
        updates, state = row.update(tx, gradient, state, params)
        return (gc.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), gradients)[0]


def loop(row, tx, params, gradients):
    """Return the same without compiling, having checked what every step returns."""
    state = first = tx.init(params)
    for k in range(STEPS):
        updates, state = row.update(tx, trees.at(gradients, k), state, params)
        trees.assert_same_kind(updates, params)
        trees.assert_same_kind(state, first)
        params = gc.apply_updates(params, updates)
    return params, state


def check(row, tx, dtype, tolerance):
    """Check that a compiled, scanned batch of two models equals single models step by step."""
    batch = jax.tree.map(lambda *x: jnp.stack(x), *(least(row, trees.standard(dtype, seed)) for seed in (0, 1)))
    gradients = least(row, trees.stream(STEPS, dtype))
    together = quick.jit(jax.vmap(functools.partial(run, row, tx), in_axes=(0, None)))(batch, gradients)
    for i in range(2):
        alone = loop(row, tx, trees.at(batch, i), gradients)
        trees.assert_close(numbers(trees.at(together, i)), numbers(alone), tolerance)


def numbers(tree):
    """Return the numbers of a tree: decoded ones, and what master weights keep in 8 bits as shares of its range.

    A number halfway between two codes may get either.
    """
    return jax.tree.map(lambda x: x / 256 if x.dtype == "int8" else x, gc.decoded(tree))


def nbytes(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("codec", ["int8", "int4"])
@each([*TRANSFORMS, *OPTIMIZERS])
def test_slots_of_any_transform_take_the_bytes_of_their_codec(row, codec):
    params = trees.standard()
    tx = gc.store(row.build(), codec, min_size=0)
    plain, state = tx.inner.init(params), tx.init(params)
    stored = jax.tree.leaves(state, is_leaf=is_stored)
    saved = 0
    for part in walk(tx.inner, plain):
        if isinstance(part.transform, Rule):
            declared = part.transform.unlayered.spec.slots
            slots = {name: getattr(part.state, name) for name, slot in declared.items() if not slot.exact}
            arrays = [x for x in jax.tree.leaves(slots) if jnp.issubdtype(x.dtype, jnp.inexact)]
            saved += sum(x.nbytes - gc.codec(codec).nbytes(x.shape) for x in arrays)
    assert nbytes(state) == nbytes(plain) + 8 - saved
    assert all(nbytes(x) == x.codec.nbytes(x.shape) for x in stored if is_stored(x))


@each(OPTIMIZERS)
def test_store_around_any_optimizer(row):
    check(row, gc.store(row.build(), "int8", min_size=0), "float32", 1e-5)


@each(OPTIMIZERS)
def test_master_weights_around_any_optimizer(row):
    check(row, gc.master_weights(row.build(), 8), "bfloat16", 2.0**-7)
