"""How many steps does each optimizer need for AdamW's final loss? ``python docs/contest``.

Runs what isn't known yet, then writes tables of numbers, the part of the page that is made
of them, and its pictures. With ``--quick``: one problem, few optimizers, 8 trials each, and
another folder. With names of problems or optimizers it only runs these.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

# Decompositions in threads of their own would get in the way of the runs'.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import pictures
import words
from costs import flops, state_bytes
from entrants import ENTRANTS, FIELD, trials
from problems import CACHE, PROBLEMS, Problem
from results import COLUMNS, CONTROL, FOLDER, Results, findings
from runs import REFERENCE, Plan, Trial, known_or_run

QUICK = "adamw", "sgd", "lion", "schedule_free_adamw", "muon", "soap"


def costs_of(problem: Problem, optimizer: str, parts: int) -> dict[str, float]:
    """Return bytes of state for each parameter, and operations of a step."""
    entrant, examples = ENTRANTS[optimizer], problem.data()[0]
    first = Trial(*(float(numbers[0]) for numbers in trials(entrant, 1)))
    tx, params = (
        entrant.make(first, problem.part * parts),
        problem.init(jax.random.key(0)),
    )
    batch = jax.tree.map(lambda x: x[: problem.batch_size], examples)
    operations = flops(tx, problem.loss, params, batch, entrant.interval)
    return {"state_bytes": state_bytes(tx, params), "operations": operations}


def run(names: list[str], optimizers: list[str], plan: Plan, kept: Path) -> Results:
    """Return all numbers, after running what isn't known."""
    results = Results([], [], [])
    for name in names:
        base = costs_of(PROBLEMS[name], REFERENCE, plan.length)["operations"]
        for optimizer in (one for one in FIELD[name] if one in optimizers):
            began = time.perf_counter()
            found = known_or_run(
                name, PROBLEMS[name], optimizer, ENTRANTS[optimizer], plan, kept
            )
            add(results, name, optimizer, found)
            cost = costs_of(PROBLEMS[name], optimizer, plan.length)
            cost["operations"] /= base
            results.costs.append({"problem": name, "optimizer": optimizer, **cost})
            print(
                f"{name}, {optimizer}: {time.perf_counter() - began:.0f} s", flush=True
            )
    return results


def add(results: Results, name: str, optimizer: str, found: dict[str, Any]) -> None:
    """Add what was found of an optimizer to the tables."""

    def rows(
        table: str, label: str, numbers: list[list[float]]
    ) -> list[dict[str, Any]]:
        return [
            dict(zip(COLUMNS[table], (name, label, *row), strict=True))
            for row in numbers
        ]

    results.trials.extend(rows("trials", optimizer, found["trials"]))
    results.runs.extend(rows("runs", optimizer, found["runs"]))
    results.runs.extend(rows("runs", CONTROL, found["control"]))


def publish(results: Results, folder: Path) -> None:
    """Write numbers, page and pictures; what is written is made from the numbers as written."""
    results.write(folder)
    every = findings(Results.read(folder))
    (folder / "contest.md").write_text(words.page(every), encoding="utf-8")
    (folder / "published.md").write_text(words.published(every), encoding="utf-8")
    for name, wide in (("wide", True), ("narrow", False)):
        (folder / f"{name}.svg").write_text(
            pictures.draw(every, wide), encoding="utf-8"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python docs/contest", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one problem, few optimizers, 8 trials"
    )
    parser.add_argument("--problems", nargs="*", choices=PROBLEMS)
    parser.add_argument("--optimizers", nargs="*", choices=ENTRANTS)
    parser.add_argument(
        "--kept", type=Path, default=CACHE, help="folder of finished runs"
    )
    parser.add_argument(
        "--out", type=Path, help="folder to write to (docs/contest/results)"
    )
    parser.add_argument(
        "--report", action="store_true", help="only write page and pictures anew"
    )
    given = parser.parse_args()
    out = given.out or (CACHE / "quick" if given.quick else FOLDER)
    if given.report:
        return publish(Results.read(out), out)
    plan = Plan(trials=8) if given.quick else Plan()
    names = given.problems or (["signals"] if given.quick else list(PROBLEMS))
    optimizers = given.optimizers or list(QUICK if given.quick else ENTRANTS)
    kept = given.kept / "quick" if given.quick else given.kept
    results = run(names, optimizers, plan, kept)
    if given.problems or given.optimizers:
        return None
    publish(results, out)
    print((out / "contest.md").read_text(encoding="utf-8"))
    return None


if __name__ == "__main__":
    main()
