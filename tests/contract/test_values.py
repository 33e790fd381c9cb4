"""Promise 3: a transform is a value. It prints as its expression, compares, hashes, copies, pickles, travels in JAX."""

import copy
import dataclasses
import functools
import pickle
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

import gradchain as gc
import gradchain.schedules
from tests import public, quick, trees
from tests.contract.cases import case_of, each, follows, secondary
from tests.contract.numbers import changed, numbers_of
from tests.registry import ROWS

NAMES = {**vars(gradchain.schedules), **public.NAMES}


class Tuple(NamedTuple):
    """Holds a transform as a pytree child."""

    tx: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Dataclass:
    """Holds a transform as a pytree child."""

    tx: Any


@flax.struct.dataclass
class Struct:
    """Holds a transform as a pytree child, and another as static data."""

    tx: Any
    fixed: Any = flax.struct.field(pytree_node=False, default=None)


@each([row for row in ROWS if row.rebuilds])
def test_repr_is_the_expression_that_builds_it(row):
    tx = row.build()
    assert eval(repr(tx), dict(NAMES)) == tx


@each([row for row in ROWS if not row.rebuilds])
def test_repr_shows_the_bare_function_it_holds(row):
    assert "<function" in repr(row.build())


@each(slow=secondary)
def test_equality_and_hash(row):
    tx, same = row.build(), row.build()
    assert tx is not same
    assert tx == same
    assert hash(tx) == hash(same)
    assert tx != object()
    if numbers_of(tx):
        assert changed(tx, 1) != tx
        assert hash(changed(tx, 1)) != hash(tx)


@each()
def test_copies_and_pickles(row):
    tx = row.build()
    for other in (copy.copy(tx), copy.deepcopy(tx), pickle.loads(pickle.dumps(tx))):
        assert other == tx
        assert type(other) is type(tx)
        assert hash(other) == hash(tx)


@each()
def test_states_pickle(row):
    state = row.build().init(trees.standard())
    trees.assert_close(pickle.loads(pickle.dumps(state)), state, 0)
    trees.assert_same_kind(pickle.loads(pickle.dumps(state)), state)


@each()
def test_is_immutable(row):
    tx = row.build()
    for name in [*(name for name, _, _ in tx.fields()), "new"]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(tx, name, 1)


@each()
def test_is_a_pytree_of_its_numbers(row):
    tx = row.build()
    leaves, treedef = jax.tree.flatten(tx)
    assert treedef.unflatten(leaves) == tx
    assert jax.tree.map(lambda x: x, tx) == tx
    for placeholder in (None, object(), jax.ShapeDtypeStruct((), "float32")):
        assert jax.tree.leaves(treedef.unflatten([placeholder] * len(leaves)), is_leaf=lambda x: x is None) is not None


@each([row for row in ROWS if not secondary(row)], slow=follows)
def test_works_as_a_static_argument_under_shard_map_and_eval_shape(row):
    case, traces = case_of(row, "float32"), []
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    @functools.partial(jax.jit, static_argnums=0)
    def update(tx, *args):
        traces.append(tx)
        replicated = PartitionSpec()

        @functools.partial(jax.shard_map, mesh=mesh, in_specs=replicated, out_specs=replicated)
        def on_each_device(gradient, state, params):
            return row.update(tx, jax.lax.pmean(gradient, "data"), state, params)

        return on_each_device(*args)

    args = case.gradient(0), case.tx.init(case.params), case.params
    shapes = jax.eval_shape(functools.partial(row.update, row.build()), *args)
    for tx in (row.build(), row.build()):
        result = update(tx, *args)
        case.assert_close(result, case.step(*args))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(lambda x: (x.shape, x.dtype), result)
    assert len(traces) == 1


@each([row for row in ROWS if not secondary(row)], slow=follows)
def test_travels_in_containers_through_scan_cond_and_checkpoint(row):
    case = case_of(row, "float32")

    def body(carry, gradient):
        holder, params, state = carry

        @jax.checkpoint
        def update(holder, state):
            return row.update(holder.tx.tx.tx, gradient, state, params)

        updates, state = jax.lax.cond(
            jnp.isfinite(gradient["scale"]), update, lambda holder, state: (gradient, state), holder, state
        )
        return (holder, gc.apply_updates(params, updates), state), None

    holder = Tuple(Dataclass(Struct(row.build(), fixed=row.build())))
    start = holder, case.params, case.tx.init(case.params)
    (after, *end), _ = quick.jit(lambda start, gradients: jax.lax.scan(body, start, gradients))(start, case.gradients)
    case.assert_close(tuple(end), case.loop(case.step))
    assert after.tx.tx.fixed == row.build()
    assert jax.tree.structure(after) == jax.tree.structure(holder)
