"""Batch, mini-batch and stochastic gradient descent on the same budget of examples.

A step of batch gradient descent looks at all examples, a stochastic one at one. In one pass
over the data the first takes one step and the other as many as there are examples.
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
from gradchain.training import sweep


def main(quick=False, seed=0):
    train = digits()[0]
    if quick:
        train = jax.tree.map(lambda a: a[:400], train)
    examples, epochs = len(train["y"]), 5 if quick else 20
    sizes = {"batch": examples, "mini-batch": 32, "stochastic": 1}
    rates = np.logspace(-3, 2, 6 if quick else 11)
    runs = {
        name: measure(train, size, rates, epochs, seed) for name, size in sizes.items()
    }
    rows = [row(name, sizes[name], examples, run) for name, run in runs.items()]
    header = (
        "gradient descent",
        "examples a step",
        "steps an epoch",
        "lowest loss after 1 epoch",
        "at rate",
        f"lowest after {epochs} epochs",
        "at rate",
        "jumps in the last half",
    )
    return Report(header, rows, claims(runs, epochs), picture(runs))


def measure(train, batch_size, rates, epochs, seed):
    """Train softmax regression with every rate; the loss is of all examples, after each epoch."""
    start = [{"kernel": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}]
    return sweep(
        cross_entropy, start, gc.sgd(jnp.asarray(rates)), train, epochs=epochs,
        batch_size=batch_size, validation=train, seeds=seed,
    )  # fmt: skip


def curve(run):
    """Return the loss after each epoch at the rate with the lowest loss on average."""
    losses = run.history["val_loss"][:, 0]
    return losses[np.argmin(np.nan_to_num(losses.mean(1), nan=np.inf))]


def jumps(run):
    """Return the mean change of the loss from epoch to epoch, up or down, in the last half."""
    late = curve(run)[len(curve(run)) // 2 :]
    return np.abs(np.diff(np.log(late))).mean()


def lowest(run, epoch):
    """Return the lowest loss that any rate has after an epoch, and that rate."""
    losses = run.history["val_loss"][:, 0, epoch]
    best = int(np.nanargmin(losses))
    return losses[best], run.varied["learning_rate"][best]


def row(name, size, examples, run):
    return name, size, examples // size, *lowest(run, 0), *lowest(run, -1), jumps(run)


def claims(runs, epochs):
    first = {name: lowest(run, 0)[0] for name, run in runs.items()}
    last = {name: lowest(run, -1)[0] for name, run in runs.items()}
    rises = {name: int(np.sum(np.diff(curve(run)) > 0)) for name, run in runs.items()}
    return {
        f"After one epoch stochastic gradient descent is the lowest, at {first['stochastic']:.2g}; "
        f"mini-batch is at {first['mini-batch']:.2g} and batch at {first['batch']:.2g}.": (
            first["stochastic"] < first["mini-batch"] < first["batch"]
        ),
        f"After {epochs} epochs batch is still the highest, at {last['batch']:.2g}.": (
            max(last["mini-batch"], last["stochastic"]) < last["batch"]
        ),
        f"At the rate with the lowest loss on average the loss rose from one epoch to the next "
        f"{rises['batch']} times with batch, {rises['mini-batch']} with mini-batch and "
        f"{rises['stochastic']} with stochastic gradient descent.": True,
    }


def picture(runs):
    figure, (left, right) = panels(2)
    for i, (name, run) in enumerate(runs.items()):
        losses = curve(run)
        left.plot(
            np.arange(1, len(losses) + 1), losses, label=name, **style(i, marker=True)
        )
        rates = run.varied["learning_rate"]
        score = np.where(np.isfinite(run.scores), run.scores, np.nan)
        right.plot(rates, score, label=name, **style(i, marker=True))
    left.set(xlabel="epoch", ylabel="training loss", title="rate with the lowest mean")
    left.xaxis.get_major_locator().set_params(integer=True)
    log_scale(left, "y")
    right.set(xlabel="learning rate", title="all rates, last epoch")
    log_scale(right)
    legend(left)
    legend(right)
    return figure


if __name__ == "__main__":
    command_line(main, __file__)
