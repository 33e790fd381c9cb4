"""Members of a batch, trained side by side on a stream of batches: each block is read once for all of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gradchain.compiled import Compiled
from gradchain.training.data.positions import Position
from gradchain.training.data.streams import Stream
from gradchain.training.search.chunks import even, map_in_chunks, member_of, transform_of
from gradchain.training.steps.epoch import evaluate_objective
from gradchain.training.steps.recipe import Recipe, validate
from gradchain.training.steps.sources import run_block
from gradchain.training.variables import Variables, for_evaluation
from gradchain.training.watching.progress import advance
from gradchain.tree import Tree


class Batched(NamedTuple):
    """Members on the way: trees with a leading axis of members, but for a transform's unbatched numbers."""

    tx: Any
    variables: Variables[Any]
    state: Any
    keys: Array

    def at(self, i: Any) -> "Batched":
        """Return one member."""
        return Batched(transform_of(self.tx, i), *member_of(self[1:], i))


def started(tx: Any, begins: Variables[Any], keys: Array) -> Batched:
    """Return members before their first step."""
    size = len(keys)
    state = map_in_chunks(lambda i: transform_of(tx, i).init(member_of(begins, i).params), size, size)
    return Batched(tx, begins, state, keys)


def start_losses(recipe: Recipe, begins: Variables[Any], keys: Array, stream: Stream) -> Array:
    """Return each member's training loss on the first batch, before its first step, of shape (members,)."""
    with stream.feed(Position(), 1, None, keys[0]) as feed:
        first = jax.tree.map(lambda x: x[0], feed.take(1).batches)
    return _compiled_start(recipe, begins, keys, first)


def train_on_stream(
    recipe: Recipe, members: Batched, stream: Stream, validation: Tree | None, first: int, rounds: Sequence[int | None],
    steps_per_call: int, chunk: int, bar: Any = None,
) -> tuple[Variables[Any], Any, dict[str, Array]]:  # fmt: skip
    """Train all members for some rounds: (variables, state, rows of shape (members, rounds)).

    Args:
      recipe: what training is made of.
      members: as they are.
      stream: what gives the batches; all members see the same.
      validation: held-out data, in arrays or a stream.
      first: the first epoch's number, counted from 0.
      rounds: the number of steps of each; ``None`` for those to the end of the epoch.
      steps_per_call: how many batches are one compiled call.
      chunk: how many members are computed side by side.
      bar: the number of a progress bar, which advances by the steps that are done.
    """
    plan = recipe, chunk
    rows, position = list[dict[str, Array]](), Position(first)
    with stream.feed(position, steps_per_call, None, members.keys[0]) as feed:
        for steps in rounds:
            parts, sizes, left, more = list[dict[str, Array]](), list[int](), steps, True
            while more:
                block = feed.take(left)
                inputs = block.batches, block.weights, block.sizes
                place = position.epoch, position.step
                variables, state, numbers = _compiled_block(plan, members, inputs, *place)
                members, position = members._replace(variables=variables, state=state), block.position
                parts.append(numbers)
                sizes.append(int(block.sizes.sum()))
                if bar is not None:
                    jax.block_until_ready(parts[-2:][0])  # the next block is computed meanwhile
                    advance(bar, block.count)
                left = None if left is None else left - block.count
                more = not block.ends_epoch if left is None else left > 0
            row = _mean(parts, sizes)
            if validation is not None:
                row |= _validated(plan, members, validation)
            rows.append(row)
    stacked = {name: jnp.stack([row[name] for row in rows], axis=1) for name in rows[0]}
    return members.variables, members.state, stacked


def _validated(plan: tuple[Recipe, int], members: Batched, validation: Any) -> dict[str, Array]:
    if not isinstance(validation, Stream):
        return _compiled_validation(plan, members, validation)
    whole = plan[0]._replace(validation_batch_size=None), plan[1]
    found = [(_compiled_validation(whole, members, batch), size) for batch, size in validation.once()]
    return _mean([row for row, _ in found], [size for _, size in found])


def _mean(parts: list[dict[str, Array]], sizes: list[int]) -> dict[str, Array]:
    weights = jnp.array(sizes) / sum(sizes)
    return {name: jnp.tensordot(weights, jnp.stack([part[name] for part in parts]), 1) for name in parts[0]}


def _start(recipe: Recipe, begins: Variables[Any], keys: Array, batch: Tree) -> Array:
    def one(variables: Variables[Any], key: Array) -> Array:
        return evaluate_objective(recipe.objective, variables, batch, None, key, training=True).loss

    return jax.vmap(one)(begins, keys)


_compiled_start = Compiled(_start)


def _block(
    plan: tuple[Recipe, int], members: Batched, block: tuple[Any, ...], epoch: Any, step: Any
) -> tuple[Variables[Any], Any, dict[str, Array]]:
    recipe, chunk = plan

    def one(i: Array) -> tuple[Variables[Any], Any, dict[str, Array]]:
        member = members.at(i)
        inputs = member.variables, member.tx, member.state, block, member.keys
        scanned, numbers = run_block(recipe, *inputs, epoch, step)
        return scanned.variables, scanned.state, numbers

    size = len(members.keys)
    return map_in_chunks(one, size, even(size, chunk))


_compiled_block = Compiled(_block)


def _validation(plan: tuple[Recipe, int], members: Batched, validation: Tree) -> dict[str, Array]:
    recipe, chunk = plan

    def one(i: Array) -> dict[str, Array]:
        member = members.at(i)
        return validate(recipe, for_evaluation(member.tx, member.state, member.variables), validation)

    size = len(members.keys)
    return map_in_chunks(one, size, even(size, chunk))


_compiled_validation = Compiled(_validation)
