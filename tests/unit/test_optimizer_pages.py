"""Every public optimizer has a page and a row in the table of all, and what they say is true of it."""

import ast
import contextlib
import importlib.util
import inspect
import io
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import gradchain as gc

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PACKAGES = tuple(f"gradchain.{name}" for name in ("optimizers", "quasi_newton", "second_order"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages():
    return load(DOCS / "_ext" / "optimizers.py")


@pytest.fixture(scope="module")
def entries(pages):
    return {entry.name: entry for entry in pages.entries()}


@pytest.fixture(scope="module")
def written(pages, entries):
    """The pages as Sphinx reads them."""
    return {name: pages.page(entry) for name, entry in entries.items()}


def public_optimizers():
    """Return the names of whole optimizers: what the packages of these export, but for their stages and helpers."""
    stub = ast.parse((ROOT / "gradchain" / "__init__.pyi").read_text()).body
    imports = [node for node in stub if isinstance(node, ast.ImportFrom) and node.module.startswith(PACKAGES)]
    names = [alias.name for node in imports for alias in node.names if not alias.name.startswith("scale_by_")]
    return {n for n in names if str(inspect.signature(getattr(gc, n))).endswith("-> Transform")}


def code_blocks(page):
    return dict(re.findall(r"^```(python|text)\n(.*?)^```$", page, re.M | re.S))


def test_every_optimizer_has_a_page(entries):
    assert len(public_optimizers()) >= 50
    assert set(entries) == public_optimizers(), "write docs/optimizers/NAME.md, and run python docs/make_paths.py NAME"


def test_every_optimizer_has_a_row(pages, entries):
    table = pages.table()
    rows = [row.split(" | ") for row in table.splitlines()[2:]]
    assert all(len(row) == 6 for row in rows if "**" not in row[0])
    assert re.findall(r"^\| \[(\w+)\]\(\1\.md\)", table, re.M) == list(entries)
    assert [row[0].strip("| *") for row in rows if "**" in row[0]] == list(dict.fromkeys(pages.FAMILIES))


def test_the_sidebar_has_the_order_of_the_table(entries):
    (sidebar,) = re.findall(r":hidden:\n\n(.*?)\n```", (DOCS / "optimizers" / "index.md").read_text(), re.S)
    assert sidebar.split() == list(entries)


def test_pictures_and_formulas_come_before_what_else_is_said(written):
    for name, page in written.items():
        order = re.findall(r"^## .*|^- !\[.*?\]", page, re.M)
        assert [line[:2] for line in order[:2]] == ["- ", "- "], name
        assert order[2:4] == ["## Formula", "## Example"], name


def test_the_state_is_what_init_makes(pages, entries):
    for name, entry in entries.items():
        state = jax.eval_shape(entry.transform.init, pages.MATRIX)
        numbers = sum(leaf.size for leaf in jax.tree.leaves(state)) / pages.SIDE**2
        assert pages.state_per_parameter(entry.transform) == pytest.approx(numbers, abs=1e-4), name
    shown = {name: pages.show_state(entries[name].transform) for name in ("sgd", "adam", "adan", "galore", "adafactor")}
    assert shown == {"sgd": "1", "adam": "2", "adan": "4", "galore": "0.38", "adafactor": "0"}


def test_the_defaults_are_those_of_the_signature(written, entries):
    for name, entry in entries.items():
        (row,) = re.findall(r"^\| Defaults \| (.*) \|$", written[name], re.M)
        said = dict(part.strip("`").split("=", 1) for part in re.findall(r"`[^`]+`", row))
        parameters = inspect.signature(entry.function).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        assert list(said) == list(defaults), name
        assert [repr(value) for value in defaults.values()] == list(said.values()), name


def test_what_update_needs_is_found(written):
    needs = {name: re.search(r"^\| Needs \| (.*) \|$", page, re.M)[1] for name, page in written.items()}
    expected = {
        "adam": "gradients and state only",
        "adamw": "parameters",
        "polyak_sgd": "the loss",
        "momo": "parameters, the loss",
        "sophia": "the loss function",
        "dpsgd": "examples' gradients",
    }
    assert {name: needs[name] for name in expected} == expected


def test_pages_have_formulas_and_examples_that_run(written, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name, page in written.items():
        formula = page.split("## Formula")[1].split("## Example")[0].split("\n\nLast, ")[0].split("\n\nThe result")[0]
        assert ":math:`" in formula or ".. math::" in formula, name
        assert page.count(f".. autofunction:: {name}\n") == 1
        found, output = code_blocks(page.split("\n## Example\n")[1].split("\n## ")[0]), io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(found["python"], {"gc": gc, "jnp": jax.numpy})
        assert output.getvalue() == found["text"], name


def test_pages_say_what_is_wrong_with_them(pages):
    page = "---\nfamily: Signs\nline: a\nwhen: b\nexample: c\npicture: d\n---\n\n# adam\n"
    with pytest.raises(ValueError, match=r"lion\.md: the title must be '# lion', got '# adam'"):
        pages.parse("lion", page)
    with pytest.raises(ValueError, match=r"sgd: no source with a year"):
        pages.parse("sgd", page.replace("adam", "sgd"))
    assert pages.parse("adam", page).year == "2015"


@pytest.fixture(scope="module")
def paths(pages):
    """The script that draws the paths; it imports two modules of its own folder by name."""
    before = [*sys.path]
    sys.path.insert(0, str(DOCS))
    yield load(DOCS / "make_paths.py")
    sys.path[:] = before
    del sys.modules["landscapes"], sys.modules["optimizers"]


def test_every_page_has_its_pictures(paths, entries):
    runs = json.loads((paths.PATHS / "runs.json").read_text())
    assert set(runs) == set(entries), "run python docs/make_paths.py"
    pictures = {f"{name}_{key}.svg" for name in runs for key in paths.CHOSEN}
    assert {path.name for path in paths.PATHS.glob("*.svg")} == pictures
    for name, found in runs.items():
        assert all(("{rate}" in entries[name].picture) == (run["rate"] is not None) for run in found.values()), name


@pytest.mark.parametrize("key", ["valley", "saddle"])
def test_pictures_show_what_the_optimizer_does(paths, entries, key):
    run = paths.run(entries["sgd"], paths.LANDSCAPES[key])
    points = run.pop("points")
    kept = json.loads((paths.PATHS / "runs.json").read_text())["sgd"][key]
    assert run == kept | {"last": pytest.approx(kept["last"], rel=1e-3)}
    assert points.shape == (paths.STEPS + 1, 2)
    drawn = re.search(r'class="path" d="M([^"]*)"', (paths.PATHS / f"sgd_{key}.svg").read_text())[1]
    shown = np.array([at.split() for at in drawn.split("L")], float)
    expected = np.stack([400 + 100 * points[:, 0], 300 - 100 * points[:, 1]], -1)
    assert np.abs(shown - expected).max() <= 0.6
