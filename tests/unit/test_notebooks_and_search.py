"""Notebooks are those of their pages and run; the search's ranking, and the words that lead to a page."""

import contextlib
import io
import json
import runpy
from pathlib import Path

import jax
import pytest

pytestmark = pytest.mark.as_users

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = runpy.run_path(str(DOCS / "make_notebooks.py"))
SEARCH = runpy.run_path(str(DOCS / "check_search.py"))
WORDS = runpy.run_path(str(DOCS / "_ext" / "search_words.py"))["WORDS"]


@pytest.mark.parametrize("page", NOTEBOOKS["PAGES"])
def test_a_notebook_is_made_from_its_page_as_it_is_now(page):
    told = "run docs/make_notebooks.py"
    assert (DOCS / "notebooks" / f"{page}.ipynb").read_text() == NOTEBOOKS["write"](page), told
    assert f"(notebooks/{page}.ipynb)" in (DOCS / f"{page}.md").read_text()


def test_every_notebook_has_a_page():
    assert {path.stem for path in (DOCS / "notebooks").iterdir()} == set(NOTEBOOKS["PAGES"])


def test_a_page_becomes_cells_of_text_and_code_with_what_is_printed():
    page = "# A\n\nSee {py:func}`~gradchain.adam` [there](b.md).\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n"
    text, code, last = NOTEBOOKS["notebook"](page + "Then:\n\n```sh\nls\n```\n")["cells"]
    assert "".join(text["source"]) == "# A\n\nSee `gc.adam` [there](../b.md)."
    assert code["source"] == ["print(1)"]
    assert code["outputs"][0]["text"] == ["1\n"]
    assert "".join(last["source"]) == "Then:\n\n```sh\nls\n```"


@pytest.mark.slow
def test_the_code_of_a_notebook_prints_what_the_notebook_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "notebook"}
    cells = json.loads((DOCS / "notebooks" / "tutorial.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    for cell in code:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), jax.numpy_rank_promotion("allow"):
            exec("".join(cell["source"]), namespace)
        assert output.getvalue() == "".join(text for out in cell["outputs"] for text in out["text"])


INDEX = {
    "docnames": ["ema", "average", "reference", "clip"],
    "titles": ["Notes on ema", "Averages", "Reference", "Clipping"],
    "alltitles": {"Averages": [[1, None]], "Clipping": [[3, None]], "Of ema": [[0, "of-ema"]]},
    "indexentries": {"ema": [[1, "index-0", True], [0, "index-0", False]]},
    "objects": {"gradchain": [[2, 0, 1, "", "ema"]]},
    "objnames": {"0": ["py", "function", "Python function"]},
    "terms": {"ema": [0, 1], "norm": 3, "clip": [2, 3]},
    "titleterms": {"clip": 3},
}


def found(query, index=INDEX):
    return SEARCH["search"](index, query, str.lower)


def test_a_main_entry_of_the_index_comes_before_names_and_titles():
    assert found("EMA") == ["average", "reference", "ema"]
    assert found("ema", INDEX | {"indexentries": {}})[0] == "reference"


def test_titles_come_before_words_and_all_words_are_needed():
    assert found("clip") == ["clip", "reference"]
    assert found("clip norm") == ["clip"]
    assert found("clip ema") == []
    assert found("nor") == ["clip"]


def test_a_query_that_misses_its_page_is_told():
    check = SEARCH["problems"]
    assert check(INDEX, str.lower, queries={"ema": "average"}) == []
    wrong = check(INDEX, str.lower, queries={"ema": "reference", "x": "clip"})
    assert wrong == [
        "'ema' should find reference first, and finds average, reference, ema",
        "'x' should find clip first, and finds nothing",
    ]


def test_thirty_queries_and_all_search_words_name_pages_and_no_phrase_two():
    pages = {*SEARCH["QUERIES"].values(), *WORDS}
    assert len(SEARCH["QUERIES"]) >= 30
    assert [page for page in pages if not (DOCS / f"{page}.md").exists()] == []
    phrases = [phrase for words in WORDS.values() for phrase in words.split(", ")]
    assert sorted(phrases) == sorted(set(phrases))
