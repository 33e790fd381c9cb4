"""Every Python block in the README and the docs runs, page by page, and prints what the page says it prints.

A ``python`` block that is followed by a ``text`` block prints that text.
"""

import contextlib
import io
import re
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.relative_to(DOCS).parts)]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def title(page):
    return str(page.relative_to(ROOT).with_suffix(""))


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


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page)


def test_a_wrong_output_fails(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n\n```text\n2\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md, line 1"):
        run_page(page)


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_fences_are_closed_and_have_a_language(page):
    fences = re.findall(r"^```(.*)$", page.read_text(), re.M)
    assert len(fences) % 2 == 0
    assert all(fences[::2]), "a block without a language"
    assert not any(fences[1::2]), "a block that isn't closed"


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_relative_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing, missing
