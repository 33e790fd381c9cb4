"""L1, L2, decoupled decay and dropout: a network with few examples, a fifth mislabelled.

Each has one number, its strength. A sweep over strengths shows what it does to the loss on
the training examples, to that on others, and to the weights.
"""

import jax
import jax.numpy as jnp
import numpy as np
from common import (
    Report,
    command_line,
    digits,
    legend,
    log_scale,
    network,
    panels,
    style,
)

import gradchain as gc
from gradchain import losses
from gradchain.training import sweep

EXAMPLES, HIDDEN, RATE, BATCH_SIZE = 200, 64, 0.01, 20


@gc.elementwise(param=True)
def soft_threshold(g, slot, at, size: gc.NonNegative):
    """Shrink the weights to come by ``size``, and stop at zero. Stands last in a chain."""
    new = at.param + g
    return jnp.sign(new) * jnp.maximum(jnp.abs(new) - size, 0) - at.param


def optimizers(n):
    """Return optimizers by name, each a batch over ``n`` strengths, with those strengths."""
    weak, middle, strong, most = (
        np.geomspace(low, 100 * low, n) for low in (3e-4, 1e-3, 0.1, 0.01)
    )
    return {
        "none": (gc.adam(jnp.full(1, RATE)), np.zeros(1)),
        "L1, penalty": (
            gc.chain(gc.add_l1_penalty(jnp.asarray(weak)), gc.adam(RATE)),
            weak,
        ),
        "L1, soft threshold": (
            gc.chain(gc.adam(RATE), soft_threshold(RATE * jnp.asarray(most))),
            most,
        ),
        "L2, penalty": (
            gc.chain(gc.add_l2_penalty(jnp.asarray(middle)), gc.adam(RATE)),
            middle,
        ),
        "decoupled decay": (gc.adamw(RATE, weight_decay=jnp.asarray(strong)), strong),
    }


def loss_fn(params, batch, key):
    """Return the mean loss. With a key a share of the hidden units is dropped: ``params["drop"]``."""
    first, last = params["layers"]
    drop = jax.lax.stop_gradient(params["drop"])
    x = jax.nn.relu(batch["x"] @ first["kernel"] + first["bias"][None])
    if key is not None:
        x = jnp.where(jax.random.bernoulli(key, 1 - drop, x.shape), x / (1 - drop), 0)
    logits = x @ last["kernel"] + last["bias"][None]
    return jnp.mean(
        losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    )


def measure(params, batch):
    """Return the shares of weights that are zero and that are small."""
    kernels = jnp.concatenate([layer["kernel"].ravel() for layer in params["layers"]])
    return {"zero": jnp.mean(kernels == 0), "small": jnp.mean(jnp.abs(kernels) < 1e-3)}


def mislabelled(data, seed, share=0.2):
    """Return examples a share of which have labels drawn at random."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(10, size=EXAMPLES)
    return data | {"y": jnp.where(rng.random(EXAMPLES) < share, drawn, data["y"])}


def starts(drops, seeds):
    """Return a start for each share to drop and each seed."""
    keys = jax.vmap(jax.random.key)(jnp.tile(jnp.asarray(seeds), len(drops)))
    layers = jax.vmap(network(64, HIDDEN, 10))(keys)
    return {
        "layers": layers,
        "drop": jnp.repeat(jnp.asarray(drops, jnp.float32), len(seeds)),
    }


def run(tx, drops, train, test, seeds, epochs):
    """Return each column's last value, of shape (strengths, seeds)."""
    result = sweep(
        loss_fn, None, tx, train, epochs=epochs, batch_size=BATCH_SIZE, validation=test,
        metrics=measure, starts=starts(drops, seeds), seeds=list(seeds) * len(drops),
        takes_key=True,
    )  # fmt: skip
    return {
        name: x[..., -1].reshape(-1, len(seeds)) for name, x in result.history.items()
    }


def main(quick=False, seed=0):
    train, test = digits()
    train = mislabelled(jax.tree.map(lambda a: a[:EXAMPLES], train), seed)
    seeds, epochs, n = (
        (range(seed, seed + 2), 40, 2) if quick else (range(seed, seed + 5), 100, 5)
    )
    found = {}
    for name, (tx, strengths) in optimizers(n).items():
        if not (quick and name in ("L2, penalty", "decoupled decay")):
            found[name] = strengths, run(tx, [0.0], train, test, seeds, epochs)
    drops = np.linspace(0.3, 0.7, 2) if quick else np.linspace(0.1, 0.8, 5)
    plain = gc.adam(jnp.full(1, RATE))
    found["dropout"] = drops, run(plain, drops, train, test, seeds, epochs)
    rows = [row(name, *result) for name, result in found.items()]
    header = (
        "regularisation",
        "best strength",
        "training loss",
        "test loss",
        "spread over seeds",
        "weights at zero, %",
        "below 0.001, %",
        "at zero, strongest, %",
    )
    return Report(header, rows, claims(rows), picture(found))


def row(name, strengths, columns):
    """Return the numbers at the strength with the lowest test loss."""
    means = {column: x.mean(1) for column, x in columns.items()}
    k = int(np.nanargmin(means["val_loss"]))
    spread = columns["val_loss"][k].std()
    shares = (
        100 * means["val_zero"][k],
        100 * means["val_small"][k],
        100 * means["val_zero"][-1],
    )
    return name, strengths[k], means["loss"][k], means["val_loss"][k], spread, *shares


def claims(rows):
    named = {row[0]: row[1:] for row in rows}
    test = {name: row[2] for name, row in named.items()}
    train = {name: row[1] for name, row in named.items()}
    best = min(test, key=test.get)
    penalty, threshold = named["L1, penalty"], named["L1, soft threshold"]
    return {
        f"Each of them, at its best strength, has a lower test loss than none, {test['none']:.3g}; "
        f"the lowest is that of {best}, {test[best]:.3g}.": all(
            loss < test["none"] for name, loss in test.items() if name != "none"
        ),
        f"Each has a higher training loss than none, {train['none']:.2g}.": all(
            loss > train["none"] for name, loss in train.items() if name != "none"
        ),
        f"The L1 penalty brings no weight to zero; the soft threshold {threshold[4]:.0f} % of them, "
        f"and at the greatest strength {threshold[6]:.0f} %.": penalty[6]
        == 0
        < threshold[4]
        <= threshold[6],
    }


def picture(found):
    figure, (left, right) = panels(2)
    for i, (name, (strengths, columns)) in enumerate(list(found.items())[1:]):
        place = strengths / strengths[0]
        left.plot(
            place, columns["val_loss"].mean(1), label=name, **style(i, marker=True)
        )
        small = 100 * columns["val_small"].mean(1)
        right.plot(place, small, label=name, **style(i, marker=True))
    left.axhline(found["none"][1]["val_loss"].mean(), color="#777777", label="none")
    left.set(xlabel="strength / weakest", title="test loss")
    log_scale(left)
    right.set(xlabel="strength / weakest", title="weights below 0.001, %")
    log_scale(right, "x")
    legend(left)
    return figure


if __name__ == "__main__":
    command_line(main, __file__)
