"""L-BFGS with its line search: Optax's step by step, and where Optax's fails."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from tests.problems import PROBLEMS, objective, start

STEPS = 20


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(tx, function, params, *arguments):
    """Return values, steps and evaluations of ``STEPS`` updates, as lists."""

    def value_fn(x):
        return function(*arguments, x)

    def step(carry, _):
        params, state = carry
        value, grad = jax.value_and_grad(value_fn)(params)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
        found = [gc.tree.get(state, name) for name in ("value", "learning_rate", "num_linesearch_steps")]
        return (gc.apply_updates(params, updates), state), [value, *found]

    return jax.lax.scan(step, (params, tx.init(params)), length=STEPS)[1]


ENDS = {}
"""After how many steps problems end or take a way of their own, and why."""


@pytest.mark.parametrize("name", PROBLEMS)
def test_it_is_optax_s_step_by_step(name, x64):
    number, point = [*PROBLEMS].index(name), start(name)
    ours, theirs = (run(tx, objective, point, number) for tx in (gc.lbfgs(), optax.lbfgs()))
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        print(name, i, np.abs(np.asarray(a) / np.where(b==0,1,b) - 1).round(9)[:20], np.asarray(a)[-3:], np.asarray(b)[-3:])
