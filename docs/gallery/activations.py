"""Activation functions in a deep network: who trains, and what the gradients do on the way.

Backpropagation multiplies the gradient by the weights and by the activation's slope, layer
after layer. If the product is below one on average the gradient vanishes, above it explodes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from common import Report, command_line, digits, legend, log_scale, panels, style

import gradchain as gc
from gradchain import losses
from gradchain.training import grid, sweep

ACTIVATIONS = {
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "ReLU": jax.nn.relu,
    "GELU": jax.nn.gelu,
}
WIDTH, DEPTH = 64, 8
USUAL, LARGE = 2.0, 4.0
"""Variance of a weight, times the number of inputs: He's, and twice as much."""
NO_CLIPPING = 1e9


def init(key, gain=USUAL):
    """Draw the weights; those of the hidden layers are stacked, so that a scan applies them."""
    draws = jax.random.normal(key, (DEPTH + 1, WIDTH, WIDTH)) * (gain / WIDTH) ** 0.5
    return {"hidden": draws[:-1], "out": draws[-1, :, :10]}


def loss_with(activation, params, batch):
    x, _ = jax.lax.scan(
        lambda x, w: (activation(x @ w), None), batch["x"], params["hidden"]
    )
    per_example = losses.softmax_cross_entropy_with_integer_labels(
        x @ params["out"], batch["y"]
    )
    return jnp.mean(per_example)


def layer_norms(loss, train, seeds):
    """Return the norm of the gradient of each hidden layer's weights at the start."""

    def one(key):
        grads = jax.grad(loss)(init(key), train)
        return jnp.linalg.norm(grads["hidden"], axis=(1, 2))

    norms = jax.jit(jax.vmap(one))(jax.vmap(jax.random.key)(jnp.asarray(seeds)))
    return np.exp(np.log(np.asarray(norms)).mean(0))


def predicted_ratio(activation, train):
    """Return the first hidden layer's gradient over the last one's, for very wide layers.

    The sums z of a layer are normal; their variance q follows from layer to layer.
    """
    z = np.random.default_rng(0).normal(size=20_000)
    size = float(jnp.mean(train["x"] ** 2))
    sizes, slopes = [], []
    for _ in range(DEPTH):
        sums = jnp.asarray(z * (USUAL * size) ** 0.5, jnp.float32)
        sizes.append(size)
        slopes.append(
            USUAL * float(jnp.mean(jax.vmap(jax.grad(activation))(sums) ** 2))
        )
        size = float(jnp.mean(activation(sums) ** 2))
    return (sizes[0] / sizes[-1] * np.prod(slopes[:-1])) ** 0.5


def train_all(loss, gain, rates, train, seeds, epochs):
    """Train with every rate, clipped and not; the loss is of all examples, after each epoch."""
    tx = gc.chain(gc.clip_by_global_norm(1.0), gc.sgd(0.1, momentum=0.5))
    return sweep(
        loss, None, grid(tx, {"max_norm": [NO_CLIPPING, 1.0], "learning_rate": rates}), train,
        epochs=epochs, batch_size=32, validation=train,
        init=functools.partial(init, gain=gain), seeds=seeds,
    )  # fmt: skip


def main(quick=False, seed=0):
    train = jax.tree.map(lambda a: a[: 300 if quick else 1437], digits()[0])
    seeds = list(range(seed, seed + (2 if quick else 5)))
    epochs, rates = (6, [0.1]) if quick else (15, [0.01, 0.03, 0.1, 0.3])
    found, rows = {}, []
    for name in ("sigmoid", "ReLU") if quick else ACTIVATIONS:
        activation = ACTIVATIONS[name]
        loss = functools.partial(loss_with, activation)
        norms = layer_norms(loss, train, seeds)
        usual, large = (
            train_all(loss, gain, rates, train, seeds, epochs)
            for gain in (USUAL, LARGE)
        )
        found[name] = norms, usual, large
        rows.append(row(name, rates, *found[name], predicted_ratio(activation, train)))
    header = (
        "activation",
        "first / last hidden layer's gradient",
        "predicted",
        "best rate",
        "training loss",
        "spread over seeds",
        "larger weights: loss",
        "diverged, %",
        "clipped: loss",
        "diverged, %",
    )
    return Report(header, rows, claims(rows), picture(found, rates))


def row(name, rates, norms, usual, large, predicted):
    n = len(rates)
    best = int(np.argmin(usual.scores[:n]))
    result = usual.scores[best], usual.spread[best]
    plain, clipped = (
        (large.scores[part].min(), 100 * large.diverged[part].mean())
        for part in (slice(n), slice(n, None))
    )
    ratio = norms[0] / norms[-1]
    return name, ratio, predicted, rates[best], *result, *plain, *clipped


def claims(rows):
    named = {row[0]: row for row in rows}
    ratio, loss = named["sigmoid"][1], named["sigmoid"][4]
    others = max(row[4] for row in rows if row[0] != "sigmoid")
    agree = max(max(row[1] / row[2], row[2] / row[1]) for row in rows)
    lost, kept = (np.mean([row[i] for row in rows]) for i in (7, 9))
    relu = named["ReLU"]
    return {
        f"With sigmoid the gradient falls to {ratio:.2g} of its size over {DEPTH - 1} layers; with the "
        "others it stays within a factor of 3.": (
            ratio < 0.01
            and all(1 / 3 < row[1] < 3 for row in rows if row[0] != "sigmoid")
        ),
        f"Measured and predicted ratios differ by a factor of {agree:.2g} at most.": agree
        < 1.5,
        f"Sigmoid stays at {loss:.3g}, near ln 10 = 2.303, the loss of a guess; the others come to "
        f"{others:.2g} or lower.": abs(loss - np.log(10)) < 0.05 and others < 1.8,
        f"Of all runs with larger weights {lost:.0f} % diverged without clipping and {kept:.0f} % "
        f"with it; of ReLU's {relu[7]:.0f} % and {relu[9]:.0f} %.": kept < lost
        and relu[9] < relu[7],
    }


def picture(found, rates):
    figure, (left, right) = panels(2)
    for i, (name, (norms, usual, _)) in enumerate(found.items()):
        layers = np.arange(1, len(norms) + 1)
        left.plot(layers, norms, label=name, **style(i, marker=True))
        best = int(np.argmin(usual.scores[: len(rates)]))
        curves = usual.history["val_loss"][best]
        epochs = np.arange(1, curves.shape[1] + 1)
        right.plot(epochs, curves.mean(0), label=name, **style(i, marker=True))
        low, high = curves.min(0), curves.max(0)
        right.fill_between(
            epochs, low, high, color=style(i)["color"], alpha=0.15, linewidth=0
        )
    left.set(xlabel="hidden layer", ylabel="norm of its gradient", title="at the start")
    log_scale(left, "y")
    right.set(xlabel="epoch", ylabel="training loss", title="mean and range over seeds")
    log_scale(right, "y")
    legend(left)
    legend(right)
    return figure


if __name__ == "__main__":
    command_line(main, __file__)
