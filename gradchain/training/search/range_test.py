"""The learning-rate range test: one short run in which the rate rises until the loss does."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain.arguments import check_whole
from gradchain.compiled import Compiled
from gradchain.core.foreign import Child, as_transform
from gradchain.core.hyperparams import hyperparams, set_hyperparams
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.training.budget import Steps
from gradchain.training.data.positions import Position
from gradchain.training.data.streams import Stream, as_stream
from gradchain.training.data.wording import are_batches
from gradchain.training.history import evenly_spaced, text_table, write_csv
from gradchain.training.keys import as_key
from gradchain.training.steps.objective import Objective
from gradchain.training.steps.step import take_step
from gradchain.training.variables import checked
from gradchain.tree import Tree

Numbers = np.ndarray[Any, Any]
Spacing = Literal["exponential", "linear"]
Rule = Literal["tenth", "steepest"]
TENTH = "a tenth of the rate with the lowest smoothed loss"


@public
@dataclass(frozen=True, eq=False, repr=False)
class RangeTest:
    """What :func:`learning_rate_range_test` returns: rates, losses, and a suggestion."""

    rates: Numbers
    """The learning rate of each step that was taken, of shape ``(steps,)``."""
    losses: Numbers
    """The loss on each step's batch before the step, of shape ``(steps,)``."""
    smoothed: Numbers
    """Their average, with its bias corrected, of shape ``(steps,)``."""
    smoothing: float
    """The average's decay."""
    stopped: Literal["end", "diverged"]
    """Why the test ended: all steps were taken, or the loss had risen too far or was not finite."""

    @property
    def suggestion(self) -> float:
        """The learning rate that the rule ``"tenth"`` suggests; see :meth:`suggest`."""
        return self.suggest()

    @property
    def has_suggestion(self) -> bool:
        """Whether the loss fell, and rose again, so that there is a suggestion."""
        return not self._problem()

    def suggest(self, rule: Rule = "tenth") -> float:
        r"""Return the learning rate that a rule suggests.

        Args:
          rule: ``"tenth"``: a tenth of the rate at which the smoothed loss was lowest, but not below the first rate.
            ``"steepest"``: the rate before that at which the smoothed loss falls fastest, :math:`\arg\min_k d \bar
            l_k / d \log \eta_k`. It is the larger of the two as a rule, and close to the limit for ``sgd``. The first
            :math:`1 / (1 - \beta)` steps, in which the average consists of few losses, are left out.

        Raises:
          ValueError: for an unknown rule; if the loss never fell by more than its own noise (the standard deviation of
            the losses around their average), or was still falling at the end.
        """
        if rule not in get_args(Rule):
            raise ValueError(f"suggest: rule must be one of {', '.join(get_args(Rule))}, got {rule!r}")
        if problem := self._problem():
            raise ValueError(f"RangeTest: no suggestion, {problem}; table() and plot() show what happened")
        if rule == "tenth":
            return float(max(self.rates[self._lowest] / 10, self.rates[0]))
        rates, smoothed = self.rates[: self._lowest + 1], self.smoothed[: self._lowest + 1]
        first = min(round(1 / (1 - self.smoothing)), self._lowest)
        return float(rates[first + np.argmin(np.gradient(smoothed, np.log(rates))[first:])])

    @property
    def _lowest(self) -> int:
        """The step with the lowest smoothed loss."""
        return int(np.argmin(np.where(np.isfinite(self.smoothed), self.smoothed, np.inf)))

    def _problem(self) -> str:
        """Return why there is no suggestion, or nothing."""
        lowest = self._lowest
        noise = np.std((self.losses - self.smoothed)[: lowest + 1])
        if not self.smoothed[0] - self.smoothed[lowest] > noise:
            return (
                f"the loss never fell by more than its noise of {noise:.2g}: try a larger batch, more steps or another "
                f"range than {self.rates[0]:.2g} to {self.rates[-1]:.2g}"
            )
        if lowest == len(self.rates) - 1:
            return f"the loss was still falling at the last rate, {self.rates[-1]:.2g}: try a higher one (high=...)"
        return ""

    def table(self, rows: int | None = None) -> str:
        """Return a text table with a line for each step.

        Args:
          rows: show only this many steps, evenly spaced and including the last.
        """
        columns = self._columns()
        return text_table(
            list(columns), [[x[i] for x in columns.values()] for i in evenly_spaced(len(self.rates), rows)]
        )

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a CSV file with a header and a line for each step, numbers in full precision."""
        columns = self._columns()
        write_csv(path, list(columns), [list(line) for line in zip(*columns.values(), strict=True)])

    def _columns(self) -> dict[str, Any]:
        steps = range(len(self.rates))
        return {"step": steps, "learning_rate": self.rates, "loss": self.losses, "smoothed": self.smoothed}

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Plot the losses against the rate; see :func:`gradchain.plots.plot_range_test`."""
        from gradchain.plots import plot_range_test

        return plot_range_test(self, ax=ax, **options)

    def __repr__(self) -> str:
        found = f"suggestion={self.suggestion:.3g}, {TENTH}" if self.has_suggestion else "no suggestion"
        return f"RangeTest({self.rates[0]:.3g} to {self.rates[-1]:.3g} in {len(self.rates)} steps, {found})"


