"""Some of an epoch's steps, whose number isn't known when they are compiled, and what there is to tell of them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from gradchain.training.data.examples import count_examples
from gradchain.training.data.wording import hints_at_batches
from gradchain.training.metrics import named_numbers
from gradchain.training.steps.epoch import Batches, Order, Scanned, taking
from gradchain.training.steps.measuring import counting
from gradchain.training.steps.objective import Objective
from gradchain.training.steps.step import Watch
from gradchain.training.variables import Variables
from gradchain.tree import Tree

_Now = tuple[tuple[Variables[Any], Any], Any, dict[str, Array]]
"""Variables and state; metrics and sizes of all steps; counts of the steps of a stretch."""


class Window(NamedTuple):
    """Some of an epoch's steps with full batches, one after another; its numbers may be traced."""

    batches: Batches
    first: Any
    """The number of the first step in its epoch."""
    stretches: Any
    """How many steps there are up to where somebody is told of them, and from there to the next such step, and so on:
    whole numbers of shape ``(room,)``, with zeros behind them."""


def scan_window(
    objective: Objective, variables: Variables[Any], tx: Any, state: Any, data: Tree, order: Order, window: Window,
    most: int, watch: Watch | None = None,
) -> tuple[Scanned, dict[str, Array]]:  # fmt: skip
    """Take a window's steps, at most ``most``: what they return, and the history's numbers of each stretch.

    Metrics and sizes have a leading axis of ``most`` steps; what was watched, and the history's numbers, one of
    ``room`` stretches. There are zeros behind those taken.
    """
    batches, first, stretches = window
    take = taking(objective, tx, data, order, count_examples(data), batches.loss_key)
    counts_only = counting(watch)

    def step(watch: Watch | None, i: Any, carry: tuple[Variables[Any], Any]) -> tuple[Any, Any]:
        return take(watch, carry, batches.full[first + i], first + i)

    def follow(i: Any, now: _Now, watch: Watch | None) -> tuple[_Now, dict[str, Any]]:
        carry, (*taken, watched) = step(watch, i, now[0])
        numbers = jax.tree.map(lambda xs, x: xs.at[i].set(x), now[1], tuple(taken))
        counts = {name: x + watched[name] for name, x in now[2].items()}
        return (carry, numbers, counts), watched | counts

    def stretch(k: Any, run: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any, Any]:
        begin, carry, numbers, told = run
        end = begin + stretches[k]
        now, watched = (carry, numbers, none_counted), dict[str, Any]()
        now = lax.fori_loop(begin, end - (watch is not None), lambda i, now: follow(i, now, counts_only)[0], now)
        if watch is not None:
            now, watched = follow(end - 1, now, watch)
        found = watched, named_numbers(_within(now[1], begin, end - begin).mean())
        return end, now[0], now[1], jax.tree.map(lambda xs, x: xs.at[k].set(x), told, found)

    start = variables, state
    with hints_at_batches(data):
        *taken, counts = jax.eval_shape(lambda: step(counts_only, 0, start)[1])
        none_counted = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), counts)
        numbers = _room(most, tuple(taken))
        watched = jax.eval_shape(lambda: follow(0, (start, numbers, none_counted), watch)[1]) if watch else {}
        means = jax.eval_shape(lambda: named_numbers(_within(numbers, 0, 1).mean()))
        told = _room(len(stretches), (watched, means))
        run = jnp.zeros((), stretches.dtype), start, numbers, told
        _, carry, (metrics, sizes), told = lax.fori_loop(0, jnp.sum(stretches > 0), stretch, run)
    return Scanned(carry[0], carry[1], metrics, sizes, told[0]), told[1]


def _room(size: int, shapes: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), shapes)


def _within(numbers: tuple[Any, Array], begin: Any, size: Any) -> Scanned:
    """Return the numbers of some steps, put to the front, with zeros behind them.

    So a mean has the same roundings wherever its steps lie in a window.
    """
    inside = jnp.arange(len(numbers[1])) < size

    def leaf(xs: Array) -> Array:
        return jnp.where(jnp.expand_dims(inside, range(1, xs.ndim)), jnp.roll(xs, -begin, axis=0), 0)

    metrics, sizes = jax.tree.map(leaf, numbers)
    return Scanned(Variables(None), None, metrics, sizes, {})


def scan_rest(
    objective: Objective, variables: Variables[Any], tx: Any, state: Any, data: Tree, order: Order, batches: Batches,
    watch: Watch | None = None,
) -> Scanned:  # fmt: skip
    """Take the step with the smaller last batch of an epoch."""
    take = taking(objective, tx, data, order, count_examples(data), batches.loss_key)
    with hints_at_batches(data):
        carry, one = take(watch, (variables, state), batches.rest, len(batches.full))
    metrics, sizes = jax.tree.map(lambda x: jnp.asarray(x)[None], one[:2])
    return Scanned(carry[0], carry[1], metrics, sizes, one[2])
