"""Bad input is an error that names the transform, the leaf's path, what was expected and what came."""

import re
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.core.hyper import KeyKind, Number
from gradchain.core.hyperparams import walk
from gradchain.introspect.catalogue import constructors
from tests import trees
from tests.contract.cases import each, secondary
from tests.registry import ROWS

GRADIENT = trees.at(trees.stream(1), 0)
WITH_SLOTS = [r for r in ROWS if any(x.shape == (3, 2) for x in jax.tree.leaves(r.build().init(trees.standard())))]


def updating(row, gradient=GRADIENT, state=None, **kwargs):
    """Run one update, with the usual state unless given another."""
    tx = row.build()
    kwargs = row.extra(trees.standard()) | kwargs
    tx.update(gradient, tx.init(trees.standard()) if state is None else state, **kwargs)


@each()
def test_gradients_of_another_structure(row):
    lacking = {k: v for k, v in GRADIENT.items() if k != "scale"}
    with pytest.raises(ValueError, match=rf"{row.build().name}: .*params.*\['scale'\].*updates.*lack"):
        updating(row, lacking, params=trees.standard())
    with pytest.raises(ValueError, match=rf"{row.build().name}: .*updates.*\['extra'\].*params.*lack"):
        updating(row, {**GRADIENT, "extra": jnp.ones(2)}, params=trees.standard())


@each()
def test_gradients_of_another_shape(row):
    turned = {**GRADIENT, "kernel": GRADIENT["kernel"].T}
    with pytest.raises(ValueError, match=rf"{row.build().name}: \['kernel'\].*\(3, 2\).*\(2, 3\)"):
        updating(row, turned, params=trees.standard())


@each([row for row in WITH_SLOTS if not row.needs_params])
def test_gradients_that_dont_fit_the_state(row):
    turned = {**GRADIENT, "kernel": GRADIENT["kernel"].T}
    with pytest.raises(ValueError, match=r"\w+: .*\['kernel'\].*\(3, 2\).*\(2, 3\)"):
        updating(row, turned)
    with pytest.raises(ValueError, match=r"\w+: .*\['scale'\]"):
        updating(row, {k: v for k, v in GRADIENT.items() if k != "scale"})


@each()
def test_a_state_from_another_transform(row):
    for state in (("foreign",) * 9, {"foreign": 1}, jnp.zeros(3)):
        with pytest.raises(ValueError, match=r"\w+: the state is from another transform: expected .*, got "):
            updating(row, state=state, params=trees.standard())


COMPUTING = [row for row in ROWS if not row.any_dtype]


@each(COMPUTING)
def test_integer_parameters(row):
    params = jax.tree.map(lambda x: jnp.ones(x.shape, int), trees.standard())
    with pytest.raises(TypeError, match=r"\w+\.init: parameter \['\w+'\] is int32, expected a floating-point"):
        row.build().init(params)


@each(COMPUTING)
def test_integer_gradients(row):
    gradient = jax.tree.map(lambda x: jnp.ones(x.shape, int), GRADIENT)
    with pytest.raises(TypeError, match=r"\w+.*: update \['\w+'\] is int32, expected a floating-point"):
        updating(row, gradient, params=trees.standard())


@each()
def test_an_unknown_hyperparameter_lists_the_known_ones(row):
    with pytest.raises(ValueError, match=r"'no_such_number' is unknown; known are: \w+"):
        row.build().replace(no_such_number=1.0)


def numeric_fields(tx):
    """Yield the name of every number in a transform, and its kind."""
    for part in walk(tx):
        for name, kind, _ in part.transform.fields():
            if isinstance(kind, Number) and not isinstance(getattr(part.transform, name), dict):
                yield f"{part.name}.{name}", kind


@each()
def test_values_that_are_no_number_in_range(row):
    tx = row.build()
    for name, kind in numeric_fields(tx):
        field = name.split(".")[-1]
        for value, error in (("high", TypeError), (True, TypeError), (1j, TypeError), (float("nan"), ValueError)):
            with pytest.raises(error, match=rf"\w+: {field} must be .*got {re.escape(repr(value))}"):
                tx.replace(**{name: value})
        outside = [value for value in (kind.low - 1, kind.high + 1) if abs(value) < float("inf")]
        for value in outside:
            message = rf"\w+: {field} must be in {re.escape(kind.interval)}, got {value}"
            with pytest.raises(ValueError, match=message):
                tx.replace(**{name: value})


