"""The sentences and tables of the page that are made from what was found."""

import math
from collections.abc import Iterable

from entrants import ENTRANTS
from problems import PROBLEMS
from published import PUBLISHED
from results import CONTROL, Found, Line
from runs import REFERENCE

HEADER = (
    "optimizer", "steps / AdamW's", "formally", "loss", "near the best", "rate", "third",
    "state", "operations",
)  # fmt: skip
FIRST = 4
"""How many of the lowest ratios the headline gives."""


def page(every: dict[str, Found]) -> str:
    """Return the part of the page that is made of results."""
    parts = [*(headline(PROBLEMS[name].title, found) for name, found in every.items())]
    parts += [*everywhere(every), control(every), ends(every), *absent(every)]
    for name, found in every.items():
        target = f"The target, AdamW's loss after {found.steps:,} steps, is {found.target:.4f}."
        parts += ["", f"### {PROBLEMS[name].title}", "", target, "", table(found)]
    return "\n".join(parts) + "\n"


def headline(title: str, found: Found) -> str:
    """Return who needs fewer steps than AdamW, who more, and of whom that isn't known."""
    rivals = found.rivals
    fewer = [line for line in rivals if line.ratio.high < 1]
    more = [line for line in rivals if line.ratio.low > 1]
    unsure = [line for line in rivals if line.ratio.low <= 1 <= line.ratio.high]
    parts = [
        f"- **{title}.** Of {len(rivals)} other optimizer{'s' * (len(rivals) > 1)}, "
        f"{some(len(fewer))} fewer steps than AdamW."
    ]
    if fewer:
        first = (f"{code(line)} {said(line, found)}" for line in fewer[:FIRST])
        parts.append(f"The lowest ratio{'s' * (len(fewer) > 1)}: {listed(first)}.")
    if more:
        parts.append(f"{verb(list(map(code, more)))} more.")
    if unsure:
        parts.append(f"Not distinguishable from AdamW: {listed(map(code, unsure))}.")
    return " ".join(parts)


def everywhere(every: dict[str, Found]) -> list[str]:
    """Return who needs fewer steps than AdamW on all problems, of those that ran on all."""
    rivals = [
        {line.optimizer: line for line in found.rivals} for found in every.values()
    ]
    shared = [name for name in ENTRANTS if all(name in lines for lines in rivals)]
    fewer = [
        name for name in shared if all(lines[name].ratio.high < 1 for lines in rivals)
    ]
    if len(every) < 2 or not shared:
        return []
    every_one = fewer == shared and len(shared) > 1
    who = "all need" if every_one else verb(list(map(named, fewer)))
    return [
        f"- **Across the problems.** {listed(map(named, shared))} ran on all of them, "
        f"and {who} fewer steps than AdamW each time."
    ]


def control(every: dict[str, Found]) -> str:
    """Return what AdamW needs for its own loss with other seeds."""
    lines = [
        line
        for found in every.values()
        for line in found.lines
        if line.optimizer == CONTROL
    ]
    own = [
        f"{line.ratio.value:.2f} ({line.ratio.low:.2f} to {line.ratio.high:.2f})"
        for line in lines
    ]
    outside = sum(not line.ratio.low <= 1 <= line.ratio.high for line in lines)
    verdict = "All intervals contain 1, as they should."
    if outside:
        verdict = f"{outside} of {len(lines)} intervals don't contain 1, so differences of that size say little."
    return f"- **AdamW against itself**, with other seeds: {listed(own)} of its steps. {verdict}"


def ends(every: dict[str, Found]) -> str:
    """Return whose chosen rate lies at an end of its range."""
    names = [
        f"{code(line)} ({PROBLEMS[name].title})"
        for name, found in every.items()
        for line in found.lines
        if line.at_end and line.optimizer != CONTROL
    ]
    if not names:
        return "- **No chosen learning rate** lies in the outer tenths of its range."
    rates = "rates" if len(names) > 1 else "rate"
    return (
        f"- **Chosen {rates} in an outer tenth of the range**: {listed(names)}. "
        "A wider search might find better ones."
    )


def absent(every: dict[str, Found]) -> list[str]:
    """Return who is known to the scripts, but has no runs here."""
    present = {line.optimizer for found in every.values() for line in found.lines}
    names = [named(name) for name in ENTRANTS if name not in present]
    return [f"- **Without runs here so far**: {listed(names)}."] if names else []


def table(found: Found) -> str:
    """Return a problem's lines as a Markdown table."""
    rows = [
        HEADER,
        (":--", *["--:"] * (len(HEADER) - 1)),
        *(cells(line, found) for line in found.lines),
    ]
    return markdown(rows)


def cells(line: Line, found: Found) -> tuple[str, ...]:
    """Return a row of the table; the control shares the search and the costs of AdamW."""
    is_reference = line.optimizer == REFERENCE
    tuned = f"{line.near} of {line.trials}", f"{line.rate:.2g}", f"{line.third:.2g}"
    costs = f"{line.state:.3g}", f"{line.operations:.2f}"
    return (
        code(line),
        "1" if is_reference else said(line, found),
        "" if is_reference else number(line.formally, found),
        f"{line.loss:.4f} ± {line.error:.4f}",
        *(("", "", "", "", "") if line.optimizer == CONTROL else (*tuned, *costs)),
    )


def said(line: Line, found: Found) -> str:
    """Return a ratio and its interval."""
    value, low, high = (number(x, found) for x in line.ratio)
    return value if value == low == high else f"{value} ({low} to {high})"


def number(x: float, found: Found) -> str:
    """Return a ratio with two digits, or the bound where it lies beyond the lengths that were run."""
    if x < 1.0001 * found.shortest:
        return f"≤ {found.shortest:.2g}"
    return f"{x:.2f}" if math.isfinite(x) else f"> {found.longest:.2g}"


def published(every: dict[str, Found]) -> str:
    """Return a table of published ratios below those found here, as Markdown."""
    names = [
        name for name in ENTRANTS if any(name in row for row in PUBLISHED.values())
    ]
    rows = [("ratio to AdamW", *map(named, names)), (":--", *["--:"] * len(names))]
    for problem, found in every.items():
        ratios = {
            line.optimizer: number(line.ratio.value, found) for line in found.lines
        }
        here = f"here: {PROBLEMS[problem].title}"
        rows.append((here, *(ratios.get(name, "") for name in names)))
    for source, ratios in PUBLISHED.items():
        rows.append((source, *(ratios.get(name, "") for name in names)))
    return markdown(rows) + "\n"


def markdown(rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def code(line: Line) -> str:
    """Return the name of a line's optimizer."""
    return CONTROL if line.optimizer == CONTROL else named(line.optimizer)


def named(optimizer: str) -> str:
    """Return the call that makes an optimizer."""
    return '`soap(factors="kl")`' if optimizer == "kl_soap" else f"`{optimizer}`"


def some(n: int) -> str:
    """Return a number with its verb."""
    return "none needs" if n == 0 else "one needs" if n == 1 else f"{n} need"


def verb(names: list[str]) -> str:
    """Return names with their verb."""
    return f"{listed(names)} need{'s' * (len(names) == 1)}" if names else "none needs"


def listed(names: Iterable[str]) -> str:
    """Return names with commas, and 'and' before the last."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
