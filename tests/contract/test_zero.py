"""A zero gradient gives a finite update, with finite derivatives with respect to gradient, parameters and numbers."""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np

import gradchain as gc
from tests import quick
from tests.contract.cases import case_of, cases, each, least, secondary
from tests.registry import ROWS


def assert_finite(tree):
    """Assert that every number in the tree is finite."""
    for x in jax.tree.leaves(tree):
        assert np.all(np.isfinite(x.astype(jnp.promote_types(x.dtype, "float32"))))


@cases()
def test_zero_gradients_give_finite_updates(case):
    zeros = jax.tree.map(jnp.zeros_like, case.params)
    for params in (case.params, zeros):
        state = case.tx.init(params)
        for _ in range(3):
            updates, state = case.step(zeros, state, params)
            assert_finite(updates)


EPSILON = re.compile(r"([a-z_]+)(?:_\d+)?\.(?:\w+_)?eps(?:ilon)?(?:_\w+)?$")


def with_new_epsilons():
    """Yield the rows that are the first with an epsilon of one of their stages."""
    seen = set()
    for row in ROWS:
        stages = {found[1] for name in gc.hyperparams(row.build()) if (found := EPSILON.search(name))}
        if stages - seen:
            seen |= stages
            yield row


@each([*with_new_epsilons()])
def test_zeros_give_finite_updates_without_epsilons(row):
    tx, zeros = row.build(), jax.tree.map(jnp.zeros_like, least(row, case_of(row, "float32").params))
    for name in filter(EPSILON.search, gc.hyperparams(tx)):
        with contextlib.suppress(ValueError):  # some must be above 0
            tx = gc.set_hyperparams(tx, {name: 0.0})
    state = tx.init(zeros)
    for _ in range(2):
        updates, state = row.update(tx, zeros, state, zeros)
        assert_finite(updates)


@cases(
    [row for row in ROWS if row.reverses],
    fast=("float32",),
    slow=secondary,
    without=lambda row: ("bfloat16", "float64", "complex64", *row.steep_at_zero),
)
def test_zero_gradients_give_finite_derivatives(case):
    """With respect to the transform's numbers, the gradient and the parameters, scaled so that 1 / eps fits float16.

    Its range is the smallest; bfloat16 has that of single precision.
    """

    def total(tx, gradient, params):
        updates, _ = case.row.update(tx, gradient, tx.init(params), params)
        return 1e-6 * sum(jnp.sum(jnp.real(u).astype("float32")) for u in jax.tree.leaves(updates))

    derive = quick.jit(jax.grad(total, argnums=(0, 1, 2), allow_int=True))
    params = least(case.row, case.params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    for point in (params, zeros):
        derivatives = jax.tree.leaves(derive(case.tx, zeros, point))
        assert_finite([x for x in derivatives if x.dtype != jax.dtypes.float0])


@cases()
def test_tiny_and_huge_gradients(case):
    largest = float(jnp.finfo(case.dtype).max) ** 0.25
    for size in (1 / largest, largest):
        gradient = jax.tree.map(lambda p, s=size: jnp.full_like(p, s), case.params)
        updates, _ = case.step(gradient, case.tx.init(case.params), case.params)
        assert_finite(updates)
