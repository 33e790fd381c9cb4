"""A bias correction divides by the sum of the weights that were really used, whatever the decay was along the way."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from gradchain.core.hyperparams import walk
from gradchain.core.rule import Rule
from tests import oracles, trees
from tests.registry import ROWS

ONE = jnp.ones(())
RULES = {
    "adam": lambda b: gc.scale_by_adam(b1=b, b2=b),
    "adamax": lambda b: gc.scale_by_adamax(b1=b, eps=0.0),
    "adan": lambda b: gc.scale_by_adan(b1=b, b3=b),
    "ademamix": lambda b: gc.scale_by_ademamix(b1=b, b2=b, alpha=0.0),
    "amsgrad": lambda b: gc.scale_by_amsgrad(b1=b, b2=b),
    "ema": lambda b: gc.ema(b),
    "rms": lambda b: gc.scale_by_rms(b, bias_correction=True),
    "sophia": lambda b: gc.scale_by_sophia(
        b1=b, gamma=0.0, eps=1.0, clip_threshold=None, hessian_diagonal_fn=gc.scale(1.0)
    ),
}


def course(update, tx, steps, gradient=ONE):
    state, seen = tx.init(gradient), []
    for k in range(steps):
        new, state = update(k, tx, gradient, state)
        seen.append(new)
    return jnp.stack(seen), state


@pytest.mark.parametrize("decays", [(0.5, 0.99), (0.99, 0.5), (0.9, 0.0)])
@pytest.mark.parametrize("name", RULES)
def test_the_average_of_a_constant_is_the_constant(name, decays):
    before, after = decays

    @jax.jit
    def run():
        def scheduled(k, tx, g, state):
            return tx.update(g, state, g)

        def replaced(k, tx, g, state):
            return RULES[name](jnp.where(k < 6, before, after)).update(g, state, g)

        return course(scheduled, RULES[name](gc.join_schedules(decays, [6])), 14)[0], course(
            replaced, RULES[name](before), 14
        )[0]

    for seen in run():
        np.testing.assert_allclose(seen, 1.0, rtol=3e-6)


def test_a_nesterov_numerator_follows_the_oracle_under_a_schedule(x64):
    b1, b2 = (lambda k: 0.5 + 0.04 * k), (lambda k: 0.9 if k < 4 else 0.999)
    tx = gc.scale_by_adam(gc.linear_schedule(0.5, 0.9, 10), gc.join_schedules([0.9, 0.999], [4]), nesterov=True)
    oracle = oracles.adam(b1, b2, nesterov=True)
    params, gradients = trees.standard("float64"), trees.stream(8, "float64")
    state, memory = tx.init(params), oracle.init(trees.as_numpy(params))
    for k in range(8):
        g = trees.at(gradients, k)
        updates, state = tx.update(g, state, params)
        expected, memory = oracle.update(trees.as_numpy(g), memory, trees.as_numpy(params))
        trees.assert_close(updates, expected, 1e-12)


def correcting(row):
    """Return the rules of a row that correct averages, by name."""
    rules = [(part.name, part.transform) for part in walk(row.build()) if isinstance(part.transform, Rule)]
    return {name: rule.unlayered for name, rule in rules if rule.unlayered.spec.debiased}


def first_rows():
    """Return one row for each rule that corrects averages."""
    seen = {}
    for row in ROWS:
        for rule in correcting(row).values():
            seen.setdefault(rule.spec.name, row)
    return seen


@pytest.mark.parametrize(("name", "row"), first_rows().items(), ids=str)
def test_every_rule_keeps_the_sum_of_the_weights_that_it_used(name, row):
    params, gradients, tx = trees.standard(), trees.stream(4), row.build()
    state = tx.init(params)
    part, rule = next((part, rule) for part, rule in correcting(row).items() if rule.spec.name == name)
    left = dict.fromkeys(rule.spec.debiased, 1.0)
    for k, decay in enumerate((0.5, 0.25, 0.875, 0.0)):
        tx = tx.replace(**{f"{part}.{field}": decay for field in left})
        _, state = row.update(tx, trees.at(gradients, k), state, params)
        left = {field: x * decay for field, x in left.items()}
        kept = {address: x for address, x in gc.state_paths(tx, state).items() if f"{part}/weight_sums/" in address}
        assert {address.rpartition("/")[2]: float(x) for address, x in kept.items()} == pytest.approx(
            {field: 1 - x for field, x in left.items()}, rel=1e-6
        )


def test_imported_averages_go_on_with_the_weights_that_were_used():
    decay, params = gc.join_schedules([0.5, 0.9], [3]), {"w": jnp.ones(3)}
    theirs = optax.chain(optax.scale_by_adam(b1=0.8), optax.ema(0.5, debias=True))
    state = theirs.init(params)
    for _ in range(5):
        _, state = theirs.update(params, state, params)
    constant = gc.from_optax_state(gc.chain(gc.scale_by_adam(b1=0.8), gc.ema(0.5)), params, state)
    scheduled = gc.from_optax_state(gc.chain(gc.scale_by_adam(b1=decay), gc.ema(0.5)), params, state)
    assert float(constant[0].weight_sums["b1"]) == pytest.approx(1 - 0.8**5)
    assert float(constant[1].weight_sums["decay"]) == pytest.approx(1 - 0.5**5)
    assert float(scheduled[0].weight_sums["b1"]) == pytest.approx(1 - 0.5**3 * 0.9**2)
    back = gc.to_optax_state(gc.chain(gc.scale_by_adam(b1=0.8), gc.ema(0.5)), constant, theirs, params)
    assert jax.tree.structure(back) == jax.tree.structure(state)


def aged(tx, params):
    """Return the first updates and the state after 201 steps of gradients that are 1."""
    first, state = tx.update(params, tx.init(params), params, value=1.0)
    return first, jax.lax.fori_loop(0, 200, lambda _, state: tx.update(params, state, params, value=1.0)[1], state)


@pytest.mark.parametrize(
    "tx",
    [
        gc.scale_by_factored_rms(),
        gc.scale_by_adopt(),
        gc.scale_by_madgrad(0.1),
        gc.scale_by_momo(),
        gc.scale_by_novograd(),
        gc.scale_by_optimistic_gradient(),
        gc.scale_by_mars(),
        gc.average_params(gc.sgd(0.1)),
        gc.schedule_free_sgd(0.1),
    ],
    ids=lambda tx: tx.name,
)
def test_an_added_layer_is_warned_of_wherever_averages_are_taken_to_be_as_old_as_the_count(tx):
    old, new = {"old": jnp.ones(2)}, {"old": jnp.ones(2), "new": jnp.ones(2)}
    saved = gc.to_state_dict(tx, aged(tx, old)[1])
    with pytest.warns(UserWarning, match=r"averages of new begin anew, but \w+ has made 201 updates"):
        gc.from_state_dict(tx, new, saved, missing="init")


@pytest.mark.parametrize("tx", [gc.trace(0.9), gc.lion(0.1), gc.scale_by_rss(), gc.lookahead(gc.sgd(0.1), 5, 0.5)])
def test_an_added_layer_whose_first_step_is_right_is_no_cause_for_a_warning(tx):
    old, new = {"old": jnp.ones(2)}, {"old": jnp.ones(2), "new": jnp.ones(2)}
    first, state = aged(tx, old)
    updates, _ = tx.update(new, gc.from_state_dict(tx, new, gc.to_state_dict(tx, state), missing="init"), new)
    np.testing.assert_allclose(updates["new"], first["old"], rtol=1e-6)


@pytest.mark.parametrize(
    "make", [gc.adam, gc.adamax, gc.lamb, gc.nadam, gc.ademamix, gc.adan], ids=lambda f: f.__name__
)
def test_an_added_layer_is_warned_of_and_the_advice_lets_it_begin_with_a_first_step(make):
    old, new = {"old": jnp.ones(2)}, {"old": jnp.ones(2), "new": jnp.ones(2)}
    tx = make(0.01)
    first, state = aged(tx, old)
    saved = gc.to_state_dict(tx, state)
    with pytest.warns(UserWarning, match=r"averages of new begin anew, but \w+ has made 201 updates"):
        gc.from_state_dict(tx, new, saved, missing="init")
    routed = gc.partition({"old": tx, "new": tx}, {"old": "old", "new": "new"})
    state = gc.from_state_dict(routed, new, saved, rename={"": "old."}, missing="init")
    updates, _ = routed.update(new, state, new)
    np.testing.assert_allclose(updates["new"], first["old"], rtol=1e-6)
