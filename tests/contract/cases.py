"""A case is one row of the registry in one dtype, with parameters, gradients and a compiled update to share."""

import functools
from collections.abc import Callable
from typing import Any

import pytest

import gradchain as gc
from gradchain.core.rule import Rule
from tests import quick, trees
from tests.registry import FAMILIES, ROWS, Row

STEPS = 3
FAST = ("float32", "bfloat16")
SLOW = ("float16", "float64", "complex64")
TOLERANCE = {"float32": 2e-6, "complex64": 2e-6, "float64": 1e-14, "bfloat16": 8e-3, "float16": 1e-3}
"""How far two evaluations of the same formula may lie apart: a few roundings in single precision, one in half."""


class Case:
    """One row in one dtype."""

    def __init__(self, row: Row, dtype: str):
        self.row = row
        self.dtype = dtype
        self.tx = row.build()
        self.params = trees.standard(dtype)
        self.gradients = trees.stream(STEPS, dtype)
        self.update = functools.partial(row.update, self.tx)
        self.step = quick.jit(lambda g, s, p: self.update(g, s, p))
        self.step_of = quick.jit(self._step_of)
        self.traces = 0

    def _step_of(self, tx: Any, gradient: Any, state: Any, params: Any) -> tuple[Any, Any]:
        self.traces += 1
        return self.row.update(tx, gradient, state, params)

    def gradient(self, index: int) -> Any:
        """Return the gradient of one step."""
        return trees.at(self.gradients, index)

    def assert_close(self, tree: Any, reference: Any) -> None:
        """Assert that two results agree to the rounding of this case's dtype."""
        trees.assert_close(tree, reference, TOLERANCE[self.dtype])

    def loop(self, update: Any, epochs: int = 1) -> tuple[Any, Any]:
        """Return parameters and state after descending with ``update`` through all gradients, ``epochs`` times."""
        params, state = self.params, self.tx.init(self.params)
        for k in range(epochs * STEPS):
            updates, state = update(self.gradient(k % STEPS), state, params)
            params = gc.apply_updates(params, updates)
        return params, state


def least(row: Row, tree: Any) -> Any:
    """Return the part of the standard tree that is enough for a row, to compile less: one matrix, or all for a mask."""
    return {"kernel": tree["kernel"]} if row.any_tree else tree


@functools.lru_cache(maxsize=8)
def case_of(row: Row, dtype: str) -> Case:
    """Return the one case of a row and dtype, so that tests share what it has compiled."""
    return Case(row, dtype)


def cases(
    rows: list[Row] = ROWS,
    fast: tuple[str, ...] = FAST,
    slow: Callable[[Row], bool] = lambda row: False,
    without: Callable[[Row], tuple[str, ...]] = lambda row: (),
) -> Any:
    """Parametrise over ``case``: ``rows`` in every dtype their maths allows, slow for some and if not ``fast``.

    Half precision is compiled slowly but for the first rule of each family; ``test_state.py`` traces all others in it.
    Rows that others stand for are tested in single precision alone: in half precision they are its results, rounded
    (``test_precision.py``), unless they round by themselves, and the rest is their parts'.
    """

    def marks(row: Row, dtype: str) -> list[Any]:
        return [pytest.mark.slow] if slow(row) or dtype not in fast or (follows(row) and dtype != "float32") else []

    parameters = [
        pytest.param((row, dtype), id=f"{row}-{dtype}", marks=marks(row, dtype))
        for row in rows
        for dtype in ((*FAST, *SLOW) if not secondary(row) else FAST if row.rounds else FAST[:1])
        if dtype not in row.excludes and dtype not in without(row)
    ]
    return pytest.mark.parametrize("case", parameters, indirect=True)


def each(rows: list[Row] = ROWS, slow: Callable[[Row], bool] = lambda row: False) -> Any:
    """Parametrise a test over ``row``, slow for some."""
    parameters = [pytest.param(row, id=str(row), marks=[pytest.mark.slow] if slow(row) else []) for row in rows]
    return pytest.mark.parametrize("row", parameters)


@functools.cache
def firsts() -> frozenset[Row]:
    """Return the first row of each type of transform."""
    rows: dict[type, Row] = {}
    for row in ROWS:
        rows.setdefault(type(row.build()), row)
    return frozenset(rows.values())


@functools.cache
def heads() -> frozenset[Row]:
    """Return the first rule of each family of the registry."""
    families = [[row for row in family if not beside_the_rules(row)] for family in FAMILIES]
    return frozenset(rules[0] for rules in families if rules)


def follows(row: Row) -> bool:
    """Whether a row of its family stands for it in what no rule has a hand in, such as travelling through JAX."""
    return row not in heads()


def beside_the_rules(row: Row) -> bool:
    """Whether a row is secondary or no rule: what costs most is tested slowly there, too."""
    return secondary(row) or not isinstance(row.build(), Rule)


def secondary(row: Row) -> bool:
    """Whether other rows stand for what a row has in common with them, so that it can be tested slowly here.

    Its parts have rows of their own, or it is an earlier row's transform with other arguments.
    """
    return row.composed or row not in firsts()
