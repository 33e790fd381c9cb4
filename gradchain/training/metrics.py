"""What a loss function returns, and its numbers by name."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradchain.signatures import public
from gradchain.tree import show_path


@public
class Metrics(NamedTuple):
    """What a loss function returned; a pytree, so that ``scan`` can stack it."""

    loss: Any
    """The loss: shape ``()`` for one step, ``(steps,)`` for an epoch."""
    aux: Any = None
    """The auxiliary output, a tree whose leaves gain the same leading axis; ``None`` without ``has_aux``."""


def named_numbers(metrics: Metrics, prefix: str = "") -> dict[str, Any]:
    """Return the loss and every number in aux by name.

    Raises:
      ValueError: if a leaf of aux isn't one number, or is called ``loss``.
    """
    named: dict[str, Any] = {f"{prefix}loss": metrics.loss}
    for path, x in jax.tree_util.tree_flatten_with_path(metrics.aux)[0]:
        if jnp.ndim(x):
            raise ValueError(
                f"aux {show_path(path)} has shape {jnp.shape(x)}; fit and sweep record aux by name, so each of its "
                "leaves must be one number, such as {'accuracy': jnp.mean(hits)}"
            )
        name = prefix + (jax.tree_util.keystr(path, simple=True, separator=".") or "aux")
        if name in named:
            raise ValueError(f"aux has a number called {name!r}, which is the loss's own name")
        named[name] = x
    return named


def mean_row(parts: Sequence[tuple[Mapping[str, Any], int]]) -> dict[str, float]:
    """Return the mean of each number over all examples; the parts are numbers by name, and of how many examples."""
    if len(parts) == 1:
        return {name: float(x) for name, x in parts[0][0].items()}
    weights = np.array([examples for _, examples in parts]) / sum(examples for _, examples in parts)
    return {name: float(weights @ np.array([row[name] for row, _ in parts], float)) for name in parts[0][0]}


def in_order(names: Iterable[str]) -> list[str]:
    """Sort column names: training before validation, the loss first in each."""
    return sorted(names, key=lambda name: (name.startswith("val_"), name.removeprefix("val_") != "loss", name))
