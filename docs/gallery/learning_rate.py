"""How many iterations does gradient descent take, and how does that depend on its rate?

Two problems, all rates at once: a quadratic (linear regression), whose curvature says
exactly which rates work, and a network, whose curvature changes as it learns.
"""

import jax
import jax.numpy as jnp
import numpy as np
from common import (
    Report,
    command_line,
    cross_entropy,
    digits,
    first,
    legend,
    log_scale,
    network,
    panels,
    style,
)
from sklearn import datasets

import gradchain as gc
from gradchain.training import trace_path

NAMED = 0.001, 0.01, 0.1


def regression():
    """Return a quadratic loss, its start, and its lowest value: linear regression."""
    x, y = datasets.load_diabetes(return_X_y=True)
    x, y = (jnp.asarray((a - a.mean(0)) / a.std(0), jnp.float32) for a in (x, y))
    best = jnp.linalg.lstsq(x, y)[0]

    def loss(w):
        return 0.5 * jnp.mean((x @ w - y) ** 2)

    return loss, jnp.zeros(x.shape[1]), float(loss(best))


def network_on_digits(examples, seed):
    """Return the training loss of a network as a function of its weights alone."""
    train = jax.tree.map(lambda a: a[:examples], digits()[0])
    start = network(64, 32, 10)(jax.random.key(seed))
    return lambda params: cross_entropy(params, train), start


def sharpness(loss, params):
    """Return the largest curvature: the largest eigenvalue of the Hessian."""

    def curvature_along(v):
        return jax.jvp(jax.grad(loss), (params,), (v,))[1]

    @jax.jit
    def largest(v0):
        return gc.power_iteration(curvature_along, v0=v0, num_iters=300)[0]

    key = jax.random.key(1)
    return float(
        largest(jax.tree.map(lambda x: jax.random.normal(key, x.shape), params))
    )


def losses_for(loss, start, rates, steps):
    """Return the loss after each step, of shape (rates, steps + 1), in one vmapped call."""
    txs = gc.sgd(jnp.asarray(rates))
    run = jax.vmap(
        lambda tx: trace_path(loss, start, tx, steps).values, (gc.batch_axes(txs),)
    )
    return np.asarray(jax.jit(run)(txs), np.float64)


def stops_falling(values, window=100, share=1e-4):
    """Return the first step that the next ``window`` steps improve by less than a share."""
    values = np.nan_to_num(values, nan=np.inf)
    return first(values[:, window:] > (1 - share) * values[:, :-window])


def main(quick=False, seed=0):
    rates = np.sort(np.concatenate([np.logspace(-4, 1, 32 if quick else 64), NAMED]))
    loss, start, lowest = regression()
    limit = 2 / sharpness(loss, start)
    values = losses_for(loss, start, rates, 3_000 if quick else 20_000)
    converges = values[:, -1] < values[:, 0]
    gap = (values - lowest) / (values[:, :1] - lowest)
    near = np.where(converges, first(gap < 0.01), np.inf)
    stop = np.where(converges, stops_falling(values), np.inf)

    net_loss, net_start = network_on_digits(200 if quick else 1437, seed)
    net_limit = 2 / sharpness(net_loss, net_start)
    net_values = losses_for(net_loss, net_start, rates, 100 if quick else 600)
    net_near = first(net_values < 0.2)

    rows = [
        (
            f"{rates[i]:.3g}{note}",
            near[i],
            stop[i],
            gap[i, int(stop[i])] if np.isfinite(stop[i]) else np.inf,
            net_near[i],
        )
        for i, note in interesting(rates, near, limit)
    ]
    header = (
        "learning rate",
        "regression: steps to 1 % of the gap",
        "steps until the loss stops falling",
        "gap left there",
        "network: steps to a loss of 0.2",
    )
    figure = picture(rates, near, limit, net_near, net_limit)
    found = claims(rates, near, converges, limit, net_near, net_limit)
    return Report(header, rows, found, figure)


def interesting(rates, near, limit):
    """Return the rates to show in the table, in order, each with a remark."""
    notes = {
        int(np.argmin(abs(rates - rate))): "" for rate in (1e-4, *NAMED, 2.0, 10.0)
    }
    notes[int(np.argmin(near))] = " (fewest steps)"
    notes[int(np.flatnonzero(rates < limit)[-1])] = " (last below 2/L)"
    notes[int(np.flatnonzero(rates > limit)[0])] = " (first above 2/L)"
    return sorted(notes.items())


def claims(rates, near, converges, limit, net_near, net_limit):
    times = [rate * near[list(rates).index(rate)] for rate in NAMED]
    best = int(np.argmin(near))
    largest = rates[np.isfinite(net_near)].max()
    return {
        f"Regression: 2/L is {limit:.3g}. All {converges.sum()} rates below it end with a lower "
        f"loss than they began with, and none of the {sum(rates > limit)} rates above it does.": bool(
            np.array_equal(converges, rates < limit)
        ),
        "Rate times steps is nearly constant: "
        + ", ".join(f"{time:.3g}" for time in times)
        + " at 0.001, 0.01 and 0.1.": max(times) < 1.1 * min(times),
        f"The fewest steps, {near[best]:.0f}, are at rate {rates[best]:.3g}, "
        "between 1/L and 2/L.": limit / 2 < rates[best] < limit,
        f"Network: 2/L at the start is {net_limit:.3g}, but rates up to {largest:.3g} "
        "reach the target.": net_limit < largest,
        f"Rate {rates[-1]:.3g} doesn't reach it.": not np.isfinite(net_near[-1]),
    }


def picture(rates, near, limit, net_near, net_limit):
    figure, axes = panels(2)
    curves = (
        (near, limit, "linear regression"),
        (net_near, net_limit, "network on digits"),
    )
    for i, (ax, (steps, bound, title)) in enumerate(zip(axes, curves, strict=True)):
        fine = np.isfinite(steps)
        ax.plot(rates[fine], np.maximum(steps[fine], 1), **style(i, marker=True))
        failed = rates[~fine]
        top = np.nanmax(steps[fine]) * 2
        ax.plot(
            failed, np.full(len(failed), top), "x", color="black", label="not reached"
        )
        where = "2/L" if i == 0 else "2/L at the start"
        ax.axvline(
            bound, color="#777777", linestyle="--", label=f"{where}: {bound:.2f}"
        )
        ax.set(xlabel="learning rate", title=title)
        log_scale(ax)
        legend(ax, loc="lower left")
    axes[0].set_ylabel("steps to 1 % of the gap")
    axes[1].set_ylabel("steps to a loss of 0.2")
    return figure


if __name__ == "__main__":
    command_line(main, __file__)
