"""Draw the pictures of the README and the docs from real runs: ``python docs/make_images.py``."""

import re
import runpy
from pathlib import Path

import jax.numpy as jnp
import matplotlib

import gradchain as gc
from gradchain.plots import plot_path, plot_schedule, plot_sweep
from gradchain.training import trace_path

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path(__file__).parent / "images"
EXAMPLES = Path(__file__).parents[1] / "examples"
README = Path(__file__).parents[1] / "README.md"
START = jnp.array([-4.0, 1.5])


def valley(w):
    return w[0] ** 2 + 4 * w[1] ** 2


def save(name, ax):
    figure = ax.figure
    figure.savefig(FOLDER / name, dpi=150, bbox_inches="tight", facecolor="white")
    print(FOLDER / name)
    plt.close(figure)


def paths(name, optimizers, steps):
    _, ax = plt.subplots(figsize=(8, 4))
    drawn = {
        label: trace_path(valley, START, tx, steps) for label, tx in optimizers.items()
    }
    plot_path(valley, drawn, ax=ax, xlim=(-4.5, 2.5), ylim=(-2.0, 2.0))
    save(name, ax)


def tutorial():
    descent = {
        f"learning rate {rate}": gc.chain(gc.scale_by_learning_rate(rate))
        for rate in (0.02, 0.2, 0.24)
    }
    paths("gradient_descent.png", descent, steps=20)
    heavy_ball = gc.chain(gc.trace(1 / 9), gc.scale_by_learning_rate(2 / 9))
    paths(
        "momentum.png",
        {
            "gradient descent": gc.chain(gc.scale_by_learning_rate(0.2)),
            "momentum": heavy_ball,
        },
        steps=20,
    )
    paths(
        "adam.png",
        {"RMSprop, rate 0.1": gc.rmsprop(0.1), "Adam, rate 0.3": gc.adam(0.3)},
        steps=60,
    )


def schedules():
    _, ax = plt.subplots(figsize=(8, 4))
    shown = {
        "cosine": gc.cosine_decay_schedule(1.0, 1000),
        "warm-up and cosine": gc.warmup_cosine_decay_schedule(0.0, 1.0, 100, 1000),
        "step decay": gc.piecewise_constant_schedule(1.0, {400: 0.5, 700: 0.5}),
        "warm-up, stable, decay": gc.warmup_stable_decay_schedule(
            0.0, 1.0, 100, 600, 300
        ),
    }
    plot_schedule(shown, 1000, ax=ax, ylabel="learning rate")
    save("schedules.png", ax)


def averages():
    example = runpy.run_path(str(EXAMPLES / "10_averages.py"))
    example["main"](picture=FOLDER / "averages.png")


def precision():
    example = runpy.run_path(str(EXAMPLES / "11_precision.py"))
    example["main"](picture=FOLDER / "precision.png")


def readme_sweep():
    """Run the README's own code and plot the sweep that it leaves behind."""
    namespace = {}
    for code in re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S):
        exec(code, namespace)
    _, ax = plt.subplots(figsize=(8, 4))
    plot_sweep(namespace["result"], ax=ax)
    save("sweep.png", ax)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    tutorial()
    schedules()
    averages()
    precision()
    readme_sweep()
