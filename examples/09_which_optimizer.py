"""Compare optimizers, each at its own best learning rate, on three real problems.

    python examples/09_which_optimizer.py                     # prints the tables
    python examples/09_which_optimizer.py --plot rates.png    # and draws loss against learning rate

Every optimizer gets the same budget: the same learning rates, two for each factor of ten, each from the same seeds, all
of them trained in one compiled call, and a cosine decay to zero (but for the schedule-free one). The numbers are losses
on held-out data.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import datasets

import gradchain as gc
from gradchain import losses, schedules, training

OPTIMIZERS = {
    "sgd": gc.sgd,
    "sgd, momentum 0.9": functools.partial(gc.sgd, momentum=0.9),
    "adagrad": gc.adagrad,
    "rmsprop": gc.rmsprop,
    "adam": gc.adam,
    "nadam": gc.nadam,
    "amsgrad": gc.amsgrad,
    "radam": gc.radam,
    "adabelief": gc.adabelief,
    "adan": gc.adan,
    "lion": gc.lion,
    "lamb": gc.lamb,
    "novograd": gc.novograd,
    "adafactor": functools.partial(gc.adafactor, min_dim_size_to_factor=32),
    "ademamix": gc.ademamix,
    "adopt": gc.adopt,
    "muon": gc.muon,
    "schedule-free adamw": gc.schedule_free_adamw,
    "prodigy": gc.prodigy,
}
"""Constructors that take a learning rate; other arguments are the library's defaults."""
BATCH_SIZE = 32
HELD_OUT = 0.25


def dense(key, inputs, outputs):
    """Return a layer's parameters, drawn with variance 2 / inputs (He et al. 2015)."""
    return {"kernel": jax.random.normal(key, (inputs, outputs)) * (2 / inputs) ** 0.5, "bias": jnp.zeros(outputs)}


def mlp(layers, x):
    """Apply dense layers with ReLU between them."""
    for layer in layers[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ layers[-1]["kernel"] + layers[-1]["bias"]


def cross_entropy(logits, labels):
    return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(logits, labels))


def digits():
    """Classify images of 8 by 8 pixels: a network with two hidden layers."""
    images, labels = datasets.load_digits(return_X_y=True)

    def init(key):
        sizes = (64, 64), (64, 64), (64, 10)
        return [dense(jax.random.fold_in(key, i), *size) for i, size in enumerate(sizes)]

    def loss_fn(params, batch):
        return cross_entropy(mlp(params, batch["x"]), batch["y"])

    return init, loss_fn, {"x": np.float32(images / 16), "y": labels}


def badly_scaled():
    """Tell benign from malignant tumours by logistic regression on raw measurements, from 0.001 to 4,000 in size."""
    x, labels = datasets.load_breast_cancer(return_X_y=True)

    def init(key):
        return {"kernel": jnp.zeros(30), "bias": jnp.zeros(())}

    def loss_fn(params, batch):
        return jnp.mean(losses.sigmoid_binary_cross_entropy(batch["x"] @ params["kernel"] + params["bias"], batch["y"]))

    return init, loss_fn, {"x": np.float32(x / 100), "y": np.float32(labels)}


def text(context=8, width=16):
    """Predict the next character of English text from the eight before it: an embedding and one hidden layer."""
    described = datasets.load_diabetes, datasets.load_breast_cancer, datasets.load_wine
    written = "".join(load().DESCR for load in described)
    letters = sorted(set(written))
    codes = np.array([letters.index(letter) for letter in written])
    windows = np.lib.stride_tricks.sliding_window_view(codes, context + 1)

    def init(key):
        sizes = (context * width, 64), (64, len(letters))
        layers = [dense(jax.random.fold_in(key, i), *size) for i, size in enumerate(sizes)]
        return {"embedding": jax.random.normal(key, (len(letters), width)), "layers": layers}

    def loss_fn(params, batch):
        x = params["embedding"][batch["x"]]
        return cross_entropy(mlp(params["layers"], x.reshape(*x.shape[:-2], -1)), batch["y"])

    return init, loss_fn, {"x": windows[:, :-1], "y": windows[:, -1]}


