"""Draw the pictures of the README and the docs from real runs: ``python docs/make_images.py``.

With ``--long`` those of the two large examples too, which takes some ten minutes.
"""

import json
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jax.flatten_util import ravel_pytree

import gradchain as gc
from gradchain import training
from gradchain.plots import (
    plot_halving,
    plot_path,
    plot_population,
    plot_schedule,
    plot_sweep,
)
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


def run_blocks(page):
    """Run the Python of a page, and return what it leaves behind."""
    namespace = {}
    for code in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S):
        exec(code, namespace)
    return namespace


def populations():
    page = run_blocks(FOLDER.parent / "populations.md")
    _, ax = plt.subplots(figsize=(8, 4))
    plot_halving(page["halving"], ax=ax)
    save("halving.png", ax)
    print(page["halving"].table(rows=8))
    _, ax = plt.subplots(figsize=(8, 4))
    plot_population(page["population"], ax=ax)
    save("population.png", ax)


def precision():
    example = runpy.run_path(str(EXAMPLES / "11_precision.py"))
    example["main"](picture=FOLDER / "precision.png")


def fit_a_curve():
    page = run_blocks(FOLDER.parent / "fit_a_curve.md")
    t, params = np.linspace(0, 90, 200), page["fit"].params
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(params)
        slopes = [
            jax.jacfwd(lambda w, x=x: page["yields"](unravel(w), x))(flat)
            for x in (t, page["days"])
        ]
        curve = np.asarray(page["yields"](params, t))
    error = np.sqrt(2 * float(page["fit"].value) / (len(page["days"]) - len(params)))
    inverse = np.linalg.pinv(np.asarray(slopes[1]))
    width = 2 * error * np.linalg.norm(np.asarray(slopes[0]) @ inverse, axis=1)
    _, ax = plt.subplots(figsize=(7, 4))
    ax.fill_between(t, curve - width, curve + width, alpha=0.25, linewidth=0)
    ax.plot(t, curve)
    ax.plot(page["days"], page["growth"], "o", color="black")
    ax.set(xlabel="days", ylabel="yield")
    save("fit_a_curve.png", ax)


def readme_sweep():
    """Run the README's own code and plot the sweep that it leaves behind."""
    _, ax = plt.subplots(figsize=(8, 4))
    plot_sweep(run_blocks(README)["result"], ax=ax)
    save("sweep.png", ax)


def learning_rates():
    """Run the page on learning rates and plot its range test and its comparison."""
    page = run_blocks(FOLDER.parent / "howto" / "find_a_learning_rate.md")
    for name in ("test", "comparison"):
        _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
        file = {"test": "range_test.png", "comparison": "comparison.png"}[name]
        save(file, page[name].plot(ax))


def side_by_side():
    """Draw the losses of the three programs; PyTorch's are the recorded ones."""
    sys.path.insert(0, str(EXAMPLES / "side_by_side"))
    import with_gradchain
    import with_numpy

    recorded = EXAMPLES.parent / "tests" / "recorded" / "side_by_side.json"
    losses = {
        "NumPy": with_numpy.train(),
        "PyTorch": json.loads(recorded.read_text())["losses"],
        "gradchain": with_gradchain.train(),
    }
    _, (above, below) = plt.subplots(
        2, figsize=(8, 5), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    step = np.arange(1, 101)
    styles = zip((6, 3, 1), ("#E69F00", "#0072B2", "#000000"), strict=True)
    for (name, values), (width, colour) in zip(losses.items(), styles, strict=True):
        above.plot(step, values, linewidth=width, color=colour, label=name)
    for name, colour in (("PyTorch", "#0072B2"), ("gradchain", "#000000")):
        difference = np.abs(np.subtract(losses[name], losses["NumPy"]))
        below.semilogy(
            step, np.maximum(difference, 1e-9), ".", color=colour, label=name
        )
    below.axhline(1e-5, color="#D55E00")
    below.text(100, 1.3e-5, "what the test allows", ha="right", va="bottom")
    above.set(ylabel="loss", ylim=(0, None))
    below.set(xlabel="step", ylabel="difference from NumPy", ylim=(5e-10, 1e-4))
    for ax in (above, below):
        ax.grid(alpha=0.3)
        ax.legend(loc="upper right" if ax is above else "lower right")
    save("side_by_side.png", above)


def is_it_working():
    """Train on digits in six ways, run by the page's own code, and draw the losses."""
    page = (Path(__file__).parent / "is_it_working.md").read_text()
    namespace = {}
    exec(re.search(r"^```python\n(.*?)^```$", page, re.M | re.S)[1], namespace)
    train, held_out = namespace["train"], namespace["held_out"]
    few = {name: a[:200] for name, a in train.items()}
    falling = gc.cosine_decay_schedule(0.5, 8 * 21)
    runs = {
        "rate 0.003: too low": (gc.sgd(0.003), train),
        "rate 0.3: right": (gc.sgd(0.3), train),
        "momentum, rate 0.5: too high": (gc.sgd(0.5, momentum=0.9), train),
        "rate 3: jumps, then stands": (gc.sgd(3.0, momentum=0.9), train),
        "200 examples: learnt by heart": (gc.adam(0.01), few),
        "the rate falls": (gc.sgd(falling, momentum=0.5), train),
    }
    _, axes = plt.subplots(2, 3, figsize=(9, 5), sharey=True, layout="constrained")
    for ax, (title, (tx, data)) in zip(axes.flat, runs.items(), strict=True):
        epochs = 8 if data is train else 56
        options = {"epochs": epochs, "batch_size": 64, "validation": held_out}
        result = training.fit(
            namespace["loss_fn"], namespace["params"], tx, data, **options
        )
        history, steps = result.history, result.history.step_loss
        ends = (np.arange(epochs) + 1) * len(steps) / epochs
        ax.semilogy(steps, color="#0072B2", linewidth=0.8, label="training")
        ax.semilogy(ends, history["val_loss"], color="#D55E00", label="held out")
        ax.set(title=title, ylim=(0.005, 30))
        ax.grid(alpha=0.3)
    for ax in axes[:, 0]:
        ax.set_ylabel("loss")
    for ax in axes[1]:
        ax.set_xlabel("step")
    axes[0, 1].legend(loc="upper right")
    save("is_it_working.png", axes[0, 0])


def second_order():
    main = runpy.run_path(str(EXAMPLES / "12_second_order.py"))["main"]
    main(plot_to=FOLDER / "second_order.png")


def long_runs():
    """Run the large examples, by name and arguments, and keep their pictures."""
    pictures = {
        "character_model": {"losses.png": "character_model.png"},
        "15_width_transfer mlp": {"width_transfer_mlp.png": "width_transfer_mlp.png"},
        "15_width_transfer transformer": {
            "width_transfer_transformer.png": "width_transfer_transformer.png"
        },
        "image_network": {
            "losses.png": "image_network.png",
            "hardest.png": "image_network_hardest.png",
        },
    }
    for name, files in pictures.items():
        with tempfile.TemporaryDirectory() as folder:
            script, *arguments = name.split()
            subprocess.run(
                [
                    sys.executable,
                    EXAMPLES / f"{script}.py",
                    *arguments,
                    "--out",
                    folder,
                ],
                check=True,
            )
            for file, kept in files.items():
                shutil.copy(Path(folder) / file, FOLDER / kept)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    tutorial()
    schedules()
    averages()
    populations()
    precision()
    fit_a_curve()
    readme_sweep()
    learning_rates()
    side_by_side()
    is_it_working()
    second_order()
    if "--long" in sys.argv:
        long_runs()
