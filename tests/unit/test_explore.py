"""The page Explore shows what gradchain computes, and has all that its script looks for."""

import base64
import json
import re
import runpy
import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc

DOCS = Path(__file__).parents[2] / "docs"
DATA = DOCS / "_static" / "explore_data.js"
SCRIPT = (DOCS / "_static" / "explore.js").read_text()
PAGE = (DOCS / "explore.md").read_text()


@pytest.fixture(scope="module")
def landscapes():
    return runpy.run_path(str(DOCS / "landscapes.py"))["LANDSCAPES"]


@pytest.fixture(scope="module")
def data():
    return json.loads(DATA.read_text().removeprefix("const EXPLORE = ").removesuffix(";\n"))


@pytest.fixture(scope="module")
def blocks(data):
    """The bytes of each optimizer: those of its lengths, and six planes of (functions, momenta, rates, steps + 1)."""
    content, found = zlib.decompress(base64.b64decode(data["runs"])), {}
    for one in data["optimizers"]:
        momenta = len(data["momenta"]) if "{momentum}" in one["call"] else 1
        shape = (len(data["landscapes"]), momenta, len(data["rates"]))
        count, points = int(np.prod(shape)), data["steps"] + 1
        lengths, content = np.frombuffer(content[:count], np.uint8), content[count:]
        planes, content = np.frombuffer(content[: 6 * count * points], np.uint8), content[6 * count * points :]
        found[one["name"]] = lengths.reshape(shape), planes.reshape(3, 2, *shape, points).astype(int)
    assert not content
    return found


