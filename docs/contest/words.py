"""The sentences and tables of the page that are made from what was found."""

import math
from collections.abc import Iterable

from entrants import ENTRANTS
from problems import PROBLEMS
from results import CONTROL, Found, Line
from runs import REFERENCE

HEADER = (
    "optimizer", "steps / AdamW's", "formally", "loss", "near the best", "rate", "third",
    "state", "operations",
)  # fmt: skip


def page(every: dict[str, Found]) -> str:
    """Return the part of the page that is made of results."""
    parts = [*(headline(PROBLEMS[name].title, found) for name, found in every.items())]
    parts += [control(every), ends(every), *absent(every)]
    for name, found in every.items():
        target = f"The target, AdamW's loss after {found.steps:,} steps, is {found.target:.4f}."
        parts += ["", f"### {PROBLEMS[name].title}", "", target, "", table(found)]
    return "\n".join(parts) + "\n"


def headline(title: str, found: Found) -> str:
    """Return who needs fewer steps than AdamW, who more, and of whom that isn't known."""
    rivals = found.rivals
    fewer = [line for line in rivals if line.ratio.high < 1]
    more = [line for line in rivals if line.ratio.low > 1]
    first = [
        f"{code(line)} needs {said(line, found)} of AdamW's steps" for line in fewer[:1]
    ]
    first += [f"{code(line)} {said(line, found)}" for line in fewer[1:4]]
    unsure = len(rivals) - len(fewer) - len(more)
    text = f"Of {len(rivals)} other{'s' * (len(rivals) > 1)}, {some(len(fewer))} fewer steps than AdamW"
    text += f", {some(len(more))} more"
    text += f", and for {unsure} the interval contains 1." if unsure else "."
    best = f" {listed(first)}." if first else ""
    return f"- **{title}.** {text}{best}"


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
    return f"- **Near the end of its range** is the chosen rate of {listed(names)}: a wider search might do better."


def absent(every: dict[str, Found]) -> list[str]:
    """Return who is known to the scripts, but has no runs here."""
    present = {line.optimizer for found in every.values() for line in found.lines}
    names = [f"`{name}`" for name in ENTRANTS if name not in present]
    return [f"- **Without runs here so far**: {listed(names)}."] if names else []


def table(found: Found) -> str:
    """Return a problem's lines as a Markdown table."""
    rows = [
        HEADER,
        (":--", *["--:"] * (len(HEADER) - 1)),
        *(cells(line, found) for line in found.lines),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


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


def code(line: Line) -> str:
    """Return the name of an optimizer."""
    if line.optimizer == CONTROL:
        return CONTROL
    return (
        '`soap(factors="kl")`' if line.optimizer == "kl_soap" else f"`{line.optimizer}`"
    )


def some(n: int) -> str:
    """Return a number with its verb."""
    return "none needs" if n == 0 else "one needs" if n == 1 else f"{n} need"


def listed(names: Iterable[str]) -> str:
    """Return names with commas, and 'and' before the last."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
