"""What halving, Hyperband and populations share: members of a batch, trained for some epochs, on all cores of a CPU."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gradchain.arguments import check_whole
from gradchain.compiled import Compiled
from gradchain.training.budget import Budget, Epochs
from gradchain.training.data.streams import Stream
from gradchain.training.fitting.ranking import Goal, goal_of
from gradchain.training.keys import as_key
from gradchain.training.search.chunks import (
    check_chunk,
    even,
    fastest_chunk,
    in_threads,
    map_in_chunks,
    member_of,
    threads_for,
    transform_of,
)
from gradchain.training.search.streamed_members import Batched, start_losses, started, train_on_stream
from gradchain.training.search.sweep import (
    checked_data,
    count_runs,
    last_cost,
    loss_at_start,
    one_transform,
    steps_of,
)
from gradchain.training.search.sweep_result import Numbers
from gradchain.training.steps.recipe import Recipe, run_epochs
from gradchain.training.variables import Variables, checked, for_evaluation
from gradchain.training.watching.progress import Bar
from gradchain.tree import Tree

Rows = dict[str, Numbers]
"""Columns of a history by name, with a leading axis of members."""


class Task(NamedTuple):
    """What members are trained on: the arrays among a compiled program's arguments."""

    begins: Variables[Any]
    """Where each begins: variables with a leading axis of members."""
    key: Array
    data: Any
    """Arrays, or a stream."""
    validation: Tree | None


class Plan(NamedTuple):
    """What such a program depends on besides arrays."""

    recipe: Recipe
    chunk: int | None
    """How many members are computed side by side; ``None`` for what is fastest."""
    goal: Goal
    progress: bool
    steps_per_call: int = 1
    """How many batches of a stream are one compiled call."""


class Members(NamedTuple):
    """Some members in the midst of their training: trees with a leading axis of members, but for unbatched numbers."""

    tx: Any
    variables: Variables[Any]
    state: Any
    start_loss: Array

    def take(self, places: Array) -> "Members":
        """Return the members at the given places."""
        rest = jax.tree.map(lambda x: x[places], self[1:])
        return Members(transform_of(self.tx, places), *rest)


def prepare(
    where: str, recipe: Recipe, params: Tree, init: Callable[[Array], Tree] | None, tx: Any, data: Tree,
    validation: Tree | None, epochs: int, seed: int | Array, select: str | None, mode: str | None, chunk: int | None,
    progress: bool, steps_per_call: int,
) -> tuple[Any, int, Plan, Task]:  # fmt: skip
    """Check the arguments; return the batch of transforms, its length, the plan and the task."""
    check_whole(f"{where}: epochs", epochs)
    data, validation = checked_data(where, recipe, data, validation, steps_per_call)
    steps = steps_of(recipe, data)
    tx, key = one_transform(where, tx, None if steps is None else epochs * steps), as_key(seed, f"{where}: seed")
    runs = count_runs(tx, 1, where)
    if (params is None) == (init is None):
        raise ValueError(f"{where}: give params or init, got {'neither' if init is None else 'both'}")
    if init is None:
        recipe, variables = recipe.enter(params)
        begins = jax.tree.map(lambda x: jnp.broadcast_to(x, (runs, *x.shape)), checked(variables))
    else:
        recipe, start = recipe.starter(init)
        begins = checked(jax.vmap(start)(jax.random.split(key, runs)), "init(key)")
    goal = goal_of(where, "select", select, mode, validation is not None)
    check_chunk(where, chunk)
    return tx, runs, Plan(recipe, chunk, goal, progress, steps_per_call), Task(begins, key, data, validation)


