"""Decay of the learning rate against a constant one.

Gradient descent on random mini-batches stalls where the noise in the gradients undoes what
a step gains. The smaller the rate, the lower that floor; and the slower the way to it.
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
    panels,
    style,
)

import gradchain as gc
from gradchain.training import sweep, trace_path

BATCH_SIZE = 32
STRENGTH = 1e-3
"""Of an L2 penalty, which makes the loss strictly convex: it has one lowest value."""

START = [{"kernel": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}]


def penalised(params, batch):
    return cross_entropy(params, batch) + 0.5 * STRENGTH * gc.tree.vdot(params, params)


def schedules(peak, steps):
    """Return schedules by name, all with the same highest rate."""
    third = steps // 3
    return {
        "constant": gc.constant_schedule(peak),
        "step decay": gc.piecewise_constant_schedule(
            peak, {third: 0.5, 2 * third: 0.5}
        ),
        "exponential": gc.exponential_decay(peak, steps, 0.01),
        "cosine": gc.cosine_decay_schedule(peak, steps),
        "warm-up and cosine": gc.warmup_cosine_decay_schedule(
            0.0, peak, steps // 10, steps
        ),
        "warm-up, stable, decay": gc.warmup_stable_decay_schedule(
            0.0, peak, steps // 10, steps - steps // 10 - steps // 5, steps // 5
        ),
    }


def lowest(train):
    """Return the loss at the minimum, from a long run of accelerated gradient descent."""

    @jax.jit
    def run(tx):
        return trace_path(
            lambda params: penalised(params, train), START, tx, 3000
        ).values

    return float(jnp.min(run(gc.sgd(0.3, momentum=0.97, nesterov=True))))


def main(quick=False, seed=0):
    train = digits()[0]
    epochs, seeds = (20, 2) if quick else (30, 5)
    peaks = jnp.asarray([0.1, 1.0, 3.0] if quick else [0.03, 0.1, 0.3, 1.0, 3.0])
    steps = epochs * (len(train["y"]) // BATCH_SIZE)
    floor = lowest(train)
    found = {}
    for name, schedule in schedules(peaks, steps).items():
        if quick and name not in ("constant", "cosine", "warm-up, stable, decay"):
            continue
        result = sweep(
            penalised, START, gc.sgd(schedule), train, epochs=epochs, batch_size=BATCH_SIZE,
            validation=train, seeds=range(seed, seed + seeds),
        )  # fmt: skip
        found[name] = result.history["val_loss"] - floor
    chosen = int(np.argmin(abs(np.asarray(peaks) - 0.1)))
    rows = [row(name, gap, chosen, peaks) for name, gap in found.items()]
    header = (
        "schedule",
        "gap with 0.1",
        "best highest rate",
        "gap with it",
        "spread over seeds",
    )
    return Report(
        header, rows, claims(found, peaks, chosen), picture(found, steps, epochs, peaks)
    )


def row(name, gap, chosen, peaks):
    last = gap[..., -1]
    best = int(np.nanargmin(last.mean(1)))
    return (
        name,
        last[chosen].mean(),
        float(peaks[best]),
        last[best].mean(),
        last[best].std(),
    )


def claims(found, peaks, chosen):
    last = {name: gap[..., -1].mean(1) for name, gap in found.items()}
    constant, best = last["constant"], {name: gap.min() for name, gap in last.items()}
    behind = min(
        best["constant"] / value for name, value in best.items() if name != "constant"
    )
    at_tenth = {name: gap[chosen] for name, gap in last.items()}
    return {
        f"With a highest rate of 0.1 the constant rate ends nearest to the minimum, at a gap of "
        f"{at_tenth['constant']:.2g}.": at_tenth["constant"] == min(at_tenth.values()),
        f"Every schedule, at its best highest rate, ends nearer to the minimum than the best "
        f"constant rate: by a factor of {behind:.2g} at least.": behind > 1,
        f"A constant rate of {peaks[-1]:.2g} stalls at a gap of {constant[-1]:.2g}, "
        f"{constant[-1] / constant.min():.2g} times that of the best constant rate.": bool(
            constant[-1] > constant.min()
        ),
    }


def picture(found, steps, epochs, peaks):
    figure, (left, right) = panels(2)
    counts = jnp.arange(steps)
    for i, (name, gap) in enumerate(found.items()):
        schedule = schedules(1.0, steps)[name]
        left.plot(counts, jax.vmap(schedule)(counts), label=name, **style(i))
        best = int(np.nanargmin(gap[..., -1].mean(1)))
        label = f"{name}, {peaks[best]:.2g}"
        right.plot(np.arange(1, epochs + 1), gap[best].mean(0), label=label, **style(i))
    left.set(xlabel="step", ylabel="share of the highest rate", title="schedules")
    right.set(
        xlabel="epoch",
        ylabel="loss above the minimum",
        title="each at its best highest rate",
    )
    log_scale(right, "y")
    legend(right)
    return figure


if __name__ == "__main__":
    command_line(main, __file__)
