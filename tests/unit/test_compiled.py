"""Compiled programs are found again for the same functions, and free those functions when nothing else holds them."""

import functools
import gc
import weakref

import jax.numpy as jnp
import numpy as np
import pytest

from gradchain import sgd
from gradchain.compiled import Compiled
from gradchain.training import fit, make_step, sweep

DATA = np.arange(4, dtype=np.float32)


class Anything:
    """Something that a function closes over."""


def fresh_loss():
    """Return a loss function, and weak references to it, to an object and to an array that only it closes over."""
    held, target = Anything(), jnp.ones(3)

    def loss_fn(params, batch, held=held):
        return jnp.mean((params - target) ** 2) * jnp.mean(batch)

    return loss_fn, [weakref.ref(x) for x in (loss_fn, held, target)]


def run_fit(loss_fn):
    fit(loss_fn, jnp.zeros(3), sgd(0.1), DATA, epochs=2, batch_size=2, validation=DATA)


def run_sweep(loss_fn):
    sweep(loss_fn, jnp.zeros(3), sgd(jnp.array([0.1, 0.2])), DATA, epochs=2, batch_size=2)


def run_step(loss_fn):
    tx = sgd(0.1)
    make_step(loss_fn, tx)(jnp.zeros(3), tx.init(jnp.zeros(3)), DATA)


RUNS = pytest.mark.parametrize("run", [run_fit, run_sweep, run_step])


@RUNS
def test_a_loss_function_and_what_it_closes_over_is_freed(run):
    loss_fn, references = fresh_loss()
    run(loss_fn)
    assert all(reference() is not None for reference in references)
    del loss_fn
    gc.collect()
    assert [reference() for reference in references] == [None, None, None]


class Counting:
    """A model with a loss, of an unhashable type, which counts how often its loss is traced."""

    __hash__ = None

    def __init__(self):
        self.traces = 0

    def loss(self, params, batch):
        self.traces += 1
        return jnp.mean(params**2) * jnp.mean(batch)

    __call__ = loss


@RUNS
@pytest.mark.parametrize("of", [lambda model: model, lambda model: model.loss], ids=["object", "method"])
def test_methods_and_callable_objects_are_found_again_and_freed(run, of):
    model = Counting()
    run(of(model))
    once = model.traces
    run(of(model))
    assert model.traces == once
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_metrics_are_freed_too():
    loss_fn, _ = fresh_loss()
    metrics = lambda params, batch: {"first": params[0]}  # noqa: E731
    fit(loss_fn, jnp.zeros(3), sgd(0.1), DATA, epochs=1, batch_size=2, validation=DATA, metrics=metrics)
    reference = weakref.ref(metrics)
    del metrics
    gc.collect()
    assert reference() is None


def test_each_recipe_has_its_own_program():
    traces = []

    def body(recipe, x):
        traces.append(recipe)
        function, (power,) = recipe
        return function(x) ** power

    program, double, triple = Compiled(body), lambda x: 2 * x, lambda x: 3 * x
    recipes = [(double, (1,)), (double, (2,)), (triple, (2,))]
    for _ in range(2):
        assert [program(recipe, 1.0) for recipe in recipes] == [2, 4, 9]
    assert traces == recipes


def test_a_function_that_can_not_be_referred_to_weakly_is_kept():
    class Slotted:
        __slots__ = ()

        def __call__(self, x):
            return 2 * x

    program = Compiled(lambda recipe, x: recipe[0](x))
    assert program((Slotted(),), 1.0) == 2
    assert program((functools.partial(jnp.multiply, 3),), 1.0) == 3
