"""Line searches, on a loss whose value, gradient and function agree."""

from typing import Any

import optax

import gradchain as gc
from tests.registry.row import Row, loss


def with_loss(params: Any) -> dict[str, Any]:
    """Return the extra arguments of a search for |w|^2 / 2, whose gradient points uphill as its parameters do."""
    return {"value": loss(params), "grad": params, "value_fn": loss}


def downhill(search: Any) -> Any:
    """Return a search along -w, the steepest descent of that loss, whatever the gradients of a test are."""
    return gc.chain(gc.scale(0.0), gc.add_decayed_weights(1.0), gc.scale(-1.0), search)


def optax_downhill(search: Any) -> Any:
    """Return the same of Optax's."""
    return optax.chain(optax.scale(0.0), optax.add_decayed_weights(1.0), optax.scale(-1.0), search)


SHORT = {"max_learning_rate": 0.5}
"""No step leads to the minimum: there is no way down from there, and Optax's searches don't end."""

SHARED = {"needs_params": True, "extra": with_loss, "reverses": False, "smooth": False}


def both(name: str, search: str, steps: int) -> Row:
    """Return the row of a search of gradchain's and Optax's, downhill."""
    return Row(
        name,
        lambda: downhill(getattr(gc, search)(steps, **SHORT)),
        optax=lambda: optax_downhill(getattr(optax, search)(steps, **SHORT)),
        descends=True,
        composed=True,
        **SHARED,
    )


LINESEARCH = [
    Row(
        "scale_by_backtracking_linesearch",
        lambda: gc.scale_by_backtracking_linesearch(10, store_grad=True),
        **SHARED,
    ),
    Row("scale_by_zoom_linesearch", lambda: gc.scale_by_zoom_linesearch(10), **SHARED),
    Row(
        "scale_by_hager_zhang_linesearch",
        lambda: gc.scale_by_hager_zhang_linesearch(10, initial_guess_strategy="slope"),
        **SHARED,
    ),
    both("backtracking_downhill", "scale_by_backtracking_linesearch", 30),
    both("zoom_downhill", "scale_by_zoom_linesearch", 20),
]
