"""The picture of the ratios: a dot and an interval for each optimizer, fewest steps first.

Two SVGs, for wide and for narrow windows, each with colours for light and dark.
"""

import math

from problems import PROBLEMS
from results import Found, Line
from runs import REFERENCE
from words import number

ROW, LABEL, PLOT = 36, 290, 300
"""Height of a row; widths of names and of the axis."""
WIDTH, GAP = LABEL + PLOT + 84, 30
"""Width of a panel with the numbers to the right, and what lies between two."""
STYLE = """
text { font: 25px sans-serif; fill: #1b1e23 } .title { font-weight: bold } .ground { fill: #fff }
.small { font-size: 22px; fill: #444 } .grid { stroke: #dde2e8; stroke-width: 1.5 }
.one { stroke: #8a94a1; stroke-width: 3 } .range { stroke: #0072b2; stroke-width: 5 }
.dot { fill: #0072b2 } .adamw .dot { fill: #d55e00 } .adamw .range { stroke: #d55e00 }
@media (prefers-color-scheme: dark) {
text { fill: #e6e9ee } .ground { fill: #1b1e23 } .small { fill: #aab2bd } .grid { stroke: #363c45 }
.one { stroke: #78828f } .range { stroke: #6cc0f5 } .dot { fill: #6cc0f5 }
.adamw .dot { fill: #f5a05a } .adamw .range { stroke: #f5a05a } }
"""


def place(x: float, found: Found) -> float:
    """Return where a ratio lies on the axis, which ends a little beyond what was run."""
    low, high = found.shortest * 0.92, found.longest * 1.06
    part = math.log(min(max(x, low), high) / low) / math.log(high / low)
    return round(LABEL + PLOT * part, 1)


def row(line: Line, found: Found, y: float) -> list[str]:
    """Return an optimizer's name, interval, dot and number."""
    value, low, high = (place(x, found) for x in line.ratio)
    words = number(line.ratio.value, found).replace(" ", "")
    if line.optimizer == REFERENCE:
        low, high, words = value, value, "1"
    dot = f'<circle class="dot" cx="{value}" cy="{y}" r="8"/>'
    if not math.isfinite(line.ratio.value):
        dot = f'<path class="dot" d="M{value - 8} {y - 9}l16 9l-16 9z"/>'
    name = "soap, kl" if line.optimizer == "kl_soap" else line.optimizer
    name = name.removesuffix("_adamw")
    return [
        f'<g class="{"rival" if line.is_rival else "adamw"}">',
        f'<text x="{LABEL - 14}" y="{y + 9}" text-anchor="end">{name}</text>',
        f'<path class="range" d="M{low} {y}H{high}"/>{dot}',
        f'<text x="{WIDTH - 16}" y="{y + 9}" text-anchor="end">{words}</text></g>',
    ]


def panel(title: str, found: Found) -> tuple[list[str], int]:
    """Return a problem's rows below its title, and their height."""
    height = 104 + ROW * len(found.lines)
    top, bottom = 60, height - 34
    parts = [f'<text class="title" x="16" y="34">{title}</text>']
    for tick in (0.4, 0.5, 0.6, 0.8, 1.0, 1.2):
        at, kind = place(tick, found), "one" if tick == 1 else "grid"
        parts += [
            f'<path class="{kind}" d="M{at} {top - 8}V{bottom - 6}"/>',
            f'<text class="small" x="{at}" y="{bottom + 20}" text-anchor="middle">{tick:g}</text>',
        ]
    for i, line in enumerate(found.lines):
        parts += row(line, found, top + ROW * (i + 0.5))
    return parts, height


def draw(every: dict[str, Found], wide: bool) -> str:
    """Return the picture: the first problem beside the others if wide, else all below each other."""
    body, heights = [], [0, 0]
    for i, (name, found) in enumerate(every.items()):
        parts, height = panel(PROBLEMS[name].title, found)
        side = int(wide and i > 0)
        body += [
            f'<g transform="translate({side * (WIDTH + GAP)} {heights[side]})">',
            *parts,
            "</g>",
        ]
        heights[side] += height
    width = 2 * WIDTH + GAP if heights[1] else WIDTH
    caption = "fraction of AdamW's steps, with 95 % intervals"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {max(heights) + 40}" role="img">',
            f"<title>{caption}</title><style>{STYLE}</style>",
            '<rect class="ground" width="100%" height="100%"/>',
            *body,
            f'<text class="small" x="16" y="{max(heights) + 20}">{caption}</text>',
            "</svg>\n",
        ]
    )