class Trainer:
    """Trains the members of a search, each for as long as the search wants, on all cores of a CPU.

    Args:
      plan: how.
      task: on what.
      rounds: how many members are trained at a time, and for how many epochs.
      title: what the progress bar says.
    """

    def __init__(self, plan: Plan, task: Task, rounds: Sequence[tuple[int, int]], title: str):
        self.plan, self.task = plan, task
        self._most = max(epochs for _, epochs in rounds)
        self._threads = threads_for(plan.chunk, task)
        share = math.ceil(max(size for size, _ in rounds) / self._threads)
        limit = fastest_chunk(share, task.begins) if plan.chunk is None else plan.chunk // self._threads
        self._chunk = even(share, limit)
        self.bar = self._bar(rounds, title)
        """To be opened while members are trained."""

    def _bar(self, rounds: Sequence[tuple[int, int]], title: str) -> Bar:
        """Return a bar that counts chunks of members, or a stream's steps."""
        if isinstance(self.task.data, Stream):
            total = Budget(Epochs(sum(epochs for _, epochs in rounds)), Epochs(1)).steps(self.task.data.per_epoch)
            return Bar(self.plan.progress, total, title, "step")
        chunks = sum(math.ceil(size / self.chunk(size)) for size, _ in rounds)
        return Bar(self.plan.progress, chunks, title, "part")

    def begin(self, tx: Any) -> Members:
        """Return all members before their first step."""
        recipe, begins, data, key = self.plan.recipe, self.task.begins, self.task.data, self.task.key
        if isinstance(data, Stream):
            keys = jnp.broadcast_to(key, (_size(begins),))
            return Members(tx, begins, started(tx, begins, keys).state, start_losses(recipe, begins, keys, data))
        return Members(tx, begins, *_compiled_begin((recipe, self.chunk(_size(begins))), tx, begins, data, key))

    def chunk(self, size: int) -> int:
        """Return how many of ``size`` members are computed side by side; a last chunk is filled up with repetitions.

        A program is compiled for each such number, which takes longer than many a rung. So on a CPU there are two: what
        is fastest for the largest number of members, and 1.
        """
        share = math.ceil(size / self._threads)
        if jax.default_backend() != "cpu":
            return even(share, self._chunk)
        return self._chunk if share > self._chunk // 2 else 1

    def train(self, members: Members, places: Numbers, first: int, epochs: int) -> tuple[Members, Numbers, Rows]:
        """Train some members for some epochs; return all members, and those members' costs and rows.

        Args:
          members: all, as they are; their memory is used again.
          places: which to train.
          first: the first epoch's number, counted from 0.
          epochs: how many.

        Returns:
          The members, costs of shape (places,), and columns by name of shape (places, epochs).
        """
        on = self._on_stream if isinstance(self.task.data, Stream) else self._on_arrays
        members, rows = on(members, places, first, epochs)
        return members, last_cost(rows, self.plan.goal, np.asarray(members.start_loss)[places], np), rows

    def _on_arrays(self, members: Members, places: Numbers, first: int, epochs: int) -> tuple[Members, Rows]:
        chunk = self.chunk(len(places))
        parts = [np.resize(places[i : i + chunk], chunk) for i in range(0, len(places), chunk)]
        recipe = self.plan.recipe, self._most
        inputs = members, self.task._replace(begins=None), np.int32(first), np.int32(epochs)
        found = list[Rows]()
        variables, state = members.variables, members.state
        for part, (trained, rows) in zip(parts, self._calls(recipe, inputs, parts), strict=True):
            variables, state = _compiled_written((), (variables, state), part, trained)
            found.append(jax.device_get(rows))
        rows = {name: np.concatenate([row[name] for row in found])[: len(places), :epochs] for name in found[0]}
        return members._replace(variables=variables, state=state), rows

    def _calls(self, recipe: Any, inputs: tuple[Any, ...], parts: Sequence[Numbers]) -> list[Any]:
        done = functools.partial(self.bar.advance, 1)
        calls = [(*inputs, part) for part in parts]
        if self._threads == 1:
            return in_threads(functools.partial(_compiled_chunk, recipe), calls, 1, str, done)
        program = _compiled_chunk.executable(recipe, *calls[0])
        return in_threads(program, calls, self._threads, program.as_text, done)

    def _on_stream(self, members: Members, places: Numbers, first: int, epochs: int) -> tuple[Members, Rows]:
        some, keys = _compiled_taken((), members, places), jnp.broadcast_to(self.task.key, (len(places),))
        variables, state, rows = train_on_stream(
            self.plan.recipe, Batched(some.tx, some.variables, some.state, keys), self.task.data, self.task.validation,
            first, [None] * epochs, self.plan.steps_per_call, self.chunk(len(places)),
            self.bar.number if self.plan.progress else None,
        )  # fmt: skip
        trained = _compiled_written((), (members.variables, members.state), places, (variables, state))
        return members._replace(variables=trained[0], state=trained[1]), jax.device_get(rows)


def _size(begins: Tree) -> int:
    return len(jax.tree.leaves(begins)[0])


def _begin(plan: tuple[Recipe, int], tx: Any, begins: Variables[Any], data: Tree, key: Array) -> tuple[Any, Array]:
    recipe, chunk = plan

    def one(i: Array) -> tuple[Any, Array]:
        variables = member_of(begins, i)
        return transform_of(tx, i).init(variables.params), loss_at_start(recipe, variables, data, key)

    return map_in_chunks(one, _size(begins), chunk)


_compiled_begin = Compiled(_begin)


def _train_chunk(
    plan: tuple[Recipe, int], members: Members, task: Task, first: Array, epochs: Array, places: Array
) -> tuple[tuple[Variables[Any], Any], dict[str, Array]]:
    """Train members side by side: their variables and states, and columns of shape (places, most epochs).

    How many epochs it is, is an argument, so that all rungs of a halving share a program; the rest of the columns is 0.
    """
    recipe, most = plan

    def one(i: Array) -> tuple[tuple[Variables[Any], Any], dict[str, Array]]:
        tx, begin = transform_of(members.tx, i), (member_of(members.variables, i), member_of(members.state, i))

        def epoch(number: Array, variables: Variables[Any], state: Any) -> tuple[Variables[Any], Any, dict[str, Array]]:
            numbers = (first + number)[None]
            return run_epochs(recipe, variables, tx, state, task.data, task.validation, task.key, numbers)

        def body(number: Array, carry: Any) -> Any:
            (variables, state), rows = carry
            variables, state, row = epoch(number, variables, state)
            rows = {name: lax.dynamic_update_slice(rows[name], row[name], (number,)) for name in row}
            return (variables, state), rows

        columns = jax.eval_shape(epoch, first, *begin)[2]
        blank = {name: jnp.zeros(most, column.dtype) for name, column in columns.items()}
        return lax.fori_loop(0, epochs, body, (begin, blank))

    return map_in_chunks(lambda i: one(places[i]), len(places), len(places))


_compiled_chunk = Compiled(_train_chunk)


def _written(_: tuple[()], members: Any, places: Array, trained: Any) -> Any:
    """Return all members' trees with those of some in their places."""
    return jax.tree.map(lambda x, new: x.at[places].set(new), members, trained)


_compiled_written = Compiled(_written, donated=(0,))


def _taken(_: tuple[()], members: Members, places: Array) -> Members:
    return members.take(places)


_compiled_taken = Compiled(_taken)


def weights(members: Members, place: Any) -> Variables[Any]:
    """Return one member's variables with evaluation weights."""
    return _compiled_weights((), members, np.int32(place))


def _weights(_: tuple[()], members: Members, place: Any) -> Variables[Any]:
    variables, state = member_of(members.variables, place), member_of(members.state, place)
    return for_evaluation(transform_of(members.tx, place), state, variables)


_compiled_weights = Compiled(_weights)