PROBLEMS = {"digits": digits, "badly scaled features": badly_scaled, "text": text}


def split(data, seed=0):
    """Return training and held-out examples."""
    order = np.random.default_rng(seed).permutation(len(data["y"]))
    cut = int(len(order) * HELD_OUT)
    return {k: v[order[cut:]] for k, v in data.items()}, {k: v[order[:cut]] for k, v in data.items()}


def compare(problem, optimizers, rates, seeds, epochs):
    """Return, for each optimizer, the held-out loss of every learning rate and seed; infinite where it diverged."""
    init, loss_fn, data = problem()
    train, held_out = split(data)
    results = {}
    for name, optimizer in optimizers.items():

        def make(total_steps, optimizer=optimizer):
            has_schedule = optimizer is gc.schedule_free_adamw
            return optimizer(rates if has_schedule else schedules.cosine_decay_schedule(rates, total_steps))

        results[name] = training.sweep(
            loss_fn, None, make, train, epochs=epochs, batch_size=BATCH_SIZE, init=init, seeds=seeds,
            validation=held_out,
        ).final  # fmt: skip
    return results


def summary(rates, results):
    """Return rows of optimizer, best loss, its spread over the seeds, rate, lowest and highest rate that come close.

    A rate comes close if its loss is at most a tenth above the best one's.
    """
    rows = []
    for name, final in results.items():
        means = np.mean(final, axis=1)
        best = int(np.argmin(means))
        close = rates[means <= 1.1 * means[best]]
        rows.append((name, means[best], np.std(final[best]), rates[best], close.min(), close.max()))
    return sorted(rows, key=lambda row: row[1])


def table(rows):
    """Return the rows as a Markdown table."""
    lines = ["| optimizer | held-out loss | learning rate | within 10 % |", "|---|---|---|---|"]
    for name, loss, spread, rate, low, high in rows:
        lines.append(f"| {name} | {loss:.3f} ± {spread:.3f} | {rate:.2g} | {low:.2g} to {high:.2g} |")
    return "\n".join(lines)


def plot(rates, by_problem, path):
    """Draw the mean loss against the learning rate, a panel for each problem."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(by_problem), figsize=(5 * len(by_problem), 4.5), squeeze=False)
    for ax, (problem, results) in zip(axes[0], by_problem.items(), strict=True):
        lowest = min(np.min(np.mean(final, axis=1)) for final in results.values())
        for k, (name, final) in enumerate(results.items()):
            ax.plot(rates, np.mean(final, axis=1), label=name, color=plt.cm.tab20(k % 20), marker="o", markersize=3)
        ax.set(xscale="log", yscale="log", ylim=(0.9 * lowest, 20 * lowest), title=problem, xlabel="learning rate")
    axes[0, 0].set_ylabel("held-out loss")
    axes[0, -1].legend(bbox_to_anchor=(1.02, 1), loc="upper left", fontsize="small", frameon=False)
    figure.savefig(path, dpi=150, bbox_inches="tight", facecolor="white")
    plt.close(figure)


def main(optimizers=None, problems=None, decades=(-5, 1), seeds=3, epochs=10, plot_to=None):
    """Compare ``optimizers`` (names; all by default) on ``problems``, print the tables and return the rows."""
    chosen = {name: OPTIMIZERS[name] for name in optimizers or OPTIMIZERS}
    rates = jnp.logspace(*decades, 2 * (decades[1] - decades[0]) + 1)
    by_problem, rows = {}, {}
    for name in problems or PROBLEMS:
        by_problem[name] = compare(PROBLEMS[name], chosen, rates, list(range(seeds)), epochs)
        rows[name] = summary(np.asarray(rates), by_problem[name])
        print(f"\n{name}: {PROBLEMS[name].__doc__}\n\n{table(rows[name])}")
    if plot_to is not None:
        plot(rates, by_problem, plot_to)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", help="where to draw the picture (needs matplotlib)")
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    main(epochs=arguments.epochs, plot_to=arguments.plot)
