"""Averages against the trajectories of other implementations: how each of these is said in gradchain."""

import pytest

import gradchain as gc
from tests import references

each_problem = pytest.mark.parametrize(
    "problems", [("mlp",), pytest.param(("lstsq", "conv", "square"), marks=pytest.mark.slow)], ids=["mlp", "others"]
)


@each_problem
def test_ema_nesterov_of_the_public_benchmark(problems):
    window = gc.join_schedules([0.0, 0.6, 0.0], [5, 25])
    tx = gc.ema_nesterov(gc.sgd(0.05), beta=window, decay=0.9)
    references.assert_reproduces("ema-nesterov/track3-39", tx, problems)


@each_problem
def test_schedule_free_plus_of_its_authors(problems):
    tx = gc.schedule_free_plus_adamw(0.2, weight_decay=0.5, start=3)
    references.assert_reproduces("schedule-free-plus/meta", tx, problems, extra=lambda loss: {"value": loss})
