"""Where a run's batches come from: arrays on the device, or a stream; and the compiled steps on them."""

import contextlib
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh

from gradchain.arguments import check_whole
from gradchain.compiled import Compiled
from gradchain.training.budget import Budget, Epochs, Moment, Steps
from gradchain.training.epoch import (
    Batches,
    Order,
    Scanned,
    Window,
    check_batches,
    count_examples,
    divide,
    scan_rest,
    scan_window,
)
from gradchain.training.history import named_numbers
from gradchain.training.hosts import spread_data
from gradchain.training.measuring import counting, summed
from gradchain.training.positions import Position
from gradchain.training.recipe import Recipe, run_epoch
from gradchain.training.step import take_step
from gradchain.training.streams import Feed, Stream, as_stream
from gradchain.training.variables import Variables
from gradchain.tree import Tree


class Tip(NamedTuple):
    """How far a run has got on the device."""

    variables: Variables[Any]
    state: Any
    position: Position


class Launched(NamedTuple):
    """Some steps that the device has been told to take."""

    start: Tip
    end: Tip
    scanned: Scanned
    row: dict[str, Array]
    """The history's numbers of these steps, and the validation's where it came with them."""
    steps: int
    examples: int
    ends_epoch: bool
    again: Callable[[int], tuple[Variables[Any], Any]]
    """Takes only the first of the steps, and returns variables and state after them."""

    def moment(self, before: Moment) -> Moment:
        """Return how far the run is after these steps."""
        return Moment(before.steps + self.steps, before.epochs + self.ends_epoch, self.ends_epoch)


class Source(Protocol):
    """Where the next steps of a run come from."""

    def launch(self, tip: Tip, limit: int | None, row: bool) -> Launched:
        """Tell the device to take the next steps, at most ``limit`` and to the end of the epoch.

        Args:
          tip: how far the run is.
          limit: the most steps; ``None`` for the rest of the epoch.
          row: whether the steps up to the limit make a row of the history.
        """
        ...


class Arrays:
    """Data in arrays with the examples on the leading axis."""

    def __init__(self, data: Tree, order: Order):
        self.arrays, self.batch_size = data, order.batch_size
        self.per_epoch = order.steps(check_batches(data, order.batch_size))
        """How many steps an epoch has."""

    def total(self, budget: Budget) -> int | None:
        """Return how many steps a run has."""
        return budget.steps(self.per_epoch)

    @contextlib.contextmanager
    def opened(
        self, recipe: Recipe, tx: Any, key: Array, validation: Tree | None, position: Position,
        left: Steps | Epochs,
    ) -> Generator[Source]:  # fmt: skip
        """Give what launches steps on the data."""
        yield EpochsOfArrays(recipe, tx, self.arrays, validation, key)


class EpochsOfArrays:
    """Steps on arrays; a whole epoch, and the validation after it, is one compiled call."""

    def __init__(self, recipe: Recipe, tx: Any, data: Tree, validation: Tree | None, key: Array):
        self._recipe, self._tx, self._key = recipe, tx, key
        self._data, self._validation = jax.tree.map(jnp.asarray, (data, validation))
        self._examples = count_examples(data)
        self.per_epoch = recipe.order.steps(self._examples)
        self._drawn: tuple[int, Batches] | None = None
        self._most = min(128, 1 << (self.per_epoch - 1).bit_length())

    def launch(self, tip: Tip, limit: int | None, row: bool) -> Launched:
        """See :class:`Source`."""
        first, order = tip.position.step, self._recipe.order
        full = self._examples // order.batch_size if order.remainder in ("drop", "keep") else self.per_epoch
        steps = min(limit or self.per_epoch, self.per_epoch - first)
        inputs = tip.variables, self._tx, tip.state, self._data
        if row and steps == self.per_epoch:
            key = jax.random.fold_in(self._key, tip.position.epoch)
            scanned, numbers = _compiled_epoch(self._recipe, *inputs, self._validation, key)
        elif first == full:
            scanned, numbers = _compiled_rest(self._recipe, *inputs, self._batches(tip.position.epoch))
        else:
            steps = min(steps, full - first)
            scanned, numbers = self._take(inputs, tip.position, steps)

        def again(steps: int) -> tuple[Variables[Any], Any]:
            taken = self._take(inputs, tip.position, steps)[0] if steps else tip
            return taken.variables, taken.state

        ends = first + steps == self.per_epoch
        position = Position(tip.position.epoch + 1) if ends else tip.position._replace(step=first + steps)
        examples = _examples_within(order, self._examples, first, steps)
        end = Tip(scanned.variables, scanned.state, position)
        return Launched(tip, end, scanned, numbers, steps, examples, ends, again)

    def _take(self, inputs: Any, position: Position, steps: int) -> tuple[Scanned, dict[str, Array]]:
        """Take steps with full batches; how many isn't compiled in, only a power of two that they stay below."""
        self._most = max(self._most, 1 << (steps - 1).bit_length())
        window = Window(self._batches(position.epoch), position.step, steps)
        return _compiled_window((self._recipe, self._most), *inputs, window)

    def _batches(self, epoch: int) -> Batches:
        """Return an epoch's batches, which are drawn once for all of its windows."""
        if self._drawn is None or self._drawn[0] != epoch:
            key = jax.random.fold_in(self._key, epoch)
            self._drawn = epoch, _compiled_batches((self._recipe, self._examples), key)
        return self._drawn[1]


