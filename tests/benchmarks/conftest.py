"""One table of all contests at the end; collected only when asked for (``-m bench``).

Environment:
  GRADCHAIN_BENCH_SCALE: fraction of the full sizes, such as 0.01 to see that everything runs.
  GRADCHAIN_BENCH_ROUNDS: rounds of every contest, in place of each one's own number.
  GRADCHAIN_BENCH_OUT: folder for ``benchmarks.json`` and ``benchmarks.md``.
"""

import os
from pathlib import Path

import pytest

from tests.benchmarks.contest import contest, environment, markdown, record

results = pytest.StashKey()


def pytest_ignore_collect(collection_path, config):
    return True if config.option.markexpr != "bench" else None


@pytest.fixture
def compete(request):
    """Return ``compete(case, contestants, rounds)``: run a contest, print its rows, keep them for the final table."""

    def run(case, contestants, rounds):
        result = contest(contestants, int(os.environ.get("GRADCHAIN_BENCH_ROUNDS", rounds)), case)
        request.config.stash.setdefault(results, []).append(result)
        print(f"\n{markdown([result])}")
        return result

    return run


def pytest_terminal_summary(terminalreporter, config):
    found = config.stash.get(results, [])
    if not found:
        return
    text = f"{environment()}\n\n{markdown(found)}\n"
    terminalreporter.write_line(f"\n{text}")
    if folder := os.environ.get("GRADCHAIN_BENCH_OUT"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "benchmarks.md").write_text(text)
        Path(folder, "benchmarks.json").write_text(record(found))
