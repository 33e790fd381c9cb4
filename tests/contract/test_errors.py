"""Bad input is an error that names the transform, the leaf's path, what was expected and what came."""

import re

import jax
import jax.numpy as jnp
import pytest

from gradchain.core.hyper import Number
from gradchain.core.hyperparams import walk
from tests import trees
from tests.contract.cases import each
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
