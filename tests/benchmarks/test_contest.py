"""The measuring itself: turns, pairs and tables."""

import json
import time

import numpy as np
import pytest

from tests.benchmarks.contest import Result, contest, markdown, record

pytestmark = pytest.mark.bench


def test_contestants_take_turns_in_rotating_order_after_a_warm_up():
    order = []
    contest({"gradchain": lambda: order.append("g"), "optax": lambda: order.append("o"), "PyTorch": None}, rounds=3)
    assert "".join(order) == "go" + "og" + "go" + "og"


def test_a_contestant_may_time_itself():
    result = contest({"gradchain": lambda: 2.0, "optax": lambda: time.sleep(0.01)}, rounds=2)
    assert result.seconds["gradchain"] == [2.0, 2.0]
    assert all(0.01 <= t < 0.5 for t in result.seconds["optax"])


def test_ratios_are_paired_by_round():
    result = Result("case", {"gradchain": [1.0, 10.0, 3.0], "optax": [2.0, 20.0, 6.0], "PyTorch": []})
    assert result.ratio("optax") == (0.5, 0.5, 0.5)
    assert np.isclose(result.median("optax"), 6.0)


def test_the_table_names_what_is_not_installed():
    result = Result("case", {"gradchain": [0.001], "optax": [0.002], "PyTorch": []})
    assert [line.split("|")[1:5] for line in markdown([result]).splitlines()[2:]] == [
        [" case ", " gradchain  ", " 1 ms          ", "                "],
        [" case ", " optax      ", " 2 ms          ", " 0.50           "],
        [" case ", " PyTorch    ", " not installed ", "                "],
    ]
    assert json.loads(record([result]))["contests"][0]["ratios"] == {"optax": [0.5, 0.5, 0.5]}
