"""Early stopping, as used by ``fit``; it also works inside ``jit``."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradchain.core.extra import one_number
from gradchain.signatures import public
from gradchain.training.fitting.ranking import Goal, Mode, goal_of


@public
class StoppingState(NamedTuple):
    """The state of early stopping: a pytree whose shapes and dtypes never change."""

    best: Array
    """The best value so far that was an improvement; before the first the worst, an infinity."""
    waited: Array
    """How many values came after it."""
    improved: Array
    """Whether the last value was an improvement."""
    should_stop: Array
    """Whether to stop now."""


@public
class EarlyStopping(NamedTuple):
    """When to stop before the last epoch: when the monitored value has stopped improving, or isn't finite.

    Pass it to :func:`~gradchain.training.fit`, or call ``init`` and ``update`` in your own loop; they are pure, and may
    be traced.

    Example:
      >>> stopping = EarlyStopping(patience=3)
      >>> state = stopping.init()
      >>> state = stopping.update(loss, state)  # inside jit, scan or vmap as well
      >>> state.should_stop

    For an accuracy, higher is better:

      >>> EarlyStopping(patience=3, monitor="val_accuracy", mode="max")
    """

    patience: int = 5
    """Stop after this many epochs in a row without improvement; at least 1."""
    tolerance: float = 0.0
    """An epoch improves if its value is better than the best one so far by more than this, in the value's own unit."""
    monitor: str | None = None
    """The column to watch; by default ``val_loss`` where there are validation data, else ``loss`` (which is measured
    during the epoch, each batch before its step)."""
    mode: Mode | None = None
    """Which value is best: ``"min"``, the lowest, or ``"max"``, the highest. The lowest loss is best; for any other
    column the mode must be given."""
    restore_best: bool = True
    """Return the parameters of the best epoch instead of the last one's. Read by ``fit`` alone."""

    def _goal(self) -> Goal:
        return goal_of("EarlyStopping", "monitor", self.monitor, self.mode, validates=False)

    def init(self) -> StoppingState:
        """Return the state before the first value.

        Raises:
          ValueError: if ``mode`` is missing for another column than the loss, or unknown.
        """
        no, never = jnp.zeros((), bool), jnp.zeros((), bool)
        worst = self._goal().signed(jnp.full((), jnp.inf, float))
        return StoppingState(worst, jnp.zeros((), jnp.int32), no, never)

    def update(self, value: ArrayLike, state: StoppingState) -> StoppingState:
        """Return the state after one more value.

        Args:
          value: the loss, or whatever is monitored; one number. A value that isn't finite is no improvement.
          state: from ``init`` or the last ``update``.

        Raises:
          ValueError: if the value is an array with axes.
          TypeError: if it isn't a real number.
        """
        goal, value = self._goal(), jnp.asarray(one_number("EarlyStopping: value", value), state.best.dtype)
        improved = goal.cost(value) < goal.signed(state.best) - self.tolerance
        waited = jnp.where(improved, 0, state.waited + 1)
        stop = (waited >= self.patience) | ~jnp.isfinite(value)
        return StoppingState(jnp.where(improved, value, state.best), waited, improved, stop)
