"""How many steps does each optimizer need for AdamW's final loss? ``python docs/contest``.

Runs what isn't known yet, then writes the tables, the pictures and the sentences of the
page. With ``--quick`` on one problem, with few optimizers and trials; its results go to
another folder.
"""

import argparse
import time
from pathlib import Path

from entrants import ENTRANTS, FIELD
from problems import CACHE, PROBLEMS
from runs import Plan, known_or_run

QUICK = ("adamw", "sgd", "lion", "schedule_free_adamw", "muon", "soap")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python docs/contest", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one problem, 8 trials")
    parser.add_argument("--problems", nargs="*", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--optimizers", nargs="*", choices=ENTRANTS, default=list(ENTRANTS))
    parser.add_argument("--kept", type=Path, default=CACHE, help="folder of finished runs")
    arguments = parser.parse_args()
    plan = Plan(trials=8) if arguments.quick else Plan()
    for name in arguments.problems:
        for optimizer in arguments.optimizers:
            if optimizer not in FIELD[name]:
                continue
            began = time.perf_counter(), time.process_time()
            known_or_run(
                name, PROBLEMS[name], optimizer, ENTRANTS[optimizer], plan, arguments.kept
            )
            wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
            print(f"{name}, {optimizer}: {wall:.0f} s, of the cores {cpu:.0f} s", flush=True)


if __name__ == "__main__":
    main()
