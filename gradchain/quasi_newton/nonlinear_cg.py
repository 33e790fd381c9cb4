"""Nonlinear conjugate gradients: directions made of the gradient and the last direction."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from gradchain import tree
from gradchain.core.rule import treewise
from gradchain.core.spec import At, Slots
from gradchain.core.value import Choice
from gradchain.tree import Tree

METHODS = ("hager_zhang", "polak_ribiere", "dai_yuan")


@treewise(slots=("updates", "direction"))
def scale_by_nonlinear_cg(updates: Tree, slot: Slots, at: At, method: Annotated[str, Choice(*METHODS)] = "hager_zhang"):
    r"""Add to the gradient a multiple of the last direction: nonlinear conjugate gradients.

    .. math::
        u_k = g_k + \beta_k u_{k-1}, \qquad y = g_k - g_{k-1}, \qquad d = -u_{k-1}

    with

    .. math::
        \beta^{\text{HZ}} &= \max\left(\frac{1}{\langle d, y\rangle}
          \left\langle y - 2 d\,\frac{\|y\|^2}{\langle d, y\rangle},\, g_k\right\rangle,\;
          \frac{-1}{\|d\| \min(0.01, \|g_{k-1}\|)}\right) \\
        \beta^{\text{PR}} &= \max\left(0, \frac{\langle g_k, y\rangle}{\|g_{k-1}\|^2}\right), \qquad
        \beta^{\text{DY}} = \frac{\|g_k\|^2}{\langle d, y\rangle}

    The products are real parts of those over all arrays together. The update points uphill, as the gradient does. It
    starts again with :math:`u_k = g_k` where :math:`\langle d, y\rangle \le 0`, as on the first
    update and after a line search that left the parameters where they were, and where :math:`u_k` isn't uphill.

    The directions are conjugate only if a line search follows that is more exact than L-BFGS needs:
    ``chain(scale_by_nonlinear_cg(), negate(), scale_by_zoom_linesearch(20, curv_rtol=0.1))``. It keeps two arrays for
    each parameter, where :func:`scale_by_lbfgs` keeps 22.

    A gradient that isn't finite is returned as it is, and isn't remembered.

    Args:
      method: how :math:`\beta` is chosen: ``"hager_zhang"`` (whose directions lead downhill whatever the search does),
        ``"polak_ribiere"`` or ``"dai_yuan"``.

    References:
      Hager and Zhang, *A New Conjugate Gradient Method with Guaranteed Descent and an Efficient Line Search*, 2005,
      equations 1.4 to 1.6.
      Polak and Ribière, *Note sur la convergence de méthodes de directions conjuguées*, 1969.
      Dai and Yuan, *A Nonlinear Conjugate Gradient Method with a Strong Global Convergence Property*, 1999.
    """
    tree.match(slot.updates, updates, "scale_by_nonlinear_cg", "the state's updates", "updates")
    size, before, length = tree.norm(updates), tree.norm(slot.updates), tree.norm(slot.direction)
    unit = _safe(jnp.maximum(size, before))
    g, old, d = _divided(updates, unit), _divided(slot.updates, unit), _divided(slot.direction, -length)
    y = tree.sub(g, old)
    dy = _product(d, y)
    beta = _beta(method, g, y, d, _safe(dy), before / unit)
    if method != "polak_ribiere":
        beta = unit / _safe(length) * beta
    if method == "hager_zhang":
        beta = jnp.maximum(beta, -1 / (_safe(length) * jnp.minimum(0.01, _safe(before))))
    conjugate = tree.add_scale(updates, beta, slot.direction)
    goes_on = (dy > 0) & (_product(g, _divided(conjugate, tree.norm(conjugate))) > 0)
    direction = tree.where(goes_on, conjugate, updates)
    finite = jnp.isfinite(size)
    kept = slot(
        updates=tree.where(finite, updates, slot.updates), direction=tree.where(finite, direction, slot.direction)
    )
    return tree.where(finite, direction, updates), kept


def _beta(method: str, g: Tree, y: Tree, d: Tree, dy: Array, before: Array) -> Array:
    """Return the multiple, for a gradient and a change in one unit, and a direction of length 1."""
    if method == "hager_zhang":
        return (_product(y, g) - 2 * _product(d, g) * tree.norm(y, squared=True) / dy) / dy
    if method == "polak_ribiere":
        return jnp.maximum(0, _product(g, y) / _safe(before) ** 2)
    return tree.norm(g, squared=True) / dy


def _product(x: Tree, y: Tree) -> Array:
    return jnp.real(tree.vdot(x, y))


def _safe(x: Array) -> Array:
    return jnp.where(x > 0, x, 1)


def _divided(x: Tree, by: Any) -> Tree:
    return jax.tree.map(lambda leaf: leaf / jnp.where(by == 0, 1, by).astype(leaf.real.dtype), x)
