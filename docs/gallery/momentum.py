"""What does momentum do, on an elongated quadratic and on a network?

On the quadratic theory gives the error's factor a step exactly: the largest eigenvalue, in
size, of the matrix that one step multiplies (weight, trace) by.
"""

import jax
import jax.numpy as jnp
import numpy as np
from common import (
    Report,
    command_line,
    cross_entropy,
    digits,
    legend,
    log_scale,
    network,
    panels,
    style,
)

import gradchain as gc
from gradchain.plots import plot_path
from gradchain.training import sweep, trace_path

CURVATURES = np.array([1.0, 50.0])
START = jnp.array([-4.0, 1.0])
DECAYS = 0.0, 0.5, 0.9, 0.99
KINDS = {"heavy ball": False, "Nesterov": True}
RUNS = [(kind, decay) for kind in KINDS for decay in DECAYS if decay or not KINDS[kind]]


def valley(w):
    return 0.5 * jnp.sum(jnp.asarray(CURVATURES, jnp.float32) * w**2)


def predicted_factor(rate, decay, nesterov):
    """Return the factor by which theory has the error shrink in a step, in the long run."""
    # trace <- decay * trace + slope * w; w <- w - rate * (look * trace_new + take * slope * w)
    look, take = (decay, 1.0) if nesterov else (1.0, 0.0)
    steps = [
        np.array(
            [[1 - rate * (look + take) * slope, -rate * look * decay], [slope, decay]]
        )
        for slope in CURVATURES
    ]
    return max(abs(np.linalg.eigvals(step)).max() for step in steps)


def best_rate(decay, nesterov):
    """Return the rate with the smallest predicted factor; the middle one, if many have it."""
    rates = np.geomspace(1e-3, 0.2, 2000)
    factors = np.array([predicted_factor(rate, decay, nesterov) for rate in rates])
    best = np.flatnonzero(factors < factors.min() + 1e-6)
    return rates[best[len(best) // 2]]


def measured_factor(points):
    """Return the factor a step, fitted to the logarithm of the distance to the minimum."""
    distance = np.linalg.norm(np.asarray(points, np.float64), axis=1)
    used = np.flatnonzero((distance > 1e-200) & (np.arange(len(distance)) >= 10))
    return np.exp(np.polyfit(used, np.log(distance[used]), 1)[0])


def on_the_quadratic(steps):
    """Return the best rate, the predicted and the measured factor, and the path, by kind and decay."""
    found = {}
    with jax.enable_x64(True):
        for kind, decay in RUNS:
            rate = best_rate(decay, KINDS[kind])
            tx = gc.sgd(float(rate), momentum=decay, nesterov=KINDS[kind])
            path = jax.jit(
                lambda tx: trace_path(valley, jnp.float64(START), tx, steps)
            )(tx)
            factors = (
                predicted_factor(rate, decay, KINDS[kind]),
                measured_factor(path.points),
            )
            found[kind, decay] = rate, *factors, np.asarray(path.points)
    return found


def on_digits(rates, seeds, epochs, seed):
    """Return each decay's sweep of rates on a network."""
    train, test = digits()
    found = {}
    for kind, decay in RUNS:
        tx = gc.sgd(jnp.asarray(rates), momentum=decay, nesterov=KINDS[kind])
        found[kind, decay] = sweep(
            cross_entropy, None, tx, train, epochs=epochs, batch_size=32, validation=test,
            init=network(64, 32, 10), seeds=range(seed, seed + seeds), select="loss",
        )  # fmt: skip
    return found


def main(quick=False, seed=0):
    valley_runs = on_the_quadratic(steps=400)
    rates = np.logspace(-3, 0.5, 4) if quick else np.logspace(-4, 0.5, 10)
    net = on_digits(rates, *((1, 2) if quick else (3, 8)), seed)
    rows = []
    for (kind, decay), (rate, predicted, measured, _) in valley_runs.items():
        result = net[kind, decay]
        chosen = rates[result.best]
        rows.append(
            (
                f"{kind} {decay}", rate, predicted, measured,
                chosen, chosen / (1 - decay), result.scores[result.best],
            )
        )  # fmt: skip
    header = (
        "momentum",
        "quadratic: best rate",
        "factor a step, predicted",
        "measured",
        "network: best rate",
        "rate / (1 - momentum)",
        "training loss",
    )
    return Report(
        header, rows, claims(valley_runs, net, rates), picture(valley_runs, net, rates)
    )


def claims(valley_runs, net, rates):
    error = max(
        abs(measured - predicted) for _, predicted, measured, _ in valley_runs.values()
    )
    ball = {decay: valley_runs["heavy ball", decay] for decay in DECAYS}
    best = {decay: rates[net["heavy ball", decay].best] for decay in DECAYS}
    return {
        f"Quadratic: the measured factors differ from the predicted ones by {error:.1g} at most.": bool(
            error < 0.01
        ),
        f"Without momentum the error shrinks by {ball[0.0][2]:.3f} a step, with heavy ball 0.5 "
        f"by {ball[0.5][2]:.3f}; with 0.99 it shrinks by {ball[0.99][2]:.3f}, more slowly than "
        "without.": ball[0.5][2] < ball[0.0][2] < ball[0.99][2],
        f"Network: the best rate falls from {best[0.0]:.2g} without momentum to {best[0.99]:.2g} "
        "with heavy ball 0.99.": best[0.99] < best[0.0],
    }


def picture(valley_runs, net, rates):
    figure, (left, right) = panels(2, width=5.5)
    shown = {
        f"heavy ball {decay}": valley_runs["heavy ball", decay][3][:40]
        for decay in DECAYS[:3]
    }
    plot_path(valley, shown, ax=left, xlim=(-4.5, 3), ylim=(-2.2, 2.2))
    left.set_title("40 steps at each one's best rate")
    legend(left, loc="lower right")
    for (kind, decay), result in net.items():
        look = style(DECAYS.index(decay), marker=True) | {
            "linestyle": "-" if KINDS[kind] else ":"
        }
        score = np.where(np.isfinite(result.scores), result.scores, np.nan)
        right.plot(rates, score, label=f"{kind} {decay}", **look)
    right.set(xlabel="learning rate", ylabel="training loss", title="network on digits")
    log_scale(right)
    legend(right)
    return figure


if __name__ == "__main__":
    command_line(main, __file__)