def _examples_within(order: Order, n: int, first: int, steps: int) -> int:
    """Return how many examples some of an epoch's steps see."""
    size = order.batch_size
    seen = steps * size
    return min(seen, n - first * size) if order.remainder in ("keep", "pad") else seen


def _epoch(
    recipe: Recipe, variables: Variables[Any], tx: Any, state: Any, data: Tree, validation: Tree | None, key: Array
) -> tuple[Scanned, dict[str, Array]]:
    return _kept(recipe, *run_epoch(recipe, variables, tx, state, data, validation, key))


_compiled_epoch = Compiled(_epoch)


def _batches(plan: tuple[Recipe, int], key: Array) -> Batches:
    recipe, n = plan
    return divide(recipe.objective, recipe.order, n, key)


_compiled_batches = Compiled(_batches)


def _window(
    plan: tuple[Recipe, int], variables: Variables[Any], tx: Any, state: Any, data: Tree, window: Window
) -> tuple[Scanned, dict[str, Array]]:
    recipe, most = plan
    scanned = scan_window(recipe.objective, variables, tx, state, data, recipe.order, window, most, recipe.watch)
    return _kept(recipe, scanned, named_numbers(scanned.mean()))


_compiled_window = Compiled(_window)


def _rest(
    recipe: Recipe, variables: Variables[Any], tx: Any, state: Any, data: Tree, batches: Batches
) -> tuple[Scanned, dict[str, Array]]:
    scanned = scan_rest(recipe.objective, variables, tx, state, data, recipe.order, batches, recipe.watch)
    return _kept(recipe, scanned, named_numbers(scanned.mean()))


_compiled_rest = Compiled(_rest)


def _kept(recipe: Recipe, scanned: Scanned, row: dict[str, Array]) -> tuple[Scanned, dict[str, Array]]:
    """Return what some steps gave, laid out as the variables and the state were."""
    placement = recipe.objective.placement
    if placement is None:
        return scanned, row
    variables, state, *numbers, row = placement.keep(*scanned, row)
    return Scanned(variables, state, *numbers), row


class Streamed:
    """Data in a stream of batches."""

    arrays = None

    def __init__(self, stream: Stream, steps_per_call: int):
        self._stream, self._steps = stream, steps_per_call
        self.batch_size, self.per_epoch = stream.batch_size, stream.per_epoch

    def total(self, budget: Budget) -> int | None:
        """Return how many steps a run has; ``None`` if nobody knows how long an epoch is.

        Raises:
          ValueError: for a number of epochs of data that can't be passed over more than once.
        """
        if budget.unit == "epoch":
            self._stream.check_repeats()
        return budget.steps(self.per_epoch)

    @contextlib.contextmanager
    def opened(
        self, recipe: Recipe, tx: Any, key: Array, validation: Tree | None, position: Position,
        left: Steps | Epochs,
    ) -> Generator[Source]:  # fmt: skip
        """Give what launches steps on the batches, and draw them from the given position on, as many as are left."""
        with self._stream.feed(position, self._steps, recipe.objective.placement, key, left) as feed:
            yield Blocks(recipe, tx, feed, key)


