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
from gradchain.core.foreign import Child
from gradchain.core.hyper import DType, Hyper
from gradchain.core.transform import Part
from gradchain.core.value import register
from gradchain.matrices.orthogonal import PRESETS, STANDARD, Coefficients, orthogonalize
from gradchain.matrices.refreshing import refresh
from gradchain.matrices.views import MatrixView, view
from gradchain.matrices.views import MuonDimensionNumbers as Dimensions
from gradchain.numerics import safe_increment
from gradchain.optax import _states as _s
from gradchain.optax import tree as optax_tree
from gradchain.optax._around import Around, static
from gradchain.optax._combining import chain
from gradchain.optax._optimizers import adamw
from gradchain.optax._parts import wide_zeros
from gradchain.optax._routing import partition
from gradchain.optax._shown import loose
from gradchain.optax._transforms import add_decayed_weights, scale_by_adam, scale_by_learning_rate
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


@register
class ScaleByMuon(Around):
    """Muon's scaling: see :func:`gradchain.optax.contrib.scale_by_muon`."""

    name = "scale_by_muon"
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


@register
class ScaleByShape(Around):
    """Muon's factors for the shapes of matrices."""

    name = "scale_by_shape"
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


@register
class ScaleByGaLore(Around):
    """GaLore's scaling: see :func:`gradchain.optax.contrib.scale_by_galore`."""

    name = "scale_by_galore"
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


def scale_by_galore(
    rank: int = 128,
    update_proj_gap: Any = 200,
    scale: Any = 1.0,
    base_optimizer: Any = None,
    weight_dimension_numbers: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_galore`."""
    if not isinstance(rank, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"`rank` must be an int, got {type(rank)}")
    if rank <= 0:
        raise ValueError(f"`rank` must be positive, got {rank}")
    return loose(
        ScaleByGaLore,
        rank=rank,
        update_proj_gap=update_proj_gap,
        scale=scale,
        base_optimizer=scale_by_adam() if base_optimizer is None else base_optimizer,
        dimensions=static(weight_dimension_numbers),
    )


def galore(
    learning_rate: Any,
    rank: int = 128,
    update_proj_gap: Any = 200,
    scale: Any = 1.0,
    base_optimizer: Any = None,
    weight_decay: Any = 0.0,
    mask: Any = None,
    weight_dimension_numbers: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.galore`."""
    return chain(
        scale_by_galore(rank, update_proj_gap, scale, base_optimizer, weight_dimension_numbers),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def scale_by_muon(
    ns_coeffs: Any = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
    beta: Any = 0.95,
    eps: Any = 1e-8,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    weight_dimension_numbers: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_muon`."""
    if preconditioning not in ("frobenius", "spectral", "aol", "schatten"):
        raise ValueError(f"Unknown preconditioning {preconditioning}")
    return loose(
        ScaleByMuon,
        ns_coeffs=coefficients_of(ns_coeffs),
        ns_steps=ns_steps,
        beta=beta,
        eps=eps,
        mu_dtype=mu_dtype,
        nesterov=nesterov,
        adaptive=adaptive,
        preconditioning=preconditioning,
        dimensions=static(weight_dimension_numbers),
    )


def muon(
    learning_rate: Any,
    ns_coeffs: Any = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
    beta: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    muon_weight_dimension_numbers: Any = None,
    consistent_rms: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.muon`."""
    dims = muon_weight_dimension_numbers

    def labels(params: Tree) -> Tree:
        leaves, treedef = jax.tree.flatten(params)
        chosen = [x.ndim == 2 for x in leaves] if dims is None else spread_dimensions(dims, params)
        return treedef.unflatten(["muon" if on else "adam" for on in chosen])

    used = MuonDimensionNumbers() if dims is None else dims
    if not callable(used) and not isinstance(used, MuonDimensionNumbers):
        used = _among(used)
    options: dict[str, Any] = {"nesterov": nesterov, "adaptive": adaptive, "preconditioning": preconditioning}
    direction = scale_by_muon(ns_coeffs, ns_steps, beta, eps, mu_dtype, **options, weight_dimension_numbers=used)
    matrices = chain(
        direction,
        loose(ScaleByShape, dimensions=static(used), consistent_rms=consistent_rms),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
    rest = adamw(
        learning_rate if adam_learning_rate is None else adam_learning_rate,
        b1=adam_b1,
        b2=adam_b2,
        eps=eps,
        eps_root=adam_eps_root,
        weight_decay=adam_weight_decay,
        mu_dtype=mu_dtype,
        nesterov=nesterov,
    )
    return partition({"muon": matrices, "adam": rest}, labels)


def _among(dims: Tree) -> Callable[[Tree], Tree]:
    """Return a function to the dimension numbers of those arrays that there are."""
    return lambda tree: dims
