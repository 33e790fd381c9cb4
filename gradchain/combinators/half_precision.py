"""Updates smaller than the spacing of half-precision parameters: rounded stochastically, compensated, or kept in
float32.

Each of these transforms returns updates that lead from one half-precision number to another, so that
``apply_updates``, or any other code that adds them, rounds nothing.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gradchain import tree
from gradchain.combinators._weights import check_arrays, wide
from gradchain.core.combinator import combinator
from gradchain.core.foreign import Child
from gradchain.core.hyper import Key, first_key, next_key
from gradchain.core.transform import Transform, check_state
from gradchain.core.value import Kind
from gradchain.rounding import is_half, on_grid, seeds, spacing, uniform
from gradchain.tree import Tree, flatten_optional
from gradchain.tree.alignment import same_leaves


def _halves(function: Callable[[Any], Any], params: Tree) -> Tree:
    """Return ``function`` of each half-precision array, and ``None`` in place of the others."""
    return jax.tree.map(lambda x: function(x) if is_half(jnp.result_type(x)) else None, params)


def _single(params: Tree) -> Tree:
    """Return the tree with half-precision arrays in float32."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if is_half(jnp.result_type(x)) else x, params)


def _map(function: Callable[..., tuple[Any, Any]], updates: Tree, params: Tree, kept: Tree) -> tuple[Tree, Tree]:
    """Return (updates, kept) from ``function(i, update, param, kept)`` of the arrays that something is kept for."""
    leaves, treedef = flatten_optional(updates)
    columns = leaves, treedef.flatten_up_to(params), treedef.flatten_up_to(kept)
    pairs = [
        (u, k) if u is None or k is None else function(i, u, p, k)
        for i, (u, p, k) in enumerate(zip(*columns, strict=True))
    ]
    return treedef.unflatten([u for u, _ in pairs]), treedef.unflatten([k for _, k in pairs])


def _move(param: Array, target: Array) -> tuple[Array, Array]:
    """Return (the update from ``param`` to the number nearest to ``target``, where adding it leads), both float32.

    The update has to be a number of the parameter's dtype, too. So where it is larger than what it leads to, that may
    be a neighbour of the nearest number.
    """
    here = param.astype(jnp.float32)
    move = on_grid(on_grid(target, param.dtype) - here, param.dtype)
    return move, on_grid(here + move, param.dtype)


class StochasticRoundingState(NamedTuple):
    """State of :func:`stochastic_rounding`."""

    key: Array
    inner_state: Any


