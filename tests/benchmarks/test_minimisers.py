"""The bench of minimisers: what it counts, what it calls solved, and its command."""

import json
import math
import subprocess
import sys

import pytest

from tests.benchmarks.minimisers import counting, fitting, scoring

pytestmark = pytest.mark.bench


def run(value, gradient=0.0, lowest=((1.0, 100.0), (5.0, 3.0001), (9.0, 1.0))):
    lowest = [*lowest, (20.0, value)]
    return counting.Run("solver", "problem", "float64", 100.0, value, gradient, lowest, 21.0, True, False, "")


def test_a_run_is_solved_at_any_of_the_minima_with_a_small_gradient():
    minima = (0.0, 3.0)
    assert scoring.judge(run(1e-8), minima).solved
    assert scoring.judge(run(-1.0), minima).solved
    assert scoring.judge(run(3.00001), minima).solved
    assert not scoring.judge(run(2.9), minima).solved
    assert not scoring.judge(run(1e-8, gradient=1e-3), minima).solved


def test_the_value_is_reached_at_the_minimum_where_the_run_ended():
    assert scoring.judge(run(3.00001, lowest=[(1.0, 100.0), (5.0, 3.00002)]), (0.0, 3.0)).hit == 5.0
    assert scoring.judge(run(1e-8), (0.0, 3.0)).hit == 20.0
    assert math.isnan(scoring.judge(run(0.5), (0.0, 3.0)).hit)


def test_digits_are_those_of_the_worst_parameter():
    assert fitting.digits([1.001, 2.0], [1.0, 2.0]) == pytest.approx(3)
    assert fitting.digits([1.0, math.nan], [1.0, 2.0]) == -99


def test_the_command_counts_as_minimize_does_and_keeps_its_runs(tmp_path):
    out = tmp_path / "runs.jsonl"
    command = [sys.executable, "-m", "tests.benchmarks.minimisers", "--out", str(out), "--dtypes", "float64"]
    command += ["--problems", "beale", "--solvers", "gradchain minimize", "SciPy L-BFGS-B"]
    first, again = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert "| gradchain minimize | float64 | 1/1 | " in first
    assert first.endswith(again)
    ours = json.loads(out.read_text().splitlines()[0])
    script = (
        "import jax, gradchain as gc; from tests.benchmarks.minimisers.classics import CLASSICS\n"
        "jax.config.update('jax_enable_x64', True); beale = CLASSICS['beale']\n"
        "print(int(gc.minimize(beale.fun, beale.x0, gtol=1e-9).evals))"
    )
    alone = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ours["work"] == int(alone.stdout)
