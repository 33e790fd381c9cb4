"""How long does an epoch take, and how long does it take to reach a loss, by batch size?

The times are those of one machine on one day; all other numbers are the same each time.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from common import (
    Report,
    command_line,
    cross_entropy,
    first,
    legend,
    log_scale,
    mnist,
    network,
    panels,
    style,
)

import gradchain as gc
from gradchain.training import make_step, scan_epoch, sweep

SIZES = 10, 100, 1000


def best_of(runs, function):
    """Return the shortest of several times, in seconds; the first call, which compiles, doesn't count."""
    times = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - began)
    return min(times[1:])


def scanned(train, start, tx, size):
    """Return a function that trains for an epoch, compiled as a whole."""
    epoch = jax.jit(functools.partial(scan_epoch, cross_entropy, batch_size=size))
    return lambda: epoch(start, tx, tx.init(start), train, jax.random.key(0)).params


def stepped(train, start, tx, size):
    """Return a function that trains for an epoch by a Python loop over compiled steps."""
    step = make_step(cross_entropy, tx)
    host = jax.device_get(train)

    def epoch():
        order = np.random.default_rng(0).permutation(len(host["y"]))
        params = jax.tree.map(jnp.copy, start)
        state = tx.init(params)
        for i in range(0, len(order) - size + 1, size):
            batch = {name: a[order[i : i + size]] for name, a in host.items()}
            params, state, _ = step(params, state, batch)
        return params

    return epoch


def epochs_needed(train, start, size, rates, target, epochs, seed):
    """Return the fewest epochs to a training loss, over all rates, and the rate."""
    result = sweep(
        cross_entropy, start, gc.sgd(jnp.asarray(rates)), train, epochs=epochs,
        batch_size=size, validation=train, seeds=seed,
    )  # fmt: skip
    needed = first(result.history["val_loss"][:, 0] < target) + 1
    return needed.min(), rates[needed.argmin()]


def main(quick=False, seed=0):
    train = mnist()[0]
    if quick:
        train = jax.tree.map(lambda a: a[:1000], train)
    examples = len(train["y"])
    start = network(784, 32, 10)(jax.random.key(seed))
    rates = (0.1, 0.4) if quick else (0.06, 0.12, 0.25, 0.5, 1.0, 2.0)
    target, limits = (1.0, (3, 10, 40)) if quick else (0.2, (8, 20, 60))
    rows = []
    for size, epochs in zip(SIZES, limits, strict=True):
        needed, rate = epochs_needed(train, start, size, rates, target, epochs, seed)
        tx = gc.sgd(rate)
        scan, loop = (
            best_of(2 if quick else 50, make(train, start, tx, size))
            for make in (scanned, stepped)
        )
        rows.append(
            (
                size,
                examples // size,
                scan,
                loop,
                loop / scan,
                rate,
                needed,
                needed * scan,
            )
        )
    header = (
        "examples a step",
        "steps an epoch",
        "s an epoch, one scan",
        "s an epoch, Python loop",
        "loop / scan",
        "best rate",
        f"epochs to a loss of {target}",
        "s to it, one scan",
    )
    return Report(header, rows, claims(rows), picture(rows))


def claims(rows):
    """Return sentences that hold on any machine; what depends on it is stated as it is."""
    small, middle, large = rows
    return {
        f"An epoch of steps with {small[0]} examples takes {small[2] / large[2]:.2g} times as long "
        f"as one of steps with {large[0]:,}, by one scan.": True,
        f"A Python loop takes {small[4]:.2g} times as long as one scan with {small[0]} examples "
        f"a step, and {large[4]:.2g} times with {large[0]:,}.": True,
        f"Epochs needed: {small[6]:.0f} with {small[0]}, {middle[6]:.0f} with {middle[0]}, "
        f"{large[6]:.0f} with {large[0]:,} examples a step.": small[6]
        <= middle[6]
        < large[6]
        < np.inf,
    }


def picture(rows):
    figure, (left, right) = panels(2)
    sizes, _, scan, loop, _, _, _, total = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    left.plot(sizes, loop, label="Python loop", **style(1, marker=True))
    left.plot(sizes, scan, label="one scan", **style(0, marker=True))
    right.plot(sizes, total, label="one scan", **style(0, marker=True))
    left.set(xlabel="examples a step", ylabel="seconds", title="an epoch")
    log_scale(left)
    right.set(xlabel="examples a step", title="to the target loss")
    log_scale(right)
    legend(left)
    return figure


if __name__ == "__main__":
    command_line(main, __file__)
