"""The demo, on its small setting: what it writes and prints, and the message where Fashion-MNIST isn't installed."""

import csv
import importlib.util
import re
import sys
from pathlib import Path

import pytest


@pytest.fixture
def demo(monkeypatch):
    pytest.importorskip("flax")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    path = Path(__file__).parents[2] / "examples" / "demo.py"
    spec = importlib.util.spec_from_file_location("demo", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["demo.py", *map(str, arguments)])
        module.main()

    return run


@pytest.mark.slow
def test_the_demo_trains_sweeps_and_writes(demo, tmp_path, capsys):
    demo("--quick", "--out", tmp_path)
    out = capsys.readouterr().out
    first, second = (float(x) for x in re.findall(r"accuracy on held-out images: ([\d.]+)%", out))
    assert max(first, second) > 30
    with open(tmp_path / "sweep.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
    for name in ("losses.png", "sweep.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_missing_images_are_named(demo, tmp_path):
    with pytest.raises(SystemExit, match="apt install dataset-fashion-mnist"):
        demo("--quick", "--out", tmp_path, "--fashion", tmp_path)
