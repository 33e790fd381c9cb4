"""What an epoch is made of besides arrays, and an epoch itself, as pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh

from gradchain.arguments import check_whole
from gradchain.training.data.examples import count_all
from gradchain.training.data.hosts import spread_data
from gradchain.training.data.streams import as_stream
from gradchain.training.data.wording import are_batches
from gradchain.training.metrics import Metrics, named_numbers
from gradchain.training.steps.epoch import Order, Remainder, Scanned, evaluate_objective, mean_over, scan_objective
from gradchain.training.steps.objective import Objective
from gradchain.training.steps.renewal import renew
from gradchain.training.steps.step import Watch
from gradchain.training.variables import Variables, for_evaluation
from gradchain.tree import Tree

MetricsFn = Callable[..., dict[str, Any]]


class Recipe(NamedTuple):
    """What training is made of besides arrays; hashable, so that its compiled program is found again."""

    objective: Objective
    metrics: MetricsFn | None
    order: Order
    validation_batch_size: int | None
    watch: Watch | None = None
    renews: bool = False
    """Whether evaluation weights get a model state of their own, see :func:`~gradchain.training.renew_state`."""

    @classmethod
    def of(
        cls, loss_fn: Callable[..., Any], has_aux: bool, takes_key: bool, metrics: MetricsFn | None,
        batch_size: int | None, shuffle: bool, remainder: Remainder, validation_batch_size: int | None,
    ) -> Self:  # fmt: skip
        """Return the recipe of what callers of a training loop hand in."""
        objective, order = Objective.of(loss_fn, has_aux, takes_key), Order.of(batch_size, shuffle, remainder)
        return cls(objective, metrics, order, validation_batch_size)

    def enter(self, model: Any) -> tuple[Self, Variables[Any]]:
        """Return the recipe for a model that was handed in, and its variables; see :meth:`Objective.enter`."""
        objective, variables = self.objective.enter(model)
        return self._replace(objective=objective), variables

    def starter(self, init: Callable[[Array], Any]) -> tuple[Self, Callable[[Array], Variables[Any]]]:
        """Return the recipe for models that ``init(key)`` makes, and a function that makes their variables."""
        given = list[Self]()

        def start(key: Array) -> Variables[Any]:
            recipe, variables = self.enter(init(key))
            given.append(recipe)
            return variables

        jax.eval_shape(start, jax.random.key(0))
        return given[0], start

    def options(self) -> dict[str, Any]:
        """Return what it holds besides functions, by name."""
        objective = {name: getattr(self.objective, name) for name in ("has_aux", "takes_key")}
        own = {"validation_batch_size": self.validation_batch_size, "renew_state": self.renews}
        return {**self.order._asdict(), **own, **objective}


def check_validation(recipe: Recipe, validation: Tree | None) -> None:
    """Raise ValueError for validation data that can't be measured on."""
    if recipe.validation_batch_size is not None:
        check_whole("validation_batch_size", recipe.validation_batch_size)
    if validation is not None:
        count_all(validation, "validation data")
    elif recipe.metrics is not None:
        raise ValueError("metrics are measured on the validation data, but validation is None")


def held_out(where: str, recipe: Recipe, validation: Any, mesh: Mesh | None = None) -> Any:
    """Return validation data as arrays, on the mesh if there is one, or as a stream, after checking them.

    Raises:
      TypeError: for a stream on a mesh, or anything that isn't data.
      ValueError: for an iterator, which can be measured on only once, or data without examples.
    """
    if not are_batches(validation):
        if mesh is not None:
            validation = spread_data(mesh, validation, "validation data")
        check_validation(recipe, validation)
        return validation
    if mesh is not None:
        raise TypeError(f"{where}: on a mesh the validation data must be arrays, but they are a stream of batches")
    stream = as_stream(validation, recipe.validation_batch_size, "keep", "validation data")
    assert stream is not None
    if not stream.repeats:
        raise ValueError(
            f"{where}: an iterator gives its batches only once, but the validation data are needed for each row; hand "
            "in a list, a data loader, or a function of the epoch's number that returns an iterator"
        )
    return stream


def run_epoch(
    recipe: Recipe, variables: Variables[Any], tx: Any, state: Any, data: Tree, validation: Tree | None, key: Array,
    steps: int | None = None,
) -> tuple[Scanned, dict[str, Array]]:  # fmt: skip
    """Train for one epoch, or its first steps, and measure: what they return, and the history's row. Pure."""
    scanned = scan_objective(recipe.objective, variables, tx, state, data, key, recipe.order, steps, recipe.watch)
    row = named_numbers(scanned.mean())
    if validation is not None:
        weights = for_evaluation(tx, scanned.state, scanned.variables)
        row |= validate(recipe, renewed(recipe, weights, data, key) if recipe.renews else weights, validation)
    return scanned, row


def run_epochs(
    recipe: Recipe, variables: Variables[Any], tx: Any, state: Any, data: Tree, validation: Tree | None, key: Array,
    numbers: Array,
) -> tuple[Variables[Any], Any, dict[str, Array]]:  # fmt: skip
    """Train for the epochs of the given numbers by one scan: (variables, state, rows with a leading axis of epochs)."""

    def body(carry: tuple[Variables[Any], Any], number: Array) -> tuple[tuple[Variables[Any], Any], dict[str, Array]]:
        epoch_key = jax.random.fold_in(key, number)
        scanned, row = run_epoch(recipe, carry[0], tx, carry[1], data, validation, epoch_key)
        return (scanned.variables, scanned.state), row

    (variables, state), rows = lax.scan(body, (variables, state), numbers)
    return variables, state, rows


def renewed(recipe: Recipe, variables: Variables[Any], data: Tree, key: Array) -> Variables[Any]:
    """Return variables with their state renewed by a pass over the data. Pure."""
    key_of_loss = key if recipe.objective.takes_key else None
    return renew(recipe.objective, variables, data, recipe.order.batch_size, key_of_loss)


def validate(recipe: Recipe, variables: Variables[Any], validation: Tree) -> dict[str, Array]:
    """Return the loss, aux and metrics on the validation data, by name."""
    size, function = recipe.validation_batch_size, recipe.metrics
    row = named_numbers(evaluate_objective(recipe.objective, variables, validation, size), "val_")
    if function is None:
        return row

    def measure(batch: Tree) -> Metrics:
        return Metrics(jnp.zeros(()), recipe.objective.measure(function, variables, batch))

    further = named_numbers(mean_over(validation, size, measure), "val_")
    del further["val_loss"]
    if taken := further.keys() & row.keys():
        raise ValueError(f"metrics and aux have the same names: {', '.join(sorted(taken))}")
    return row | further
