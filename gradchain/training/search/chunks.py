"""How many runs are trained at once: side by side in one batch, and one batch on each core of a CPU."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from gradchain.arguments import check_whole
from gradchain.training.search.cores import cores
from gradchain.tree import Tree

CPU_CHUNK = 8
"""Runs of a small network side by side on a core of a CPU: enough to share the cost of starting each operation."""
SMALL = 2**14
"""Numbers of parameters up to which a network is small: of larger ones several outgrow a core's cache."""


BATCHED_DECOMPOSITION = re.compile(r"= \(?\w+\[(?!1,\d+,\d+\])\d+,[\d,]*\d+,\d+\].*custom_call_target=\"lapack_")
"""LAPACK's operations on more than one matrix, in a compiled program for a CPU."""


class Layout(NamedTuple):
    """How a sweep's runs are computed: in threads that each take a share of them, in chunks side by side."""

    share: tuple[int, int]
    """How many transforms, and how many replicas of each, are a share."""
    grid: tuple[int, int]
    """How many shares there are, along the transforms and along the replicas; the last ones may reach past the end."""
    chunks: tuple[int, int]
    """How many of both are computed side by side."""
    threads: int
    """How many shares are computed at once."""

    @property
    def firsts(self) -> list[tuple[int, int]]:
        """The first transform and the first replica of each share."""
        return [(i * self.share[0], k * self.share[1]) for i in range(self.grid[0]) for k in range(self.grid[1])]


def on_threads(runs: int, replicas: int, chunk: int | None, begins: Tree, inputs: Tree = None) -> Layout:
    """Share transforms, or the replicas of each where they are fewer, among a CPU's cores; elsewhere all is one share.

    Args:
      runs: how many transforms there are.
      replicas: how many replicas of each.
      chunk: how many runs side by side at most, in all threads together; ``None`` for what is fastest.
      begins: parameters with a leading axis.
      inputs: what the runs share; if it lies on several devices, a program is theirs, and all is one share.
    """
    threads = threads_for(chunk, (begins, inputs))
    parts = 1 if runs >= threads else min(range(1, min(threads, replicas) + 1), key=_time_in(threads, runs, replicas))
    share = (math.ceil(runs / threads), replicas) if parts == 1 else (1, math.ceil(replicas / parts))
    chunk = None if chunk is None else chunk // threads
    grid = math.ceil(runs / share[0]), math.ceil(replicas / share[1])
    return Layout(share, grid, chunk_sizes(*share, chunk, begins), threads)


def _time_in(threads: int, runs: int, replicas: int) -> Callable[[int], int]:
    """Return what says how long it takes if each transform's replicas are divided into so many shares."""
    return lambda parts: math.ceil(runs * parts / threads) * math.ceil(replicas / parts)


def threads_for(chunk: int | None, inputs: Tree) -> int:
    """Return how many threads a program of these inputs runs in; in one if they are on several devices.

    Args:
      chunk: how many runs are computed side by side at most, in all threads together; ``None`` for any number.
      inputs: a tree of arrays.
    """
    if any(isinstance(x, Array) and len(x.sharding.device_set) > 1 for x in jax.tree.leaves(inputs)):
        return 1
    return cores() if chunk is None else min(cores(), chunk)