MAY_BE_ABSENT = {
    *("beta3", "clip_threshold", "clip_value_fn", "consistent_rms", "growth_interval", "init_estim_sq_dist"),
    *("approx_dec_rtol", "max_learning_rate", "initial_radius", "max_cg_steps", "exponent", "time_constant"),
    *("damping", "moment_decay", "mean_age"),
}
"""The numbers of the rows' parts for which None has a meaning, beside the decay of an average of parameters."""


@each()
def test_a_number_that_is_needed_cant_be_taken_away(row):
    tx = row.build()
    for name, _ in numeric_fields(tx):
        field = name.split(".")[-1]
        if field not in MAY_BE_ABSENT and not name.endswith("average_params.decay"):
            with pytest.raises(TypeError, match=rf"\w+: {field} can't be None"):
                tx.replace(**{name: None})


PARTS = {
    **dict.fromkeys(
        ("inner", "outer", "tx", "base_optimizer", "fast_optimizer", "optimizer", "adv_optimizer"), gc.sgd(0.1)
    ),
    "measure": gc.global_norm,
    "interpolate_type": "linear",
    "decays": (0.9, 0.99),
}
"""Arguments that aren't numbers and that some constructor can't do without."""


def numbers_in(constructor):
    """Return the numbers and keys among a constructor's arguments for which the signature doesn't allow None."""
    hints = typing.get_type_hints(constructor.function, include_extras=True)
    declared = {name: kind for name, kind in constructor.kinds.items() if isinstance(kind, Number | KeyKind)}
    return {k: kind for k, kind in declared.items() if type(None) not in typing.get_args(hints.get(k))}


def some(kind):
    """Return a number that ``kind`` allows."""
    return 1 if isinstance(kind, KeyKind) or kind.whole else max(kind.low, 0.5)


@pytest.mark.parametrize("name", [name for name, made in constructors().items() if numbers_in(made)])
def test_a_constructor_takes_no_none_for_a_number(name):
    constructor = constructors()[name]
    kinds = numbers_in(constructor)
    given = {key: some(kinds[key]) if key in kinds else PARTS[key] for key in constructor.required}
    for key in kinds:
        with pytest.raises(TypeError, match=r"^\w+: \w+ (can't be None|must be .*, got None)$"):
            constructor.function(**given | {key: None})


READS_THE_LOSS = [row for row in ROWS if "value" in row.extra(trees.standard())]


@each(READS_THE_LOSS)
def test_a_loss_that_is_no_single_number(row):
    for shape in ((8,), (1,), (3, 2), (0,)):
        for value in (np.ones(shape), jnp.ones(shape)):
            with pytest.raises(ValueError, match=rf"\w+: value must be one number, got shape {re.escape(str(shape))}"):
                updating(row, value=value, params=trees.standard())
    for value, shown in ((1j, "complex"), (True, "bool"), (np.True_, "bool"), ("high", "'high'"), ({}, "{}")):
        with pytest.raises(TypeError, match=rf"\w+: value must be one real number, got {shown}"):
            updating(row, value=value, params=trees.standard())
    with pytest.raises(ValueError, match=r"\w+ needs 'value'"):
        updating(row, value=None, params=trees.standard())


@each(READS_THE_LOSS, slow=secondary)
def test_a_loss_of_any_real_type_or_one_for_each_lane_of_a_vmap(row):
    for value in (3, 3.0, np.float32(3), np.int64(3), jnp.float32(3), jnp.bfloat16(3), jnp.int32(3)):
        updating(row, value=value, params=trees.standard())
    tx, params = row.build(), trees.standard()
    state = jax.eval_shape(lambda: tx.init(params))
    extra = row.extra(params)
    lanes = jax.vmap(lambda loss: tx.update(GRADIENT, tx.init(params), params, **extra | {"value": loss}))
    after = jax.eval_shape(lanes, jnp.ones(8))[1]
    assert jax.tree.map(lambda x: x.shape[1:], after) == jax.tree.map(lambda x: x.shape, state)
