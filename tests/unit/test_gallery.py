"""The gallery's experiments run on small settings, and what their pages say is true of the numbers.

A script's claims are sentences about its own table, each with its truth: ``publish`` refuses what isn't true. So a
small run checks them for small settings, and the committed files are from a run in which they held.
"""

import re
import runpy
import sys
from pathlib import Path

import jax
import matplotlib.image
import numpy as np
import pytest

pytestmark = pytest.mark.as_users

FOLDER = Path(__file__).parents[2] / "docs" / "gallery"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__main__", "common"))
QUICK = ("learning_rate",)
"""Those that run in a few seconds."""
PAGES = sorted(FOLDER.glob("*.md"))


@pytest.fixture(scope="module")
def common():
    """The scripts' common module; they import it by that name, as scripts in its folder do."""
    sys.path.insert(0, str(FOLDER))
    import common

    yield common
    sys.path.remove(str(FOLDER))
    del sys.modules["common"]


def run(name, seed=0):
    with jax.numpy_rank_promotion("allow"):
        return runpy.run_path(str(FOLDER / f"{name}.py"))["main"](quick=True, seed=seed)


def without_numbers(text):
    return re.sub(r"[\d.,]+", "#", text)


def check(common, name, report, folder):
    """Check an experiment's report, what is written of it, and that the committed files are of the same make."""
    common.publish(name, report, folder)
    assert matplotlib.image.imread(folder / f"{name}.png").shape[1] > 800
    written, committed = ((path / f"{name}.md").read_text() for path in (folder, common.RESULTS))
    lines = written.splitlines()
    assert all(line.count("|") == len(report.header) + 1 for line in lines[: len(report.rows) + 2])
    assert len(report.claims) >= 2
    assert all(f"- {claim}" in lines for claim in report.claims)
    assert "nan" not in written
    assert without_numbers(lines[0]) == without_numbers(committed.splitlines()[0])
    assert written.count("\n- ") == committed.count("\n- ")


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_experiment(common, name, tmp_path):
    check(common, name, run(name), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in QUICK])
def test_long_experiment(common, name, tmp_path):
    check(common, name, run(name), tmp_path)


@pytest.mark.slow
def test_numbers_depend_on_the_seed_alone(common):
    tables = [common.table(run("restarts", seed)) for seed in (0, 0, 1)]
    assert tables[0] == tables[1] != tables[2]


def test_what_is_not_true_is_not_published(common, tmp_path):
    report = common.Report(("a", "b"), [("x", 1)], {"One is two.": False}, common.panels()[0])
    with pytest.raises(AssertionError, match=r"thing: One is two\."):
        common.publish("thing", report, tmp_path)
    assert not list(tmp_path.iterdir())


def test_cells(common):
    cells = ["text", 3, 12345, 12345.6, 0.012345, 1.0, np.inf, np.nan, np.int64(7), np.float32(0.1)]
    assert [*map(common.show, cells)] == ["text", "3", "12,345", "12,346", "0.0123", "1", "-", "-", "7", "0.1"]


def test_first_is_infinite_where_nothing_is_reached(common):
    assert common.first([[False, True, True], [False, False, False]]).tolist() == [1, np.inf]


def test_every_experiment_has_a_page_with_its_results():
    assert {path.stem for path in PAGES} == {*NAMES, "index"}
    assert {path.stem for path in (FOLDER / "results").iterdir()} == set(NAMES)
    index = (FOLDER / "index.md").read_text()
    for name in NAMES:
        page = (FOLDER / f"{name}.md").read_text()
        assert f"{{include}} results/{name}.md" in page
        assert f"(results/{name}.png)" in page
        assert f"{{literalinclude}} {name}.py" in page
        assert f"- [![](results/{name}.png)]({name}.md)\n  **[" in index
        assert f"\n{name}\n" in index.split("{toctree}")[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_relative_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text())
    assert targets
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing, missing
