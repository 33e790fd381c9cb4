"""Many starts and annealed noise, on a function with dozens of valleys.

Gradient descent ends in the valley that it starts in, so that many starts find more of them.
Noise that fades carries a run out of one valley into the next, for as long as it is strong.
"""

import jax
import jax.numpy as jnp
import numpy as np
from common import Report, command_line, legend, log_scale, panels, style

import gradchain as gc
from gradchain.plots import plot_path
from gradchain.training import trace_path

WIDTH = 4.5
"""Starts lie in the square from minus this to this."""
RATE, GAMMA = 0.02, 0.55
NOISE = 0.0, 100.0, 300.0, 1000.0, 3000.0
STARTS = 1, 2, 5, 10, 20, 50, 100, 200, 500


def ripples(w):
    """Return a bowl with ripples: 0 at the origin, and a valley near each pair of small whole numbers."""
    return jnp.sum(w**2 + 1 - jnp.cos(2 * jnp.pi * w))


def paths(noise, starts, keys, steps):
    """Return the paths from all starts, of shape (starts, steps + 1, 2), in one vmapped call."""

    def run(start, key):
        return trace_path(
            ripples, start, gc.noisy_sgd(RATE, noise, GAMMA, key), steps
        ).points

    return jax.vmap(run)(starts, keys)


def in_the_lowest_valley(points):
    return np.abs(points).max(-1) < 0.5


def best_of(found, count, rng):
    """Return how often one of ``count`` runs, drawn from all with replacement, finds the lowest valley."""
    draws = rng.integers(len(found), size=(2000, count))
    return found[draws].any(1).mean()


def main(quick=False, seed=0):
    runs, steps = (1000, 400) if quick else (4000, 1000)
    key = jax.random.key(seed)
    starts = jax.random.uniform(key, (runs, 2), minval=-WIDTH, maxval=WIDTH)
    keys = jax.random.split(jax.random.fold_in(key, 1), runs)
    ends = jax.jit(jax.vmap(lambda noise: paths(noise, starts, keys, steps)[:, -1]))
    rng, rows, curves = np.random.default_rng(seed), [], {}
    for noise, points in zip(NOISE, np.asarray(ends(jnp.array(NOISE))), strict=True):
        found = in_the_lowest_valley(points)
        measured = [best_of(found, n, rng) for n in STARTS]
        theory = 1 - (1 - found.mean()) ** np.array(STARTS)
        curves[noise] = measured, theory
        enough = int(np.ceil(np.log(0.01) / np.log(1 - found.mean())))
        ten, hundred = STARTS.index(10), STARTS.index(100)
        rows.append(
            (f"{noise:g}", 100 * found.mean(), enough, *(100 * x[ten] for x in curves[noise]),
             *(100 * x[hundred] for x in curves[noise]))
        )  # fmt: skip
    header = (
        "noise's variance at first",
        "runs in the lowest valley, %",
        "starts for 99 %",
        "best of 10, %",
        "theory",
        "best of 100, %",
        "theory",
    )
    walks = {f"noise {noise:g}": walk(noise, steps, seed) for noise in (0.0, 1000.0)}
    return Report(header, rows, claims(rows, curves), picture(walks, curves))


def walk(noise, steps, seed):
    """Return every tenth point of one run from a far corner."""
    start, key = jnp.array([[-3.3, 2.8]]), jax.random.key(seed)[None]
    return np.asarray(paths(noise, start, key, steps))[0, ::10]


def claims(rows, curves):
    plain = rows[0]
    best = max(rows, key=lambda row: row[1])
    error = max(np.abs(np.subtract(*pair)).max() for pair in curves.values())
    return {
        f"Without noise {plain[1]:.2g} % of the runs end in the lowest valley; its square is "
        f"{100 / (2 * WIDTH) ** 2:.2g} % of the area.": abs(
            plain[1] - 100 / (2 * WIDTH) ** 2
        )
        < 1,
        f"With noise of variance {best[0]} at first it is {best[1]:.0f} %; with the strongest, "
        f"{rows[-1][0]}, {rows[-1][1]:.0f} %.": best[1] > 5 * plain[1]
        and rows[-1][1] < best[1],
        f"The best of n runs is there as often as 1 - (1 - p)^n says, within {100 * error:.1f} "
        "percentage points.": error < 0.05,
    }


def picture(walks, curves):
    figure, (left, right) = panels(2, width=5)
    plot_path(ripples, walks, ax=left, xlim=(-WIDTH, WIDTH), ylim=(-WIDTH, WIDTH))
    left.set_title("two runs from one start")
    legend(left, loc="lower right")
    for i, (noise, (measured, theory)) in enumerate(curves.items()):
        look = style(i, marker=True)
        right.plot(STARTS, theory, color=look["color"], linestyle=look["linestyle"])
        right.plot(
            STARTS, measured, **look | {"linestyle": "none"}, label=f"noise {noise:g}"
        )
    right.set(xlabel="starts", ylabel="share of successes")
    log_scale(right, "x")
    right.set_title("measured (marks) and $1-(1-p)^n$ (lines)")
    legend(right)
    return figure


if __name__ == "__main__":
    command_line(main, __file__)
