"""``python -m tests.benchmarks.minimisers [--fits] [...]``: run, and print the tables.

Where ``--out`` is a file that has runs already, only the missing ones are made.
"""

import argparse
import json
from pathlib import Path

import jax

jax.config.update("jax_cpu_enable_async_dispatch", False)  # what the host is asked for runs compiled functions, too

from tests.benchmarks.minimisers import counting, fitting, nist, scoring  # noqa: E402
from tests.benchmarks.minimisers.problems import PROBLEMS  # noqa: E402
from tests.benchmarks.minimisers.solvers import SOLVERS  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.minimisers", description=__doc__)
    parser.add_argument("--fits", action="store_true", help="NIST's regressions by least squares")
    parser.add_argument("--dtypes", nargs="+", default=["float64", "float32"], choices=["float64", "float32"])
    parser.add_argument("--solvers", nargs="+", help=", ".join([*SOLVERS, *fitting.FITTERS]))
    parser.add_argument("--problems", nargs="+", help="problems, or sets, by name")
    parser.add_argument("--max-evals", type=int, default=2000, help="evaluations that a minimiser may make")
    parser.add_argument("--out", type=Path, help="a file of all runs, as lines of JSON")
    return parser.parse_args()


def chosen(names, known):
    """Return the names asked for, or all; an error lists the known ones."""
    for name in names or ():
        if name not in known:
            raise SystemExit(f"unknown: {name!r}; there are {', '.join(known)}")
    return names or list(known)


def jobs(args):
    """Yield the key of each run, with the function that makes it."""
    for dtype in args.dtypes:
        if args.fits:
            for name in chosen(args.solvers, fitting.FITTERS):
                for data in chosen(args.problems, nist.DATA):
                    for start in (1, 2):
                        yield dtype, (name, data, start, dtype), (fitting.fit, name, data, start, dtype)
        else:
            for name in chosen(args.solvers, SOLVERS):
                for problem in map(PROBLEMS.__getitem__, chosen(args.problems, PROBLEMS)):
                    work = counting.run, name, SOLVERS[name], problem, dtype, args.max_evals
                    yield dtype, (name, problem.name, dtype), work


def main():
    args = arguments()
    kind, width = (fitting.Fit, 4) if args.fits else (counting.Run, 3)
    rows = map(json.loads, args.out.read_text().splitlines()) if args.out and args.out.exists() else ()
    done = {row[:width]: row for row in (tuple(kind(**row)) for row in rows)}
    for dtype, key, (make, *what) in jobs(args):
        if key in done:
            continue
        jax.config.update("jax_enable_x64", dtype == "float64")
        made = make(*what)
        done[key] = tuple(made)
        print(" ".join(map(str, key)), "" if made.converged else "not converged", made.error, flush=True)
        if args.out:
            with args.out.open("a") as file:
                file.write(json.dumps(made._asdict()) + "\n")
    runs = [kind(*row) for row in done.values()]
    if args.fits:
        print(fitting.table(runs))
    else:
        judged = [scoring.judge(run, PROBLEMS[run.problem].minima) for run in runs]
        print(f"{scoring.table(judged)}\n\nNot solved, * where the solver says that it has converged:\n")
        print(scoring.unsolved(judged))


main()
