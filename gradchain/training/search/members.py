"""What halving, Hyperband and populations share: members of a batch, trained side by side for some epochs."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gradchain.arguments import check_whole
from gradchain.compiled import Compiled
from gradchain.training.budget import Budget, Epochs
from gradchain.training.data.streams import Stream
from gradchain.training.fitting.ranking import Goal, goal_of
from gradchain.training.keys import as_key
from gradchain.training.search.chunks import check_chunk, even, fastest_chunk, map_in_chunks, member_of, transform_of
from gradchain.training.search.streamed_members import Batched, start_losses, started, train_on_stream
from gradchain.training.search.sweep import (
    checked_data,
    count_runs,
    last_cost,
    loss_at_start,
    one_transform,
    steps_of,
)
from gradchain.training.steps.recipe import Recipe, run_epochs
from gradchain.training.variables import Variables, checked, for_evaluation
from gradchain.training.watching.progress import Bar, tick
from gradchain.tree import Tree


class Task(NamedTuple):
    """What members are trained on: the arrays among a compiled program's arguments."""

    begins: Variables[Any]
    """Where each begins: variables with a leading axis of members."""
    key: Array
    data: Any
    """Arrays, or a stream, on which nothing is compiled as a whole."""
    validation: Tree | None
    bar: Any
    """The progress bar's number."""


class Plan(NamedTuple):
    """What such a program depends on besides arrays."""

    recipe: Recipe
    chunk: int
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
    chunk = fastest_chunk(runs, begins) if chunk is None else chunk
    return tx, runs, Plan(recipe, chunk, goal, progress, steps_per_call), Task(begins, key, data, validation, 0)


def begin(plan: Plan, tx: Any, task: Task) -> Members:
    """Return the members before their first step. Pure, as all that follows."""
    size = len(jax.tree.leaves(task.begins)[0])
    if isinstance(task.data, Stream):
        keys = jnp.broadcast_to(task.key, (size,))
        state = started(tx, task.begins, keys).state
        return Members(tx, task.begins, state, start_losses(plan.recipe, task.begins, keys, task.data))

    def one(i: Array) -> tuple[Any, Array]:
        variables = member_of(task.begins, i)
        start_loss = loss_at_start(plan.recipe, variables, task.data, task.key)
        return transform_of(tx, i).init(variables.params), start_loss

    state, start_loss = map_in_chunks(one, size, even(size, plan.chunk))
    return Members(tx, task.begins, state, start_loss)


def train(plan: Plan, members: Members, task: Task, first: Any, epochs: int) -> tuple[Members, Array, dict[str, Array]]:
    """Train every member for some epochs; return them, their costs, and rows of shape (members, epochs).

    Args:
      plan: how.
      members: as they are.
      task: on what.
      first: the first epoch's number, counted from 0.
      epochs: how many.
    """
    if isinstance(task.data, Stream):
        keys = jnp.broadcast_to(task.key, (len(members.start_loss),))
        batched = Batched(members.tx, members.variables, members.state, keys)
        variables, state, rows = train_on_stream(
            plan.recipe, batched, task.data, task.validation, int(first), [None] * epochs, plan.steps_per_call,
            plan.chunk, task.bar if plan.progress else None,
        )  # fmt: skip
        costs = last_cost(rows, plan.goal, members.start_loss)
        return members._replace(variables=variables, state=state), costs, rows

    def one(i: Array) -> tuple[Tree, Any, Array, dict[str, Array]]:
        tx, start = transform_of(members.tx, i), (member_of(members.variables, i), member_of(members.state, i))
        variables, state, rows = run_epochs(
            plan.recipe, start[0], tx, start[1], task.data, task.validation, task.key, first + jnp.arange(epochs)
        )
        return variables, state, last_cost(rows, plan.goal, members.start_loss[i]), rows

    size = len(members.start_loss)
    after = (lambda: tick(task.bar, 1)) if plan.progress else None
    variables, state, costs, rows = map_in_chunks(one, size, even(size, plan.chunk), after)
    return members._replace(variables=variables, state=state), costs, rows


def compiled(program: Compiled, task: Task) -> Callable[..., Any]:
    """Return a compiled program, or for a stream its function, whose parts are compiled each by itself."""
    return program.function if isinstance(task.data, Stream) else program


def bar_of(plan: Plan, task: Task, title: str, rounds: Sequence[tuple[int, int]]) -> Bar:
    """Return the progress bar of some rounds of training: it counts chunks of members, or a stream's steps.

    Args:
      plan: how members are trained.
      task: on what.
      title: what the bar says.
      rounds: how many members each has, and how many epochs.
    """
    if isinstance(task.data, Stream):
        total = Budget(Epochs(sum(epochs for _, epochs in rounds)), Epochs(1)).steps(task.data.per_epoch)
        return Bar(plan.progress, total, title, "step")
    chunks = sum(math.ceil(size / even(size, plan.chunk)) for size, _ in rounds)
    return Bar(plan.progress, chunks, title, "part")


def weights(members: Members, place: Any) -> Variables[Any]:
    """Return one member's variables with evaluation weights."""
    variables, state = member_of(members.variables, place), member_of(members.state, place)
    return for_evaluation(transform_of(members.tx, place), state, variables)
