"""Splitting a traced function in two: the numbers that all leaves share, computed once, and the work on each leaf.

A rule's bias correction depends on the count and a decay, not on the leaf. Written in the rule and traced with it, it
would be computed, and compiled, once for each leaf.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun


class Split(NamedTuple):
    """A function of flat arguments as two: ``flat = leaf(*numbers(*common), *own)``."""

    text: str
    """What ``numbers`` does, to the letter: the same text means the same function."""
    numbers: Callable[..., list[Any]]
    """From the arguments that all leaves share, the numbers that the leaf's part needs."""
    leaf: Callable[..., list[Any]]
    """From those numbers and the leaf's own arguments, all results; compiled."""


def split(closed: ClosedJaxpr, common: Sequence[bool]) -> Split | None:
    """Split a traced function; ``None`` if there is nothing to compute once.

    Args:
      closed: the function.
      common: which of its arguments are the same for all leaves.
    """
    jaxpr = closed.jaxpr
    shared = [v for v, is_common in zip(jaxpr.invars, common, strict=True) if is_common]
    own = [v for v, is_common in zip(jaxpr.invars, common, strict=True) if not is_common]
    known, moved, kept = set(shared), [], []
    for eqn in jaxpr.eqns:
        if _is_shared_number(eqn, known):
            moved.append(eqn)
            known.update(eqn.outvars)
        else:
            kept.append(eqn)
    if not moved:
        return None
    needed = [v for eqn in kept for v in eqn.invars] + list(jaxpr.outvars)
    handed = list(dict.fromkeys(v for v in needed if not isinstance(v, Literal) and v in known))
    numbers = Jaxpr([], shared, handed, moved, debug_info=_names(jaxpr, shared, handed))
    inputs, outputs = [*handed, *own], list(jaxpr.outvars)
    leaf = Jaxpr(jaxpr.constvars, inputs, outputs, kept, jaxpr.effects, _names(jaxpr, inputs, outputs))

    def run(*arguments: Any) -> list[Any]:
        return jaxpr_as_fun(ClosedJaxpr(leaf, closed.consts))(*arguments)

    run.__name__ = jaxpr.debug_info.func_name
    return Split(str(numbers), jaxpr_as_fun(ClosedJaxpr(numbers, [])), jax.jit(run))


def _is_shared_number(eqn: JaxprEqn, known: set[Any]) -> bool:
    inputs = [v for v in eqn.invars if not isinstance(v, Literal)]
    numbers = all(getattr(v.aval, "shape", None) == () for v in eqn.outvars)
    readable = not eqn.effects and not eqn.primitive.name.startswith("custom_")  # whose text hides the derivative
    return bool(inputs) and numbers and readable and all(v in known for v in inputs)


def _names(jaxpr: Jaxpr, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    return jaxpr.debug_info._replace(
        arg_names=tuple(f"x{i}" for i in range(len(inputs))), result_paths=tuple(f"[{i}]" for i in range(len(outputs)))
    )
