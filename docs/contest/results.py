"""The numbers of a contest, as tables in files, and what they say of each optimizer."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from entrants import ENTRANTS, SPANS
from measures import Curve, Ratio, formally, ratio, within
from problems import PROBLEMS
from runs import REFERENCE

FOLDER = Path(__file__).parent / "results"
CONTROL = f"{REFERENCE}, other seeds"
COLUMNS = {
    "trials": ("problem", "optimizer", "learning_rate", "decay", "third", "loss_0", "loss_1"),
    "runs": ("problem", "optimizer", "seed", "steps", "loss"),
    "costs": ("problem", "optimizer", "state_bytes", "operations"),
}  # fmt: skip
"""One row for each trial, for each run with fresh seeds, and for each optimizer."""

Row = dict[str, Any]


class Results(NamedTuple):
    """The three tables."""

    trials: list[Row]
    runs: list[Row]
    costs: list[Row]

    def write(self, folder: Path) -> None:
        """Write the tables as CSV."""
        folder.mkdir(parents=True, exist_ok=True)
        for (name, columns), rows in zip(COLUMNS.items(), self, strict=True):
            cells = [[as_cell(row[column]) for column in columns] for row in rows]
            with (folder / f"{name}.csv").open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([columns, *cells])

    @classmethod
    def read(cls, folder: Path = FOLDER) -> "Results":
        """Return the tables that were written."""
        tables = []
        for name in COLUMNS:
            with (folder / f"{name}.csv").open(newline="") as file:
                tables.append([from_cells(row) for row in csv.DictReader(file)])
        return cls(*tables)


def as_cell(x: Any) -> str:
    """Return a number with the digits that count."""
    return x if isinstance(x, str) else f"{x:.6g}"


def from_cells(row: dict[str, str]) -> Row:
    """Return a row with its numbers as such."""
    names = "problem", "optimizer"
    return {key: x if key in names else float(x) for key, x in row.items()}


class Line(NamedTuple):
    """What is said of an optimizer on a problem."""

    optimizer: str
    ratio: Ratio
    formally: float
    """The shortest runs, relative to AdamW's, that are below its loss beyond doubt."""
    loss: float
    """At the end of runs as long as AdamW's."""
    error: float
    """The standard error of that."""
    near: int
    """How many trials are within 2 % of the best."""
    trials: int
    rate: float
    """The learning rate that was chosen."""
    third: float
    at_end: bool
    """Whether that rate is in an outer tenth of the range."""
    state: float
    """Bytes for each parameter."""
    operations: float
    """Of a step, relative to AdamW's."""

    @property
    def is_rival(self) -> bool:
        """Whether it isn't AdamW."""
        return self.optimizer not in (REFERENCE, CONTROL)


class Found(NamedTuple):
    """What was found on a problem."""

    lines: list[Line]
    """Fewest steps first."""
    steps: int
    """The length of AdamW's runs whose loss is the target."""
    target: float
    shortest: float
    """The shortest runs, relative to that."""
    longest: float

    @property
    def rivals(self) -> list[Line]:
        """The lines of others than AdamW."""
        return [line for line in self.lines if line.is_rival]


def findings(results: Results) -> dict[str, Found]:
    """Return what was found on each problem of which there are results."""
    names = {row["problem"] for row in results.runs}
    return {name: found(results, name) for name in PROBLEMS if name in names}


def found(results: Results, problem: str) -> Found:
    """Return what was found on a problem."""
    trials, runs, costs = (
        [row for row in rows if row["problem"] == problem] for rows in results
    )
    curves = {
        name: Curve.of(picked(runs, name, "seed", "steps", "loss"))
        for name in dict.fromkeys(row["optimizer"] for row in runs)
    }
    *shorter, steps, longest = curves[REFERENCE].steps
    reference = curves[REFERENCE].at(steps)
    lines = []
    for name, curve in curves.items():
        entrant = REFERENCE if name == CONTROL else name
        last = curve.at(steps)
        lines.append(
            Line(
                name,
                ratio(curve, reference, steps, paired=name != CONTROL),
                formally(curve, reference.mean()) / steps,
                float(last.mean()),
                float(last.std(ddof=1) / len(last) ** 0.5),
                *search(
                    picked(trials, entrant, *COLUMNS["trials"][2:]),
                    ENTRANTS[entrant].rate,
                ),
                *picked(costs, entrant, *COLUMNS["costs"][2:])[0],
            )
        )
    lines.sort(key=lambda line: (line.ratio.value, line.loss))
    return Found(
        lines, int(steps), float(reference.mean()), shorter[0] / steps, longest / steps
    )


def search(
    trials: list[list[float]], middle: float
) -> tuple[int, int, float, float, bool]:
    """Return trials near the best, trials, the chosen rate and third number, and whether it ends its range."""
    table = np.array(trials)
    losses = table[:, 3:]
    rate, _, third = table[losses.mean(1).argmin(), :3]
    place = np.log10(rate / middle) / SPANS["learning rate"]
    return within(losses), len(table), float(rate), float(third), bool(abs(place) > 0.4)


def picked(rows: list[Row], optimizer: str, *columns: str) -> list[list[Any]]:
    """Return columns of the rows about an optimizer."""
    return [
        [row[name] for name in columns] for row in rows if row["optimizer"] == optimizer
    ]
