"""The same trajectory on eight devices as on one, whatever is spread over them."""

import jax
import pytest

from tests import trees
from tests.devices.layouts import WAYS, alone, spread
from tests.registry import OPTIMIZERS, ROWS

FAST = ("adamw", "adafactor_momentum", "muon", "normuon", "soap", "kron")
"""One whose rules treat numbers one by one, one that looks at rows and columns, and some that look at matrices."""
TOLERANCE = 1e-11
"""In double precision: in single, eigenvectors of nearly equal eigenvalues show each rounding."""


def optimizers():
    marks = {row: [] if row.name in FAST else [pytest.mark.slow] for row in OPTIMIZERS}
    return [pytest.param(row, id=str(row), marks=marks[row]) for row in OPTIMIZERS]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("row", optimizers())
def test_data_model_and_zero_sharding_follow_one_device(row):
    params, state = alone(row)
    ends = spread(row)
    assert ends.keys() == WAYS.keys()
    for new_params, new_state in ends.values():
        trees.assert_close(new_params, params, TOLERANCE)
        trees.assert_close(jax.tree.leaves(new_state), jax.tree.leaves(state), TOLERANCE)


def test_the_fast_ones_are_there():
    assert {*FAST} <= {row.name for row in ROWS}
