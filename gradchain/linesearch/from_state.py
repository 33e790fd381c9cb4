"""Value and gradient that a search has computed already."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradchain import tree
from gradchain.eager import is_traced
from gradchain.signatures import public
from gradchain.tree import Tree


@public
def value_and_grad_from_state(value_fn: Callable[..., Any], has_aux: bool = False) -> Callable[..., Any]:
    """Return ``jax.value_and_grad(value_fn)``, which takes both from a search's state where they are known.

    A search evaluates value and gradient at the point that it ends at, where the next step begins. They are the same
    only if the parameters are those that the updates have led to, and if the data are the same: not for mini-batches.

    Args:
      value_fn: ``value_fn(params, *args, **kwargs) -> value``, or ``(value, aux)``.
      has_aux: whether it returns auxiliary output. That isn't in the state; it costs one evaluation without derivative.

    Returns:
      ``f(params, *args, state, **kwargs)`` that returns ``(value, grad)``, or ``((value, aux), grad)``, ``grad`` being
      JAX's gradient, the conjugate of what the state keeps. Where the value in the state isn't finite, as before the
      first step, both are computed. The value has the dtype of the state's, at least float32.

    Raises:
      ValueError: by the function returned, if the state keeps no value and gradient, or several.

    Example:
      >>> tx = chain(scale(-1.0), scale_by_zoom_linesearch(15))
      >>> value_and_grad = value_and_grad_from_state(loss_fn)
      >>> value, grad = value_and_grad(params, batch, state=state)
    """

    def value_and_grad(params: Tree, *args: Any, state: Any, **kwargs: Any) -> Any:
        known = _only_search(state)
        stored = tree.match(known.grad, params, "value_and_grad_from_state", "the gradient in the state", "params")

        def from_state() -> Any:
            grad = tree.cast_like(jax.tree.map(jnp.conj, stored), params)
            return ((known.value, value_fn(params, *args, **kwargs)[1]) if has_aux else known.value), grad

        def computed() -> Any:
            found, grad = jax.value_and_grad(value_fn, has_aux=has_aux)(params, *args, **kwargs)
            value, *aux = found if has_aux else (found,)
            value = jnp.asarray(value, known.value.dtype)
            return ((value, *aux) if has_aux else value), grad

        is_known = jnp.isfinite(known.value)
        if is_traced((is_known, params, args, kwargs)):
            return lax.cond(is_known, from_state, computed)
        return from_state() if is_known else computed()

    return value_and_grad


def _only_search(state: Any) -> Any:
    """Return the one part of a state that keeps a value and a gradient."""
    found = jax.tree_util.tree_leaves_with_path(state, is_leaf=_is_search)
    searches = [(path, part) for path, part in found if _is_search(part)]
    where, names = "value_and_grad_from_state", [f"{type(x).__name__} at state{tree.show_path(p)}" for p, x in searches]
    if len(searches) > 1:
        raise ValueError(
            f"{where}: several stages keep value and gradient, and only one can be asked: {', '.join(names)}"
        )
    if not searches:
        raise ValueError(
            f"{where}: no stage keeps value and gradient; the last stage of the chain must be a line search, such as "
            "scale_by_zoom_linesearch"
        )
    if searches[0][1].grad is None:
        raise ValueError(f"{where}: {names[0]} keeps no gradient; build the search with store_grad=True")
    return searches[0][1]


def _is_search(part: Any) -> bool:
    return {"value", "grad"} <= {*getattr(part, "_fields", ())}
