"""Where a run's batches come from: arrays on the device, or a stream; and the compiled steps on them."""

import contextlib
import itertools
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh

from gradchain.arguments import check_whole
from gradchain.compiled import Compiled
from gradchain.training.budget import Budget, Epochs, Moment, Steps
from gradchain.training.data.examples import check_batches, count_examples
from gradchain.training.data.hosts import spread_data
from gradchain.training.data.positions import Position
from gradchain.training.data.streams import Feed, Stream, as_stream
from gradchain.training.data.wording import may_be_batches
from gradchain.training.metrics import named_numbers
from gradchain.training.steps.epoch import Batches, Order, Scanned, divide
from gradchain.training.steps.measuring import counting, summed
from gradchain.training.steps.recipe import Recipe, renewed, run_epoch
from gradchain.training.steps.renewal import renew_on_stream
from gradchain.training.steps.step import on_device, take_step
from gradchain.training.steps.windows import Window, scan_rest, scan_window
from gradchain.training.variables import Variables
from gradchain.tree import Tree

MOST_STEPS = 1024
"""How many steps one call on arrays takes if somebody is told of some of them; more only if nobody is meanwhile."""
MOST_STRETCHES = 64
"""Of how many of its steps somebody is told."""

Renewal = Callable[[Variables[Any]], Variables[Any]]
"""What gives variables the model state that belongs to their weights."""


class Tip(NamedTuple):
    """How far a run has got on the device."""

    variables: Variables[Any]
    state: Any
    position: Position


class Part(NamedTuple):
    """What is known of some steps, on the host."""

    steps: int
    examples: int
    losses: np.ndarray[Any, Any]
    """Of every step."""
    row: dict[str, float]
    """The history's numbers of these steps, and the validation's where it came with them."""
    watched: dict[str, Any]
    """See :class:`Scanned`."""


class Launched(NamedTuple):
    """Some steps that the device has been told to take by one call."""

    start: Tip
    end: Tip
    scanned: Scanned
    row: dict[str, Array]
    """As in a part; where there are several, with a leading axis of at least as many."""
    parts: tuple[tuple[int, int], ...]
    """How many steps and examples there are up to where somebody is told of them, and from there to the next."""
    ends_epoch: bool
    program: Any
    """What tells compiled programs apart."""
    again: Callable[[int], tuple[Variables[Any], Any]]
    """Takes only the first of the steps, and returns variables and state after them."""

    @property
    def steps(self) -> int:
        """How many they are."""
        return sum(steps for steps, _ in self.parts)

    def read(self) -> list[Part]:
        """Wait for the steps, and return what is known of them."""
        losses, row, watched = jax.device_get((self.scanned.metrics.loss, self.row, self.scanned.watched))
        parts, begin = list[Part](), 0
        for k, (steps, examples) in enumerate(self.parts):
            at: Any = k if np.ndim(row["loss"]) else ()
            numbers = {name: float(x[at]) for name, x in row.items()}
            found = jax.tree.map(lambda x, at=at: x[at], watched) if watched else {}
            parts.append(Part(steps, examples, losses[begin : begin + steps], numbers, found))
            begin += steps
        return parts

    def moment(self, before: Moment) -> Moment:
        """Return how far the run is after these steps."""
        return Moment(before.steps + self.steps, before.epochs + self.ends_epoch, self.ends_epoch)


