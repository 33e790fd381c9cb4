"""Minimise a two-dimensional quadratic by gradient descent, momentum and Adam.

The bowl f(w) = w0² + 4 w1² is four times steeper in one direction than in the other: the step that the steep
direction allows is too short for the flat one.

Run ``python examples/01_quadratic.py``, or with ``--picture paths.png`` to draw the three paths.
"""

import argparse

import jax
import jax.numpy as jnp

import gradchain as gc


def bowl(w):
    return w[0] ** 2 + 4 * w[1] ** 2


def descend(tx, start, steps):
    """Return every point that ``tx`` visits, of shape (steps + 1, 2)."""

    def body(carry, _):
        w, state = carry
        updates, state = tx.update(jax.grad(bowl)(w), state, w)
        w = gc.apply_updates(w, updates)
        return (w, state), w

    _, path = jax.lax.scan(body, (start, tx.init(start)), length=steps)
    return jnp.concatenate([start[None], path])


def main(steps=100, picture=None):
    optimizers = {
        "gradient descent": gc.sgd(0.1),
        "momentum": gc.sgd(0.05, momentum=0.7),
        "Adam": gc.adam(0.2),
    }
    start = jnp.array([-4.0, 1.5])
    paths = {name: descend(tx, start, steps) for name, tx in optimizers.items()}
    losses = {name: float(bowl(path[-1])) for name, path in paths.items()}
    for name, path in paths.items():
        print(f"{name:18s} w = ({path[-1][0]:+.1e}, {path[-1][1]:+.1e})   f(w) = {losses[name]:.1e}")
    if picture:
        draw(paths, picture)
    return losses


def draw(paths, filename):
    import matplotlib.pyplot as plt
    import numpy as np

    x, y = np.meshgrid(np.linspace(-4.5, 2, 200), np.linspace(-2, 2, 200))
    figure, axes = plt.subplots(figsize=(8, 4))
    axes.contour(x, y, bowl((x, y)), levels=20, colors="0.8")
    for name, path in paths.items():
        axes.plot(*np.asarray(path).T, marker=".", label=name)
    axes.legend()
    figure.savefig(filename)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--picture")
    main(picture=parser.parse_args().picture)
