"""AdaGrad, RMSprop, Adam and newer optimizers, each with its rate tuned by the same sweep.

One problem has features of very different sizes, the other is a network on images. Each
optimizer gets the same rates, the same seeds and the same number of steps.
"""

import functools

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
    split,
    style,
)
from sklearn import datasets

import gradchain as gc
from gradchain import losses
from gradchain.training import sweep

OPTIMIZERS = {
    "sgd": gc.sgd,
    "sgd, momentum 0.9": functools.partial(gc.sgd, momentum=0.9),
    "adagrad": gc.adagrad,
    "rmsprop": gc.rmsprop,
    "adam": gc.adam,
    "nadam": gc.nadam,
    "adabelief": gc.adabelief,
    "lion": gc.lion,
    "muon": gc.muon,
    "schedule-free adamw": gc.schedule_free_adamw,
}
DRAWN = "sgd", "sgd, momentum 0.9", "adagrad", "adam", "lion", "muon"


def tumours():
    """Return logistic regression on raw measurements, whose sizes span six powers of ten."""
    x, y = datasets.load_breast_cancer(return_X_y=True)

    def loss(w, batch):
        scores = batch["x"] @ w["kernel"] + w["bias"]
        return jnp.mean(losses.sigmoid_binary_cross_entropy(scores, batch["y"]))

    def init(key):
        return {"kernel": jnp.zeros(x.shape[1]), "bias": jnp.zeros(())}

    return loss, init, *split(x / 100, y.astype(np.float32), 142)


def images():
    """Return a network on digits."""
    return cross_entropy, network(64, 32, 10), *digits()


PROBLEMS = {"raw features": tumours, "network on digits": images}


def tuned(optimizer, problem, rates, seeds, epochs):
    """Return the held-out loss of every rate and seed, of shape (rates, seeds); infinite where it diverged."""
    loss, init, train, test = problem
    return sweep(
        loss, None, optimizer(jnp.asarray(rates)), train, epochs=epochs, batch_size=32,
        init=init, seeds=seeds, validation=test,
    ).final  # fmt: skip


def main(quick=False, seed=0):
    chosen = ("sgd", "adagrad", "adam") if quick else tuple(OPTIMIZERS)
    rates = np.logspace(-3, 0, 3) if quick else np.logspace(-4, 0.5, 10)
    seeds = range(seed, seed + (2 if quick else 3))
    problems = {name: make() for name, make in PROBLEMS.items()}
    found = {
        name: {
            k: tuned(OPTIMIZERS[name], p, rates, seeds, 4 if quick else 10)
            for k, p in problems.items()
        }
        for name in chosen
    }
    rows = [
        (name, *(x for final in by.values() for x in summary(final, rates)))
        for name, by in found.items()
    ]
    columns = ("loss", "spread", "best rate", "rates within 20 %")
    header = (
        "optimizer",
        *(f"{problem}: {column}" for problem in problems for column in columns),
    )
    return Report(header, rows, claims(rows), picture(found, rates))


def summary(final, rates):
    """Return the best mean loss, its spread, its rate, and how many rates come within a fifth of it."""
    means = final.mean(1)
    best = int(np.nanargmin(means))
    return (
        means[best],
        final[best].std(),
        rates[best],
        int(np.sum(means < 1.2 * means[best])),
    )


def claims(rows):
    raw, net = ({row[0]: row[i] for row in rows} for i in (1, 5))
    first_raw, first_net = min(raw, key=raw.get), min(net, key=net.get)
    rates = {row[0]: row[3] for row in rows}
    return {
        f"On raw features gradient descent comes to {raw['sgd']:.2g} at best, Adam to {raw['adam']:.2g}; "
        f"the lowest is {first_raw}'s, {raw[first_raw]:.2g}.": raw["adam"] < raw["sgd"],
        f"Lower than Adam's there: {', '.join(k for k in raw if raw[k] < raw['adam']) or 'none'}.": True,
        f"On the network gradient descent comes to {net['sgd']:.2g}, Adam to {net['adam']:.2g}; "
        f"the lowest is {first_net}'s, {net[first_net]:.2g}.": net["adam"]
        < 1.5 * net["sgd"],
        f"On raw features the best rates span a factor of {max(rates.values()) / min(rates.values()):.3g}: "
        "a rate tuned for one optimizer says nothing about another.": max(
            rates.values()
        )
        > 9 * min(rates.values()),
    }


def picture(found, rates):
    figure, axes = panels(2)
    for ax, problem in zip(axes, PROBLEMS, strict=True):
        for i, name in enumerate(name for name in DRAWN if name in found):
            final = found[name][problem]
            means = np.where(np.isfinite(final).all(1), final.mean(1), np.nan)
            ax.plot(rates, means, label=name, **style(i, marker=True))
        lowest = min(by[problem].mean(1).min() for by in found.values())
        ax.set(ylim=(0.8 * lowest, 30 * lowest), xlabel="learning rate", title=problem)
        log_scale(ax)
    axes[0].set_ylabel("held-out loss")
    legend(axes[0])
    return figure


if __name__ == "__main__":
    command_line(main, __file__)
