"""Make notebooks of the tutorials: ``python docs/make_notebooks.py``.

A notebook has a page's text, its code, and what the page says that the code prints. The pages are what is edited.
"""

import json
import re
from pathlib import Path

DOCS = Path(__file__).parent
FOLDER = DOCS / "notebooks"
PAGES = "quickstart", "tutorial", "tutorial_network", "tutorial_values"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```\n?", re.M | re.S)
DOWNLOAD = re.compile(r"^\[This page as a notebook\].*\n\n?", re.M)


def notebook(page):
    """Return a page in Markdown as a notebook, a tree that JSON can hold."""
    page, cells, end = DOWNLOAD.sub("", page), [], 0
    for block in FENCE.finditer(page):
        language, code = block.groups()
        between = page[end : block.start()]
        adjoins = cells and cells[-1]["cell_type"] == "code" and not between.strip()
        if language == "text" and adjoins and not cells[-1]["outputs"]:
            cells[-1]["outputs"].append(printed(code))
        elif language == "python":
            cells += [text_cell(between)] if between.strip() else []
            cells.append(code_cell(code))
        else:
            continue
        end = block.end()
    cells += [text_cell(page[end:])] if page[end:].strip() else []
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def lines(text):
    return text.strip("\n").splitlines(keepends=True)


def text_cell(text):
    """Return a cell of Markdown, with links to the pages' sources and names of the reference as code."""
    text = re.sub(r"\{py:\w+\}`~?gradchain\.([^`<>]*)`", r"`gc.\1`", text)
    text = re.sub(r"\{py:\w+\}`([^`<]*?) *<[^`>]*>`", r"`\1`", text)
    text = re.sub(r"(\]\()(?!https?:|#)([^)]+\))", r"\1../\2", text)
    return {"cell_type": "markdown", "metadata": {}, "source": lines(text)}


def code_cell(code):
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": lines(code),
    }


def printed(text):
    return {
        "name": "stdout",
        "output_type": "stream",
        "text": text.splitlines(keepends=True),
    }


def write(page):
    """Return a notebook's text for the name of a page."""
    found = notebook((DOCS / f"{page}.md").read_text(encoding="utf-8"))
    return json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in PAGES:
        (FOLDER / f"{name}.ipynb").write_text(write(name), encoding="utf-8")
