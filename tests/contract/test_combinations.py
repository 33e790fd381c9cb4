"""The promises for every combinator around each base optimizer: what two parts keep, they keep together."""

import functools
import itertools
import pickle

import jax
import jax.numpy as jnp
import pytest

import gradchain as gc
from gradchain.tree.state import nodes
from tests import quick, trees
from tests.contract.cases import TOLERANCE
from tests.contract.numbers import TYPES, changed, neighbour, numbers_of
from tests.nests import BASES, COMBINATORS, EXTRA, around

pytestmark = pytest.mark.slow
STEPS = 3
RATES = [0.01, 0.003]


def least(tree):
    """Return a matrix and a vector of the standard tree, to compile less."""
    return {name: tree[name] for name in ("bias", "kernel")}


def update(tx, gradient, state, params):
    return tx.update(gradient, state, params, **EXTRA)


class Combination:
    """One combinator around one base optimizer, with parameters and compiled functions to share."""

    def __init__(self, combinator, base):
        self.combinator = combinator
        self.tx = around(combinator, BASES[base])
        self.step = quick.jit(self._step)
        self.traces = 0
        self.start, self.end = functools.cache(self._start), functools.cache(self._end)

    def _step(self, tx, *args):
        self.traces += 1
        return update(tx, *args)

    def _start(self, dtype="float32"):
        """Return parameters, and the state for them."""
        params = least(trees.standard(dtype))
        return params, self.tx.init(params)

    def gradients(self, dtype="float32"):
        return least(trees.stream(STEPS, dtype))

    def descend(self, step, tx, dtype="float32"):
        """Return parameters and state after all gradients, having checked what every step returns."""
        params, state = start = self.start(dtype)
        wide = "float32" if self.combinator == "float32_updates" else dtype
        for k in range(STEPS):
            updates, state = step(tx, trees.at(self.gradients(dtype), k), state, params)
            trees.assert_same_kind(updates, self.start(wide)[0])
            params = gc.apply_updates(params, updates)
            trees.assert_same_kind((params, state), start)
        return params, state

    def _end(self, dtype="float32"):
        """Return parameters and state after a compiled descent."""
        return self.descend(self.step, self.tx, dtype)

    def with_rate(self, rate):
        """Return the transform with all learning rates set."""
        names = [name for name in numbers_of(self.tx) if name.endswith("learning_rate")]
        return self.tx.replace(**dict.fromkeys(names, rate))


ALL = list(itertools.product(COMBINATORS, BASES))


@pytest.fixture(scope="module", params=ALL, ids="-".join)
def combination(request):
    return Combination(*request.param)


in_each_dtype = pytest.mark.parametrize(
    ("combination", "dtype"),
    [
        pytest.param(pair, dtype, id="-".join((*pair, dtype)))
        for pair in ALL
        for dtype in (("float32", "bfloat16") if pair[1] == "adam" else ("float32",))
    ],
    indirect=["combination"],
)
"""Half precision around Adam alone: what a combinator does to dtypes doesn't depend on what is within."""
around_one = pytest.mark.parametrize(
    "combination", [pair for pair in ALL if pair[1] == "adafactor"], indirect=True, ids="-".join
)
"""Adafactor, whose slots have other shapes than the parameters, stands for all in how combinators go through JAX."""


@in_each_dtype
def test_state_and_updates_keep_their_kind_and_jit_equals_eager(combination, dtype):
    trees.assert_close(combination.end(dtype), combination.descend(update, combination.tx, dtype), TOLERANCE[dtype])


@around_one
def test_a_donated_scan_over_a_batch_of_learning_rates_equals_loops(combination):
    def epoch(tx, carry, gradients):
        def body(carry, gradient):
            params, state = carry
            updates, state = update(tx, gradient, state, params)
            return (gc.apply_updates(params, updates), state), None

        return jax.lax.scan(body, carry, gradients)[0]

    batch, params = combination.with_rate(jnp.array(RATES)), combination.start()[0]
    axes = gc.batch_axes(batch)
    states = jax.vmap(lambda tx: (params, tx.init(params)), in_axes=(axes,), axis_size=len(RATES))(batch)
    run = quick.jit(jax.vmap(epoch, in_axes=(axes, 0, None)), donate_argnums=1)
    together = run(batch, states, combination.gradients())
    assert all(x.is_deleted() for x in jax.tree.leaves(states))
    for k, rate in enumerate(RATES):
        tx = combination.with_rate(rate)
        alone = params, tx.init(params)
        for i in range(STEPS):
            updates, state = combination.step(tx, trees.at(combination.gradients(), i), alone[1], alone[0])
            alone = gc.apply_updates(alone[0], updates), state
        trees.assert_close(trees.at(together, k), alone, TOLERANCE["float32"])


def test_new_numbers_dont_retrace(combination):
    params, state = combination.start()
    gradient = trees.at(combination.gradients(), 0)
    combination.step(combination.tx, gradient, state, params)
    traces = combination.traces
    for k in range(len(TYPES)):
        combination.step(changed(combination.tx, k, TYPES), gradient, state, params)
    assert combination.traces == traces


@in_each_dtype
def test_zero_gradients_give_finite_updates(combination, dtype):
    params, state = combination.start(dtype)
    zeros = jax.tree.map(jnp.zeros_like, params)
    for _ in range(2):
        updates, state = combination.step(combination.tx, zeros, state, params)
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves((updates, state)))


def test_transform_and_state_pickle(combination):
    if combination.combinator not in {"masked", "freeze"}:
        assert pickle.loads(pickle.dumps(combination.tx)) == combination.tx
    state = combination.end()[1]
    again = pickle.loads(pickle.dumps(state))
    trees.assert_same_kind(again, state)
    trees.assert_close(again, state, 0)


def test_listed_numbers_can_be_set_by_the_same_name(combination):
    numbers = numbers_of(combination.tx)
    for name, value in numbers.items():
        after = numbers_of(gc.set_hyperparams(combination.tx, {name: neighbour(value, 32)}))
        assert after == numbers | {name: neighbour(value, 32)}
    now = gc.hyperparams(combination.tx, combination.end()[1])
    assert now.keys() == gc.hyperparams(combination.tx).keys()


@in_each_dtype
def test_evaluation_weights_have_the_parameters_kind(combination, dtype):
    start, (params, state) = combination.start(dtype), combination.end(dtype)
    trees.assert_close(gc.eval_params(combination.tx, start[1], start[0]), start[0], 0)
    weights = gc.eval_params(combination.tx, state, params)
    trees.assert_same_kind(weights, params)
    assert (weights["kernel"] is not params["kernel"]) == COMBINATORS[combination.combinator].weights


def test_describe_counts_all_state(combination):
    params, state = combination.start()
    description = gc.describe(combination.tx, params)
    assert [row.path for row in description.rows] == ["bias", "kernel"]
    assert description.state_bytes == sum(x.nbytes for x in jax.tree.leaves(state))


def test_state_has_addresses(combination):
    state = combination.end()[1]
    leaves = [node for node in nodes(state) if node.is_leaf]
    assert len({node.address for node in leaves}) == len(leaves)
    for node in leaves:
        assert gc.tree.get(state, node.address) is node.value
        changed_state = gc.tree.set(state, **{node.address: None})
        others = [x for x in leaves if x.address != node.address]
        assert all(gc.tree.get(changed_state, x.address) is x.value for x in others)
