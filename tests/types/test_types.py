"""What Pyright and mypy say of users' programs: nothing about a right one, and each mistake in a wrong one."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lint

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROGRAM, MISTAKES = HERE / "program.py", HERE / "mistakes.py"


def run(*command):
    result = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode in (0, 1), result.stdout + result.stderr  # 1: there are errors
    return result.stdout


@pytest.fixture(scope="module")
def found_by_pyright():
    report = json.loads(run("pyright", "--outputjson", "--project", str(HERE), "--pythonpath", sys.executable))
    return [(Path(x["file"]), x["range"]["start"]["line"] + 1, x["message"]) for x in report["generalDiagnostics"]]


@pytest.fixture(scope="module")
def found_by_mypy():
    options = ["--strict", "--follow-imports=silent", "--disable-error-code=import-untyped"]  # the latter for Optax
    options += ["--hide-error-context", f"--cache-dir={ROOT / '.cache' / 'mypy'}"]
    report = run("mypy", *options, str(PROGRAM), str(MISTAKES))
    found = re.findall(r"^(.+?):(\d+): error: (.*)$", report, re.M)
    return [(ROOT / path, int(line), message) for path, line, message in found]


@pytest.fixture(params=["found_by_pyright", "found_by_mypy"])
def found(request):
    """The errors of one type checker, as (file, line, message)."""
    return request.getfixturevalue(request.param)


def test_a_right_program_has_no_type_errors(found):
    """Its ``assert_type`` lines say that types of parameters and states come through."""
    assert [error for error in found if error[0] == PROGRAM] == []


def test_each_mistake_is_an_error_on_its_line(found):
    lines = MISTAKES.read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}
    assert len(marked) > 30
    assert {line for path, line, _ in found if path == MISTAKES} == marked


def test_the_right_program_runs():
    runpy.run_path(str(PROGRAM))
