"""Draw each optimizer's path on two functions: ``python docs/make_paths.py [names]``.

What is run is the line ``picture`` of its page in docs/optimizers. A rate that is left open there
is the one of 17, from 1e-3 to 10, whose losses are lowest: in the mean of their logarithms over all steps.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from landscapes import LANDSCAPES, SIZE, Landscape, contours, line, place

import gradchain as gc

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
from optimizers import EXAMPLES, PATHS, Entry, entries, needs

RATES = 10.0 ** np.linspace(-3, 1, 17)
STEPS = 60
CHOSEN = "valley", "saddle"
STYLE = """
.ground { fill: #fff } .level { fill: none; stroke: #c3cad3; stroke-width: 2.4 }
.path, .step { fill: none; stroke: #0072b2; stroke-width: 4; stroke-linejoin: round }
.step { stroke-width: 10; stroke-linecap: round }
.start { fill: #fff; stroke: #0072b2; stroke-width: 5 } .end { fill: #d55e00 }
.least { stroke: #333; stroke-width: 4 }
@media (prefers-color-scheme: dark) {
.ground { fill: #1b1e23 } .level { stroke: #48505b }
.path, .step { stroke: #6cc0f5 } .start { fill: #1b1e23; stroke: #6cc0f5 }
.end { fill: #f5a05a } .least { stroke: #ddd } }
"""


def one_example(tx: Any) -> Any:
    """Return a transform of one gradient that hands it on as a batch of one example's."""
    return optax.GradientTransformation(
        tx.init, lambda g, state, params: tx.update(g[None], state, params)
    )


def run(entry: Entry, landscape: Landscape) -> dict[str, Any]:
    """Return an optimizer's path, at the best rate if it has one, and what is to be said of it."""
    start = jnp.reshape(jnp.array(landscape.start), entry.shape)

    def path(rate: Any) -> Any:
        tx = eval(entry.picture.replace("{rate}", "rate"), {"gc": gc, "rate": rate})
        if needs(entry.transform) == EXAMPLES:
            tx = one_example(tx)
        return gc.training.trace_path(
            lambda w: landscape.function(w.ravel()), start, tx, STEPS
        )

    if "{rate}" in entry.picture:
        runs = jax.jit(jax.vmap(path))(jnp.array(RATES))
        best = int(jnp.nanargmin(jnp.log(runs.values + 1e-6).mean(1)))
    else:
        runs, best = jax.tree.map(lambda x: x[None], jax.jit(path)(0.0)), None
    points, values = (np.asarray(x[best or 0], float) for x in runs)
    return {
        "title": landscape.title,
        "rate": None if best is None else float(RATES[best]),
        "steps": STEPS,
        "first": float(values[0]),
        "last": float(values[-1]),
        "points": points.reshape(-1, 2),
    }


def draw(name: str, key: str, points: Any) -> str:
    """Return a picture of a path as SVG."""
    steps, least = place(points), place(LANDSCAPES[key].least)
    cross = "M{0} {1}m-12 -12l24 24m0 -24l-24 24"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE[0]} {SIZE[1]}" role="img">',
        f"<title>{name}: {LANDSCAPES[key].title}</title><style>{STYLE}</style>",
        '<rect class="ground" width="100%" height="100%"/>',
        f'<path class="level" d="{contours(LANDSCAPES[key].function)}"/>',
        *(f'<path class="least" d="{cross.format(*at)}"/>' for at in least),
        f'<path class="path" d="{line(points)}"/>',
        f'<path class="step" d="{"".join(f"M{x} {y}h0" for x, y in steps)}"/>',
        '<circle class="start" cx="{}" cy="{}" r="10"/>'.format(*steps[0]),
        '<circle class="end" cx="{}" cy="{}" r="10"/>'.format(*steps[-1]),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def main(names: list[str]) -> None:
    file = PATHS / "runs.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    for entry in entries():
        if names and entry.name not in names:
            continue
        found = {key: run(entry, LANDSCAPES[key]) for key in CHOSEN}
        for key, one in found.items():
            points = one.pop("points")
            (PATHS / f"{entry.name}_{key}.svg").write_text(
                draw(entry.name, key, points)
            )
        known[entry.name] = found
        print(
            entry.name,
            *(
                f"{r['rate']} {r['first']:.3g} -> {r['last']:.3g}"
                for r in found.values()
            ),
            flush=True,
        )
    file.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


if __name__ == "__main__":
    PATHS.mkdir(exist_ok=True)
    main(sys.argv[1:])
