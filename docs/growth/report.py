"""What the page says of the results: sentences, tables and pictures. It needs neither JAX nor Optax."""

import json
import math
from pathlib import Path

FOLDER = Path(__file__).parent / "results"
OURS, THEIRS = "gradchain", "optax"
MEASURES = {
    "lower": "trace and lower, seconds",
    "compile": "compile, seconds",
    "step": "one step, seconds",
    "memory": "memory, bytes",
}
STRUCTURES = "stages of a chain", "chains in chains", "labels of a partition"
FROM = 100
"""The number of arrays from which growth is fitted."""


def read(folder=FOLDER):
    """Return what was measured."""
    return json.loads((folder / "growth.json").read_text())


def rounded(found):
    """Return numbers with the digits that count."""
    if isinstance(found, dict):
        return {key: rounded(value) for key, value in found.items()}
    return float(f"{found:.3g}")


def points(curve):
    """Return a curve as pairs of a size and a cost."""
    return sorted((int(size), cost) for size, cost in curve.items())


def exponent(curve, start=FROM):
    """Return p of the power law n^p through a curve's points from ``start`` on; NaN for fewer than two."""
    pairs = [(math.log(n), math.log(cost)) for n, cost in points(curve) if n >= start]
    if len(pairs) < 2:
        return math.nan
    x, y = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    return sum((a - x) * (b - y) for a, b in pairs) / sum(
        (a - x) ** 2 for a, _ in pairs
    )


def common(both, measure):
    """Return the largest size that both libraries have, and the costs there; ``None`` if there is none."""
    ours, theirs = (both[library].get(measure, {}) for library in (OURS, THEIRS))
    sizes = [int(size) for size in ours if size in theirs]
    if not sizes:
        return None
    size = max(sizes)
    return size, ours[str(size)], theirs[str(size)]


def span(numbers):
    """Return the least and the largest number, in words."""
    low, high = (f"{x:.1f}" for x in (min(numbers), max(numbers)))
    return low if low == high else f"{low} to {high}"


def page(found):
    """Return the part of the performance page that is made of results."""
    arrays = found["arrays"]
    parts = []
    for measure, verb in (
        ("lower", "Tracing and lowering"),
        ("compile", "Compiling"),
        ("step", "A step"),
    ):
        factors = {
            library: [
                10**p
                for both in arrays.values()
                if not math.isnan(p := exponent(both[library].get(measure, {})))
            ]
            for library in (OURS, THEIRS)
        }
        ratios = [
            ours / theirs
            for both in arrays.values()
            if (at := common(both, measure))
            for _, ours, theirs in [at]
        ]
        if not all(factors.values()):
            continue
        parts.append(
            f"- **{verb}** takes {span(factors[OURS])} times as long for ten times as many arrays "
            f"(Optax: {span(factors[THEIRS])}), and {spread(ratios)} of Optax's time at the largest number of arrays "
            "that both reach."
        )
    host = found["host"]
    others = [
        cost[OURS]
        for costs in host.values()
        for name, cost in costs.items()
        if name != "update"
    ]
    updates = [
        cost[OURS] / cost[THEIRS]
        for costs in host.values()
        if THEIRS in (cost := costs["update"])
    ]
    calls = found["calls"]
    parts += [
        f"- **Outside of compiled programs**, for {found['host arrays']:,.0f} arrays, `init`, `describe`, "
        "`to_state_dict`, `from_state_dict`, `state_shardings`, `hyperparams` and `eval_params` take "
        f"{duration(max(others))} at most, and `update` {spread(updates)} of Optax's time.",
        f"- **A call** of a compiled step on four small arrays takes {duration(calls['closed over'])} if a transform "
        f"of {calls['numbers']:.0f} numbers is closed over, and {duration(calls['on the device'])} if it is passed "
        f"after `tx = jax.device_put(tx)`. With Python's numbers, each copied to the device in every call, it "
        f"takes {duration(calls['Python numbers'])}.",
    ]
    if slow := slower_on_the_host(found):
        parts.append(
            f"- Longer than a second, and than Optax's counterpart where it has one: {', '.join(slow)}."
        )
    return "\n".join([*parts, "", table(arrays)]) + "\n"


