"""How long a run trains, and how often something happens meanwhile: in steps or in epochs."""

from typing import Any, Literal, NamedTuple

from gradchain.arguments import check_whole, parameter_names
from gradchain.core.foreign import as_transform
from gradchain.core.transform import Transform
from gradchain.signatures import public


@public
class Steps(NamedTuple):
    """So many steps, as in ``validate_every=Steps(500)``."""

    number: int
    """How many, at least 1."""


@public
class Epochs(NamedTuple):
    """So many epochs, as in ``checkpoint_every=Epochs(1)``."""

    number: int
    """How many, at least 1."""


Amount = Steps | Epochs


class Moment(NamedTuple):
    """How far a run is."""

    steps: int
    """Steps taken by this run."""
    epochs: int
    """Epochs completed by this run."""
    between: bool
    """Whether it is between two epochs, and not within one."""


class Budget(NamedTuple):
    """When a run ends, and when it makes a row of the history."""

    total: Amount
    every: Amount
    """How often there is a row: with validation, if there are data for it."""

    def amount(self, name: str, value: Any) -> Amount:
        """Return how often something happens: a whole number counts in the unit of the budget.

        Raises:
          ValueError: if it isn't a whole number, at least 1, or such a number of steps or epochs.
        """
        value = value if isinstance(value, Steps | Epochs) else type(self.total)(value)
        check_whole(name, value.number)
        return value

    @property
    def unit(self) -> Literal["step", "epoch"]:
        """What the run's end is counted in."""
        return "step" if isinstance(self.total, Steps) else "epoch"

    def is_exceeded(self, now: Moment) -> bool:
        """Tell whether more is done than there should be."""
        return _done(self.total, now) > self.total.number

    def is_over(self, now: Moment) -> bool:
        """Tell whether all is done."""
        return _done(self.total, now) >= self.total.number

    def has_row(self, now: Moment) -> bool:
        """Tell whether a row is due."""
        return is_due(self.every, now) or self.is_over(now)

    def split(self, per_epoch: int) -> tuple[int, int]:
        """Return how many whole epochs there are, and how many steps after them."""
        number = self.total.number
        return divmod(number, per_epoch) if isinstance(self.total, Steps) else (number, 0)

    def steps(self, per_epoch: int | None) -> int | None:
        """Return how many steps there are; ``None`` if that depends on how long an epoch is, which nobody knows."""
        if isinstance(self.total, Steps):
            return self.total.number
        return None if per_epoch is None else self.total.number * per_epoch

    def rounds(self) -> list[int | None]:
        """Return how many steps there are in each row; ``None`` for an epoch's."""
        if isinstance(self.total, Epochs):
            return [None] * self.total.number
        full, rest = divmod(self.total.number, self.every.number)
        return [*[self.every.number] * full, *[rest] * (rest > 0)]

    @property
    def row_unit(self) -> Literal["step", "epoch"]:
        """What rows are numbered by."""
        return "step" if isinstance(self.every, Steps) else "epoch"

    @property
    def rows_are_epochs(self) -> bool:
        """Whether a row is due after each epoch."""
        return self.every == Epochs(1)

    def left(self, now: Moment) -> Amount:
        """Return how much remains."""
        return type(self.total)(self.total.number - _done(self.total, now))

    def steps_left(self, now: Moment) -> int | None:
        """Return how many steps remain at most; ``None`` if epochs decide."""
        left = self.left(now)
        return left.number if isinstance(left, Steps) else None


def budget_of(epochs: Any, steps: Any, validate_every: Any, where: str = "fit") -> Budget:
    """Return the budget that callers hand in.

    Raises:
      ValueError: unless there is one of ``epochs`` and ``steps``, a whole number, at least 1.
    """
    if (epochs is None) == (steps is None):
        raise ValueError(f"{where}: give epochs or steps, got {'neither' if epochs is None else 'both'}")
    total = Steps(steps) if epochs is None else Epochs(epochs)
    check_whole("steps" if epochs is None else "epochs", total.number)
    usual = Epochs(1) if epochs is not None else Steps(max(1, total.number // 10))
    budget = Budget(total, usual)
    return budget if validate_every is None else budget._replace(every=budget.amount("validate_every", validate_every))


def is_due(every: Amount, now: Moment) -> bool:
    """Tell whether something is due that happens every so often."""
    if isinstance(every, Epochs) and not now.between:
        return False
    done = _done(every, now)
    return done > 0 and done % every.number == 0


def steps_until(every: Amount, now: Moment) -> int | None:
    """Return how many steps there are until it is due; ``None`` if epochs decide."""
    return every.number - now.steps % every.number if isinstance(every, Steps) else None


def _done(unit: Amount, now: Moment) -> int:
    return now.steps if isinstance(unit, Steps) else now.epochs


def transform_for(where: str, tx: Any, total_steps: int | None) -> Transform:
    """Return a transform; of a function of ``total_steps`` that makes one, the one for this number of steps.

    Raises:
      TypeError: if ``tx`` is neither.
      ValueError: if such a function needs to know how many steps there are, and nobody does.
    """
    if not takes_steps(tx):
        return as_transform(tx)
    if total_steps is None:
        raise ValueError(
            f"{where}: tx is a function of total_steps, but nobody knows how many steps an epoch of this stream has; "
            "give steps instead of epochs"
        )
    return as_transform(tx(total_steps=total_steps))


def takes_steps(tx: Any) -> bool:
    """Tell whether ``tx`` is a function that makes a transform for a number of steps."""
    return callable(tx) and not hasattr(tx, "init") and "total_steps" in parameter_names(tx)
