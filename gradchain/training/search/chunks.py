"""How many runs are trained at once: side by side in one batch, and one batch on each core of a CPU."""

import math
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from gradchain.arguments import check_whole
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
    """How many transforms, and how many replicas of each, one thread (or device) has to train."""
    firsts: tuple[tuple[int, int], ...]
    """The first transform and the first replica of each thread's share."""
    chunks: tuple[int, int]
    """How many of both are computed side by side."""


def on_threads(runs: int, replicas: int, chunk: int | None, begins: Tree) -> Layout:
    """Share transforms, or the replicas of a single one, among a CPU's cores; elsewhere all is one share."""
    threads = cores() if chunk is None else min(cores(), chunk)
    if runs > 1:
        share = math.ceil(runs / threads), replicas
        firsts = tuple((i, 0) for i in range(0, runs, share[0]))
    else:
        share = 1, math.ceil(replicas / threads)
        firsts = tuple((0, i) for i in range(0, replicas, share[1]))
    chunk = None if chunk is None else chunk // threads
    return Layout(share, firsts, chunk_sizes(*share, chunk, begins))


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


def cores() -> int:
    """Return how many threads can compute at once: a CPU's cores, and 1 elsewhere, where the device is the limit."""
    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(program: Callable[..., Any], firsts: Sequence[tuple[int, int]], text: Callable[[], str]) -> list[Any]:
    """Call a compiled program with each share's first transform and replica, each in a thread of its own.

    Programs that decompose batches of matrices are called one after another. Several such operations in a program may
    be computed at the same time in XLA's pool of threads, and those of two programs can wait for each other for ever.

    Args:
      program: the compiled program.
      firsts: the first transform and the first replica of each share.
      text: returns the program's text.
    """
    if len(firsts) == 1 or BATCHED_DECOMPOSITION.search(text()):
        return [jax.block_until_ready(program(*first)) for first in firsts]
    with ThreadPoolExecutor(len(firsts)) as pool:
        return list(pool.map(lambda first: jax.block_until_ready(program(*first)), firsts))


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
