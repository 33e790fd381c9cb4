"""What a stream of batches is: anything that gives them one by one, for each pass over the data."""

import contextlib
import inspect
import itertools
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import jax
from jax import Array

from gradchain.arguments import check_whole, described
from gradchain.training.budget import Epochs, Steps
from gradchain.training.data.batches import Pattern, examples_of
from gradchain.training.data.examples import check_batches
from gradchain.training.data.feeding import Drawn, Feed
from gradchain.training.data.placement import Placement, check_divides
from gradchain.training.data.positions import Position, from_plain, plain
from gradchain.training.data.rows import Rows, stays_on_host
from gradchain.training.data.wording import are_batches
from gradchain.tree import Tree


class Stream(NamedTuple):
    """A stream of batches; see :func:`as_stream`."""

    begin: Callable[[int, Array | None], Iterator[Tree]]
    """``begin(epoch, key)`` returns the iterator of a pass over the data."""
    what: str
    remainder: str
    batch_size: int | None
    """The examples of a full batch, where the caller says so; else the first batch is a full one."""
    per_epoch: int | None
    """How many batches a pass gives, where that is known."""
    repeats: bool = True
    """Whether the data can be passed over more than once."""

    def check_repeats(self) -> None:
        """Raise ValueError unless the data can be passed over more than once."""
        if not self.repeats:
            raise ValueError(
                f"{self.what}: an iterator gives its batches only once, so its epochs can't be counted; say with "
                "steps=... how many to take. For epochs, hand in a list, a data loader, or a function of the epoch's "
                "number that returns an iterator"
            )

    def feed(
        self, start: Position, per_call: int, placement: Placement | None = None, key: Array | None = None,
        left: Steps | Epochs | None = None,
    ) -> Feed:  # fmt: skip
        """Return what draws the batches in the background and sends blocks of them to the device.

        Args:
          start: where to begin. For a saved position, the pass's iterator is set to its state, or batches are skipped
            if it has none.
          per_call: how many batches a block has at most.
          placement: the mesh that batches are spread over, if any.
          key: the run's PRNG key, for the order of arrays.
          left: how much of the run is left: no more is drawn.
        """
        drawn = self._drawn(start, placement, key, start.epoch + left.number if isinstance(left, Epochs) else None)
        if isinstance(left, Steps):
            drawn = _first(left.number, drawn)
        return Feed(drawn, per_call, placement, self.remainder == "pad")

    def once(self, placement: Placement | None = None) -> Generator[tuple[Tree, int]]:
        """Yield each batch of one pass, on the device or the mesh, with the number of its examples."""
        more = True
        with self.feed(Position(), 1, placement, left=Epochs(1)) as feed:
            while more:
                block = feed.take()
                yield jax.tree.map(lambda x: x[0], block.batches), int(block.sizes[0])
                more = not block.ends_epoch

    def _drawn(
        self, start: Position, placement: Placement | None, key: Array | None, end: int | None
    ) -> Generator[Drawn]:
        """Draw the batches of one pass after the other, from a position on and up to epoch number ``end``."""
        pattern = Pattern(self.what, self.batch_size or start.size, start.example)
        while start.epoch != end:
            drawn, number = self._pass(start, pattern, key), 0
            for number, one in enumerate(_looking_ahead(drawn) if self.repeats else drawn, 1):
                if number == 1 and placement is not None:
                    check_divides(placement.mesh, (pattern.size or 0) * jax.process_count())
                yield one
            if not self.repeats:
                raise ValueError(
                    f"{self.what}: the iterator has ended before all steps were taken; give fewer steps, or hand in a "
                    "function of the epoch's number that returns an iterator"
                )
            if not number:
                full = "" if pattern.size is None else f" of {pattern.size} examples"
                raise ValueError(f"{self.what}: epoch {start.epoch}, counted from 0, has no batch{full}")
            start = Position(start.epoch + 1)

    def _pass(self, start: Position, pattern: Pattern, key: Array | None) -> Generator[Drawn]:
        """Draw the batches of the rest of a pass."""
        source = self.begin(start.epoch, key)
        has_state = hasattr(source, "get_state") and hasattr(source, "set_state")
        if start.iterator is not None:
            source.set_state(from_plain(start.iterator))  # pyright: ignore[reportAttributeAccessIssue]
        goes_on = start.iterator is not None or (not self.repeats and start.size is None)
        step, first, smaller = start.step if goes_on else 0, start.first, None
        try:
            for batch in map(pattern.read, source):
                size, full = batch.size, pattern.size or batch.size
                if size < full:
                    smaller = self._checked_size(size, full, smaller)
                    if self.remainder == "drop":
                        continue
                    batch = batch.padded(full) if self.remainder == "pad" else batch
                if step == 0 and not has_state:
                    first = self._same_first(batch.checksum(), start)
                step += 1
                if step > start.step:
                    state = plain(source.get_state()) if has_state else None  # pyright: ignore[reportAttributeAccessIssue]
                    position = Position(start.epoch, step, state, full, pattern.example, first)
                    yield Drawn(batch, size, False, position)
        finally:
            if self.repeats and hasattr(source, "close"):
                source.close()  # pyright: ignore[reportAttributeAccessIssue]
        if step < start.step:
            raise ValueError(
                f"{self.what}: the run was at batch {start.step} of epoch {start.epoch}, counted from 0, but that "
                f"epoch has {step} now"
            )

    def _checked_size(self, size: int, full: int, smaller: int | None) -> int:
        if smaller not in (None, size):
            raise ValueError(
                f"{self.what}: batches of {full}, {smaller} and {size} examples; all must have the same size, but for "
                "a smaller last one"
            )
        return size

    def _same_first(self, checksum: int, start: Position) -> int:
        if start.first not in (None, checksum):
            raise ValueError(
                f"{self.what}: the run can't go on in epoch {start.epoch}, counted from 0, because its first batch "
                "isn't what it was: this source gives other batches, or another order, each time. Hand in a function "
                "of the epoch's number that returns an iterator, with the epoch as the seed of its order"
            )
        return checksum


