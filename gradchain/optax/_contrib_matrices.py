"""Muon and GaLore with Optax's dimension numbers and states."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain.combinators._weights import stored, widened
from gradchain.combinators.steering import StaticArguments
from gradchain.core.combinator import combinator
from gradchain.core.foreign import Child
from gradchain.core.hyper import DType, Hyper
from gradchain.core.transform import Part
from gradchain.matrices.orthogonal import PRESETS, STANDARD, Coefficients, orthogonalize
from gradchain.matrices.refreshing import refresh
from gradchain.matrices.views import MatrixView, view
from gradchain.matrices.views import MuonDimensionNumbers as Dimensions
from gradchain.numerics import safe_increment
from gradchain.optax import _states as _s
from gradchain.optax import tree as optax_tree
from gradchain.optax._around import Around
from gradchain.optax._contrib_rules import wide_zeros
from gradchain.tree import Tree


class MuonDimensionNumbers(NamedTuple):
    """Which axes of an array are a matrix's rows (inputs) and columns (outputs); others are batch axes."""

    reduction_axis: Any = 0
    output_axis: Any = 1


class GaLoreDimensionNumbers(NamedTuple):
    """Which axes of an array are a matrix's rows and columns; there are no others."""

    reduction_axis: Any = 0
    output_axis: Any = 1


NS_COEFFS = {"standard": STANDARD, "dion": PRESETS["quintic"].rows}
"""Optax's sets of coefficients by its names."""


def coefficients_of(given: Any) -> Any:
    """Return coefficients, of which Optax has two sets by name."""
    if not isinstance(given, str):
        return given
    if given not in NS_COEFFS:
        raise ValueError(f"Unknown ns_coeff preset string: {given}")
    return NS_COEFFS[given]


def _ends(x: Any) -> bool:
    return x is None or isinstance(x, MuonDimensionNumbers | GaLoreDimensionNumbers)


def spread_dimensions(dims: Any, tree: Tree) -> list[Any]:
    """Return dimension numbers, a tree of them or a function to one, as one entry for each array of ``tree``."""
    found = dims(tree) if callable(dims) and not _ends(dims) else dims
    entries = list[Any]()

    def branch(d: Any, part: Tree) -> Any:
        entries.extend([d] * len(jax.tree.leaves(part)))
        return 0

    jax.tree.map(branch, found, tree, is_leaf=_ends)
    return entries


def seen_as(where: str, x: Any, dims: Any) -> MatrixView:
    """Return how an array is seen as matrices."""
    if x.ndim < 2:
        raise ValueError(f"{where}: arrays must have rank >= 2, got shape {x.shape}")
    dims = dims or MuonDimensionNumbers()
    axes = [(axis,) if isinstance(axis, int) else tuple(axis) for axis in dims]
    if {axis % x.ndim for axis in axes[0]} & {axis % x.ndim for axis in axes[1]}:
        raise ValueError(f"{where}: reduction and output axes must be disjoint, got {dims} for shape {x.shape}")
    return view(x.shape, Dimensions(*axes), where=where)


def _over(function: Callable[..., Any], dims: Any, tree: Tree, *others: Tree) -> Tree:
    """Map a function of an array, its dimension numbers and further arrays."""
    leaves, treedef = jax.tree.flatten(tree)
    entries = spread_dimensions(dims, tree)
    columns = [treedef.flatten_up_to(other) for other in others]
    return treedef.unflatten([function(*args) for args in zip(leaves, entries, *columns, strict=True)])


@combinator
class scale_by_muon(Around):
    """Muon's scaling: see :func:`gradchain.optax.contrib.scale_by_muon`."""

    ns_coeffs: Coefficients
    ns_steps: int
    beta: Hyper
    eps: Hyper
    mu_dtype: DType | None
    nesterov: bool
    adaptive: bool
    preconditioning: str
    dimensions: StaticArguments

    def init(self, params: Tree) -> _s.MuonState:
        mu = jax.tree.map(lambda x: x if self.mu_dtype is None else x.astype(self.mu_dtype), wide_zeros(params))
        return _s.MuonState(jnp.zeros((), jnp.int32), mu, jnp.asarray(self._coefficients))

    @property
    def _coefficients(self) -> Any:
        table: Any = self.ns_coeffs
        if np.ndim(table) == 1:
            return table
        if len(table) > self.ns_steps:
            raise ValueError(f"muon: Not enough steps: {len(table)} rows of ns_coeffs for ns_steps={self.ns_steps}")
        return table[-self.ns_steps :]

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        g, beta, count = widened(updates), self.beta, safe_increment(state.count)
        mu = optax_tree.update_moment(g, state.mu, beta, 1)
        if self.nesterov:
            ahead = optax_tree.bias_correction(mu, beta, safe_increment(count))
            now = optax_tree.bias_correction(g, beta, count)
            mean = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, ahead, now)
        else:
            mean = optax_tree.bias_correction(mu, beta, count)
        new = _over(self._direction, self.dimensions.values["value"], mean)
        return new, _s.MuonState(count, stored(mu, state.mu), state.ns_coeffs)

    def _direction(self, x: Array, dims: Any) -> Array:
        function = functools.partial(
            orthogonalize,
            coefficients=self._coefficients,
            steps=self.ns_steps,
            preconditioning=self.preconditioning,
            eps=self.eps,
        )
        u = seen_as("muon", x, dims).map(function, x)
        return jnp.sum(x.conj() * u) * u if self.adaptive else u