@public
def learning_rate_range_test(
    loss_fn: Callable[..., Any], params: Tree, tx: Child, data: Any, *, batch_size: int | None = None,
    low: float = 1e-6, high: float = 10.0, steps: int = 200, spacing: Spacing = "exponential", smoothing: float = 0.9,
    stop_at: float = 4.0, name: str = "learning_rate", seed: int | Array = 0, shuffle: bool = True,
    has_aux: bool = False, takes_key: bool = False,
) -> RangeTest:  # fmt: skip
    r"""Train for a short while with a learning rate that rises from step to step, and suggest one.

    Step :math:`k` of :math:`K`, counted from 0, has the rate :math:`\eta_k = a (b / a)^{k / (K - 1)}`, or :math:`a + (b
    - a) k / (K - 1)` with linear spacing. The loss of its batch, :math:`l_k`, is smoothed by an average whose bias is
    corrected:

    .. math:: m_k = \beta m_{k-1} + (1 - \beta) l_k, \qquad \bar l_k = \frac{m_k}{1 - \beta^{k+1}}

    It lags behind the losses by about :math:`\beta / (1 - \beta)` steps, 9 by default. The test stops early where a
    loss isn't finite, and where the smoothed one has diverged: it is ``stop_at`` times the lowest so far, and has lost
    half of what it had gained,

    .. math:: \bar l_k > \bar l_{\min} + \max((s - 1) |\bar l_{\min}|, (\bar l_0 - \bar l_{\min}) / 2),

    not before step :math:`1 / (1 - \beta)`, because an average of few losses is noisy.

    The parameters that were trained are thrown away; those handed in aren't changed.

    Args:
      loss_fn: the mean loss over a batch, see :func:`~gradchain.training.fit`; an adapter, too.
      params: where to begin; ``Variables`` or an adapter's model, too.
      tx: a transform with a learning rate, which may be a schedule: the test puts numbers in its place.
      data: a tree of arrays with the examples on the leading axis, or a stream of batches, as ``fit`` takes them, and
        in its order. They are gone through as often as the steps need.
      batch_size: examples per step; required for arrays. Smaller batches are left out.
      low: the first rate :math:`a`, above 0.
      high: the last rate :math:`b`, above ``low``.
      steps: :math:`K`, at least 2.
      spacing: ``"exponential"`` or ``"linear"``.
      smoothing: the average's decay :math:`\beta`, in [0, 1).
      stop_at: :math:`s`, above 1; infinity to stop only at a loss that isn't finite.
      name: the hyperparameter to raise. All of that name get the rate; a longer name, such as
        ``"muon.scale_by_learning_rate.learning_rate"``, means that one alone.
      seed: a seed or PRNG key, for the order of the data and the keys that the loss gets.
      shuffle: shuffle arrays anew in each pass.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``; aux isn't used.
      takes_key: whether ``loss_fn`` takes a PRNG key.

    Returns:
      A :class:`RangeTest`: rates, losses, smoothed losses, a suggestion, a table, a plot.

    Raises:
      ValueError: for numbers out of range, if ``tx`` has no hyperparameter of that name, or for bad data.

    Example:
      >>> test = learning_rate_range_test(loss_fn, params, adam(1e-3), data, batch_size=64)
      >>> tx = adam(test.suggestion)

    Reference: Smith, *Cyclical Learning Rates for Training Neural Networks*, WACV 2017, section 3.3 (with linear
    spacing).
    """
    rates = _rates(low, high, steps, spacing)
    tx = as_transform(tx)
    names = _names(tx, name)
    objective, variables = Objective.of(loss_fn, has_aux, takes_key).enter(params)
    variables = jax.tree.map(jnp.copy, checked(variables))
    state, key = tx.init(variables.params), as_key(seed, "seed")
    watch, loss_key = _Watch(smoothing, stop_at), jax.random.split(key)[1]
    with _stream(data, batch_size, shuffle).feed(Position(), 1, key=key, left=Steps(steps)) as feed:
        for k, rate in enumerate(rates.tolist()):
            now = set_hyperparams(tx, dict.fromkeys(names, rate))
            batch = jax.tree.map(lambda x: x[0], feed.take().batches)
            key = jax.random.fold_in(loss_key, k) if takes_key else None
            taken = _step(objective, variables, now, state, batch, key)
            variables, state = taken.variables, taken.state
            if watch.diverged(float(taken.metrics.loss)):
                break
    losses, smoothed = np.array(watch.losses), np.array(watch.smoothed)
    return RangeTest(rates[: len(losses)], losses, smoothed, smoothing, "diverged" if watch.ended else "end")


