"""The helpers that other tests rely on fail where they have to."""

import numpy as np
import pytest

from tests.trees import assert_close, relative_error

ONES = np.ones(2)
NAN, INF = np.array([1.0, np.nan]), np.array([1.0, np.inf])


@pytest.mark.parametrize("tree", [{"a": NAN, "b": ONES}, {"a": ONES, "b": NAN}])
def test_a_nan_in_any_array_is_an_error(tree):
    right = {"a": ONES, "b": ONES}
    for pair in ((tree, right), (right, tree), (tree, tree)):
        with pytest.raises(AssertionError):
            assert_close(*pair, tolerance=1e9)


def test_infinities_are_equal_only_to_themselves():
    assert_close({"a": INF, "b": ONES}, {"a": INF, "b": ONES}, tolerance=0)
    for other in (-INF, ONES, NAN):
        with pytest.raises(AssertionError):
            assert_close({"a": ONES, "b": INF}, {"a": ONES, "b": other}, tolerance=1e9)


def test_the_error_is_relative_to_the_largest_number_of_all():
    assert relative_error({"a": ONES, "b": 3 * ONES}, {"a": ONES, "b": 4 * ONES}) == 0.25
    assert relative_error({"a": ONES}, {"a": 0 * ONES}) == 1
    assert relative_error({}, {}) == 0
