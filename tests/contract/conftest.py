"""The ``case`` fixture of the contract tests."""

import jax
import pytest

from tests.contract.cases import case_of


@pytest.fixture
def case(request):
    """One row of the registry in one dtype, with 64-bit types switched on where the dtype needs them."""
    row, dtype = request.param
    with jax.enable_x64(dtype == "float64"):
        yield case_of(row, dtype)
