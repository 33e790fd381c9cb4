"""The ``case`` fixture of the contract tests."""

import jax
import pytest

from tests.contract.cases import case_of
from tests.registry import ROWS, Row


def pytest_collection_modifyitems(items):
    """Run the tests of one row and dtype next to each other, so that they share what it has compiled."""
    order = {row: i for i, row in enumerate(ROWS)}

    def key(item):
        params = (getattr(item, "callspec", None) and item.callspec.params) or {}
        case = params.get("case")
        row, dtype = case if isinstance(case, tuple) and len(case) == 2 else (params.get("row"), "float32")
        return (order[row], dtype) if isinstance(row, Row) else (-1, "")

    items.sort(key=key)


@pytest.fixture
def case(request):
    """One row of the registry in one dtype, with 64-bit types switched on where the dtype needs them."""
    row, dtype = request.param
    with jax.enable_x64(dtype == "float64"):
        yield case_of(row, dtype)
