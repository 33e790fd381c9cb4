"""From losses to ratios: how many of AdamW's steps an optimizer needs, and how sure that is."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

RESAMPLES = 4000
CONFIDENT = 1.64
"""Standard errors below the target at which a loss counts as below it, formally."""


class Curve(NamedTuple):
    """Held-out losses at the end of runs of several lengths."""

    steps: Any
    """Lengths in steps, rising."""
    losses: Any
    """Of shape (lengths, seeds)."""

    @classmethod
    def of(cls, runs: Iterable[tuple[float, float, float]]) -> "Curve":
        """Return the curve of rows of seed, steps and loss."""
        rows = np.array(sorted((n, seed, loss) for seed, n, loss in runs))
        steps = np.unique(rows[:, 0])
        return cls(steps, rows[:, 2].reshape(len(steps), -1))

    def at(self, steps: float) -> Any:
        """Return each seed's loss at the end of runs of that length."""
        return self.losses[int(np.flatnonzero(self.steps == steps)[0])]


class Ratio(NamedTuple):
    """Steps to the target, as a fraction of AdamW's, with the ends of a 95 % interval.

    One that is reached by the shortest runs counts as these; infinity stands for a target
    that isn't reached by the longest.
    """

    value: float
    low: float
    high: float


def crossing(steps: Any, losses: Any, target: Any) -> Any:
    """Return after how many steps mean losses reach a target.

    Between two lengths the loss is linear in the logarithm of the steps.

    Args:
      steps: lengths, of shape (lengths,).
      losses: of shape (..., lengths).
      target: of shape (...).
    """
    reached = losses <= np.asarray(target)[..., None]
    last = reached.argmax(-1)
    before = np.maximum(last - 1, 0)
    first, second = (
        np.take_along_axis(losses, i[..., None], -1)[..., 0] for i in (before, last)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(last == before, 1.0, (first - target) / (first - second))
    part = np.where(np.isfinite(part), part, 1.0)
    logs = np.log(steps)
    found = np.exp(logs[before] + part * (logs[last] - logs[before]))
    return np.where(reached.any(-1), found, np.inf)


def ratio(curve: Curve, reference: Any, steps: float, paired: bool = True) -> Ratio:
    """Return the steps to the mean of the reference's losses, relative to ``steps``.

    The interval is that of a bootstrap over seeds. Where the reference's seeds are the same,
    both are drawn together.
    """
    rng = np.random.default_rng(0)
    seeds = len(reference)
    drawn = rng.integers(seeds, size=(RESAMPLES, seeds))
    own = drawn if paired else rng.integers(seeds, size=drawn.shape)
    means = curve.losses[:, own].mean(-1).T
    samples = crossing(curve.steps, means, reference[drawn].mean(-1)) / steps
    value = crossing(curve.steps, curve.losses.mean(-1), reference.mean()) / steps
    low, high = (np.quantile(samples, q, method="nearest") for q in (0.025, 0.975))
    return Ratio(float(value), float(low), float(high))


def formally(curve: Curve, target: float) -> float:
    """Return the shortest length whose losses are below a target by 1.64 standard errors."""
    errors = curve.losses.std(-1, ddof=1) / curve.losses.shape[1] ** 0.5
    below = curve.losses.mean(-1) + CONFIDENT * errors <= target
    return float(curve.steps[below.argmax()]) if below.any() else np.inf


def within(losses: Any, part: float = 0.02) -> int:
    """Return how many trials' mean losses are at most so much above the best."""
    means = np.mean(losses, -1)
    return int((means <= (1 + part) * means.min()).sum())
