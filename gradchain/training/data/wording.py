"""What messages of the training loops say of data: no class of a compiler's own, and what to do."""

import contextlib
from collections.abc import Generator
from typing import Any

import jax
import numpy as np

from gradchain.arguments import described, is_numeric
from gradchain.tree import Tree

OWN_LOOP = (
    "for training.fit (a data loader, or a function of the epoch's number: lambda epoch: iter(batches)), or for a loop "
    "of your own:\n"
    "  step, state = training.make_step(loss_fn, tx), tx.init(params)\n"
    "  for batch in batches: params, state, metrics = step(params, state, batch)"
)


def how_to_feed(data: Tree, what: str) -> str:
    """Return what to do with data that come batch by batch, or in arrays of another library; else nothing."""
    if not is_numeric(data) and not isinstance(data, np.ndarray) and hasattr(data, "__array__"):
        return "; convert it with np.asarray"
    if not are_batches(data):
        return ""
    if what != "data":
        return "; put batches together with np.concatenate"
    return f"; batches are {OWN_LOOP}"


def are_batches(data: Tree) -> bool:
    """Tell whether data are a list of trees that are all alike, or an object that gives out batches."""
    if isinstance(data, list):
        items: list[Any] = data
        return bool(items) and not jax.tree_util.all_leaves(items[:1]) and len({*map(jax.tree.structure, items)}) == 1
    gives = any(hasattr(data, name) for name in ("__iter__", "__next__", "__getitem__", "__call__"))
    known = is_numeric(data) or isinstance(data, str) or hasattr(data, "__array__")
    return gives and not known and (hasattr(data, "__next__") or jax.tree_util.all_leaves([data]))


@contextlib.contextmanager
def hints_at_batches(data: Tree) -> Generator[None]:
    """Say, where ``loss_fn`` fails, what to do if data that are a tree of arrays were meant as batches."""
    try:
        yield
    except (TypeError, LookupError, AttributeError) as error:
        if not may_be_batches(data):
            raise
        raise TypeError(
            f"{error}; loss_fn was given {described(data)}, a share of each; if data are batches, they are {OWN_LOOP}"
        ) from error


def may_be_batches(data: Tree) -> bool:
    """Tell whether a tree of arrays may be meant as batches: a tuple of trees that are alike, or any such list."""
    items: Any = data if type(data) in (tuple, list) else ()
    if len(items) < 2 or len({*map(jax.tree.structure, items)}) > 1:
        return False
    return isinstance(data, list) or not jax.tree_util.all_leaves(items)