def chunk_sizes(runs: int, replicas: int, chunk: int | None, begins: Tree) -> tuple[int, int]:
    """Return how many transforms, and how many replicas of each, are computed side by side; evenly filled.

    Args:
      runs: how many transforms there are.
      replicas: how many replicas of each.
      chunk: how many runs side by side at most; ``None`` for what is fastest.
      begins: parameters with a leading axis.
    """
    chunk = fastest_chunk(runs * replicas, begins) if chunk is None else chunk
    return even(runs, max(chunk // replicas, 1)), even(replicas, chunk)


def check_chunk(where: str, chunk: int | None) -> None:
    """Raise ValueError unless ``chunk`` is ``None`` or a whole number, at least 1."""
    if chunk is not None:
        check_whole(f"{where}: chunk", chunk)


def even(size: int, limit: int) -> int:
    """Return the size of chunks of at most ``limit``, evenly filled."""
    return math.ceil(size / math.ceil(size / limit))


def fastest_chunk(size: int, begins: Tree) -> int:
    """Return how many of ``size`` runs are fastest side by side, given their parameters with a leading axis."""
    if jax.default_backend() != "cpu":
        return size
    numbers = sum(x.size // len(x) for x in jax.tree.leaves(begins))
    return CPU_CHUNK if numbers <= SMALL else 1


def in_threads(
    program: Callable[..., Any], calls: Sequence[tuple[Any, ...]], threads: int, text: Callable[[], str],
    done: Callable[[], None] | None = None,
) -> list[Any]:  # fmt: skip
    """Call a compiled program with the arguments of each call, so many calls at a time, and return all results.

    Programs that decompose batches of matrices are called one after another. Several such operations in a program may
    be computed at the same time in XLA's pool of threads, and those of two programs can wait for each other for ever.

    Args:
      program: the compiled program.
      calls: the arguments of each call.
      threads: how many threads there are.
      text: returns the program's text.
      done: called after each call, in this thread.
    """

    def call(arguments: tuple[Any, ...]) -> Any:
        return jax.block_until_ready(program(*arguments))

    if min(threads, len(calls)) == 1 or BATCHED_DECOMPOSITION.search(text()):
        return _collected(map(call, calls), done)
    with ThreadPoolExecutor(threads) as pool:
        return _collected(pool.map(call, calls), done)


def _collected(results: Iterable[Any], done: Callable[[], None] | None) -> list[Any]:
    found = list[Any]()
    for result in results:
        found.append(result)
        if done is not None:
            done()
    return found


def fold_in_chunks(
    function: Callable[[Array], Any], size: int, chunk: int, fold: Callable[[Any, Array, Any], tuple[Any, Any]],
    start: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """Call a function for all of ``range(size)``, ``chunk`` at a time side by side, and fold what it returns.

    A last chunk that isn't full is filled up with repetitions.

    Args:
      function: ``function(i)``; vmapped over a chunk of more than one.
      size: how many there are.
      chunk: how many are computed side by side.
      fold: ``fold(carry, members, found) -> (carry, kept)``, called after each chunk with its numbers and what was
        found for them.
      start: the first carry.

    Returns:
      The last carry, and what was kept, with a leading axis of length ``size``.
    """
    chunks = math.ceil(size / chunk)
    indices = (jnp.arange(chunks * chunk) % size).reshape(chunks, chunk)

    def body(carry: Any, members: Array) -> tuple[Any, Any]:
        one = chunk == 1
        found = jax.tree.map(lambda x: x[None], function(members[0])) if one else jax.vmap(function)(members)
        return fold(carry, members, found)

    carry, stacked = lax.scan(body, start, indices)
    return carry, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:size], stacked)


def map_in_chunks(
    function: Callable[[Array], Any], size: int, chunk: int, after_chunk: Callable[[], None] | None = None
) -> Any:
    """Map over ``range(size)``, ``chunk`` at a time side by side."""

    def keep(carry: None, members: Array, found: Any) -> tuple[None, Any]:
        if after_chunk is not None:
            after_chunk()
        return carry, found

    return fold_in_chunks(function, size, chunk, keep, None)[1]


def member_of(tree: Tree, i: Any) -> Tree:
    """Return what lies at place ``i`` of every leaf's leading axis."""
    return jax.tree.map(lambda x: x[i], tree)


def transform_of(tx: Any, i: Any) -> Any:
    """Return the transform at place ``i`` of a batch."""
    return jax.tree.map(lambda x: x[i] if jnp.ndim(x) else x, tx)
