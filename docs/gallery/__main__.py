"""Make the gallery's tables and pictures: ``python docs/gallery [names] [--quick]``."""

import argparse
import importlib
import time
from pathlib import Path

from common import RESULTS, publish

FOLDER = Path(__file__).parent
EXPERIMENTS = sorted(
    path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__main__", "common")
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python docs/gallery", description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(EXPERIMENTS))
    parser.add_argument("--quick", action="store_true", help="small runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    for name in arguments.names or EXPERIMENTS:
        began = time.perf_counter()
        run = importlib.import_module(name).main
        publish(name, run(quick=arguments.quick, seed=arguments.seed), arguments.out)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
