"""Stateless rules: multiply, negate, take the sign, centre; and rules made from plain functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain.core.combinator import combinator
from gradchain.core.hyper import Hyper, NonNegative
from gradchain.core.rule import elementwise, leafwise, treewise
from gradchain.core.spec import At, Slots
from gradchain.core.transform import Transform, check_state
from gradchain.numerics import compute_dtype
from gradchain.tree import Tree, show_path
from gradchain.tree.alignment import is_array_like


@elementwise()
def identity(g: Array, slot: Slots, at: At):
    """Return updates unchanged: :math:`u = g`."""
    return g


class SetToZeroState(NamedTuple):
    """State of :func:`set_to_zero`: nothing."""


@combinator
class set_to_zero(Transform):
    """Return zero updates: :math:`u = 0`, even where the gradient is not finite.

    Parameters may have any dtype, since nothing is computed with them: integers, bools, and PRNG keys, whose updates
    have JAX's dtype ``float0``.
    """

    constrains = "freezes"

    def init(self, params: Tree) -> SetToZeroState:
        return SetToZeroState()

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, SetToZeroState._fields)
        for path, x in jax.tree_util.tree_leaves_with_path(updates):
            if not is_array_like(x):
                raise TypeError(f"{self.name}: update {show_path(path)} is {type(x).__name__}, expected an array")
        return jax.tree.map(_zero, updates), state


def _zero(x: Any) -> Any:
    """Return what leaves a parameter as it is: a zero, ``float0`` where there is none."""
    dtype = jnp.result_type(x)
    if jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_:
        return jnp.zeros_like(x, compute_dtype(dtype) if jnp.issubdtype(dtype, jnp.inexact) else dtype)
    return np.zeros(jnp.shape(x), jax.dtypes.float0)


@elementwise()
def scale(g: Array, slot: Slots, at: At, step_size: Hyper):
    r"""Multiply updates by a number: :math:`u = s\,g`.

    Args:
      step_size: :math:`s`, any real number or schedule.
    """
    return step_size * g


@elementwise()
def negate(g: Array, slot: Slots, at: At):
    """Negate updates: :math:`u = -g`.

    The same as ``scale(-1.0)``, but without a hyperparameter, and so without a count in the state.
    """
    return -g


@elementwise()
def scale_by_learning_rate(g: Array, slot: Slots, at: At, learning_rate: NonNegative = None, *, flip_sign: bool = True):  # pyright: ignore
    r"""Multiply updates by the negative learning rate, so that they point downhill: :math:`u = -\eta\,g`.

    A negative rate is an error. To maximise, negate the gradients first:
    ``chain(scale(-1.0), adamw(1e-3))``. ``flip_sign=False`` isn't enough if an earlier stage decays the weights: the
    sign of the decay would flip as well, and the weights would grow.

    Arguments and defaults are Optax's, except that ``None`` is an error: in Optax it leaves the updates unchanged, so
    that they point uphill.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule.
      flip_sign: multiply by :math:`-\eta` (the default) or by :math:`+\eta`, if another stage negates the updates.

    Raises:
      TypeError: if the rate is ``None``; to negate updates without a learning rate, use :func:`negate`.
    """
    return (-learning_rate if flip_sign else learning_rate) * g


@elementwise()
def scale_by_schedule(g: Array, slot: Slots, at: At, step_size_fn: Hyper):
    r"""Multiply updates by a schedule's value: :math:`u = s(k)\,g`, with :math:`k = 0` on the first update.

    The same as :func:`scale`, under the name that Optax uses; the sign is not flipped.

    Args:
      step_size_fn: a schedule, or any callable from count to a number.
    """
    return step_size_fn * g


@elementwise()
def scale_by_sign(g: Array, slot: Slots, at: At):
    r"""Keep only the sign: :math:`u = \mathrm{sign}(g)`, 0 at 0; :math:`g / |g|` for complex gradients.

    Reference: Bernstein et al., *signSGD: Compressed Optimisation for Non-Convex Problems*, 2018.
    """
    return jnp.sign(g)


@leafwise()
def centralize(g: Array, slot: Slots, at: At):
    r"""Subtract from each output unit's gradient its mean: :math:`u_i = g_i - \mathrm{mean}_{j>0}(g_{ij})`.

    The mean runs over all axes but the first; arrays with fewer than two axes stay as they are.

    Reference: Yong et al., *Gradient Centralization: A New Optimization Technique for Deep Neural Networks*, 2020,
    equation 1.
    """
    if g.ndim < 2 or g.size == 0:
        return g
    return g - jnp.mean(g, axis=tuple(range(1, g.ndim)), keepdims=True)


@treewise(param="optional")
def stateless(updates: Tree, slot: Slots, at: At, f: Callable[[Any, Any], Any]):
    """Make a stateless transform from a function ``f(updates, params) -> updates`` on whole trees.

    Args:
      f: a function of the updates (in at least float32) and the parameters (``None`` if the caller gave none). It must
        return a tree of the same structure. Transforms are equal if their functions are the same object.
    """
    return f(updates, at.param)


@treewise(param="optional")
def stateless_with_tree_map(updates: Tree, slot: Slots, at: At, f: Callable[[Any, Any], Any]):
    """Make a stateless transform from a function ``f(update, param) -> update`` on single arrays.

    Args:
      f: a function of one update (in at least float32) and its parameter (``None`` if the caller gave none).
    """
    if at.param is None:
        return jax.tree.map(lambda g: f(g, None), updates)
    return jax.tree.map(f, updates, at.param)
