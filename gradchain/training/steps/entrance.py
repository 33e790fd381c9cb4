"""What is handed in as parameters and is more than that: a framework's whole model, which needs an adapter."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax

from gradchain.arguments import is_numeric
from gradchain.tree import Tree

NOT_TRAINED = {"batch_stats", "cache", "intermediates"}
"""Collections that Flax linen's own modules make besides ``params``."""


def check_is_no_model(params: Tree) -> None:
    """Raise TypeError for a model of Flax, Equinox or Haiku that is handed in without an adapter, and name that."""
    for find in (_linen, _nnx, _equinox, _haiku):
        found = find(params)
        if found is not None:
            what, adapter, loss = found
            raise TypeError(
                f"params is {what}, which holds more than what is trained; hand it in together with an adapter: "
                f"training.{adapter} in the place of loss_fn, with {loss}"
            )


Found = tuple[str, str, str] | None
"""What was handed in, the adapter that it needs, and how the loss is written then."""


def _is(x: Any, module: str, name: str) -> bool:
    """Return whether ``x`` is of a class of a module that somebody has imported."""
    return module in sys.modules and isinstance(x, getattr(sys.modules[module], name))


def _holds(tree: Tree, is_it: Callable[[Any], bool]) -> bool:
    return any(map(is_it, jax.tree.leaves(tree, is_leaf=is_it)))


def _linen(x: Tree) -> Found:
    adapter = "linen(module, loss_fn)", "loss_fn(module, batch) and the variables that module.init returns as params"
    if _is(x, "flax.linen", "Module"):
        return f"a module of Flax linen ({type(x).__name__})", *adapter
    if isinstance(x, Mapping) and "params" in x and not NOT_TRAINED.isdisjoint(x):
        return f"the variables of a Flax linen module ({', '.join(sorted(map(str, x)))})", *adapter  # pyright: ignore
    return None


def _nnx(x: Tree) -> Found:
    adapter = "nnx(loss_fn)", "loss_fn(module, batch) and the module as params"
    if _is(x, "flax.nnx", "Module"):
        return f"a module of Flax NNX ({type(x).__name__})", *adapter

    def not_trained(leaf: Any) -> bool:
        return _is(leaf, "flax.nnx", "Variable") and not _is(leaf, "flax.nnx", "Param")

    if _is(x, "flax.nnx", "State") and _holds(x, not_trained):
        return "an nnx.State with other variables than nnx.Param", *adapter
    return None


def _equinox(x: Tree) -> Found:
    def is_state(leaf: Any) -> bool:
        return _is(leaf, "equinox.nn", "State")

    if _holds(x, is_state):
        return "an Equinox model with its state", "equinox(loss_fn)", "loss_fn(model, state, batch) -> (loss, state)"
    if _is(x, "equinox", "Module") and not all(map(is_numeric, jax.tree.leaves(x))):
        return f"a module of Equinox ({type(x).__name__})", "equinox(loss_fn)", "loss_fn(model, batch)"
    return None


def _haiku(x: Tree) -> Found:
    adapter = "haiku(transformed, loss_fn)", "loss_fn(apply, batch) and what transformed.init returns as params"
    if _is(x, "haiku", "Transformed") or _is(x, "haiku", "TransformedWithState"):
        return "a transformed function of Haiku", *adapter
    if isinstance(x, tuple) and len(x) == 2 and isinstance(x[1], Mapping):
        averages = [y for y in x[1].values() if isinstance(y, Mapping) and {"counter", "hidden", "average"} <= y.keys()]
        if averages:
            return "a pair (params, state) of Haiku", *adapter
    return None
