"""Early stopping: the rule that ``fit`` stops by, usable inside ``jit`` too."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradchain.core.transform import one_number
from gradchain.signatures import public


@public
class StoppingState(NamedTuple):
    """What early stopping remembers, a pytree: from :meth:`EarlyStopping.init` on it keeps shapes and dtypes."""

    best: Array
    """The lowest loss so far that was an improvement; infinite before the first."""
    waited: Array
    """How many losses came after it."""
    improved: Array
    """Whether the last loss was an improvement."""
    should_stop: Array
    """Whether to stop now."""


@public
class EarlyStopping(NamedTuple):
    """When to stop before the last epoch: when the loss has stopped falling, or isn't finite.

    Hand it to :func:`~gradchain.training.fit`, or call ``init`` and ``update`` in a loop of your own; they are pure,
    and may be traced.

    Example:
      >>> stopping = EarlyStopping(patience=3)
      >>> state = stopping.init()
      >>> state = stopping.update(loss, state)  # inside jit, scan or vmap as well
      >>> state.should_stop
    """

    patience: int = 5
    """Stop after this many epochs in a row without improvement; at least 1."""
    tolerance: float = 0.0
    """An epoch improves if its loss is below the best one so far by more than this, in the loss's own unit."""
    monitor: str | None = None
    """The column to watch; by default ``val_loss`` where there are validation data, else ``loss`` (which is measured
    during the epoch, each batch before its step). Read by ``fit`` alone."""
    restore_best: bool = True
    """Return the parameters of the best epoch instead of the last one's. Read by ``fit`` alone."""

    def init(self) -> StoppingState:
        """Return the state before the first loss."""
        no, never = jnp.zeros((), bool), jnp.zeros((), bool)
        return StoppingState(jnp.full((), jnp.inf, float), jnp.zeros((), jnp.int32), no, never)

    def update(self, value: ArrayLike, state: StoppingState) -> StoppingState:
        """Return the state after one more loss.

        Args:
          value: the loss, one number.
          state: from ``init`` or the last ``update``.

        Raises:
          ValueError: if the value is an array with axes.
          TypeError: if it isn't a real number.
        """
        value = jnp.asarray(one_number("EarlyStopping: value", value), state.best.dtype)
        improved = value < state.best - self.tolerance
        waited = jnp.where(improved, 0, state.waited + 1)
        stop = (waited >= self.patience) | ~jnp.isfinite(value)
        return StoppingState(jnp.where(improved, value, state.best), waited, improved, stop)
