"""Whatever a user's rule is made of, every array gets its own numbers: with ``jit``, in a scan and without."""

import functools
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

import gradchain as gc
from tests import trees

# Equal shapes, shapes that differ, dtypes that differ; small whole numbers, so that most results are exact.
TREE = {
    "a": jnp.arange(6.0).reshape(2, 3),
    "b": jnp.arange(6.0).reshape(3, 2) - 2,
    "c": jnp.arange(3.0),
    "d": jnp.arange(3.0) + 1,
    "half": jnp.arange(4.0, dtype=jnp.bfloat16),
    "one": jnp.asarray(2.0),
}


@functools.partial(jax.jit, static_argnames="shape")
def _longest(t: Any, shape: tuple[int, ...]) -> Any:
    return jnp.max(np.array([1, *shape], "float32")) * t


@jax.custom_jvp
def _twice(t: Any, g: Any) -> Any:
    return 2 * t


@_twice.defjvp
def _twice_jvp(primals: Any, tangents: Any) -> Any:
    return _twice(*primals), 5 * tangents[0]


@jax.custom_vjp
def _thrice(t: Any) -> Any:
    return 3 * t


_thrice.defvjp(lambda t: (3 * t, None), lambda _, ct: (7 * ct,))

PIECES = {
    "constant in a nested jit": lambda t, rate, g: _longest(t, g.shape),
    "constant in two nested jits": lambda t, rate, g: jax.jit(lambda u: _longest(u, g.shape) + g.ndim)(t),
    "constant array": lambda t, rate, g: jnp.sum(np.arange(g.size, dtype="float32")) * rate,
    "closed-over table": lambda t, rate, g: jax.jit(lambda u: u * jnp.asarray(g.shape or (1,), "float32").sum())(rate),
    "shape in a loop": lambda t, rate, g: jax.lax.fori_loop(0, g.size, lambda i, x: x + 1, rate),
    "shape in a branch": lambda t, rate, g: jax.lax.cond(t > 1, lambda: t * g.size, lambda: rate),
    "shape in a scan": lambda t, rate, g: jax.lax.scan(lambda x, y: (x + y, None), t, np.ones(g.size, "float32"))[0],
    "custom_jvp": lambda t, rate, g: _twice(t, g),
    "custom_vjp": lambda t, rate, g: _thrice(t) + g.size,
    "dtype": lambda t, rate, g: rate * jnp.finfo(g.dtype).bits,
    "callback": lambda t, rate, g: _called(t) * g.size,
    "power": lambda t, rate, g: 1 - (rate / 8) ** t,
    "the array": lambda t, rate, g: jnp.max(g) + t,
    "checkpoint": lambda t, rate, g: jax.checkpoint(lambda u: u * g.size)(t),
    "vmap": lambda t, rate, g: jax.vmap(lambda i: i * t)(np.arange(g.size, dtype="float32")).sum(),
}


def _called(t: Any) -> Any:
    return jax.pure_callback(lambda x: np.asarray(x + 1, "float32"), jax.ShapeDtypeStruct((), "float32"), t)


def rule_of(names: list[str], decorator: Any) -> Any:
    """Return a rule that multiplies by the sum of the named pieces, and remembers it."""

    @decorator(slots=("last",))
    def user_rule(g: Any, slot: gc.Slots, at: gc.At, rate: gc.Hyper = 1.0):
        number = sum((PIECES[name](at.t, rate, g) for name in names), jnp.zeros((), at.dtype))
        return g * number + slot.last, slot(last=jnp.full_like(g, 1) * number)

    return user_rule


def assert_jit_is_eager(tx: Any, tree: Any) -> None:
    expected, _ = tx.update(tree, tx.init(tree), tree)
    updates, _ = jax.jit(tx.update)(tree, tx.init(tree), tree)
    trees.assert_close(updates, expected, 1e-6)


@pytest.mark.parametrize("name", PIECES)
def test_a_number_made_of_an_arrays_own_shape_or_dtype_is_its_own(name):
    assert_jit_is_eager(rule_of([name], gc.leafwise)(2.0), {key: TREE[key] for key in ("a", "c", "half")})


@pytest.mark.slow
@hypothesis.settings(max_examples=8)
@hypothesis.given(
    strategies.lists(strategies.lists(strategies.sampled_from(list(PIECES)), min_size=1, max_size=3), max_size=3),
    strategies.sampled_from([2.0, jnp.asarray(3.0), gc.linear_schedule(1.0, 3.0, 2)]),
)
def test_chains_of_random_rules_do_the_same_under_jit(rules, rate):
    assert_jit_is_eager(
        gc.chain(gc.clip(5.0), *(rule_of(names, gc.leafwise)(rate) for names in rules), gc.ema(0.5)), TREE
    )


def test_effects_in_a_rule_happen_once_for_each_array():
    seen = []

    @gc.elementwise()
    def announced(g: Any, slot: gc.Slots, at: gc.At, rate: gc.Hyper = 1.0):
        jax.debug.callback(lambda t, size: seen.append((float(t), int(size))), at.t, g.size)
        return rate * g

    tx = announced(1.0)
    jax.block_until_ready(jax.jit(tx.update)(TREE, tx.init(TREE), TREE))
    jax.effects_barrier()
    assert sorted(seen) == sorted((1.0, leaf.size) for leaf in TREE.values())


def test_each_of_two_equal_rules_has_its_own_count():
    @jax.jit
    def step(state):
        return tx.update(TREE, state, TREE)[0]

    tx = gc.chain(gc.ema(0.9), gc.ema(0.9))
    state = tx.init(TREE)
    for _ in range(3):
        _, later = tx.update(jax.tree.map(jnp.negative, TREE), state, TREE)
        state = later[0], state[1]
    expected = tx.update(TREE, state, TREE)[0]
    trees.assert_close(step(state), expected, 1e-6)
    assert not np.allclose(step(state)["a"], step(tx.init(TREE))["a"])


@pytest.mark.parametrize("tx", [gc.adam(1e-3), gc.adam(jnp.asarray(1e-3)), gc.chain(gc.clip(1.0), gc.adamw(1e-3))])
def test_bias_corrections_are_computed_once_for_all_arrays(tx):
    def step(tx, grads, state, params):
        return tx.update(grads, state, params)

    def powers(tree):
        return jax.jit(step).lower(tx, tree, tx.init(tree), tree).as_text().count("exponential_minus_one")

    assert powers(TREE) == powers({"a": TREE["a"]}) > 0


def test_derivatives_pass_through_the_shared_numbers():
    @jax.jit
    def loss(b1):
        tx = gc.scale_by_adam(b1=b1)
        updates, state = tx.update(tree, tx.init(tree), tree)
        return sum(jnp.sum(u**2) for u in jax.tree.leaves(tx.update(updates, state, tree)[0]))

    tree, step = {"a": jnp.array([0.1, 2.0]), "b": jnp.array([-1.0, 0.5, 3.0])}, 1e-2
    slope = (loss(0.9 + step) - loss(0.9 - step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(0.9), slope, rtol=1e-2)


@pytest.mark.parametrize("values", [(0.0, -0.0), (1, True, 1.0), ((1,), (True,), (1.0,)), ((0.0,), (-0.0,))], ids=str)
def test_numbers_that_are_equal_but_not_the_same_are_told_apart(values):
    @gc.leafwise()
    def marked(g: Any, slot: gc.Slots, at: gc.At, field: Any):
        return g + len(repr(field))

    for value in values:
        assert_jit_is_eager(marked(value), {"a": TREE["a"]})
