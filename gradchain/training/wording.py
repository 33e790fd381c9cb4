"""How messages call what a caller handed in, and what they say of it: no class of a compiler's own."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.core import Tracer

from gradchain.tree import Tree


def is_numeric(x: Any) -> bool:
    """Tell whether ``x`` is a number or an array that JAX takes."""
    if isinstance(x, np.ndarray | np.generic):
        return x.dtype.kind not in "OSUMm"
    return isinstance(x, Array | int | float | complex)


def described(x: Any) -> str:
    """Return what a value is: ``one number of float32``, ``an array of shape (3,) of int32``, ``None``, ``a dict``."""
    if x is None or isinstance(x, bool | int | float | complex | str):
        return repr(x)
    if isinstance(x, Array | np.ndarray | np.generic):
        return f"an array of shape {x.shape} of {x.dtype}" if x.ndim else f"one number of {x.dtype}"
    if callable(x) and not hasattr(x, "apply"):
        return f"the function {getattr(x, '__name__', type(x).__name__)}"
    name = type(x).__name__
    article = "an" if name[0] in "AEIOUaeiou" else "a"
    return f"{article} {name}" + (f" of {len(x)}" if isinstance(x, tuple | list) else "")


def shown(x: Any) -> str:
    """Return a value as it is written; what is being traced has none, and is described."""
    return described(x) if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(x)) else repr(x)


def how_to_train(tree: Tree) -> str:
    """Return what to do with parameters that aren't arrays of floating-point or complex numbers."""
    leaves = jax.tree.leaves(tree)
    if all(hasattr(tree, name) for name in ("init", "apply")):
        return "params are what model.init(key, x) returns; call model.apply(params, x) in loss_fn"
    if any(c.__module__.startswith("flax.nnx") for c in type(tree).__mro__):
        return (
            "train the weights alone: graphdef, params, rest = nnx.split(model, nnx.Param, ...), and use "
            "nnx.merge(graphdef, params, rest) in loss_fn"
        )
    if all(is_numeric(x) for x in leaves):
        return "write -4.0 for -4, or convert it with x.astype(float); what isn't to be trained is no parameter"
    return (
        "train the arrays alone: split the model by params, rest = eqx.partition(model, eqx.is_inexact_array), and "
        "use eqx.combine(params, rest) in loss_fn"
    )


OWN_LOOP = (
    "for a loop of your own:\n"
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
def hints_at_batches(data: Tree) -> Iterator[None]:
    """Say, where ``loss_fn`` fails, what to do if data that are a tree of arrays were meant as batches."""
    try:
        yield
    except (TypeError, LookupError, AttributeError) as error:
        if not _may_be_batches(data):
            raise
        raise TypeError(
            f"{error}; loss_fn was given {described(data)}, a share of each; if data are batches, they are {OWN_LOOP}"
        ) from error


def _may_be_batches(data: Tree) -> bool:
    """Tell whether a tree of arrays may be meant as batches: a tuple of trees that are alike, or any such list."""
    items: Any = data if type(data) in (tuple, list) else ()
    if len(items) < 2 or len({*map(jax.tree.structure, items)}) > 1:
        return False
    return isinstance(data, list) or not jax.tree_util.all_leaves(items)
