"""Laws of combinators in combinators, three deep and drawn at random: few by default, many under -m slow."""

import io
import pickle

import jax
import numpy as np

import gradchain as gc
from tests import nests as namespace
from tests import public, states, trees
from tests.nests import BASES, EXTRA, Nest, nests
from tests.unit.test_routing_laws import SEEDS, law

STEPS = 2


def run(tx, params, gradients):
    """Return the updates of a few steps with the parameters at rest."""
    state, results = tx.init(params), []
    for k in range(STEPS):
        updates, state = tx.update(trees.at(gradients, k), state, params, **EXTRA)
        results.append(updates)
    return results


@law(nests(3), SEEDS, few=3, many=20)
def test_nests_three_deep_keep_state_compile_once_and_evaluate(nest, seed):
    tx, params, gradients = nest.tx, trees.standard(seed=seed), trees.stream(STEPS, seed=seed)
    traces = []

    @jax.jit
    def step(tx, gradient, state, params):
        traces.append(tx)
        updates, state = tx.update(gradient, state, params, **EXTRA)
        return updates, state, gc.eval_params(tx, state, params)

    state = now = compiled = tx.init(params)
    for k in range(STEPS):
        eager, now = tx.update(trees.at(gradients, k), now, params, **EXTRA)
        weights = gc.eval_params(tx, now, params)
        *result, evaluated = step(tx, trees.at(gradients, k), compiled, params)
        compiled = result[1]
        trees.assert_same_kind((compiled, now), (state, state))
        trees.assert_same_kind(weights, params)
        trees.assert_close((*result, evaluated), (eager, now, weights), 2e-6)
    numbers = {name: 0.5 * value for name, value in gc.hyperparams(tx).items() if isinstance(value, float)}
    step(tx.replace(**numbers), trees.at(gradients, 0), state, params)
    assert len(traces) == 1


@law(nests(2), nests(1), SEEDS, few=3, many=20)
def test_chains_of_nests_associate(first, second, seed):
    params, gradients = trees.standard(seed=seed), trees.stream(STEPS, seed=seed)
    outer = gc.chain(gc.chain(first.tx, gc.clip(0.3)), second.tx)
    inner = gc.chain(first.tx, gc.chain(gc.clip(0.3), second.tx))
    trees.assert_close(run(outer, params, gradients), run(inner, params, gradients), 0)


RATE = gc.warmup_cosine_decay_schedule(0.0, 0.1, 3, 10)
INJECTED = frozenset({"inject_hyperparams"})
LEAVES = BASES | {
    "scheduled": gc.sgd(RATE, momentum=0.5),
    "injected": Nest(gc.inject_hyperparams(gc.adamw)(RATE, mask=gc.by_path([("*", True)])), INJECTED),
    "whole": Nest(gc.inject_hyperparams(gc.accumulate)(gc.adam(0.01), 2), INJECTED | {"accumulate"}),
    "keyed": gc.noisy_sgd(0.1, key=jax.random.key(7)),
    "in the host's memory": Nest(gc.offload_state(gc.adam(0.01)), frozenset({"offload_state"})),
}
"""What nests keep besides plain moments: schedules, numbers and keys in the state, and state in other memory."""


def from_file(saved):
    """Return a state dict as NumPy's file gives it back."""
    file = io.BytesIO()
    np.savez(file, **saved)
    file.seek(0)
    return np.load(file)


def raw(state):
    return [jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in state]


@law(nests(4, LEAVES), few=6, many=80)
def test_what_a_nest_says_of_itself_is_true(nest):
    tx, params = nest.tx, trees.standard()
    state = tx.init(params)
    assert list(gc.hyperparams(tx, state)) == list(gc.hyperparams(tx))
    described, leaves = gc.describe(tx, params), jax.tree.leaves(state)
    assert described.state_bytes == sum(x.nbytes for x in raw(leaves))
    assert described.state_bytes == described.shared_bytes + sum(row.state_bytes for row in described.rows)
    again = gc.from_state_dict(tx, params, from_file(gc.to_state_dict(tx, state)))
    assert jax.tree.map(jax.typeof, again) == jax.tree.map(jax.typeof, state)
    states.assert_same(raw(jax.tree.leaves(again)), raw(leaves))
    pickled = pickle.loads(pickle.dumps(state))
    assert jax.tree.structure(pickled) == jax.tree.structure(state)
    for x, y in zip(raw(leaves), raw(jax.tree.leaves(pickled)), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
    if "<" not in repr(tx):  # neither functions nor keys
        assert eval(repr(tx), public.NAMES | vars(namespace)) == tx