def shown(data, blocks, landscape, optimizer, momentum, rate):
    """Return the points and the losses, as powers of ten, that the page has of a run."""
    lengths, planes = blocks[optimizer]
    row = data["momenta"].index(momentum) if lengths.shape[1] > 1 else 0
    at = [one["name"] for one in data["landscapes"]].index(landscape), row, data["rates"].index(rate)
    code = planes[:, 0][:, *at] + 256 * planes[:, 1][:, *at]
    x, y, loss = np.cumsum(np.where(code % 2, -(code + 1) // 2, code // 2), -1)[:, : lengths[at]]
    return np.stack([x, y], -1) / data["unit"], loss / data["perDecade"] + data["lowest"]


RUNS = [
    ("valley", "Momentum", 0.9, 0.1),
    ("bowl", "Momentum", 0.0, 10.0),
    ("saddle", "Adam", 0.9, 0.1),
    ("plateau", "AdaGrad", 0.0, 1.0),
    ("valleys", "Lion", 0.5, 0.01),
]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: "-".join(map(str, run)))
def test_the_page_shows_what_gradchain_computes(data, blocks, landscapes, run):
    landscape, optimizer, momentum, rate = run
    points, decades = shown(data, blocks, *run)
    (call,) = [one["call"] for one in data["optimizers"] if one["name"] == optimizer]
    tx = eval(call.format(rate=rate, momentum=momentum), {"gc": gc})
    one = landscapes[landscape]
    path = gc.training.trace_path(one.function, jnp.array(one.start), tx, data["steps"])
    inside = np.abs(path.points).max(-1) < 100
    assert len(points) == (len(inside) if inside.all() else inside.argmin()) == len(decades)
    assert np.abs(points - path.points[: len(points)]).max() < 1 / data["unit"]
    lowest, highest = data["lowest"], data["lowest"] + 255 / data["perDecade"]
    expected = np.clip(np.log10(np.maximum(path.values[: len(points)], 1e-30)), lowest, highest)
    assert np.abs(decades - expected).max() < 1 / data["perDecade"]


def test_what_the_page_says_of_the_runs_is_true(data, blocks):
    def losses(*run):
        return 10 ** shown(data, blocks, *run)[1]

    def converges(landscape, momentum, rate):
        found = losses(landscape, "Momentum", momentum, rate)
        return len(found) == data["steps"] + 1 and bool(found[-1] < found[0])

    rates = data["rates"][data["rates"].index(0.1) :]
    for landscape, curvature in (("bowl", 1.0), ("valley", 2.5)):
        for momentum in (0.0, 0.9):
            stable = [rate < 2 * (1 + momentum) / curvature for rate in rates]
            assert [converges(landscape, momentum, rate) for rate in rates] == stable
    ends = [losses("valley", "Momentum", momentum, 0.1)[-1] for momentum in (0.0, 0.8, 0.98)]
    assert ends[0] == pytest.approx(0.065, rel=0.08)
    assert ends[1] < 1e-6
    assert ends[2] == pytest.approx(0.24, rel=0.08)
    across = [losses("plateau", name, 0.0, 0.1) for name in ("Momentum", "Adam", "RMSprop")]
    assert [int(np.argmax(found < 0.5)) for found in across] == [70, 9, 5]
    last = losses("bowl", "Signum", 0.9, 0.1)[-20:]
    assert (last.min() < 0.011, 0.04 < last.max() < 0.05) == (True, True)
    points = {
        run: shown(data, blocks, "valleys", *run)[0][-1]
        for run in [*(("Momentum", mu, rate) for mu in (0.0, 0.9) for rate in data["rates"]), ("Adam", 0.9, 1.5)]
    }
    at_first = {run for run, point in points.items() if np.abs(point - [-2.38, 2.38]).max() < 0.3}
    moved = {rate for rate in data["rates"] if ("Momentum", 0.9, rate) not in at_first}
    slow = [rate for rate in data["rates"] if 0.01 <= rate <= 0.46]
    assert {("Momentum", 0.0, rate) for rate in slow} <= at_first
    assert {0.15, 0.22, 0.32, 0.46, 0.68} <= moved
    assert 0.1 not in moved
    assert np.abs(points["Adam", 0.9, 1.5]).max() < 0.3


def test_some_runs_diverge_and_most_do_not(data, blocks):
    lengths = np.concatenate([lengths.ravel() for lengths, _ in blocks.values()])
    assert lengths.min() >= 1
    assert lengths.max() == data["steps"] + 1
    assert 0.01 < (lengths < data["steps"] + 1).mean() < 0.2


def test_the_data_are_small_and_complete(data, landscapes):
    assert DATA.stat().st_size < 1_000_000
    assert [(one["name"], one["title"], one["formula"]) for one in data["landscapes"]] == [
        (name, one.title, one.formula) for name, one in landscapes.items()
    ]
    for one in data["landscapes"]:
        assert all(
            float(landscapes[one["name"]].function(jnp.array(at))) < 1e-6 for at in landscapes[one["name"]].least
        )
        assert one["contours"].count("M") >= 5
        assert one["least"] == [[400 + 100 * x, 300 - 100 * y] for x, y in landscapes[one["name"]].least]


def test_the_page_has_what_the_script_looks_for():
    ids, names = (re.findall(rf'{key}="([\w-]+)"', PAGE) for key in ("id", "name"))
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'byId\("([\w-]+)"\)', SCRIPT)) == set(ids)
    assert set(re.findall(r"controls\.(\w+)", SCRIPT)) <= set(names)
    assert sorted(names) == ["landscape", "momentum", "optimizer", "rate", "step"]


def test_controls_have_labels_and_nothing_is_loaded_from_elsewhere():
    labels = re.findall(r"<label>(.*?)</label>", PAGE)
    assert all(re.match(r"\w[\w ]* <", label) for label in labels)
    assert len(labels) == len(re.findall(r"<(?:select|input)\b", PAGE)) == 5
    assert all('role="img" aria-label="' in svg for svg in re.findall(r"<svg[^>]*>", PAGE))
    assert re.findall(r'src="([^"]*)"', PAGE) == ["_static/explore_data.js", "_static/explore.js"]
    assert all((DOCS / path).exists() for path in re.findall(r'src="([^"]*)"', PAGE))
    assert not re.findall(r"\bfetch\(|XMLHttpRequest|\bimport\b", SCRIPT)  # a page on disk may not load by these
