"""Evaluation weights: averages, slow weights and the like, found in one way at any depth."""

from collections.abc import Callable
from typing import Any, Literal, ParamSpec

import jax
import jax.numpy as jnp

from gradchain.core.foreign import Child, as_transform
from gradchain.core.rule import Constructor
from gradchain.core.transform import Part
from gradchain.signatures import public
from gradchain.tree import Tree, flatten_optional, overlay, show_path
from gradchain.tree.alignment import T, same_leaves


@public
def eval_params(tx: Child, state: Any, params: T) -> T:
    """Return the weights to evaluate and to keep, wherever in ``tx`` they are.

    These are averages, slow weights or the average inside :func:`schedule_free`: the weights that a transform in ``tx``
    prefers to those that gradients are taken at. If there is no such transform, ``params`` itself is returned. Several
    in one chain are applied in the order of the chain. Constraints that come later in the chain hold for evaluation
    weights too: frozen parameters keep their own values, and :func:`project`, :func:`keep_params_nonnegative` and
    :func:`keep_norm` are applied.

    Args:
      tx: any transform. (Those of other libraries, such as Optax's ``schedule_free``, count as having no such weights.)
      state: its state.
      params: the current parameters, which gradients are taken at. Leaves that aren't floating-point arrays (the
        functions of an Equinox model, for example) are returned unchanged.

    Returns:
      A tree like ``params``, in its dtypes.

    Raises:
      ValueError: where two transforms side by side, or one inside the other, have such weights for the same leaf, and
        neither is computed from the other's; if a constraint after :func:`schedule_free` or :func:`primal_averaging`
        changes the updates that such weights are computed from.

    Example:
      >>> tx = chain(clip_by_global_norm(1.0), schedule_free_sgd(0.1))
      >>> accuracy(eval_params(tx, state, params), images, labels)
    """
    arrays = jax.tree.map(lambda x: x if _is_inexact(x) else None, params)
    return overlay(as_transform(tx).eval_params(state, arrays), params)


def _is_inexact(x: Any) -> bool:
    dtype = getattr(x, "dtype", type(x))
    return dtype in (float, complex) or (hasattr(x, "dtype") and jnp.issubdtype(dtype, jnp.inexact))


P = ParamSpec("P")


def constraint(kind: Literal["freezes", "bounds"]) -> Callable[[Constructor[P]], Constructor[P]]:
    """Declare what a rule's updates do to the parameters whatever came in, for evaluation weights. (A decorator.)

    Args:
      kind: ``"freezes"``, leave them where they are; ``"bounds"``, lead them into a set that is always the same. The
        rule is then applied to the move from the parameters to the evaluation weights that earlier transforms keep.
    """

    def declare(constructor: Constructor[P]) -> Constructor[P]:
        constructor.Value.constrains = kind
        return constructor

    return declare


def side_by_side(where: str, parts: list[Part], params: Tree) -> Tree:
    """Return the weights for evaluation of parts of which each sees the same updates, as those of ``parallel`` do.

    Args:
      where: the combinator's name, for the error.
      parts: its parts, each with its share of ``params``.
      params: the current parameters.

    Raises:
      ValueError: if two parts have weights for the same leaf, naming its path.
    """
    leaves, treedef = flatten_optional(params)
    results: list[Any] = list(leaves)
    for part in parts:
        own = treedef.flatten_up_to(part.transform.eval_params(part.state, part.params))
        for i, (new, old) in enumerate(zip(own, leaves, strict=True)):
            if new is None or new is old:
                continue
            if results[i] is not old:
                path = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda x: x is None)[0][i][0]
                raise ValueError(
                    f"{where}: two parts have evaluation weights for {show_path(path)}; which are meant? "
                    "Ask one of them: eval_params(part, its_state, params)"
                )
            results[i] = new
    return treedef.unflatten(results)


def check_plain(where: str, part: Part) -> None:
    """Raise ``ValueError`` if ``part`` has evaluation weights, which the transform around it would disregard."""
    own = part.transform.eval_params(part.state, part.params)
    if not same_leaves(own, part.params):
        raise ValueError(
            f"{where}: the transform inside has evaluation weights, too, and only one of them can be meant; leave one "
            f"out, or average the whole: average_params(...) around both. Inside is {part.transform!r}"
        )
