"""What all leaves share is computed once for all of them, and nothing else is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.core.split import split

TREE = {f"w{i}": jnp.linspace(-1, 1, 2 + i) for i in range(6)} | {"half": jnp.ones((2, 2), jnp.bfloat16)}


def lowered(tx):
    def step(tx, grads, state, params):
        return tx.update(grads, state, params)

    return jax.jit(step).lower(tx, TREE, tx.init(TREE), TREE).as_text()


@pytest.mark.parametrize("tx", [gc.adam(1e-3), gc.adam(jnp.asarray(1e-3)), gc.chain(gc.clip(1.0), gc.adamw(1e-3))])
def test_bias_corrections_are_computed_once(tx):
    text = lowered(tx)
    assert text.count("exponential_minus_one") == 2  # one for each moment, none for a leaf
    assert text.count("call @") >= len(TREE)


def test_each_of_two_equal_rules_has_its_own_count():
    @jax.jit
    def step(state):
        return tx.update(TREE, state, TREE)[0]

    tx = gc.chain(gc.ema(0.9), gc.ema(0.9))
    state = tx.init(TREE)
    later = state[0]._replace(count=jnp.asarray(100)), state[1]
    with jax.disable_jit():
        expected = tx.update(TREE, later, TREE)[0]
    for name in TREE:
        np.testing.assert_allclose(step(later)[name], expected[name], rtol=1e-5)
        assert not np.allclose(step(later)[name], step(state)[name])


def test_arrays_and_what_depends_on_a_leaf_stay():
    def function(shared, x):
        number = jnp.exp(shared) + 1
        return x * number, jnp.full(3, number) + x, jnp.sqrt(x[0])

    arguments = jnp.asarray(0.5), jnp.arange(1.0, 4)
    numbers = split(jax.make_jaxpr(function)(*arguments), (True, False))
    assert numbers is not None
    assert "exp" in numbers.text
    assert "sqrt" not in numbers.text
    assert "[3]" not in numbers.text
    handed = numbers.numbers(arguments[0])
    assert {x.shape for x in handed} == {()}
    for got, want in zip(numbers.leaf(*handed, arguments[1]), function(*arguments), strict=True):
        np.testing.assert_array_equal(got, want)


def test_derivatives_pass_through_the_shared_numbers():
    @jax.jit
    def loss(b1):
        tx = gc.scale_by_adam(b1=b1)
        updates, state = tx.update(tree, tx.init(tree), tree)
        return sum(jnp.sum(u**2) for u in jax.tree.leaves(tx.update(updates, state, tree)[0]))

    tree, step = {"a": jnp.array([0.1, 2.0]), "b": jnp.array([-1.0, 0.5, 3.0])}, 1e-2
    slope = (loss(0.9 + step) - loss(0.9 - step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(0.9), slope, rtol=1e-2)


def test_a_function_that_shares_no_number_stays_whole():
    assert split(jax.make_jaxpr(lambda shared, x: shared * x)(jnp.ones(()), jnp.ones(2)), (True, False)) is None
