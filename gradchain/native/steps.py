"""Whole steps of elementwise chains, the parameters' sum included, as one kernel for each array."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import DType
from gradchain.core.lift import PROGRAMS, Inputs, Stage
from gradchain.core.rule import Rule, elementwise
from gradchain.core.spec import At, Slots
from gradchain.core.transform import Transform
from gradchain.native.in_place import in_place

LEAST = 2**16
"""The size from which an array is worth a call."""


@elementwise(param=True)
def add_to_params(g: Array, slot: Slots, at: At, dtype: DType):
    """Return the new parameters: the update, rounded to ``dtype``, is added to them.

    Args:
      dtype: of the parameters.
    """
    finfo = jnp.finfo(dtype)
    return (at.param + jax.lax.reduce_precision(g, finfo.nexp, finfo.nmant)).astype(dtype)


def fits(stages: list[Transform]) -> bool:
    """Return whether kernels are of use for a chain of these stages: rules with slots, and each is elementwise.

    XLA makes one kernel for each result. Where there is only one, the new parameters, nothing is gained.
    """
    specs = [stage.unlayered.spec if isinstance(stage, Rule) else None for stage in stages]
    return all(spec and spec.kind == "elementwise" for spec in specs) and any(spec and spec.slots for spec in specs)


def program_of(stages: tuple[Stage, ...], program: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``program``, which runs ``stages`` on an array, with a kernel where that pays."""

    def fused(g: Array, param: Array, inputs: tuple[Inputs, ...]) -> Any:
        slots = [x.slots for x in inputs]
        if g.size < LEAST or not jax.tree.leaves(slots):
            return program(g, param, inputs)

        def step(kept: Any, g: Array, inputs: tuple[Inputs, ...]) -> Any:
            param, slots = kept
            return program(g, param, tuple(x._replace(slots=own) for x, own in zip(inputs, slots, strict=True)))

        return in_place(step, (param, slots), g, tuple(x._replace(slots={}) for x in inputs))

    return fused


PROGRAMS[add_to_params.Value.spec] = program_of
