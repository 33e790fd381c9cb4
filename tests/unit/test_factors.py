"""Factors of hyperparameters for single arrays: what they multiply, and what stays as it was."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from gradchain.schedules import linear_schedule
from tests import public, trees

PARAMS = {"embed": jnp.ones((4, 2)), "layers": [{"w": jnp.full((2, 2), 2.0), "b": jnp.ones(2)} for _ in range(2)]}
GRADS = jax.tree.map(lambda x: 0.5 * x + jnp.arange(x.size, dtype=float).reshape(x.shape), PARAMS)
RATES = [("embed", 10.0), ("layers/0", 0.5)]


def one_step(tx, params=PARAMS, grads=GRADS):
    """Return the updates of the first step."""
    return tx.update(grads, tx.init(params), params)[0]


def sizes(updates):
    """Return one number of each array, divided by its gradient."""
    return [
        float(u.ravel()[-1] / g.ravel()[-1])
        for u, g in zip(jax.tree.leaves(updates), jax.tree.leaves(GRADS), strict=True)
    ]


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        (RATES, [10, 0.5, 0.5, 1, 1]),
        (gc.by_path([("embed", 10.0)], default=2.0), [10, 2, 2, 2, 2]),
        ({"embed": 3.0, "layers": None}, [3, 1, 1, 1, 1]),
        ({"embed": 3.0, "layers": [0.0, {"b": 4, "w": None}]}, [3, 0, 0, 4, 1]),
        (gc.by_leaf(lambda path, leaf: 0.25 if leaf.ndim == 1 else 2), [2, 0.25, 2, 0.25, 2]),
        (lambda params: jax.tree.map(lambda x: float(x.ndim), params), [2, 1, 2, 1, 2]),
        ((gc.by_path([("b", "slow"), ("embed", "fast")], "slow"), {"slow": 0.1, "fast": 5.0}), [5, 0.1, 0.1, 0.1, 0.1]),
        (2.5, [2.5] * 5),
    ],
)
def test_factors_in_each_form(factors, expected):
    np.testing.assert_allclose(sizes(one_step(gc.scale_by_path(factors))), expected, rtol=1e-6)


def test_rates_and_decays_are_those_of_the_arrays_alone():
    tx = gc.scale_hyperparams(
        gc.adamw(0.01, weight_decay=0.1, eps=1e-2),
        {"learning_rate": RATES, "weight_decay": [("b", 0.0), ("embed", 3.0)], "scale_by_adam:eps": [("w", 5.0)]},
    )
    state, updates = tx.init(PARAMS), None
    for _ in range(3):
        updates, state = tx.update(GRADS, state, PARAMS)
    numbers = [(0.1, 0.3, 1e-2), (0.005, 0.0, 1e-2), (0.005, 0.1, 5e-2), (0.01, 0.0, 1e-2), (0.01, 0.1, 5e-2)]
    leaves = zip(*map(jax.tree.leaves, (PARAMS, GRADS, updates)), numbers, strict=True)
    for param, grad, update, (rate, decay, eps) in leaves:
        alone = gc.adamw(rate, weight_decay=decay, eps=eps)
        own, expected = alone.init(param), None
        for _ in range(3):
            expected, own = alone.update(grad, own, param)
        np.testing.assert_allclose(update, expected, rtol=1e-6)


def test_state_names_and_what_all_arrays_share_stay_as_they_are():
    plain = gc.chain(gc.clip_by_global_norm(1.0), gc.adamw(0.01))
    tx = gc.scale_hyperparams(plain, {"learning_rate": RATES})
    trees.assert_same_kind(tx.init(PARAMS), plain.init(PARAMS))
    assert gc.to_state_dict(tx, tx.init(PARAMS)).keys() == gc.to_state_dict(plain, plain.init(PARAMS)).keys()
    expected = one_step(gc.chain(plain, gc.scale_by_path(RATES)))
    trees.assert_close(one_step(tx), expected, 1e-6)  # clipped together, scaled apart
    assert gc.hyperparams(tx) == gc.hyperparams(plain) | {
        "scale_hyperparams.factors.learning_rate.embed": 10.0,
        "scale_hyperparams.factors.learning_rate.layers/0": 0.5,
    }


def test_factors_are_numbers_like_others():
    tx = gc.scale_hyperparams(gc.sgd(0.1), {"learning_rate": RATES})
    assert one_step(tx.replace(learning_rate=0.2))["embed"][0, 0] == -2 * GRADS["embed"][0, 0]
    assert one_step(tx.replace(embed=1.0))["embed"][0, 1] == one_step(gc.sgd(0.1))["embed"][0, 1]
    with pytest.raises(ValueError, match=r"embed must be in \[0, inf\], got -1"):
        tx.replace(embed=-1.0)
    four = tx.replace(embed=jnp.array([0.0, 1.0, 2.0, 4.0]))
    steps = jax.vmap(one_step, in_axes=(gc.batch_axes(four),))(four)["embed"][:, -1, -1]
    np.testing.assert_allclose(steps, -0.1 * GRADS["embed"][-1, -1] * np.array([0, 1, 2, 4]), rtol=1e-6)
    falling = tx.replace(embed=linear_schedule(2.0, 0.0, 2))
    state, seen = falling.init(PARAMS), []
    for _ in range(3):
        updates, state = falling.update(GRADS, state, PARAMS)
        seen.append(float(updates["embed"][-1, -1] / GRADS["embed"][-1, -1]))
    np.testing.assert_allclose(seen, [-0.2, -0.1, 0.0], rtol=1e-6)
    assert "factors.learning_rate.embed 2 → 0" in str(falling.describe(PARAMS).table(200))
    slope = jax.grad(lambda tx: one_step(tx)["embed"].sum())(tx)
    np.testing.assert_allclose(
        gc.hyperparams(slope)["scale_hyperparams.factors.learning_rate.embed"], -0.1 * GRADS["embed"].sum()
    )


@pytest.mark.parametrize(
    "factors",
    [
        RATES,
        gc.by_path([("b", 0.5)], default=2.0),
        {"embed": 3.0, "layers": None},
        (gc.by_path([("b", "x")], "unchanged"), {"x": 2.0}),
    ],
)
def test_saved_as_text(factors):
    tx = gc.scale_hyperparams(gc.sgd(0.1), {"learning_rate": factors})
    assert gc.from_config(json.loads(json.dumps(gc.to_config(tx)))) == tx
    assert eval(repr(tx), dict(public.NAMES)) == tx
    assert hash(tx) == hash(gc.scale_hyperparams(gc.sgd(0.1), {"learning_rate": factors}))
    assert tx != gc.scale_hyperparams(gc.sgd(0.1), {"learning_rate": [("embed", 9.0)]})


def test_a_number_that_only_the_first_state_reads():
    tx = gc.scale_hyperparams(gc.scale_by_rprop(0.1), {"learning_rate": [("embed", 2.0)]})
    np.testing.assert_allclose(np.abs(one_step(tx)["embed"]), 0.2, rtol=1e-6)
    np.testing.assert_allclose(np.abs(one_step(tx)["layers"][0]["w"]), 0.1, rtol=1e-6)


def test_inside_of_partitions_and_around_layers():
    stack = {"stack": jnp.stack([jnp.eye(2), 3 * jnp.eye(2)]), "head": jnp.ones((2, 2))}
    tx = gc.per_layer(gc.scale_hyperparams(gc.lars(0.1), {"learning_rate": [("stack", 2.0)]}), [("stack", 0)])
    plain = gc.per_layer(gc.lars(0.1), [("stack", 0)])
    got, expected = one_step(tx, stack, stack), one_step(plain, stack, stack)
    trees.assert_close(got, {"head": expected["head"], "stack": 2 * expected["stack"]}, 1e-6)
    routed = gc.partition({"a": gc.sgd(0.1), "b": gc.sgd(0.2)}, gc.by_path([("head", "a")], "b"))
    got = one_step(gc.scale_hyperparams(routed, {"learning_rate": [("head", 3.0), ("stack", 5.0)]}), stack, stack)
    trees.assert_close(got, {"head": -0.3 * stack["head"], "stack": -1.0 * stack["stack"]}, 1e-6)


def test_factors_of_factors():
    inner = gc.scale_hyperparams(gc.sgd(0.1), {"learning_rate": RATES})
    tx = gc.scale_hyperparams(inner, {"learning_rate": [("embed", 2.0), ("layers/1", 3.0)]})
    np.testing.assert_allclose(sizes(one_step(tx)), [-2.0, -0.05, -0.05, -0.3, -0.3], rtol=1e-6)


def test_other_transforms_are_left_alone():
    tx = gc.scale_hyperparams(gc.chain(optax.trace(0.5), gc.scale_by_learning_rate(0.1)), {"learning_rate": RATES})
    np.testing.assert_allclose(one_step(tx)["embed"], -1.0 * GRADS["embed"], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: gc.scale_hyperparams(gc.adam(0.1), {"b1": RATES}), "'b1' is the decay of an average whose sum"),
        (lambda: gc.scale_hyperparams(gc.adam(0.1), {"learning_rat": RATES}), "did you mean 'learning_rate'"),
        (
            lambda: gc.scale_hyperparams(gc.prodigy(), {"learning_rate": RATES}),
            "scale_by_prodigy has one learning_rate for",
        ),
        (lambda: gc.scale_hyperparams(gc.adam(0.1), {"scale:learning_rate": RATES}), "no rule has the hyperparameter"),
        (lambda: gc.scale_by_path([("embed", -1.0)]), "embed must be in"),
        (
            lambda: gc.scale_by_path((gc.by_path([("b", "x")], "y"), {"x": 1.0})),
            "no factor for label 'y'; there are 'x'",
        ),
        (lambda: gc.scale_by_path([("heads", 1.0)]).init(PARAMS), "'heads' matches no parameter"),
        (lambda: gc.scale_by_path({"embed": 1.0}).init(PARAMS), "layers"),
        (lambda: gc.scale_by_path(gc.by_leaf(lambda path, leaf: path)).init(PARAMS), "no factor for label 'embed'"),
    ],
)
def test_errors_of_values(make, error):
    with pytest.raises(ValueError, match=error):
        make()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: gc.scale_by_path("embed"), "pairs of a pattern and a number"),
        (lambda: gc.scale_by_path([("embed", [1.0])]), "embed must be a number"),
        (lambda: gc.scale_hyperparams(gc.adam(0.1), RATES), "must be a dict from hyperparameters"),
        (lambda: gc.scale_hyperparams(gc.adam(0.1), {}), "must be a dict from hyperparameters"),
    ],
)
def test_errors_of_types(make, error):
    with pytest.raises(TypeError, match=error):
        make()
