"""``random_order``: a permutation, and all of them equally often."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gradchain.training.data.order import random_order

CHANCE = 1e-4
"""How improbable a deviation must be to count as one; the keys are fixed."""


def orders(seed, n, draws):
    keys = jax.random.split(jax.random.key(seed), draws)
    return np.asarray(jax.jit(jax.vmap(lambda key: random_order(key, n)))(keys))


def assert_equally_often(codes, cells):
    assert scipy.stats.chisquare(np.bincount(codes, minlength=cells)).pvalue > CHANCE


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 16, 17, 100, 257, 1000, 8960, 60000])
def test_every_number_comes_once(n):
    order = random_order(jax.random.key(n), n)
    assert order.dtype == jnp.arange(n).dtype
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_all_orders_are_equally_likely(n):
    drawn = orders(1, n, 200 * math.factorial(n))
    number_of = {order: i for i, order in enumerate(map(tuple, np.unique(drawn, axis=0)))}
    assert len(number_of) == math.factorial(n)
    assert_equally_often(np.array([number_of[tuple(order)] for order in drawn]), math.factorial(n))


@pytest.mark.parametrize("n", [9, 25, 64])
def test_every_number_is_equally_likely_at_every_place_and_after_every_other(n):
    drawn = orders(2, n, 20000)
    for place in (0, n // 2, n - 1):
        assert_equally_often(drawn[:, place], n)
    for place in (0, n // 2, n - 2):
        gap = (drawn[:, place + 1] - drawn[:, place]) % n
        assert gap.min() > 0
        assert_equally_often(gap - 1, n - 1)


def test_half_of_the_orders_are_odd():
    signs = [np.linalg.det(np.eye(9)[order]) for order in orders(3, 9, 2000)]
    assert abs(np.mean(signs)) < 4 / math.sqrt(2000)


def test_each_key_has_an_order_of_its_own():
    drawn = orders(4, 500, 50)
    same = [(a == b).sum() for i, a in enumerate(drawn) for b in drawn[:i]]
    assert np.mean(same) == pytest.approx(1, abs=0.15)  # two random orders agree at one place on average
    np.testing.assert_array_equal(drawn, orders(4, 500, 50))
