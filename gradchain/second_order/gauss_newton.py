"""Gauss and Newton's direction, damped as by Levenberg and Marquardt, without matrices."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from gradchain import tree
from gradchain.core.hyper import Count, Fraction, Positive
from gradchain.core.rule import treewise
from gradchain.core.spec import At, Slots
from gradchain.numerics import divide
from gradchain.second_order.conjugate_gradients import conjugate_gradients
from gradchain.second_order.products import inner, linearized_ggn
from gradchain.tree import Tree

START = {"factor": 1.0, "growth": 2.0, "scale": 0.0, "predicted": 0.0, "last_value": 0.0}
RANGE = 1e-12, 1e12
"""Of the factor on the damping."""


@treewise(scalars=START, param=True, extra=("value", "model_fn", "outer"))
def scale_by_gauss_newton(
    updates: Tree,
    slot: Slots,
    at: At,
    damping: Positive = 1e-3,
    max_cg_steps: Count = 50,
    cg_tol: Fraction = 0.1,
    adaptive: bool = True,
):
    r"""Multiply by the inverse of the damped generalised Gauss-Newton matrix, by conjugate gradients.

    .. math::
        (G + \lambda \sigma^2 I)\,u = g, \qquad G = J^\top\, \nabla^2 \ell(z)\, J, \qquad z = m(w), \quad
        J = \frac{\partial m}{\partial w}

    The loss is :math:`\ell(m(w))`: a model's outputs and a function of them, squares or a cross-entropy, as a rule
    convex. Its parts are extra arguments of ``update``, functions of the present batch: ``model_fn(params)`` returns
    the outputs, an array or a tree, and ``outer(outputs)`` one number. For residuals, ``residual_fn(params)`` stands
    for both, with :math:`\ell(r) = \frac12 \|r\|^2` and :math:`G = J^\top J`. ``value``, the loss, is needed, too:

    ``tx.update(grads, state, params, value=value, residual_fn=residuals)``

    The incoming updates are the right-hand side :math:`g`, so a stage before this one (clipping, weight decay) means
    what it says. :math:`\sigma^2` is the largest :math:`\langle g, G g\rangle / \|g\|^2` so far, so that the damping
    has no units. With the update as it is taken, times -1, as the step, the quadratic model promises that the loss
    falls by :math:`p = \langle g, u\rangle - \frac12 \langle u, G u\rangle`. With ``adaptive``, the damping follows the
    gain of the step before, :math:`\varrho = (f_{k-1} - f_k) / p_{k-1}` (Nielsen 1999):

    .. math::
        \lambda_k = \lambda_{k-1} \max\left(\tfrac13, 1 - (2 \min(\varrho, 1.5) - 1)^3\right)
        \text{ if } \varrho > 10^{-4}, \text{ else } \lambda_{k-1} \nu, \quad \nu \leftarrow 2 \nu

    Unlike :func:`least_squares`, a transform can't take a step back: follow it by a learning rate or a line search, or
    start with a larger damping. A learning rate below 1 lowers the gain, and so raises the damping. On mini-batches,
    values of consecutive steps are of different batches: switch ``adaptive`` off.

    One update costs two evaluations of the model and at most ``max_cg_steps + 2`` products with :math:`G`, each about
    two gradients. It is computed in at least float32. For complex parameters :math:`J^\top` is the adjoint. Derivatives
    of the update are those of the exact solution.

    Args:
      damping: :math:`\lambda > 0`, the first one, or a schedule that is multiplied by what ``adaptive`` makes of it.
      max_cg_steps: the most products for one update.
      cg_tol: conjugate gradients stop where :math:`\|g - (G + \lambda \sigma^2 I) u\|` is at most this share of
        :math:`\|g\|`.
      adaptive: whether the damping follows the gain.

    Example:
      >>> x, y = jnp.arange(4.0), 3.0 * jnp.exp(-0.5 * jnp.arange(4.0))
      >>> residuals = lambda p: p["a"] * jnp.exp(-p["k"] * x) - y
      >>> value_and_grad = jax.value_and_grad(lambda p: 0.5 * jnp.sum(residuals(p) ** 2))
      >>> tx, params = chain(scale_by_gauss_newton(), scale(-1.0)), {"a": 2.0, "k": 0.7}
      >>> state = tx.init(params)
      >>> for _ in range(10):
      ...     value, grads = value_and_grad(params)
      ...     updates, state = tx.update(grads, state, params, value=value, residual_fn=residuals)
      ...     params = apply_updates(params, updates)
      >>> print(f"{params['a']:.3f} {params['k']:.3f}")
      3.000 0.500

    References:
      Schraudolph, *Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent*, 2002.
      Martens, *Deep Learning via Hessian-Free Optimization*, 2010.
      Nielsen, *Damping Parameter in Marquardt's Method*, 1999.
    """
    value = jnp.asarray(at.value, at.dtype)
    factor, growth = _adapted(slot, value) if adaptive else (slot.factor, slot.growth)
    largest = float(jnp.finfo(at.dtype).max)  # also where the norm of a finite gradient isn't finite
    norm = jnp.minimum(tree.norm(updates), largest).astype(at.dtype)
    unit = jax.tree.map(lambda g: divide(g, norm.astype(g.real.dtype)), updates)
    multiply = linearized_ggn(at.model_fn, at.outer, at.param)[1]
    scale = jnp.maximum(slot.scale, inner(unit, multiply(unit), at.dtype))
    weight = damping * factor * jnp.where(scale > 0, scale, 1)

    def damped(v: Tree) -> Tree:
        return tree.add_scale(multiply(v), weight, v)

    def solve(_: Any, b: Tree) -> Tree:
        return conjugate_gradients(damped, b, cg_tol, max_cg_steps)[0]

    u = lax.custom_linear_solve(damped, unit, solve, symmetric=True)
    promise = (inner(unit, u, at.dtype) - inner(u, multiply(u), at.dtype) / 2) * norm * norm
    predicted = jnp.clip(promise, 0, jnp.finfo(at.dtype).max)
    kept = slot(factor=factor, growth=growth, scale=scale, predicted=predicted, last_value=value)
    return jax.tree.map(lambda x: norm.astype(x.real.dtype) * x, u), kept


def _adapted(slot: Slots, value: Array) -> tuple[Array, Array]:
    """Return the next factor on the damping, and its next growth; they stay where nothing can be told from the gain."""
    resolution = 8 * jnp.finfo(value.dtype).eps * jnp.abs(value)
    known = slot.predicted > jnp.where(jnp.isfinite(resolution), resolution, 0)
    gain = divide(slot.last_value - value, slot.predicted)
    good = gain > 1e-4
    shrunk = jnp.maximum(1 / 3, 1 - (2 * jnp.clip(gain, 0, 1.5) - 1) ** 3)
    factor = jnp.clip(slot.factor * jnp.where(good, shrunk, slot.growth), *RANGE)
    growth = jnp.where(good, 2, jnp.minimum(2 * slot.growth, RANGE[1]))
    return jnp.where(known, factor, slot.factor), jnp.where(known, growth, slot.growth)