class Blocks:
    """Steps on blocks of a stream's batches, each block one compiled call."""

    def __init__(self, recipe: Recipe, tx: Any, feed: Feed, key: Array):
        self._recipe, self._tx, self._feed, self._key = recipe, tx, feed, key

    def launch(self, tip: Tip, limit: int | None, row: bool) -> Launched:
        """See :class:`Source`."""
        block = self._feed.take(limit)
        key = jax.random.fold_in(self._key, tip.position.epoch)

        def take(steps: int) -> tuple[Scanned, dict[str, Array]]:
            parts = block.batches, block.weights, block.sizes
            parts = parts if steps == block.count else jax.tree.map(lambda x: x[:steps], parts)
            return _compiled_block(self._recipe, tip.variables, self._tx, tip.state, parts, key, tip.position.step)

        def again(steps: int) -> tuple[Variables[Any], Any]:
            return take(steps)[0][:2] if steps else (tip.variables, tip.state)

        scanned, numbers = take(block.count)
        end = Tip(scanned.variables, scanned.state, block.position)
        return Launched(tip, end, scanned, numbers, block.count, int(block.sizes.sum()), block.ends_epoch, again)


def run_block(
    recipe: Recipe, variables: Variables[Any], tx: Any, state: Any, block: tuple[Tree, Array | None, Array], key: Array,
    first: Any,
) -> tuple[Scanned, dict[str, Array]]:  # fmt: skip
    """Take a step on each batch of a block: what they return, and the history's numbers of them. Pure."""
    batches, weights, sizes = block
    objective = recipe.objective
    _, loss_key = jax.random.split(key)

    def take(carry: tuple[Variables[Any], Any], x: Any, watch: Any) -> tuple[tuple[Variables[Any], Any], Any]:
        batch, weights, number = x
        key = jax.random.fold_in(loss_key, number) if objective.takes_key else None
        taken = take_step(objective, carry[0], tx, carry[1], batch, key, weights, watch)
        return (taken.variables, taken.state), (taken.metrics, taken.watched)

    inputs, carry = (batches, weights, first + jnp.arange(len(sizes))), (variables, state)
    if recipe.watch is None:
        carry, (metrics, watched) = lax.scan(lambda carry, x: take(carry, x, None), carry, inputs)
    else:
        head, last = jax.tree.map(lambda x: x[:-1], inputs), jax.tree.map(lambda x: x[-1:], inputs)
        carry, many = lax.scan(lambda carry, x: take(carry, x, counting(recipe.watch)), carry, head)
        carry, one = lax.scan(lambda carry, x: take(carry, x, recipe.watch), carry, last)
        metrics = jax.tree.map(lambda xs, x: jnp.concatenate([xs, x]), many[0], one[0])
        watched = summed([many[1], one[1]])
    scanned = Scanned(carry[0], carry[1], metrics, jnp.asarray(sizes), watched)
    return _kept(recipe, scanned, named_numbers(scanned.mean()))


_compiled_block = Compiled(run_block)


def stream_of(where: str, recipe: Recipe, data: Any, device_memory: int | None = None) -> Stream | None:
    """Return data that come batch by batch as a stream; ``None`` for arrays, which need a size of batches.

    Raises:
      TypeError: for data that are neither arrays nor a stream of batches.
      ValueError: for arrays without a size of batches.
    """
    batch_size, shuffle, remainder = recipe.order
    stream = as_stream(data, batch_size, remainder, shuffle=shuffle, device_memory=device_memory)
    if stream is None and batch_size is None:
        raise ValueError(f"{where}: data in arrays need a batch_size")
    return stream


def source_of(
    recipe: Recipe, data: Tree, steps_per_call: int, mesh: Mesh | None, device_memory: int | None
) -> Arrays | Streamed:
    """Return where batches come from, after checking what was handed in.

    Raises:
      TypeError: for data that are neither arrays nor a stream of batches.
      ValueError: for batch sizes that don't fit.
    """
    check_whole("steps_per_call", steps_per_call)
    stream = stream_of("fit", recipe, data, device_memory)
    if stream is not None:
        return Streamed(stream, steps_per_call)
    return Arrays(data if mesh is None else spread_data(mesh, data, "data"), recipe.order)
