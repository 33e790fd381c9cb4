"""Combinators that users write: fields declared once, and classes that can't be meant are told what to write."""

import copy
import dataclasses
import inspect
import pickle
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

import gradchain as gc
from gradchain import tree
from gradchain.core.rule import Rule
from tests import trees


class ShrunkState(NamedTuple):
    count: jax.Array
    tx_state: Any


@gc.combinator
class shrunk(gc.Transform):
    """Multiply the updates of a transform."""

    tx: gc.Child
    factor: gc.Positive = 0.5
    limit: gc.NonNegative | None = None
    _: dataclasses.KW_ONLY
    flag: bool = False

    def init(self, params):
        return ShrunkState(jnp.zeros((), jnp.int32), self.tx.init(params))

    def step(self, updates, state, params, extra):
        updates, inner = self.tx.step(updates, state.tx_state, params, extra)
        factor = self.number("factor", state.count)
        return tree.scale(factor, updates), ShrunkState(state.count + 1, inner)


class PairState(NamedTuple):
    left_state: Any
    right_state: Any


class Pair(gc.Transform):
    """Two transforms one after another."""

    left: gc.Child
    right: gc.Child

    def init(self, params):
        return PairState(self.left.init(params), self.right.init(params))

    def step(self, updates, state, params, extra):
        updates, left = self.left.step(updates, state.left_state, params, extra)
        updates, right = self.right.step(updates, state.right_state, params, extra)
        return updates, PairState(left, right)


pair = gc.combinator(Pair)
W = jnp.array([1.0, -2.0])


def run(tx, steps=2):
    state, seen = tx.init(W), []
    for _ in range(steps):
        updates, state = tx.update(W, state, W)
        seen.append(updates)
    return seen


def test_the_constructor_is_a_function_that_shows_the_fields_and_the_docstring():
    assert inspect.isfunction(shrunk)
    assert str(inspect.signature(shrunk)) == (
        "(tx: Transform, factor: Positive = 0.5, limit: NonNegative | None = None, *, flag: bool = False) -> Transform"
    )
    assert (shrunk.__name__, shrunk.__module__, shrunk.__doc__) == (
        "shrunk",
        __name__,
        "Multiply the updates of a transform.",
    )


def test_a_class_without_a_docstring_has_none():
    body = {name: vars(shrunk.Value)[name] for name in ("init", "step")}
    assert gc.combinator(type("plain", (gc.Transform,), body)).__doc__ is None


def test_what_it_makes_is_a_value():
    tx = shrunk(gc.sgd(0.1), 0.25, flag=True)
    for same in (shrunk(gc.sgd(0.1), factor=0.25, flag=True), copy.deepcopy(tx), pickle.loads(pickle.dumps(tx))):
        assert same == tx
        assert hash(same) == hash(tx)
    assert tx != shrunk(gc.sgd(0.1), 0.25)
    inner = "chain(identity(), scale_by_learning_rate(learning_rate=0.1, flip_sign=True))"
    assert repr(tx) == f"shrunk({inner}, factor=0.25, limit=None, flag=True)"
    assert sorted(jax.tree.leaves(tx)) == [0.1, 0.25]
    with pytest.raises(dataclasses.FrozenInstanceError):
        tx.factor = 1.0


def test_its_numbers_are_listed_changed_scheduled_and_mapped_over():
    tx = shrunk(gc.scale(2.0))
    assert gc.hyperparams(tx) == {"shrunk.factor": 0.5, "scale.step_size": 2.0}
    trees.assert_close(run(tx.replace(factor=0.25, step_size=4.0))[0], W, tolerance=0)
    scheduled = shrunk(gc.identity(), gc.linear_schedule(1.0, 3.0, 2))
    trees.assert_close(run(scheduled), [W, 2 * W], tolerance=0)
    assert gc.hyperparams(scheduled, scheduled.init(W)._replace(count=jnp.array(1)))["shrunk.factor"] == 2.0
    batch = shrunk(gc.identity(), jnp.array([1.0, 2.0]))
    both = jax.vmap(lambda tx: run(tx)[0], in_axes=(gc.batch_axes(batch),))(batch)
    trees.assert_close(both, jnp.stack([W, 2 * W]), tolerance=0)
    with pytest.raises(ValueError, match=r"shrunk: factor holds a batch of shape \(2,\)"):
        run(batch)


def test_another_librarys_transform_may_stand_inside():
    trees.assert_close(run(shrunk(optax.scale(3.0)))[0], 1.5 * W, tolerance=0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: shrunk(gc.identity(), -1.0), ValueError, r"^shrunk: factor must be in \(0, inf\], got -1.0"),
        (lambda: shrunk(gc.identity(), flag=1), TypeError, "^shrunk: flag must be True or False, got 1"),
        (lambda: shrunk(gc.identity(), 0.5, None, True), TypeError, "^shrunk: too many positional .* is shrunk"),
        (lambda: shrunk(), TypeError, "^shrunk: missing a required argument: 'tx'"),
        (lambda: shrunk(gc.identity(), faktor=1.0), TypeError, "^shrunk has no argument 'faktor'; did you mean 'fac"),
        (lambda: shrunk(0.1), TypeError, "expected a transform .*got 0.1; scale"),
        (lambda: shrunk(None), TypeError, "^shrunk: tx can't be None"),
        (lambda: shrunk(gc.identity(), None), TypeError, "^shrunk: factor can't be None"),
    ],
)
def test_its_arguments_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_number_is_cast_as_it_is_asked_for():
    tx = shrunk(gc.identity())
    assert jax.jit(lambda tx: tx.number("factor", 0, jnp.float16))(tx).dtype == jnp.float16
    assert tx.number("limit", 0, jnp.float16) is None
    assert type(tx.number("factor", 0, jnp.float16)) is float


