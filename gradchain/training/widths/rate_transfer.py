"""Whether the best learning rate of a narrow model is that of a wide one: a sweep of rates at each width."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gradchain.signatures import brief, public
from gradchain.training.history import text_table
from gradchain.training.search.sweep import sweep
from gradchain.training.widths.coordinates import Model, model_of
from gradchain.tree import Tree

Numbers = np.ndarray[Any, Any]


@public
class BestRate(NamedTuple):
    """The best learning rate at one width."""

    width: int
    rate: float
    """Where a parabola through the three best neighbours, over the logarithm of the rate, is lowest."""
    error: float
    """The factor by which it is uncertain, from the spread of the seeds' own parabolas.

    NaN for a single seed, and at an edge."""
    loss: float
    """The lowest mean loss among the rates that were tried."""
    at_edge: bool
    """Whether that is the first or the last rate, so that the best one may lie beyond."""


@public
@dataclass(frozen=True, eq=False, repr=False)
class RateTransfer:
    """What :func:`learning_rate_transfer` returns: the losses at each width and rate, and the best rates."""

    widths: tuple[int, ...]
    rates: Numbers
    """The learning rates, of shape ``(rates,)``."""
    losses: Numbers
    """The losses after training, of shape ``(widths, rates, seeds)``; infinity where a run diverged."""

    @property
    def best(self) -> list[BestRate]:
        """The best rate at each width."""
        return [_best(width, self.rates, losses) for width, losses in zip(self.widths, self.losses, strict=True)]

    @property
    def shift(self) -> float:
        """The largest best rate divided by the smallest: 1 where the rate transfers perfectly.

        NaN if at some width every rate diverged.
        """
        rates = [best.rate for best in self.best]
        return max(rates) / min(rates) if all(math.isfinite(best.loss) for best in self.best) else math.nan

    def table(self) -> str:
        """Return a text table with a line for each width: its best rate and loss, and the mean loss at each rate."""
        header = ["width", "best rate", "error", "loss", *(f"{rate:.3g}" for rate in self.rates)]
        lines = [
            [best.width, *_shown(best), best.loss, *losses.mean(-1)]
            for best, losses in zip(self.best, self.losses, strict=True)
        ]
        return text_table(header, lines)

    def __str__(self) -> str:
        return f"{self.table()}\n{self._said()}"

    def _said(self) -> str:
        """Return the line below the table."""
        if diverged := [str(best.width) for best in self.best if not math.isfinite(best.loss)]:
            return f"every rate diverged at width {', '.join(diverged)}"
        said = f"best rates differ by a factor of {self.shift:.2f}"
        edges = ", ".join(str(best.width) for best in self.best if best.at_edge)
        return f"{said}, but the best may lie beyond those that were tried at width {edges}" if edges else said

    def __repr__(self) -> str:
        rates = ", ".join(f"{best.width}: {best.rate:.3g}" for best in self.best)
        return f"RateTransfer(best rates {rates}, shift={self.shift:.2f})"

    def plot(self, ax: Any = None) -> Any:
        """Plot loss against rate, a line for each width; see :func:`gradchain.plots.plot_rate_transfer`."""
        from gradchain.plots import plot_rate_transfer

        return plot_rate_transfer(self, ax=ax)


def _shown(best: BestRate) -> tuple[str, str]:
    """Return a rate and its error as text; at the edge, and of a single seed, there is no error."""
    if not math.isfinite(best.loss):
        return "none", ""
    edge = " (edge)" if best.at_edge else ""
    return f"{best.rate:.3g}{edge}", "" if math.isnan(best.error) else f"x{best.error:.2f}"


def _best(width: int, rates: Numbers, losses: Numbers) -> BestRate:
    """Return the best rate, given losses of shape ``(rates, seeds)``."""
    means = losses.mean(-1)
    i = int(np.argmin(np.where(np.isfinite(means), means, np.inf)))
    if i in (0, len(rates) - 1) or not np.isfinite(means[i]):
        return BestRate(width, float(rates[i]), math.nan, float(means[i]), True)
    x, y = np.log(rates[i - 1 : i + 2]), losses[i - 1 : i + 2]
    seeds = [_lowest(x, column) for column in y.T]
    error = math.exp(float(np.std(seeds, ddof=1)) / len(seeds) ** 0.5) if len(seeds) > 1 else math.nan
    return BestRate(width, math.exp(_lowest(x, y.mean(-1))), error, float(means[i]), False)


def _lowest(x: Numbers, y: Numbers) -> float:
    """Return where the parabola through three points is lowest, within their range."""
    if not np.isfinite(y).all():
        return float(x[np.argmin(np.where(np.isfinite(y), y, np.inf))])
    curvature, slope, _ = np.polyfit(x - x[1], y, 2)
    if curvature <= 0:
        return float(x[np.argmin(y)])
    return float(np.clip(x[1] - slope / (2 * curvature), x[0], x[2]))


@public
def learning_rate_transfer(
    make: Callable[[int], Model],
    widths: Sequence[int],
    rates: Sequence[float] | Numbers,
    *,
    tx: Callable[[int, Any], Any],
    data: Tree,
    seeds: int | Sequence[int] = 2,
    **options: Any,
) -> RateTransfer:
    """Sweep the learning rate at several widths, to see whether the best one stays where it is.

    This is what transfer means, and costs a training run for each width, rate and seed;
    :func:`coordinate_check` takes a few steps, but passing it isn't enough.

    Args:
      make: ``make(width) -> (init, apply)``, as for :func:`coordinate_check`.
      widths: the widths.
      rates: at least three learning rates, rising; factors of 2 are a good choice.
      tx: ``tx(width, rates)`` returns the transform for a width, with the learning rates as an array: ``lambda width,
        rate: mup(adam(rate), multipliers(width))``.
      data: what :func:`sweep` trains on.
      seeds: how many seeds, or a list of them; each draws initial parameters and the order of the data.
      **options: of :func:`sweep`: ``batch_size``, ``epochs`` or ``steps``, ``validation``, ``chunk`` and so on. With
        ``validation`` its loss is compared, else the mean training loss of the last epoch.

    Raises:
      ValueError: if there are less than three rates, or they don't rise.

    Example:
      >>> def make(width):
      ...     def init(key):
      ...         return {"w": jax.random.normal(key, (8, width)) / 8**0.5, "v": jnp.zeros((width, 1))}
      ...     def apply(params, batch):
      ...         h = jnp.tanh(batch @ params["w"])
      ...         return jnp.mean((h @ params["v"] - 1.0) ** 2), {"h": h}
      ...     return init, apply
      >>> batch = jax.random.normal(jax.random.key(0), (64, 8))
      >>> options = {"data": batch, "batch_size": 16, "epochs": 2}
      >>> transfer = training.learning_rate_transfer(
      ...     make, [16, 64], [0.001, 0.01, 0.1], tx=lambda width, rates: adam(rates), **options
      ... )
      >>> transfer.losses.shape  # widths, rates, seeds
      (2, 3, 2)
    """
    tried = np.asarray(rates, float)
    if tried.ndim != 1 or len(tried) < 3 or not (np.diff(tried) > 0).all() or not tried[0] > 0:
        raise ValueError(f"learning_rate_transfer: rates must be three or more rising numbers above 0, got {rates}")
    if not callable(tx):
        raise TypeError(
            f"learning_rate_transfer: tx(width, rates) returns the transform for a width, got {brief(tx)}; write "
            "lambda width, rates: adam(rates)"
        )
    keys = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    losses: list[Numbers] = []
    for width in widths:
        init, apply = model_of("learning_rate_transfer", make, width)
        result = sweep(_loss(apply), None, tx(width, tried), data, init=init, seeds=keys, **options)
        losses.append(result.final)
    return RateTransfer(tuple(map(int, widths)), tried, np.stack(losses))


def _loss(apply: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    """Return the loss alone of what returns activations, too."""

    def loss(params: Any, batch: Any) -> Any:
        return apply(params, batch)[0]

    return loss
