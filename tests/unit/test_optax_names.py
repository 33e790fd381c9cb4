"""The page of Optax's names: complete, up to date, and honest about what is missing."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "optax_names.py"


@pytest.fixture(scope="module")
def names():
    spec = importlib.util.spec_from_file_location("optax_names", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_name_has_a_counterpart_or_an_explanation(names):
    missing = [f"{m}.{n}" for m in names.THEIRS for n in names.their_names(m) if names.counterpart(n, m) is None]
    assert not missing, f"write them, or explain them in docs/optax_names.py: {missing}"


def test_the_lists_hold_only_names_of_optax(names):
    theirs = {name for module in names.THEIRS for name in names.their_names(module)}
    assert theirs >= set(names.EXPLAINED)
    assert theirs >= set(names.NOTES)


def test_the_page_is_up_to_date(names):
    assert names.PAGE.read_text() == names.page(), "run python docs/optax_names.py"


def test_names_that_agree_are_found_where_optax_has_them(names):
    assert names.counterpart("sum", "optax.tree") == "`gradchain.tree.sum`"
    assert names.counterpart("adam", "optax") == "`gradchain.adam`"
    assert names.counterpart("l2_loss", "optax") == "`gradchain.losses.l2_loss`"
    assert names.counterpart("no_such_name", "optax") is None