@combinator
class scale_by_shape(Around):
    """Muon's factors for the shapes of matrices."""

    dimensions: StaticArguments
    consistent_rms: Hyper | None = None

    def init(self, params: Tree) -> _s.EmptyState:
        return _s.EmptyState()

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        return _over(self._scaled, self.dimensions.values["value"], updates), state

    def _scaled(self, x: Array, dims: Any) -> Array:
        seen = seen_as("muon", x, dims)
        if self.consistent_rms is None:
            return x * max(1, seen.columns / seen.rows) ** 0.5
        return x * (self.consistent_rms * max(seen.rows, seen.columns) ** 0.5)


@combinator
class scale_by_galore(Around):
    """GaLore's scaling: see :func:`gradchain.optax.contrib.scale_by_galore`."""

    rank: int
    update_proj_gap: Hyper
    scale: Hyper
    base_optimizer: Child
    dimensions: StaticArguments

    def init(self, params: Tree) -> _s.GaLoreState:
        dims = self._dims(params)
        proxies = _over(lambda x, d: self._small(x, d)[1], dims, params)
        bases = _over(lambda x, d: self._small(x, d)[0], dims, params)
        return _s.GaLoreState(jnp.zeros((), jnp.int32), self.base_optimizer.init(proxies), bases)

    def _dims(self, tree: Tree) -> Any:
        dims = self.dimensions.values["value"]
        if dims is None or isinstance(dims, GaLoreDimensionNumbers):
            given, least = dims or GaLoreDimensionNumbers(), 2

            def own(x: Any) -> Any:
                return given if x.ndim == least or (dims is not None and x.ndim > least) else None

            return jax.tree.map(own, tree)
        return dims

    def _small(self, x: Array, dims: Any) -> tuple[Array, Array]:
        """Return zeros in the shapes of the projector and of what is projected."""
        if dims is None:
            return jnp.zeros((0, 0), x.dtype), jnp.zeros_like(x)
        seen = self._seen(x, dims)
        rank = min(self.rank, seen.rows, seen.columns)
        left = seen.rows >= seen.columns
        basis = (max(seen.rows, seen.columns), rank)
        return jnp.zeros(basis, x.dtype), jnp.zeros((rank, seen.columns) if left else (seen.rows, rank), x.dtype)

    def _seen(self, x: Array, dims: Any) -> MatrixView:
        seen = seen_as("galore", x, dims)
        if seen.batch:
            raise ValueError(f"galore: All axes must be specified, got {dims} for shape {x.shape}")
        return seen

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        dims, due = self._dims(updates), state.count % self.update_proj_gap == 0
        bases = _over(functools.partial(self._basis, due), dims, updates, state.projector)
        small = _over(self._project, dims, updates, bases)
        new, inner = self.base_optimizer.step(small, state.base_optimizer_state, None, {})
        lifted = _over(self._lift, dims, updates, new, bases)
        return lifted, _s.GaLoreState(safe_increment(state.count), inner, bases)

    def _basis(self, due: Array, x: Array, dims: Any, old: Array) -> Array:
        if dims is None:
            return old
        seen = self._seen(x, dims)

        def fresh() -> Array:
            u, _, vh = jnp.linalg.svd(seen.matrices(x).astype(jnp.float32), full_matrices=False)
            rank = old.shape[1]
            return (u[:, :rank] if seen.rows >= seen.columns else vh[:rank].T).astype(old.dtype)

        return refresh(due, fresh, old)

    def _project(self, x: Array, dims: Any, basis: Array) -> Array:
        if dims is None:
            return x
        seen = self._seen(x, dims)
        g = seen.matrices(x)
        return basis.T @ g if seen.rows >= seen.columns else g @ basis

    def _lift(self, x: Array, dims: Any, small: Array, basis: Array) -> Array:
        if dims is None:
            return small
        seen = self._seen(x, dims)
        return self.scale * seen.array(basis @ small if seen.rows >= seen.columns else small @ basis.T)

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        return [Part("", self.base_optimizer, None if state is None else state.base_optimizer_state, None)]