class Source(Protocol):
    """Where the next steps of a run come from."""

    def launch(self, tip: Tip, limit: int | None, row: bool, stretches: Sequence[int]) -> Launched:
        """Tell the device to take the next steps, at most ``limit`` and to the end of the epoch.

        Args:
          tip: how far the run is.
          limit: the most steps; ``None`` for the rest of the epoch.
          row: whether the steps up to the limit make a row of the history.
          stretches: how many steps there are up to where somebody is to be told of them, and from there to the next
            such step, and so on; empty if nobody is. No more steps than these are taken, and as few of the stretches
            as the source likes, at least one.
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

    def renewal(self, recipe: Recipe, key: Array) -> Renewal:
        """Return what renews the model state of variables by a pass over the data."""
        return lambda variables: _compiled_renewal(recipe, variables, self.arrays, key)

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
        self._most = min(MOST_STEPS, 1 << (self.per_epoch - 1).bit_length())

    def launch(self, tip: Tip, limit: int | None, row: bool, stretches: Sequence[int]) -> Launched:
        """See :class:`Source`."""
        first, order = tip.position.step, self._recipe.order
        full = self._examples // order.batch_size if order.remainder in ("drop", "keep") else self.per_epoch
        limit = min(limit or self.per_epoch, self.per_epoch - first)
        stretches = _cut(stretches or [limit], limit)
        inputs = tip.variables, self._tx, tip.state, self._data
        if row and stretches == [self.per_epoch]:
            key = jax.random.fold_in(self._key, tip.position.epoch)
            program, (scanned, numbers) = "epoch", _compiled_epoch(self._recipe, *inputs, self._validation, key)
        elif first == full:
            stretches = [1]
            batches = self._batches(tip.position.epoch)
            program, (scanned, numbers) = "rest", _compiled_rest(self._recipe, *inputs, batches)
        else:
            stretches = _cut(stretches[:MOST_STRETCHES], min(full - first, max(self._most, stretches[0])))
            scanned, numbers = self._take(inputs, tip.position, stretches)
            program = "window", self._most

        def again(steps: int) -> tuple[Variables[Any], Any]:
            taken = self._take(inputs, tip.position, [steps])[0] if steps else tip
            return taken.variables, taken.state

        begins = [first, *(first + x for x in itertools.accumulate(stretches))]
        ends = begins[-1] == self.per_epoch
        position = Position(tip.position.epoch + 1) if ends else tip.position._replace(step=begins[-1])
        parts = tuple(
            (steps, _examples_within(order, self._examples, begin, steps))
            for begin, steps in zip(begins, stretches, strict=False)
        )
        end = Tip(scanned.variables, scanned.state, position)
        return Launched(tip, end, scanned, numbers, parts, ends, program, again)

    def _take(self, inputs: Any, position: Position, stretches: list[int]) -> tuple[Scanned, dict[str, Array]]:
        """Take steps with full batches; how many isn't compiled in, only a power of two that they stay below."""
        self._most = max(self._most, 1 << (sum(stretches) - 1).bit_length())
        room = np.zeros(MOST_STRETCHES, np.int32)
        room[: len(stretches)] = stretches
        window = Window(self._batches(position.epoch), position.step, room)
        return _compiled_window((self._recipe, self._most), *inputs, window)

    def _batches(self, epoch: int) -> Batches:
        """Return an epoch's batches, which are drawn once for all of its windows."""
        if self._drawn is None or self._drawn[0] != epoch:
            key = jax.random.fold_in(self._key, epoch)
            self._drawn = epoch, _compiled_batches((self._recipe, self._examples), key)
        return self._drawn[1]


_compiled_renewal = Compiled(renewed)


