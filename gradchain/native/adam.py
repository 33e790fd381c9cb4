"""AdamW with the parameters' sum in one kernel."""

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
from gradchain.native.twin import with_twin
from gradchain.numerics import shrink_factor
from gradchain.transforms.adaptive import scale_by_adam
from gradchain.transforms.clipping import clip_by_global_norm
from gradchain.transforms.decay import add_decayed_weights
from gradchain.transforms.scaling import scale_by_learning_rate

LEAST = 2**16
"""The size from which an array is worth a call."""
NUMBERS = (
    *("factor", "b1", "complement1", "b2", "complement2", "weight1", "weight2"),
    *("eps", "eps_root", "decay", "rate", "bound"),
)
"""The kernel's numbers, in this order."""
BOUND = 2.0**62
"""What :func:`~gradchain.numerics.bounded` clips gradients to in float32."""


@elementwise(param=True)
def add_to_params(g: Array, slot: Slots, at: At, dtype: DType):
    """Return the new parameters, in float32: the update, rounded to ``dtype``, is added to them.

    Args:
      dtype: of the parameters.
    """
    finfo = jnp.finfo(dtype)
    return at.param + (g if finfo.bits == 32 else jax.lax.reduce_precision(g, finfo.nexp, finfo.nmant))


ADAM, RATE, APPLY = (rule.Value.spec for rule in (scale_by_adam, scale_by_learning_rate, add_to_params))
CLIP, DECAY = (rule.Value.spec for rule in (clip_by_global_norm, add_decayed_weights))
CHAINS = {(*clip, ADAM, *decay, RATE) for clip in ((), (CLIP,)) for decay in ((), (DECAY,))}


def fits(stages: list[Transform]) -> bool:
    """Return whether the kernel knows a chain of these stages, with nothing declared for single arrays."""
    plain = (stage.spec if isinstance(stage, Rule) and stage.unlayered is stage else None for stage in stages)
    return tuple(plain) in CHAINS


def program_of(stages: tuple[Stage, ...], program: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``program``, which runs ``stages`` on an array, with its twin where that fits."""

    def fused(g: Array, param: Array, inputs: tuple[Inputs, ...]) -> Any:
        own = _operands(stages, g, param, inputs)
        arguments = (g, param, inputs)
        return program(*arguments) if own is None else with_twin(program, arguments, _kernel, own)

    return fused


PROGRAMS[APPLY] = program_of


def _operands(stages: tuple[Stage, ...], g: Array, param: Array, inputs: tuple[Inputs, ...]) -> Any:
    """Return the kernel's operands, or ``None`` where a number asks for something else, or the array is small."""
    named = {stage.spec: (dict(stage.static) | x.shared.traced, x) for stage, x in zip(stages, inputs, strict=True)}
    (adam, at), (rate, _) = named[ADAM], named[RATE]
    slots = at.slots["mu"], at.slots["nu"]
    plain = not adam["nesterov"] and rate["flip_sign"] and all(slot.dtype == jnp.float32 for slot in slots)
    if not plain or g.size < LEAST:
        return None
    numbers: dict[str, Any] = {"factor": 1.0, "decay": 0.0, "bound": BOUND, "rate": rate["learning_rate"]}
    for i, name in (("1", "b1"), ("2", "b2")):
        numbers |= {name: adam[name], f"complement{i}": 1 - adam[name], f"weight{i}": at.shared.sums[name].now}
    numbers |= {name: adam[name] for name in ("eps", "eps_root")}
    if CLIP in named:
        fields, x = named[CLIP]
        numbers["factor"] = shrink_factor(x.shared.whole, fields["max_norm"])
    if DECAY in named:
        numbers["decay"] = named[DECAY][0]["weight_decay"]
    return jnp.stack([jnp.asarray(numbers[name], jnp.float32) for name in NUMBERS]), g, *slots, param


def _kernel(numbers: Array, g: Array, mu: Array, nu: Array, param: Array) -> list[Array]:
    """Return the new parameters, widened, and moments, each in the memory of the old one where that is free."""
    like = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (param, mu, nu)]
    call = jax.ffi.ffi_call(f"gradchain_adam_{g.dtype}", like, input_output_aliases={4: 0, 2: 1, 3: 2})
    new, mu, nu = call(numbers, g, mu, nu, param)
    return [new.astype(jnp.float32), mu, nu]