def _first(number: int, source: Generator[Drawn]) -> Generator[Drawn]:
    with contextlib.closing(source):
        yield from itertools.islice(source, number)


def _looking_ahead(source: Iterator[Drawn]) -> Generator[Drawn]:
    """Return the batches of a pass with the last one marked as such."""
    last = next(source, None)
    if last is None:
        return
    for drawn in source:
        yield last
        last = drawn
    after = Position(last.position.epoch + 1, size=last.position.size, example=last.position.example)
    yield last._replace(ends_epoch=True, position=after)


def as_stream(
    data: Any, batch_size: int | None, remainder: str, what: str = "data", *, shuffle: bool = True,
    device_memory: int | None = None, shares: int = 1,
) -> Stream | None:  # fmt: skip
    """Return data as a stream of batches, or ``None`` for arrays that are to lie on the device.

    Args:
      data: an iterable of batches that can be iterated over anew (a list of trees, a data loader); a function of the
        epoch's number that returns an iterable; an iterator; or a tree of arrays. An iterator that has ``get_state()``
        and ``set_state(state)`` resumes by them.
      batch_size: the examples of a full batch.
      remainder: what becomes of smaller batches: ``"drop"`` leaves them out, ``"keep"`` makes each a block of its own,
        ``"pad"`` fills them up with their last example, which has weight 0. ``"wrap"`` is for arrays alone.
      what: what messages call the data.
      shuffle: whether to draw the examples of arrays in a new order in each epoch, that of ``scan_epoch``.
      device_memory: how many bytes of NumPy arrays may lie on the device; of more, batches are drawn on the host. By
        default all may, but for memory-mapped ones.
      shares: how many processes share the examples of each batch of arrays.

    Raises:
      TypeError: for a data set of single examples, or a function that doesn't take the epoch's number.
      ValueError: for arrays that are smaller than a batch, or ``remainder="wrap"`` for a stream.
    """
    if not are_batches(data):
        if not stays_on_host(data, device_memory):
            return None
        return _of_arrays(data, _share(batch_size, shares), remainder, what, shuffle)
    if remainder == "wrap":
        raise ValueError(f"{what}: remainder='wrap' needs arrays; for batches write 'drop', 'keep' or 'pad'")
    if hasattr(data, "__next__"):
        return Stream(lambda epoch, key: data, what, remainder, batch_size, None, repeats=False)
    if hasattr(data, "__iter__"):
        return Stream(lambda epoch, key: iter(data), what, remainder, batch_size, _count(data, remainder))
    if not callable(data):
        raise TypeError(
            f"{what}: {described(data)} gives single examples; hand in what gives batches of them, such as "
            "torch.utils.data.DataLoader(dataset, batch_size=32)"
        )
    return Stream(_of_function(data, what), what, remainder, batch_size, None)


def _of_function(function: Callable[[int], Any], what: str) -> Callable[[int, Array | None], Iterator[Tree]]:
    name = getattr(function, "__name__", type(function).__name__)
    try:
        inspect.signature(function).bind(0)
    except TypeError:
        raise TypeError(
            f"{what}: the function {name} must take one argument, the epoch's number: def {name}(epoch)"
        ) from None

    def begin(epoch: int, key: Array | None) -> Iterator[Tree]:
        batches = function(epoch)
        if not hasattr(batches, "__iter__"):
            raise TypeError(f"{what}: {name}({epoch}) returned {described(batches)}, expected an iterator of batches")
        return iter(batches)

    return begin


def _share(batch_size: int | None, shares: int) -> int | None:
    """Return how many examples of a batch come from each process."""
    if shares == 1 or batch_size is None:
        return batch_size
    check_whole("batch_size", batch_size)
    if batch_size % shares:
        raise ValueError(f"batch_size is {batch_size}, which {shares} processes can't share evenly")
    return batch_size // shares


def _of_arrays(data: Tree, batch_size: int | None, remainder: str, what: str, shuffle: bool) -> Stream:
    if batch_size is None:
        raise ValueError(f"{what}: arrays need a batch_size")
    n = check_batches(data, batch_size, what)
    whole = n // batch_size
    per_epoch = whole if remainder == "drop" else -(-n // batch_size)

    def begin(epoch: int, key: Array | None) -> Iterator[Tree]:
        if shuffle and batch_size < n and key is None:
            raise ValueError(f"{what}: shuffling needs a PRNG key")
        epoch_key = jax.random.fold_in(key, epoch) if shuffle and key is not None else None
        return Rows(data, n, batch_size, remainder == "wrap", epoch_key)

    return Stream(begin, what, remainder, batch_size, per_epoch)


def _count(data: Any, remainder: str) -> int | None:
    """Return how many batches a pass gives, where a list or a loader tells."""
    try:
        count = len(data)
    except TypeError:
        return None
    if remainder != "drop" or not count:
        return count
    if isinstance(data, list):
        return count - (examples_of(data[-1]) < examples_of(data[0]))
    sampler = getattr(data, "batch_sampler", None) or data  # of PyTorch's DataLoader, whose last batch may be smaller
    examples = getattr(sampler, "sampler", None) or getattr(data, "dataset", ())
    size = getattr(sampler, "batch_size", None)
    if getattr(sampler, "drop_last", True) or not isinstance(size, int) or not hasattr(examples, "__len__"):
        return count
    return count - (len(examples) % size > 0)
