"""A saddle and a plateau in two dimensions: who escapes, how fast, with noise and without.

Near a saddle the gradient is small because two slopes meet, on a plateau because there is no
slope. Descent grows away from a saddle exponentially; across a plateau it creeps.
"""

import jax
import jax.numpy as jnp
import numpy as np
from common import Report, command_line, first, legend, log_scale, panels, style
from scipy.special import expi

import gradchain as gc
from gradchain.plots import plot_path
from gradchain.training import trace_path

RATE = 0.05
OPTIMIZERS = {
    "gradient descent": gc.sgd(RATE),
    "momentum 0.9": gc.sgd(RATE, momentum=0.9),
    "RMSprop": gc.rmsprop(RATE),
    "Adam": gc.adam(RATE),
    "sign descent": gc.sign_sgd(RATE),
}
NOISE = 1e-2
"""Standard deviation of the noise added to each component of the gradient."""
BESIDE = 0.0, 1e-6, 1e-3
"""How far from the saddle's ridge the starts are."""
PLATEAU_START = 3.5, 0.5


def saddle(w):
    """Return a function with a saddle at the origin and minima at (0, -1) and (0, 1)."""
    return 0.5 * w[0] ** 2 - 0.5 * w[1] ** 2 + 0.25 * w[1] ** 4


def plateau(w):
    """Return a well in a flat country, whose slope falls off like exp(-r² / 2)."""
    return 1 - jnp.exp(-0.5 * jnp.sum(w**2))


def left_the_saddle(points):
    return np.abs(points[..., 1]) > 0.5


def in_the_well(points):
    return np.linalg.norm(points, axis=-1) < 1


def paths(function, starts, tx, steps, keys):
    """Return all points, of shape (starts, without noise and with it, keys, steps + 1, 2)."""

    def run(start, variance, key):
        noisy = gc.chain(gc.add_noise(variance, 0.0, key), tx)
        return trace_path(function, start, noisy, steps).points

    for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
        run = jax.vmap(run, axes)
    return np.asarray(
        jax.jit(run)(jnp.asarray(starts), jnp.array([0.0, NOISE**2]), keys)
    )


def main(quick=False, seed=0):
    optimizers = (
        {k: OPTIMIZERS[k] for k in ("gradient descent", "Adam")}
        if quick
        else OPTIMIZERS
    )
    keys = jnp.arange(seed, seed + (3 if quick else 21))
    starts = [(1.0, beside) for beside in BESIDE]
    rows, drawn = [], {}
    for name, tx in optimizers.items():
        from_saddle = paths(saddle, starts, tx, 400, keys)
        across = paths(plateau, [PLATEAU_START], tx, 1500, keys)
        escape = np.median(first(left_the_saddle(from_saddle)), axis=-1)
        cross = np.median(first(in_the_well(across)), axis=-1)
        rows.append((name, *escape[:, 0], escape[0, 1], *cross[0]))
        drawn[name] = from_saddle[2, 0, 0], across[0, 0, 0]
    header = (
        "optimizer",
        "steps from the saddle's ridge",
        "1e-6 beside it",
        "1e-3 beside it",
        "on it, with noise",
        "across the plateau",
        "with noise",
    )
    return Report(header, rows, claims(rows), picture(drawn))


def claims(rows):
    named = {row[0]: row[1:] for row in rows}
    near, far, noisy, across, across_noisy = named["gradient descent"][1:]
    escape = [np.log(0.5 / beside) / np.log(1 + RATE) for beside in BESIDE[1:]]
    r = np.hypot(*PLATEAU_START)
    creep = 0.5 * (expi(r**2 / 2) - expi(0.5)) / RATE
    stuck = sum(not np.isfinite(row[1]) for row in rows)
    return {
        f"Of {len(rows)} optimizers that start on the ridge without noise, {stuck} never leave it.": (
            stuck == len(rows)
        ),
        f"Gradient descent leaves after {near:.0f} and {far:.0f} steps; theory says "
        f"{escape[0]:.0f} and {escape[1]:.0f}.": (
            abs(near / escape[0] - 1) < 0.05 and abs(far / escape[1] - 1) < 0.05
        ),
        f"With noise of {NOISE} it leaves the ridge after {noisy:.0f} steps.": noisy
        < near,
        f"Adam leaves after {named['Adam'][1]:.0f} and {named['Adam'][2]:.0f} steps: how near the "
        "ridge it starts makes no difference of more than 2 steps.": (
            abs(named["Adam"][1] - named["Adam"][2]) <= 2
        ),
        f"Gradient descent crosses the plateau in {across:.0f} steps; theory says {creep:.0f}.": (
            abs(across / creep - 1) < 0.05
        ),
        f"Noise changes that to {across_noisy:.0f}.": abs(across_noisy / across - 1)
        < 0.2,
        f"Adam crosses it in {named['Adam'][4]:.0f}.": named["Adam"][4] < across / 5,
    }


def picture(drawn):
    figure, (left, right) = panels(2, width=5.5)
    shown = {name: path[:150] for name, (path, _) in drawn.items()}
    plot_path(saddle, shown, ax=left, xlim=(-0.7, 1.4), ylim=(-0.6, 1.5))
    for i, (name, (_, path)) in enumerate(drawn.items()):
        steps = np.arange(1, len(path))
        right.plot(steps, np.linalg.norm(path[1:], axis=1), label=name, **style(i))
    left.set_title("from 1e-3 beside the saddle's ridge")
    right.set(ylim=(0, 4), xlabel="step", ylabel="distance to the well's middle")
    log_scale(right, "x")
    right.set_title("across the plateau")
    legend(left, loc="upper right")
    legend(right, loc="lower left")
    return figure


if __name__ == "__main__":
    command_line(main, __file__)
