"""How the cost of compiling, stepping and of the host's own work grows: ``python docs/growth``.

Measures gradchain beside Optax, twenty minutes or more on two quiet cores, then writes what was found, the part of the
page that is made of it, and its pictures. With ``--quick``: small sizes, and another folder. With ``--report``: only
page and pictures anew.
"""

import argparse
import json
from pathlib import Path

import report


def main():
    parser = argparse.ArgumentParser(prog="python docs/growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes only")
    parser.add_argument(
        "--report", action="store_true", help="only write page and pictures anew"
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=8.0,
        help="the longest compilation, in seconds, that is begun",
    )
    parser.add_argument(
        "--out", type=Path, help="folder to write to (docs/growth/results)"
    )
    given = parser.parse_args()
    out = given.out or (
        Path(__file__).parents[2] / ".cache" / "growth"
        if given.quick
        else report.FOLDER
    )
    if not given.report:
        import measures

        out.mkdir(parents=True, exist_ok=True)
        for found, name in measures.everything(
            given.quick, 1.0 if given.quick else given.limit
        ):
            print(name, flush=True)
            (out / "growth.json").write_text(
                json.dumps(report.rounded(found), indent=1) + "\n"
            )
    found = report.read(out)
    for name, text in report.files(found).items():
        (out / name).write_text(text, encoding="utf-8")
    print(report.page(found), report.details(found), sep="\n")


if __name__ == "__main__":
    main()
