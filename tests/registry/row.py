"""What a row of the registry is, and what several rows use."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradchain as gc
from gradchain.core.transform import Transform
from gradchain.schedules import linear_schedule
from tests import oracles
from tests.oracles import Oracle


def no_extra(params: Any) -> dict[str, Any]:
    """Return the extra arguments of a rule that asks for none."""
    return {}


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One transform under test, and what is true of it."""

    name: str
    build: Callable[[], Transform]
    oracle: Callable[[], Oracle] | None = None
    """The same rule in NumPy."""
    optax: Callable[[], Any] | None = None
    """The same rule in Optax."""
    optax_complex: bool = True
    """Whether Optax does the same with complex gradients."""
    torch: str | None = None
    """The name of the recorded PyTorch run that it must reproduce."""
    needs_params: bool = False
    extra: Callable[[Any], dict[str, Any]] = no_extra
    """The extra arguments of ``update`` that it needs, as a function of the parameters (JAX's or NumPy's)."""
    trains: bool = True
    """Whether the training loops hand on all that it asks for; they know no residuals, only a loss."""
    random: bool = False
    descends: bool = False
    """Whether it is a whole optimizer: its updates, added to the parameters, lead downhill."""
    composed: bool = False
    """Whether it is a chain of rules that have rows of their own, so that what a chain keeps can be tested slowly."""
    rounds: bool = False
    """Whether its point is how half-precision parameters are rounded, for which it keeps something."""
    rebuilds: bool = True
    """Whether ``eval(repr(tx))`` works: it holds no bare function."""
    numbers_in_state: bool = False
    """Whether it keeps its numbers in the state, those inside schedules included, by their names."""
    any_tree: bool = True
    """Whether it fits every parameter tree; a mask given as a tree fits only its own."""
    any_dtype: bool = False
    """Whether it computes nothing with parameters, so that they may be of any dtype."""
    smooth: bool = True
    """Whether finite differences make sense: no slot is stored in half precision, which makes a staircase, and no
    number stands where the rule jumps, as SM3's ``b2 = 1`` does, bends, as Adafactor's
    bound of 1 on a first update of size 1 does, or is about as small as their step, as AdaDelta's ``eps``."""
    reverses: bool = True
    """Whether it has a derivative in reverse mode: it has no loop that ends when a condition holds."""
    steep: bool = False
    """Whether its maths enlarges small changes of gradients many times, so that errors in single precision are to be
    measured against how far the oracle moves: Muon's polynomial does, where singular values are small, and the sign
    z / |z| of a complex average that nearly cancels."""
    steep_at_zero: tuple[str, ...] = ()
    """Dtypes that can't hold its derivative at a zero gradient: Adafactor's is 1 / sqrt(eps) = 1e15."""
    excludes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Dtypes of parameters that its maths excludes, each with (part of) the error that then comes."""

    def __str__(self) -> str:
        return self.name

    def update(self, tx: Any, gradient: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """Return ``tx.update`` with the extra arguments that this row needs; ``tx`` is made of the row's transform."""
        return tx.update(gradient, state, params, **self.extra(params))


RAMP = {"init_value": 0.1, "end_value": 0.01, "transition_steps": 60.5, "transition_begin": 0.25}
MASK = {"bias": False, "kernel": True, "scale": False}


def ramp() -> Any:
    """Return a schedule without a kink at a whole count."""
    return linear_schedule(**RAMP)


def ramp_value(count: Any) -> Any:
    """Return what ``ramp()`` is at ``count``."""
    return 0.1 - 0.09 * np.clip((count - 0.25) / 60.5, 0, 1)


def ramp_traced(count: Any) -> Any:
    """Return what ``ramp()`` is at a traced ``count``."""
    return 0.1 - 0.09 * jnp.clip((count - 0.25) / 60.5, 0, 1)


def inverse_time(count: Any) -> Any:
    """Return PyTorch's ``lr_decay=0.1`` with ``lr=0.1``, as a schedule."""
    return 0.1 / (1 + 0.1 * count)


def is_matrix(x: Any) -> bool:
    """Whether decay applies, for masks given as a function."""
    return x.ndim > 1


def matrices(params: Any) -> Any:
    """Return the mask that selects matrices."""
    return jax.tree.map(is_matrix, params)


def tanh(updates: Any, params: Any) -> Any:
    """Squash all updates."""
    return jax.tree.map(jnp.tanh, updates)


def tanh_leaf(update: Any, param: Any) -> Any:
    """Squash one update."""
    return jnp.tanh(update)


def power_decay(count: Any, rate: Any) -> Any:
    """Return Optax's default decay in the default precision; its own is always in float32."""
    return 1 - (count + 1.0) ** -rate


def late_decay(count: Any, rate: Any) -> Any:
    """Return a decay of the second moment that grows to ``rate``."""
    return rate * count / (count + 1)


def loss(params: Any) -> Any:
    """Return |w|^2 / 2 of JAX's or NumPy's arrays, in at least single precision."""
    wide = [w.astype("float32") if w.dtype.itemsize < 4 else w for w in jax.tree.leaves(params)]
    return sum(((w * w.conj()).real.sum() for w in wide), start=0.0) / 2


def with_value(params: Any) -> dict[str, Any]:
    """Return the extra argument of a rule that asks for the loss."""
    return {"value": loss(params)}


HALF_MOMENT = {"complex64": "can't hold the slot of a complex64 parameter"}


def twin(
    name: str, oracle: Callable[[], Oracle], label: str = "", /, *args: Any, kwargs: Any = None, **row: Any
) -> Row:
    """Return the row of a name that gradchain and Optax share, called with the same arguments.

    ``name`` and ``label`` name the row, ``args`` and ``kwargs`` go to both constructors, ``row`` are the row's fields.
    """
    theirs = row.pop("theirs", optax)
    given = kwargs or {}
    return Row(
        f"{name}_{label}" if label else name,
        lambda: getattr(gc, name)(*args, **given),
        oracle,
        lambda: getattr(theirs, name)(*args, **given),
        **row,
    )


def descent(*stages: Oracle, rate: Any = 0.01) -> Oracle:
    """Return the oracles ``stages``, then the learning rate."""
    return oracles.chain(*stages, oracles.learning_rate(rate))