def _cut(stretches: Sequence[int], limit: int) -> list[int]:
    """Return stretches up to a limit of steps in all, the last one perhaps in part."""
    begins = [0, *itertools.accumulate(stretches)]
    return [min(x, limit - begin) for begin, x in zip(begins, stretches, strict=False) if begin < limit]


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
    return _kept(
        recipe, *scan_window(recipe.objective, variables, tx, state, data, recipe.order, window, most, recipe.watch)
    )


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

    def __init__(self, stream: Stream, steps_per_call: int, shares: int):
        self._stream, self._steps, self.per_epoch = stream, steps_per_call, stream.per_epoch
        self.batch_size = None if stream.batch_size is None else stream.batch_size * shares

    def total(self, budget: Budget) -> int | None:
        """Return how many steps a run has; ``None`` if nobody knows how long an epoch is.

        Raises:
          ValueError: for a number of epochs of data that can't be passed over more than once.
        """
        if budget.unit == "epoch":
            self._stream.check_repeats()
        return budget.steps(self.per_epoch)

    def renewal(self, recipe: Recipe, key: Array) -> Renewal:
        """Return what renews the model state of variables by a pass over the data.

        Raises:
          ValueError: for data that can't be passed over more than once.
        """
        if not self._stream.repeats:
            raise ValueError(
                "renew_state=True passes over the data again, but an iterator gives its batches only once; hand in a "
                "list, a data loader, or a function of the epoch's number that returns an iterator"
            )
        stream, key_of_loss = self._stream._replace(remainder="keep"), key if recipe.objective.takes_key else None
        return lambda variables: renew_on_stream(recipe.objective, variables, stream, key_of_loss)

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
        self._recipe, self._tx, self._feed, self._key = recipe, on_device(tx), feed, key

    def launch(self, tip: Tip, limit: int | None, row: bool, stretches: Sequence[int]) -> Launched:
        """See :class:`Source`."""
        block = self._feed.take(min([*stretches[:1], *([] if limit is None else [limit])], default=None))
        place = self._key, tip.position.epoch, tip.position.step

        def take(steps: int) -> tuple[Scanned, dict[str, Array]]:
            parts = block.batches, block.weights, block.sizes
            parts = parts if steps == block.count else jax.tree.map(lambda x: x[:steps], parts)
            return _compiled_block(self._recipe, tip.variables, self._tx, tip.state, parts, *place)

        def again(steps: int) -> tuple[Variables[Any], Any]:
            return take(steps)[0][:2] if steps else (tip.variables, tip.state)

        scanned, numbers = take(block.count)
        end = Tip(scanned.variables, scanned.state, block.position)
        parts = ((block.count, int(block.sizes.sum())),)
        return Launched(tip, end, scanned, numbers, parts, block.ends_epoch, ("block", block.count), again)


def run_block(
    recipe: Recipe, variables: Variables[Any], tx: Any, state: Any, block: tuple[Tree, Array | None, Array], key: Array,
    epoch: Any, first: Any,
) -> tuple[Scanned, dict[str, Array]]:  # fmt: skip
    """Take a step on each batch of a block: what they return, and the history's numbers of them. Pure.

    Args:
      recipe: what training is made of.
      variables: the model.
      tx: the transform.
      state: its state.
      block: batches, weights and sizes, see :class:`~gradchain.training.feeding.Block`.
      key: the run's PRNG key.
      epoch: the number of the epoch.
      first: the number of the first of the steps in it.
    """
    batches, weights, sizes = block
    objective = recipe.objective
    _, loss_key = jax.random.split(jax.random.fold_in(key, epoch))

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


def stream_of(
    where: str, recipe: Recipe, data: Any, device_memory: int | None = None, shares: int = 1
) -> Stream | None:  # fmt: skip
    """Return data that come batch by batch as a stream; ``None`` for arrays, which need a size of batches.

    Raises:
      TypeError: for data that are neither arrays nor a stream of batches.
      ValueError: for arrays without a size of batches.
    """
    batch_size, shuffle, remainder = recipe.order
    stream = as_stream(data, batch_size, remainder, shuffle=shuffle, device_memory=device_memory, shares=shares)
    if stream is None and batch_size is None:
        hint = "; batches are handed in as a list: [*data]" if may_be_batches(data) else ""
        raise ValueError(f"{where}: data in arrays need a batch_size{hint}")
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
    shares = 1 if mesh is None else jax.process_count()
    stream = stream_of("fit", recipe, data, device_memory, shares)
    if stream is not None:
        return Streamed(stream, steps_per_call, shares)
    return Arrays(data if mesh is None else spread_data(mesh, data, "data"), recipe.order)