@combinator
class stochastic_rounding(Transform):
    r"""Round half-precision parameters up or down at random, so that updates below their spacing count on average.

    The update of a parameter :math:`w` is :math:`\mathrm{round}(w + u) - w`, where the sum is rounded to one of its two
    neighbours, more likely to the closer one (:func:`stochastic_round`). Adding it is exact wherever
    steps are smaller than weights. It takes no memory, and adds noise of up to one spacing per step. :func:`kahan` and
    :func:`master_weights` need two bytes per parameter and add none. Arrays in full precision are unaffected.

    Make it the outermost transform, or the last.

    Args:
      tx: any transform; its updates arrive in float32.
      key: a seed or PRNG key; the state keeps it.

    Example:
      >>> tx = stochastic_rounding(adamw(1e-3))  # for parameters in bfloat16

    Reference: Zamirai et al., *Revisiting BFloat16 Training*, 2020, algorithm 2.
    """

    tx: Child
    key: Key = 0

    def init(self, params: Tree) -> StochasticRoundingState:
        return StochasticRoundingState(first_key(f"{self.name}: key", self.key), self.tx.init(params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, StochasticRoundingState._fields)
        weights = wide(self, params)
        updates, inner_state = self.tx.step(updates, state.inner_state, params, extra)
        kept, key = next_key(f"{self.name}: key", self.key, state.key)
        draws = seeds(key, len(flatten_optional(updates)[0]))

        def leaf(i: int, update: Array, weight: Array, param: Array) -> tuple[Array, Array]:
            share = uniform(param.shape, draws[i])
            return on_grid(weight + update, param.dtype, share) - weight, param

        updates, _ = _map(leaf, updates, weights, _halves(lambda x: x, params))
        return updates, StochasticRoundingState(kept, inner_state)


class KahanState(NamedTuple):
    """State of :func:`kahan`."""

    compensation: Tree
    """What rounding has left out so far, in the parameters' dtypes; ``None`` for arrays in full precision."""
    inner_state: Any


@combinator
class kahan(Transform):
    r"""Add to half-precision parameters by compensated summation: what rounding leaves out is added at the next step.

    .. math:: y = u + c, \qquad w' = \mathrm{round}(w + y), \qquad c' = y - (w' - w)

    The compensation :math:`c` is kept in the parameters' dtype, two bytes per parameter; weight and compensation
    together have about 16 bits of precision. The update is :math:`w' - w`, so ``apply_updates`` adds it exactly. Arrays
    in full precision are unaffected.

    Make it the outermost transform, or the last.

    Args:
      tx: any transform; its updates arrive in float32.

    Example:
      >>> tx = kahan(adamw(1e-3))  # for parameters in bfloat16

    References:
      Kahan, *Further remarks on reducing truncation errors*, 1965.
      Zamirai et al., *Revisiting BFloat16 Training*, 2020, algorithm 3.
    """

    tx: Child

    def init(self, params: Tree) -> KahanState:
        check_arrays(self.name, params)
        return KahanState(_halves(jnp.zeros_like, params), self.tx.init(params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, KahanState._fields)
        wide(self, params)
        updates, inner_state = self.tx.step(updates, state.inner_state, params, extra)

        def leaf(i: int, update: Array, param: Array, compensation: Array) -> tuple[Array, Array]:
            here, wanted = param.astype(jnp.float32), update + compensation.astype(jnp.float32)
            move, there = _move(param, here + wanted)
            return move, (wanted - (there - here)).astype(compensation.dtype)

        updates, compensation = _map(leaf, updates, params, state.compensation)
        return updates, KahanState(compensation, inner_state)


class BitsKind(Kind):
    """How many bits of a parameter are kept."""

    label = "int"

    def normalize(self, where: str, value: Any) -> Any:
        if value not in (8, 16, 32):
            raise ValueError(f"{where} must be 8, 16 or 32, got {value!r}")
        return int(value)


class MasterWeightsState(NamedTuple):
    """State of :func:`master_weights`."""

    master: Tree
    """Float32 copies of half-precision parameters, or the bits that these lack; ``None`` for others."""
    inner_state: Any


@combinator
class master_weights(Transform):
    r"""Update float32 master weights, to which the half-precision parameters are rounded.

    The inner transform sees and updates weights in float32; the update that is returned moves the parameter to the
    half-precision number nearest to the new weight. So a run in bfloat16 takes the same steps as a float32 run, except
    that gradients are taken at rounded weights.

    The state needn't hold the whole weight, since the parameter has its upper bits: ``bits=16`` keeps the 16 that
    bfloat16 lacks, with the same result; ``bits=8`` half of these, for weights of 16 bits behind the point. They are
    kept as the distance to the parameter, in units of its spacing. Together with :func:`store` that is Adam in 5
    bytes per parameter instead of 12, the parameter included.

    It matters most where weights are large: bfloat16 numbers between 8 and 16 lie 1/16 apart, so that an embedding
    whose entries are of that size loses nearly all the updates of a run's last part. If only embeddings are in
    bfloat16, only these have a copy.

    If other code changes the parameters, such as a projection after the update, the change is respected: the float32
    copy is taken from them again, and distances restart from there. Arrays in full precision are unaffected.

    Make it the outermost transform, or the last.

    Args:
      tx: any transform.
      bits: what to keep for each half-precision parameter: 32 (a float32 copy), 16 or 8.

    Example:
      >>> tx = master_weights(store(adamw(1e-3), "int8"), bits=8)

    References:
      Micikevicius et al., *Mixed Precision Training*, 2018, section 3.1.
      Zamirai et al., *Revisiting BFloat16 Training*, 2020.
    """

    tx: Child
    bits: Annotated[int, BitsKind()] = 32

    def init(self, params: Tree) -> MasterWeightsState:
        check_arrays(self.name, params)
        if self.bits == 32:
            master = _halves(lambda x: jnp.array(x, jnp.float32, copy=True), params)
        else:
            master = _halves(lambda x: jnp.zeros_like(x, f"int{self.bits}"), params)
        return MasterWeightsState(master, self.tx.init(_single(params)))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, MasterWeightsState._fields)
        weights = self.weights(state, wide(self, params), params)
        updates, inner_state = self.tx.step(_single(updates), state.inner_state, weights, extra)

        def leaf(i: int, update: Array, pair: tuple[Array, Array], kept: Array) -> tuple[Array, Array]:
            param, weight = pair
            move, there = _move(param, weight + update)
            return move, self._kept(weight + update, there, param.dtype)

        pairs = jax.tree.map(lambda *pair: pair, params, weights)
        updates, master = _map(leaf, updates, pairs, state.master)
        return updates, MasterWeightsState(master, inner_state)

    def weights(self, state: MasterWeightsState, wide_params: Tree, params: Tree) -> Tree:
        """Return the weights in float32, where they belong to the parameters, and else these."""

        def leaf(i: int, here: Array, param: Array, kept: Array) -> tuple[Array, Array]:
            if self.bits < 32:
                return here + kept.astype(jnp.float32) * (spacing(here, param.dtype) * 2.0**-self.bits), kept
            return jnp.where(on_grid(kept, param.dtype) == here, kept, here), kept

        return _map(leaf, wide_params, params, state.master)[0]

    def _kept(self, target: Array, there: Array, dtype: Any) -> Array:
        """Return what is kept of ``target`` beside a parameter that is ``there``."""
        if self.bits == 32:
            return jnp.where(on_grid(target, dtype) == there, target, there)
        half = 2 ** (self.bits - 1)
        lacking = jnp.round((target - there) * (2.0**self.bits / spacing(there, dtype)))
        return jnp.clip(lacking, -half, half - 1).astype(f"int{self.bits}")

    def eval_params(self, state: Any, params: Tree) -> Tree:
        weights = self.weights(state, _single(params), params)
        better = self.tx.eval_params(state.inner_state, weights)
        return params if same_leaves(better, weights) else tree.cast_like(better, params)
