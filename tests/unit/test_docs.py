"""Every Python block in the README and the docs runs, page by page, and prints what the page says it prints.

A ``python`` block that is followed by a ``text`` block prints that text. Links, anchors, pictures and the sidebar are
checked in the sources; ``make docs`` checks the built site.
"""

import contextlib
import io
import re
import runpy
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

pytestmark = pytest.mark.as_users

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(p for p in DOCS.rglob("*.md") if not {"_build", "results"} & {*p.relative_to(DOCS).parts}),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


LONG = {
    "README",
    "accumulate_gradients",
    "accumulation_and_guards",
    "averaging",
    "checkpoints",
    "coming_from_keras",
    "data",
    "layers_and_matrices",
    "tutorial",
    "watch_training",
    "equinox",
    "coming_from_optax",
    "faq",
    "find_a_learning_rate",
    "fit_a_curve",
    "flax_linen",
    "flax_nnx",
    "haiku",
    "is_it_working",
    "minimise",
    "populations",
    "precision",
    "quickstart",
    "recipes",
    "resume",
    "routing",
    "second_order",
    "sharding",
    "training_loop",
    "tutorial_network",
    "tutorial_values",
    "width_transfer",
    "write_a_matrix_rule",
}
"""Pages that train or compile for more than a few seconds."""


def title(page):
    return str(page.relative_to(ROOT).with_suffix(""))


def each_page(pages=PAGES, slow=()):
    marked = [pytest.param(p, id=title(p), marks=pytest.mark.slow if p.stem in slow else ()) for p in pages]
    return pytest.mark.parametrize("page", marked)


class Block(NamedTuple):
    language: str
    code: str
    line: int
    prints: str | None


def blocks(page):
    text = page.read_text()
    found = list(BLOCK.finditer(text))
    result = []
    for i, match in enumerate(found):
        following = found[i + 1] if i + 1 < len(found) else None
        adjoins = following and following[1] == "text" and not text[match.end() : following.start()].strip()
        line = text.count("\n", 0, match.start()) + 1
        result.append(Block(match[1], match[2], line, following[2] if adjoins else None))
    return result


def python_blocks(page):
    return [block for block in blocks(page) if block.language == "python"]


def run_page(page):
    """Run a page's blocks in one namespace, comparing what they print."""
    namespace = {"__name__": page.stem}
    for block in python_blocks(page):
        output = io.StringIO()
        code = compile("\n" * block.line + block.code, str(page), "exec")
        with contextlib.redirect_stdout(output), jax.numpy_rank_promotion("allow"):
            exec(code, namespace)
        if block.prints is not None:
            assert output.getvalue() == block.prints, f"{page.name}, line {block.line}"


@each_page(slow=LONG)
def test_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page)


def test_a_wrong_output_fails(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n\n```text\n2\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md, line 1"):
        run_page(page)


@each_page()
def test_fences_are_closed_and_have_a_language(page):
    fences = re.findall(r"^```(.*)$", page.read_text(), re.M)
    assert len(fences) % 2 == 0
    assert all(fences[::2]), "a block without a language"
    assert not any(fences[1::2]), "a block that isn't closed"


def prose(page):
    """Return a page's text without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def anchors(page):
    """Return the names of a page's headings, as links give them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page()
def test_relative_links_lead_somewhere(page):
    wrong = []
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)", prose(page)):
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(f"{target}#{anchor}")
    assert not wrong, wrong


@each_page()
def test_pictures_are_described(page):
    assert not re.findall(r"!\[\s*\]\(\S+", prose(page)), "a picture without a description"


def entries(page):
    """Return the files that a page's tables of contents name."""
    tables = re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(), re.M | re.S)
    names = [line for table in tables for line in table.splitlines() if line and not line.startswith(":")]
    return [page.parent / name for name in names]


def test_every_page_is_in_the_sidebar_once():
    listed = [entry.with_suffix(".md") for page in PAGES for entry in entries(page)]
    assert len(listed) == len(set(listed))
    assert {page for page in PAGES if page.parent != ROOT} - set(listed) == {DOCS / "index.md"}


def test_every_picture_is_shown():
    text = "".join(page.read_text() for page in PAGES)
    unused = [path.name for path in (DOCS / "images").glob("*.png") if path.name not in text]
    assert not unused, unused


def test_wrong_links_on_a_site_are_found(tmp_path):
    check = runpy.run_path(str(DOCS / "check_links.py"))["problems"]
    (tmp_path / "a.html").write_text('<h1 id="top"><a href="b.html#part">b</a><a href="#top">up</a></h1>')
    (tmp_path / "b.html").write_text('<h1 id="part"></h1><img src="c.png"><a href="a.html#gone">a</a>')
    assert check(tmp_path) == ["b.html: a.html#gone leads nowhere", "b.html: c.png leads nowhere"]
    (tmp_path / "b.html").write_text('<h1 id="part"></h1><script src="https://example.org/x.js"></script>')
    assert check(tmp_path) == ["b.html loads https://example.org/x.js"]
