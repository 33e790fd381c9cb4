"""How many steps does a larger mini-batch save, with the learning rate retuned for each?

A larger batch averages noise away, so that a longer step pays. Once the gradient is clear,
more examples add nothing: the steps needed level off, and the examples used go up.
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

import gradchain as gc
from gradchain.training import trace_path, train_step

EVERY = 5
"""Steps between two looks at the loss over all examples."""


def losses_for(train, batch_size, rates, start, key, steps):
    """Return the loss over all examples every few steps, of shape (rates, looks)."""
    examples = len(train["y"])

    def run(tx):
        def step(carry, key):
            chosen = jax.random.randint(key, (batch_size,), 0, examples)
            batch = (
                train
                if batch_size == examples
                else jax.tree.map(lambda a: a[chosen], train)
            )
            params, state, _ = train_step(cross_entropy, carry[0], tx, carry[1], batch)
            return (params, state), None

        def look(carry, keys):
            carry, _ = jax.lax.scan(step, carry, keys)
            return carry, cross_entropy(carry[0], train)

        keys = jax.random.split(key, (steps // EVERY, EVERY))
        return jax.lax.scan(look, (start, tx.init(start)), keys)[1]

    txs = gc.sgd(jnp.asarray(rates))
    return np.asarray(jax.jit(jax.vmap(run, in_axes=(gc.batch_axes(txs),)))(txs))


def steps_needed(train, batch_size, rates, target, seeds, steps):
    """Return the median over the seeds of the steps to the target, for each rate."""
    runs = []
    for seed in seeds:
        start = network(64, 32, 10)(jax.random.key(seed))
        losses = losses_for(
            train, batch_size, rates, start, jax.random.key(seed), steps
        )
        runs.append(EVERY * (first(losses < target) + 1))
    return np.median(runs, axis=0)


def noise_scale(train, seed, steps=20, rate=0.5):
    """Return tr(Σ) / |G|² after a few steps: how much the examples' gradients differ."""
    start = network(64, 32, 10)(jax.random.key(seed))

    @jax.jit
    def measure(tx):
        path = trace_path(lambda params: cross_entropy(params, train), start, tx, steps)
        params = jax.tree.map(lambda x: x[-1], path.points)
        grads = jax.vmap(jax.grad(cross_entropy), (None, 0))(params, one_by_one)
        mean = jax.tree.map(lambda g: g.mean(0, keepdims=True), grads)
        spread = gc.tree.norm(gc.tree.sub(grads, mean), squared=True) / len(train["y"])
        return spread / gc.tree.norm(mean, squared=True)

    one_by_one = jax.tree.map(lambda a: a[:, None], train)
    return float(measure(gc.sgd(rate)))


def fit(sizes, steps):
    """Return (floor, scale) of the law steps = floor * (1 + scale / size), by relative least squares."""
    design = np.stack([np.ones(len(sizes)), 1 / np.asarray(sizes)], 1) / steps[:, None]
    floor, slope = np.linalg.lstsq(design, np.ones(len(sizes)))[0]
    return floor, slope / floor


def main(quick=False, seed=0):
    train = digits()[0]
    sizes = (10, 50, 500) if quick else (5, 10, 20, 50, 100, 200, 500, 1437)
    if quick:
        train = jax.tree.map(lambda a: a[:500], train)
    rates = np.geomspace(0.2, 2.4, 3 if quick else 8)
    seeds, target = range(seed, seed + (1 if quick else 3)), 0.5 if quick else 0.2
    limits = {size: 300 if quick or size >= 50 else 600 for size in sizes}
    needed = {n: steps_needed(train, n, rates, target, seeds, limits[n]) for n in sizes}
    best = np.array([steps.min() for steps in needed.values()])
    law = fit(sizes, best)
    rows = [
        (n, rates[k.argmin()], k.min(), int(n * k.min()), law[0] * (1 + law[1] / n))
        for n, k in needed.items()
    ]
    header = (
        "examples a step",
        "best rate",
        f"steps to a loss of {target}",
        "examples used",
        "steps by the law",
    )
    found = claims(sizes, best, law, noise_scale(train, seed))
    return Report(header, rows, found, picture(needed, rates, best, law))


def claims(sizes, best, law, scale):
    error = max(abs(law[0] * (1 + law[1] / np.asarray(sizes)) / best - 1))
    used = np.asarray(sizes) * best
    return {
        f"steps = {law[0]:.3g} · (1 + {law[1]:.3g} / size) fits within {100 * error:.0f} %.": bool(
            error < 0.35
        ),
        f"From {sizes[0]} to {sizes[-1]} examples a step the steps fall by a factor of "
        f"{best[0] / best[-1]:.2g}, while the examples used rise by {used[-1] / used[0]:.3g}.": bool(
            best[0] > best[-1] and used[-1] > used[0]
        ),
        f"The gradient's noise scale after 20 steps is {scale:.3g}, larger than the fitted "
        f"{law[1]:.3g}.": scale > law[1],
    }


def picture(needed, rates, best, law):
    figure, (left, right) = panels(2)
    sizes = np.array(list(needed))
    for i, (size, steps) in enumerate(needed.items()):
        if i % 2 == 0 or len(needed) < 5:
            look = style(i // 2 if len(needed) > 4 else i, marker=True)
            left.plot(
                rates,
                np.where(np.isfinite(steps), steps, np.nan),
                label=f"{size}",
                **look,
            )
    fine = np.geomspace(sizes[0], sizes[-1], 100)
    right.plot(sizes, best, "o", color="#0072B2", label="measured, at the best rate")
    right.plot(
        fine,
        law[0] * (1 + law[1] / fine),
        **style(1),
        label="floor · (1 + scale / size)",
    )
    left.set(xlabel="learning rate", ylabel="steps to the target")
    log_scale(left)
    left.set_title("by examples a step")
    right.set(xlabel="examples a step", title="rate retuned for each")
    log_scale(right)
    legend(left)
    legend(right)
    return figure


if __name__ == "__main__":
    command_line(main, __file__)