def spread(ratios):
    """Return the least, the median and the largest ratio, in words."""
    ordered = sorted(ratios)
    return f"{ordered[len(ordered) // 2]:.2f} ({ordered[0]:.2f} to {ordered[-1]:.2f})"


def slower_on_the_host(found):
    """Return what takes longer than Optax's counterpart, if it has one, and than a second."""
    return [
        f"`{function}` of {name}"
        for name, costs in found["host"].items()
        for function, cost in costs.items()
        if cost[OURS] > 1 and cost[OURS] > cost.get(THEIRS, 0)
    ]


def table(arrays):
    """Return the costs at the largest common size, as a Markdown table."""
    rows = [
        (
            "Optimizer",
            "trace and lower",
            "Optax",
            "compile",
            "Optax",
            "step",
            "Optax",
            "memory, MB",
            "Optax",
        )
    ]
    for name, both in arrays.items():
        cells = [name]
        for measure in MEASURES:
            at = common(both, measure)
            cells += ["", ""] if at is None else pair(measure, *at)
        rows.append(tuple(cells))
    return markdown(rows)


def pair(measure, size, ours, theirs):
    """Return our cost with its size, and Optax's."""
    if measure == "memory":
        return f"{ours / 1e6:.3g}", f"{theirs / 1e6:.3g}"
    return f"{duration(ours)} ({size:,})", duration(theirs)


def duration(x):
    """Return seconds in a unit that suits them."""
    return (
        f"{x:.3g} s"
        if x >= 1
        else f"{x * 1e3:.3g} ms"
        if x >= 1e-3
        else f"{x * 1e6:.3g} µs"
    )


def details(found):
    """Return the part of the maintainers' page: exponents, structures, the host."""
    rows = [("Optimizer", *(f"{m}{who}" for m in MEASURES for who in ("", ", Optax")))]
    for name, both in found["arrays"].items():
        powers = [
            exponent(both[lib].get(m, {})) for m in MEASURES for lib in (OURS, THEIRS)
        ]
        rows.append((name, *("" if math.isnan(p) else f"{p:.2f}" for p in powers)))
    parts = [
        f"Exponents of the number of arrays, from {FROM} arrays on:",
        "",
        markdown(rows),
        "",
    ]
    rows = [("Structure", "number", "trace and lower", "Optax", "compile", "Optax")]
    for name in STRUCTURES:
        for size in sorted(
            {int(n) for lib in found[name].values() for n in lib.get("lower", {})}
        ):
            costs = [
                found[name][lib].get(m, {}).get(str(size))
                for m in ("lower", "compile")
                for lib in (OURS, THEIRS)
            ]
            rows.append(
                (name, str(size), *("" if c is None else duration(c) for c in costs))
            )
    parts += ["A model of 100 arrays:", "", markdown(rows), ""]
    rows = [("Runs of a sweep", "seconds", "for each run")]
    rows += [
        (str(n), duration(c), duration(c / n))
        for n, c in points(found["runs of a sweep"][OURS]["run"])
    ]
    parts += [markdown(rows), ""]
    names = list(next(iter(found["host"].values())))
    rows = [("Outside of programs", *names)]
    for name, costs in found["host"].items():
        rows.append(
            (name, *(" / ".join(map(duration, costs[n].values())) for n in names))
        )
    return (
        "\n".join([*parts, "Behind a slash Optax's time:", "", markdown(rows)]) + "\n"
    )


def markdown(rows):
    """Return a Markdown table whose first row is the header."""
    header, *others = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([header, "| :-- |" + " --: |" * (len(rows[0]) - 1), *others])


def files(found):
    """Return every file that is made of the results, by name."""
    arrays = [
        (
            MEASURES[m],
            "arrays",
            [
                (lib, both[lib].get(m, {}))
                for both in found["arrays"].values()
                for lib in both
            ],
        )
        for m in MEASURES
    ]
    others = [
        (
            f"{name}: trace and lower, seconds",
            name,
            [(lib, costs.get("lower", {})) for lib, costs in found[name].items()],
        )
        for name in STRUCTURES
    ]
    runs = found["runs of a sweep"][OURS]["run"]
    others.append(("a sweep, seconds", "runs", [(OURS, runs)]))
    made = {"growth.md": page(found), "details.md": details(found)}
    for name, panels in (("arrays", arrays), ("others", others)):
        for kind, columns in (("wide", 2), ("narrow", 1)):
            made[f"{name}_{kind}.svg"] = draw(panels, columns)
    return made


WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 460, 96, 74, 60
STYLE = """
text { font: 25px sans-serif; fill: #1b1e23 } .title { font-weight: bold } .ground { fill: #fff }
.small { font-size: 22px; fill: #444 } .grid { stroke: #dde2e8; stroke-width: 1.5 }
path.curve { fill: none; stroke-width: 3.5 } path.gradchain { stroke: #0072b2 }
path.optax { stroke: #d55e00; stroke-dasharray: 9 6 } .ours { fill: #0072b2 } .theirs { fill: #b34a00 }
@media (prefers-color-scheme: dark) {
text { fill: #e6e9ee } .ground { fill: #1b1e23 } .small { fill: #aab2bd } .grid { stroke: #363c45 }
path.gradchain { stroke: #6cc0f5 } path.optax { stroke: #f5a05a } .ours { fill: #6cc0f5 } .theirs { fill: #f5a05a } }
"""


def draw(panels, columns):
    """Return log-log curves in panels, as many beside each other, as SVG."""
    rows = -(-len(panels) // columns)
    body = [
        f'<g transform="translate({i % columns * WIDTH} {i // columns * HEIGHT})">{panel(*one)}</g>'
        for i, one in enumerate(panels)
    ]
    width, height = columns * WIDTH, rows * HEIGHT + 46
    key = (
        f'<text class="ours" x="16" y="{height - 16}">— gradchain</text>'
        f'<text class="theirs" x="220" y="{height - 16}">- - Optax</text>'
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
            f"<title>How costs grow, on logarithmic axes</title><style>{STYLE}</style>",
            '<rect class="ground" width="100%" height="100%"/>',
            *body,
            key,
            "</svg>\n",
        ]
    )


def panel(title, label, curves):
    """Return one panel: its title, its axes, and a curve for each of (library, costs by size)."""
    everything = [pair for _, curve in curves for pair in points(curve)]
    if not everything:
        return ""
    (left, right), (low, high) = (
        ends(column) for column in zip(*everything, strict=True)
    )

    def x(n):
        return round(
            LEFT + (WIDTH - LEFT - 40) * math.log(n / left) / math.log(right / left), 1
        )

    def y(cost):
        return round(
            HEIGHT
            - BOTTOM
            - (HEIGHT - BOTTOM - TOP) * math.log(cost / low) / math.log(high / low),
            1,
        )

    parts = [f'<text class="title" x="16" y="34">{title}</text>']
    for n in powers(left, right):
        parts.append(f'<path class="grid" d="M{x(n)} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text class="small" x="{x(n)}" y="{HEIGHT - BOTTOM + 28}" text-anchor="middle">{n:,.0f}</text>'
        )
    for cost in powers(low, high):
        parts.append(f'<path class="grid" d="M{LEFT} {y(cost)}H{WIDTH - 40}"/>')
        parts.append(
            f'<text class="small" x="{LEFT - 10}" y="{y(cost) + 8}" text-anchor="end">{short(cost)}</text>'
        )
    parts.append(
        f'<text class="small" x="{WIDTH - 40}" y="{HEIGHT - 18}" text-anchor="end">{label}</text>'
    )
    for library, curve in curves:
        if path := "L".join(f"{x(n)} {y(cost)}" for n, cost in points(curve)):
            parts.append(f'<path class="curve {library}" d="M{path}"/>')
    return "\n".join(parts)


def ends(numbers):
    """Return limits of an axis around some numbers."""
    low, high = min(numbers), max(numbers)
    return (low, high) if high > low * 1.5 else (low / 2, high * 2)


def powers(low, high):
    """Return the powers of ten between two numbers, and three times these where they are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens, all_of = (
        [m * 10.0**k for k in exponents for m in factors] for factors in ((1,), (1, 3))
    )
    ticks, more = (
        [x for x in each if low * 0.999 <= x <= high * 1.001] for each in (tens, all_of)
    )
    return ticks if len(ticks) > 2 else more


def short(x):
    """Return a round number as an axis shows it."""
    return (
        f"{x:g}"
        if 1e-3 <= x < 1e4
        else f"{x:.0e}".replace("e-0", "e-").replace("e+0", "e")
    )
