"""Moments of gradients projected to few dimensions, in place of moments of the gradients themselves."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from gradchain.core.combinator import combinator
from gradchain.core.foreign import ChildKind
from gradchain.core.hyper import Count, FrozenTree, Hyper
from gradchain.core.lift import inexact_leaves
from gradchain.core.transform import Part, Transform, check_state
from gradchain.core.value import Integer, kind_of
from gradchain.matrices.bases import align_signs
from gradchain.matrices.factors import gathered
from gradchain.matrices.refreshing import due, refresh
from gradchain.matrices.views import DimensionNumbers, MatrixView, MuonDimensionNumbers, view
from gradchain.numerics import bounded, compute_dtype, safe_increment
from gradchain.transforms.adaptive import scale_by_adam
from gradchain.tree import Tree, mismatch, show_path

DIMENSIONS: Any = kind_of(DimensionNumbers)


class ScaleByGaLoreState(NamedTuple):
    """State of :func:`scale_by_galore`."""

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    base_optimizer_state: Any
    projector: Any


@combinator
class scale_by_galore(Transform):
    r"""Apply a transform to gradients projected to a few dimensions, where its state is small, and project back.

    .. math::
        G_k = U S V^*, \quad P = U_{:, 1..r} \;(\text{every } T \text{ updates}), \qquad
        R_k = P^* G_k, \qquad u_k = \alpha\,P\,\rho(R_k)

    for matrices with no fewer rows than columns; others are projected from the right. :math:`\rho` is the inner
    transform; arrays that aren't matrices reach it unprojected.

    The sign of a singular vector is arbitrary. New vectors are aligned with those that they replace, so that momentum
    keeps its direction; in Optax it may be reversed. No derivative flows through :math:`P`. For float64 gradients the
    vectors are float64 too (float32 in Optax), and complex gradients use the conjugate transpose.

    Args:
      rank: :math:`r \ge 1`. Static.
      update_proj_gap: :math:`T \ge 1`.
      scale: :math:`\alpha`.
      base_optimizer: :math:`\rho`; ``None`` for :func:`scale_by_adam`. It receives no parameters, so weight decay goes
        after this stage.
      weight_dimension_numbers: how arrays are seen as matrices: :class:`MuonDimensionNumbers` for all with two axes or
        more, a tree of them (or a prefix) like the parameters with ``None`` for what isn't projected, or a function
        from parameters to one. By default arrays with two axes are projected. Other axes are batch axes, which Optax
        rejects.

    Reference: Zhao et al., *GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection*, 2024, algorithm 2.
    """

    rank: Annotated[int, Integer(1)] = 128
    update_proj_gap: Count = 200
    scale: Hyper = 1.0
    base_optimizer: Annotated[Any, ChildKind(scale_by_adam())] = None
    weight_dimension_numbers: DimensionNumbers | None = None

    def init(self, params: Tree) -> ScaleByGaLoreState:
        leaves, treedef = inexact_leaves(f"{self.name}.init", params, "parameter")
        views = self._views(leaves, params)
        bases: list[Any] = [v and _no_basis(v, self.rank, x.dtype) for x, v in zip(leaves, views, strict=True)]
        small = [_project(x, v, p) if v else x for x, v, p in zip(leaves, views, bases, strict=True)]
        base = self.base_optimizer.init(treedef.unflatten(small))
        return ScaleByGaLoreState(jnp.zeros((), jnp.int32), base, treedef.unflatten(bases))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, ScaleByGaLoreState._fields)
        leaves, treedef = inexact_leaves(self.name, updates, "update")
        views, now = self._views(leaves, updates), self.settings(state)
        try:
            old = treedef.flatten_up_to(state.projector)
        except (ValueError, TypeError):
            raise ValueError(f"{self.name}: {mismatch(updates, state.projector, 'updates', 'the projector')}") from None
        is_due = due(state.count, now["update_proj_gap"])
        bases: list[Any] = [v and _basis(x, v, p, is_due) for x, v, p in zip(leaves, views, old, strict=True)]
        small = [_project(x, v, p) if v else x for x, v, p in zip(leaves, views, bases, strict=True)]
        new, base = self.base_optimizer.step(treedef.unflatten(small), state.base_optimizer_state, None, extra)
        new = zip(treedef.flatten_up_to(new), views, bases, strict=True)
        results = [_lift(x, v, p) * jnp.asarray(now["scale"], x.real.dtype) if v else x for x, v, p in new]
        return treedef.unflatten(results), ScaleByGaLoreState(
            safe_increment(state.count), base, treedef.unflatten(bases)
        )

    def _views(self, leaves: list[Any], tree: Tree) -> list[MatrixView | None]:
        """Return how each leaf is seen as matrices, ``None`` where it isn't projected."""
        dims, least = self.weight_dimension_numbers, 0
        if dims is None:
            each = [MuonDimensionNumbers() if x is not None and x.ndim == 2 else None for x in leaves]
        else:
            each = DIMENSIONS.resolve(f"{self.name}: weight_dimension_numbers", dims, tree)
            least = 2 if isinstance(dims, FrozenTree) and jax.tree_util.treedef_is_leaf(dims.treedef) else 0
        on = [d is not None and x is not None and x.size and x.ndim >= least for x, d in zip(leaves, each, strict=True)]
        paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)[0]]
        return [
            view(x.shape, d, where=f"{self.name}: {show_path(path)}") if use else None
            for path, x, d, use in zip(paths, leaves, each, on, strict=True)
        ]

    def settings(self, state: Any = None) -> dict[str, Any]:
        numbers = super().settings(state)
        if state is None:
            return numbers
        return {name: self.number(name, state.count) for name in numbers}

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        return [Part("", self.base_optimizer, None if state is None else state.base_optimizer_state, None)]


def _no_basis(seen: MatrixView, rank: int, dtype: Any) -> Array:
    shape = (*seen.batch, max(seen.rows, seen.columns), min(rank, seen.rows, seen.columns))
    return jnp.zeros(shape, compute_dtype(dtype))


def _basis(x: Array, seen: MatrixView, old: Array, is_due: Array) -> Array:
    """Return the leading singular vectors of the longer side, turned towards the old ones; the old ones until due."""

    def fresh() -> Array:
        g = gathered(_matrices(lax.stop_gradient(x), seen, old.dtype))
        u, _, _ = jnp.linalg.svd(g if seen.rows >= seen.columns else jnp.conj(g.mT), full_matrices=False)
        return align_signs(u[..., : old.shape[-1]], old)

    return refresh(is_due, fresh, old)


def _matrices(x: Array, seen: MatrixView, dtype: Any) -> Array:
    return seen.matrices(bounded(x.astype(dtype), x.size, power=1))


def _project(x: Array, seen: MatrixView, basis: Array) -> Array:
    g = _matrices(x, seen, basis.dtype)
    return jnp.conj(basis.mT) @ g if seen.rows >= seen.columns else g @ basis


def _lift(small: Array, seen: MatrixView, basis: Array) -> Array:
    return seen.array(basis @ small if seen.rows >= seen.columns else small @ jnp.conj(basis.mT))
