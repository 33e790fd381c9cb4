"""Which score is better: the column that decides, and whether its lowest or its highest value is best."""

from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp

Mode = Literal["min", "max"]
LOSSES = "loss", "val_loss"
"""The columns that training lowers."""


class Goal(NamedTuple):
    """The column that decides, and which of its values are best; hashable."""

    column: str
    mode: Mode

    def cost(self, score: Any, xp: Any = jnp) -> Any:
        """Return a number that is lower for a better score, and infinite for one that isn't finite."""
        return xp.where(xp.isfinite(score), self.signed(score), xp.inf)

    def signed(self, score: Any) -> Any:
        """Return the score, negated if the highest is best; of a cost, the score."""
        return -score if self.mode == "max" else score


def goal_of(where: str, option: str, column: str | None, mode: str | None, validates: bool) -> Goal:
    """Return the goal that a caller's column and mode say.

    Args:
      where: the function that was called.
      option: its argument that names the column.
      column: the name; ``None`` for ``val_loss`` where there are validation data, else ``loss``.
      mode: ``"min"``, ``"max"``, or ``None`` for a loss, of which the lowest is best.
      validates: whether there are validation data.

    Raises:
      ValueError: if ``mode`` is missing for another column than the loss, is ``"max"`` for the loss, or unknown.
    """
    name = column or ("val_loss" if validates else "loss")
    if mode is None and name not in LOSSES:
        raise ValueError(
            f"{where}: {option}={name!r} doesn't say which value is best; write mode='max' if the highest is (as of an "
            "accuracy), mode='min' if the lowest is (as of an error)"
        )
    if mode not in (None, *get_args(Mode)):
        raise ValueError(f"{where}: mode must be 'min' or 'max', got {mode!r}")
    if mode == "max" and name in LOSSES:
        raise ValueError(
            f"{where}: mode='max' would choose the highest {name}, which training lowers; name the column that is to "
            f"be high with {option}, or leave mode out"
        )
    return Goal(name, "max" if mode == "max" else "min")
