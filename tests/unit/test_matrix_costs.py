"""What a step of each rule for matrices computes and moves, counted in the compiled program, which needs no clock.

For an m by n matrix. Counts are made by hand from the formulas. What LAPACK does (eigenvalues, QR, triangular solves)
is a call whose operations the compiler does not know; they are left out on both sides.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

import gradchain as gc

M, N = 96, 160
BOTH = 2 * (M * M * N + M * N * N)
"""Operations of a product with a matrix from either side, or of both Gram matrices."""
CUBES = 2 * (M**3 + N**3)
"""Operations of a product of two square matrices of either side."""
ITERATIONS = 5 * (2 * 2 * M * M * N + 2 * M**3)
"""Operations of five Newton-Schulz iterations, M being the shorter side."""
KRON = 3 * BOTH + CUBES + 2 * M**3 + 2 * M * M * N + 2 * 2 * N * N * M
"""A, two Gram matrices of A and of B, triu(...) Q; and Q* Q on the shorter side, Q and Q* on the longer one."""


class Cost(NamedTuple):
    """Operations of a step between refreshes and of one with, and words between them: of m n, m^2, and m^2 + n^2."""

    flops: int
    refreshing: int
    words: tuple[float, float, float]


COSTS = {
    # Momentum reads 2 and writes 2, its norm reads it twice, scaling 2, parameters 2 more at the end. An iteration:
    # A = X X* 2 and a square, A A and b A + c A A 3 squares each, B X 2 and one, a X + B X 3.
    "scale_by_muon": Cost(ITERATIONS, ITERATIONS, (4 + 2 + 2 + 2 + 1 + 5 * 7, 5 * 8, 0)),
    # Muon's; then mean squares 1, the quotient 2, two norms read twice 4.
    "scale_by_normuon": Cost(ITERATIONS, ITERATIONS, (4 + 2 + 2 + 2 + 1 + 5 * 7 + 1 + 2 + 4, 5 * 8, 0)),
    # Clipped gradients 2, momentum 4; Gram matrices 4 and averages of factors; projections of two arrays and one back
    # 12; Adam 5; parameters 3. Squares: Gram matrices 1, averages 3, products 3.
    "scale_by_soap": Cost(4 * BOTH, 4 * BOTH + CUBES, (2 + 4 + 4 + 12 + 5 + 3, 0, 7)),
    # Clipped gradients 2, momentum 4, Gram matrices 4, products 4; Adam's direction 5, two norms read twice 4, the
    # grafted direction 3, parameters 2. Squares: Gram matrices 1, averages 3, products 1.
    "scale_by_shampoo": Cost(2 * BOTH, 2 * BOTH + CUBES, (2 + 4 + 4 + 4 + 5 + 4 + 3 + 2, 0, 5)),
    # Momentum 4; A, B and four Gram matrices 16, turned to be solved 2, clipped 4; the direction 6, clipped 2, its norm
    # 2, parameters 3. Squares: A, B and Gram matrices 4; the step 3, its norm 10, product 3, difference 3; whether all
    # is finite 2, and what is kept 3; the sizes of factors 1. The direction: Q* Q and its use 4, Q and Q* 2.
    "scale_by_kron": Cost(KRON, KRON, (4 + 16 + 2 + 4 + 6 + 2 + 2 + 3, 2, 4 + 3 + 10 + 3 + 3 + 2 + 3 + 1 + 2)),
}


def compiled(function, *arguments, **options):
    """Return (operations, words) of a compiled function."""
    cost = jax.jit(function, **options).lower(*arguments).compile().cost_analysis()
    return cost["flops"], cost["bytes accessed"] / 4


def step(tx, count):
    """Return (operations, words) of a step after that many others, which XLA then knows to refresh or not."""
    matrix = jax.ShapeDtypeStruct((M, N), "float32")

    def one(params, state, grads):
        updates, state = tx.update(grads, state._replace(count=jnp.int32(count)), params)
        return params + updates, state

    return compiled(one, matrix, jax.eval_shape(tx.init, matrix), matrix, donate_argnums=(0, 1))


def noise():
    """Return (operations, words) of the random numbers that a rule draws."""
    return compiled(lambda key: jax.random.normal(key, (M, N)), jax.eval_shape(jax.random.key, 0))


@pytest.mark.slow
@pytest.mark.parametrize("name", COSTS)
def test_a_step_costs_what_its_formula_costs(name):
    expected, rule = COSTS[name], getattr(gc, name)
    drawn = noise() if name == "scale_by_kron" else (0, 0)
    options = {"ns_coeffs": "standard"} if "muon" in name else {}
    flops, words = step(rule(**options), 5)
    refreshing, _ = step(rule(**options), 0)
    least = expected.words[0] * M * N + expected.words[1] * M * M + expected.words[2] * (M * M + N * N) + drawn[1]
    assert 0.99 < flops / (expected.flops + drawn[0]) < 1.1
    assert 0.99 < refreshing / (expected.refreshing + drawn[0]) < 1.1
    assert 0.9 < words / least < 1.1