_step = Compiled(take_step, donated=(0, 2))


def _rates(low: float, high: float, steps: int, spacing: str) -> Numbers:
    check_whole("learning_rate_range_test: steps", steps, 2)
    if spacing not in get_args(Spacing):
        raise ValueError(f"learning_rate_range_test: spacing must be 'exponential' or 'linear', got {spacing!r}")
    if not 0 < low < high < math.inf:
        raise ValueError(f"learning_rate_range_test: needs 0 < low < high, got low={low} and high={high}")
    return (np.geomspace if spacing == "exponential" else np.linspace)(low, high, steps)


def _names(tx: Transform, name: str) -> list[str]:
    """Return the full names of the hyperparameters that a name means.

    Raises:
      ValueError: if there is none.
    """
    known = hyperparams(tx)
    names = [full for full in known if full == name or full.endswith(f".{name}")]
    if not names:
        raise ValueError(
            f"learning_rate_range_test: {tx!r} has no hyperparameter {name!r} to raise; there are "
            f"{', '.join(known) or 'none'}. Name one of these by name=..., or put scale_by_learning_rate(1.0) behind it"
        )
    return names


class _Watch:
    """The losses so far, their average, and whether they have diverged."""

    def __init__(self, smoothing: float, stop_at: float):
        if not 0 <= smoothing < 1:
            raise ValueError(f"learning_rate_range_test: smoothing must be in [0, 1), got {smoothing}")
        if not stop_at > 1:
            raise ValueError(f"learning_rate_range_test: stop_at must be above 1, got {stop_at}")
        self.losses, self.smoothed = list[float](), list[float]()
        self.ended = False
        self._decay, self._stop_at, self._total = smoothing, stop_at, 0.0

    def diverged(self, loss: float) -> bool:
        """Note a loss, and tell whether it has diverged."""
        self.losses.append(loss)
        self._total = self._decay * self._total + (1 - self._decay) * loss
        now = self._total / (1 - self._decay ** len(self.losses))
        self.smoothed.append(now)
        lowest = min(self.smoothed)
        margin = max((self._stop_at - 1) * abs(lowest), (self.smoothed[0] - lowest) / 2)
        settled = len(self.losses) > 1 / (1 - self._decay)
        self.ended = not math.isfinite(loss) or (settled and now > lowest + margin)
        return self.ended


def _stream(data: Any, batch_size: int | None, shuffle: bool) -> Stream:
    """Return the batches that ``fit`` would draw, on the host."""
    rows = data if are_batches(data) else jax.tree.map(np.asarray, data)
    return cast(Stream, as_stream(rows, batch_size, "drop", shuffle=shuffle, device_memory=0))
