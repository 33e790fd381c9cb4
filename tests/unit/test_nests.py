"""Laws of combinators in combinators, three deep and drawn at random: few by default, many under -m slow."""

import jax

import gradchain as gc
from tests import trees
from tests.nests import EXTRA, nests
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