def test_parts_follow_from_the_fields_and_their_names_are_labels():
    tx = pair(gc.trace(0.9), gc.average_params(gc.trace(0.8)))
    average = ["right.average_params.start", "right.average_params.blend"]
    assert list(gc.hyperparams(tx)) == ["left.trace.decay", *average, "right.trace.decay"]
    state = tx.init(W)
    assert [part.state for part in tx.parts(state)] == list(state)
    changed = tx.replace(**{"right.trace.decay": 0.1, "left.trace.decay": 0.2})
    assert (changed.left, changed.right) == (gc.trace(0.2), gc.average_params(gc.trace(0.1)))
    _, state = tx.update(W, state, W)
    trees.assert_close(gc.eval_params(tx, state, 3 * W), 3 * W, tolerance=0)
    assert shrunk(gc.accumulate(gc.identity(), 2)).skips


def test_a_state_in_which_a_childs_is_not_found_is_told_how_to_call_it():
    body = {name: vars(shrunk.Value)[name] for name in ("init", "step")} | {"__annotations__": {"base": gc.Child}}
    tx = gc.combinator(type("lost", (gc.Transform,), body))(gc.identity())
    with pytest.raises(ValueError, match=r"^lost: its state has no field base_state"):
        tx.parts(ShrunkState(jnp.zeros(()), ()))


def test_several_children_are_kept_in_the_pytrees_order():
    table = gc.partition({"b": optax.scale(1.0), "a": gc.identity()}, {"x": "b", "y": "a"})
    assert list(table.transforms) == ["a", "b"]
    assert table.parts()[1].transform == gc.from_optax(table.transforms["b"])


def declared(**body):
    """Return a class with ``init`` and ``step`` and the rest of its body as given."""
    methods = {name: vars(shrunk.Value)[name] for name in ("init", "step")}
    body = {name: x for name, x in (methods | body).items() if x is not None}
    return type("wrong", (gc.Transform,), body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"__annotations__": {"emitted": gc.Child}}, "a parameter can't be called 'emitted', which Transform uses"),
        ({"__annotations__": {"kinds": gc.Child}}, "a parameter can't be called 'kinds', which Value uses itself"),
        ({"rate": 0.1}, "rate = 0.1 declares no field; say what it may be, rate: Hyper = 0.1"),
        ({"kinds": {"rate": gc.Hyper}}, "kinds follows from the annotations: write each field once"),
        ({"__annotations__": {"tx": gc.Transform}}, "tx is annotated Transform; write tx: Child"),
        ({"__annotations__": {"tx": gc.Transform | None}}, "tx is annotated Transform; write tx: Child"),
        ({"__annotations__": {"rate": gc.Schedule}}, "rate is annotated Schedule; write rate: Hyper"),
        ({"__annotations__": {"rate": float}, "rate": 0.1}, "rate is annotated float; declare a number by its range"),
        ({"__annotations__": {"rate": "Nowhere"}}, "the annotations of its fields can't be read: .*Nowhere"),
        ({"step": None}, r"must define step\(self, updates, state, params, extra\)$"),
        ({"step": None, "update": lambda self: 0}, r"must define step\(.*\) in the place of update, which calls it"),
        ({"init": None}, r"must define init\(self, params\)"),
        ({"__annotations__": {"txs": gc.Children}}, r"must define parts\(.*\), for the states of txs"),
    ],
)
def test_a_class_that_can_not_be_meant_is_told_what_to_write(body, message):
    with pytest.raises(TypeError, match=f"^wrong.* ?{message}"):
        gc.combinator(declared(**body))


def test_a_field_called_like_a_method_of_the_same_class_is_one_of_them():
    with pytest.raises(TypeError, match=r"^twice: 'rate' is both a field and a method"):

        @gc.combinator
        class twice(gc.Transform):
            rate: gc.Hyper

            def rate(self):
                return 1.0


def test_what_is_no_field_may_stand_in_the_class():
    body = {"__annotations__": {"TABLE": ClassVar[dict]}, "TABLE": {1: 2}, "_private": 3, "relies": True}
    assert not gc.combinator(declared(**body)).Value.kinds


def test_only_a_class_of_transforms_is_decorated_and_an_undecorated_one_is_told_of():
    with pytest.raises(TypeError, match="derives from Transform, got the class int"):
        gc.combinator(int)
    with pytest.raises(TypeError, match=r"^wrong isn't declared: write @gradchain.combinator above class wrong"):
        declared(__annotations__={"tx": gc.Child})(gc.identity())


def test_parts_in_another_order_than_the_pytrees_are_refused():
    """Numbers that are changed by name would land in another transform."""

    def parts(self, state=None, params=None):
        return [gc.Part("", self.right, None, params), gc.Part("", self.left, None, params)]

    turned = gc.combinator(type("turned", (Pair,), {"parts": parts}))
    with pytest.raises(TypeError, match=r"^turned: parts must list the transforms inside as the pytree does.*\[scale"):
        turned(gc.scale(1.0), gc.trace(0.9))


def test_a_rule_may_not_override_its_step_which_a_chain_does_not_call():
    with pytest.raises(TypeError, match=r"^Mine overrides step, which a chain doesn't call"):
        type("Mine", (Rule,), {"step": lambda self, updates, state, params, extra: (updates, state)})
