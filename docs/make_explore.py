"""Make the runs that the page Explore shows: ``python docs/make_explore.py``.

All runs of an optimizer, over functions, momenta and rates, are one call of ``vmap``. They are kept in
docs/_static/explore_data.js: numbers as base64 of a zlib stream, the rest as plain data.
"""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from landscapes import LANDSCAPES, contours, place

import gradchain as gc

FILE = Path(__file__).parent / "_static" / "explore_data.js"
STEPS = 100
RATES = [float(f"{10**x:.2g}") for x in np.linspace(-3, 1, 25)]
MOMENTA = [0.0, 0.5, 0.8, 0.9, 0.95, 0.98]
OPTIMIZERS = {
    "Momentum": "gc.sgd({rate}, momentum={momentum})",
    "Nesterov": "gc.sgd({rate}, momentum={momentum}, nesterov=True)",
    "AdaGrad": "gc.adagrad({rate})",
    "RMSprop": "gc.rmsprop({rate}, momentum={momentum})",
    "Adam": "gc.adam({rate}, b1={momentum})",
    "NAdam": "gc.nadam({rate}, b1={momentum})",
    "AdaBelief": "gc.adabelief({rate}, b1={momentum})",
    "Signum": "gc.signum({rate}, beta={momentum})",
    "Lion": "gc.lion({rate}, b1={momentum}, weight_decay=0.0)",
    "Schedule-free": "gc.schedule_free_sgd({rate}, b1={momentum})",
}
UNIT = 128
"""Points are whole numbers of 1/128."""
FAR = 100.0
"""A run ends where a coordinate is larger or isn't finite."""
LOWEST, PER_DECADE = -8, 16
"""Losses are whole numbers of 1/16 of a factor of ten, from 1e-8 on, which is 0."""


def runs(call: str) -> tuple[np.ndarray, np.ndarray]:
    """Return points and losses of all of an optimizer's runs, of shape (functions, momenta, rates, steps + 1, ...)."""
    functions = [one.function for one in LANDSCAPES.values()]
    starts = jnp.array([one.start for one in LANDSCAPES.values()])
    momenta = MOMENTA if "{momentum}" in call else MOMENTA[:1]
    code = call.replace("{rate}", "rate").replace("{momentum}", "momentum")

    def run(index: Any, start: Any, momentum: Any, rate: Any) -> Any:
        tx = eval(code, {"gc": gc, "rate": rate, "momentum": momentum})
        return gc.training.trace_path(
            lambda w: jax.lax.switch(index, functions, w), start, tx, STEPS
        )

    for axes in ((None, None, None, 0), (None, None, 0, None), (0, 0, None, None)):
        run = jax.vmap(run, axes)
    path = jax.jit(run)(
        jnp.arange(len(functions)), starts, jnp.array(momenta), jnp.array(RATES)
    )
    return np.asarray(path.points, float), np.asarray(path.values, float)


def encode(points: np.ndarray, values: np.ndarray) -> bytes:
    """Return runs as bytes: lengths; changes of x, of y and of the loss from step to step.

    Changes are 16-bit numbers, an even one 2a for a and an odd one 2a - 1 for -a; low and high bytes stand apart.
    """
    shape = values.shape
    inside = np.isfinite(points).all(-1) & (np.abs(points) < FAR).all(-1)
    lengths = np.where(inside.all(-1), shape[-1], inside.argmin(-1))
    kept = np.arange(shape[-1]) < lengths[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        losses = np.clip((np.log10(values) - LOWEST) * PER_DECADE, 0, 255)
    numbers = [points[..., 0] * UNIT, points[..., 1] * UNIT, losses]
    planes = [lengths.astype(np.uint8).tobytes()]
    for x in numbers:
        whole = np.round(np.where(kept, x, 0)).astype(int)
        changes = np.diff(whole, axis=-1, prepend=0) * kept
        code = np.where(changes < 0, -2 * changes - 1, 2 * changes).astype(np.uint16)
        planes += [
            (code & 255).astype(np.uint8).tobytes(),
            (code >> 8).astype(np.uint8).tobytes(),
        ]
    return b"".join(planes)


def main() -> None:
    optimizers, blocks = [], []
    for name, call in OPTIMIZERS.items():
        blocks.append(encode(*runs(call)))
        optimizers.append({"name": name, "call": call})
        print(name, len(blocks[-1]), flush=True)
    landscapes = [
        {
            "name": key,
            "title": one.title,
            "formula": one.formula,
            "least": [[*map(int, at)] for at in place(one.least)],
            "contours": contours(one.function, 12),
        }
        for key, one in LANDSCAPES.items()
    ]
    data = {
        "steps": STEPS,
        "rates": RATES,
        "momenta": MOMENTA,
        "unit": UNIT,
        "lowest": LOWEST,
        "perDecade": PER_DECADE,
        "optimizers": optimizers,
        "landscapes": landscapes,
        "runs": base64.b64encode(zlib.compress(b"".join(blocks), 9)).decode(),
    }
    text = json.dumps(data, ensure_ascii=False, indent=1)
    FILE.write_text(f"const EXPLORE = {text};\n", encoding="utf-8")
    print(FILE, FILE.stat().st_size)


if __name__ == "__main__":
    main()
