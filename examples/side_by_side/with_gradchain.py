"""A training step in JAX with gradchain: the gradient is a function, the optimizer a value."""

import jax
import jax.numpy as jnp
import numpy as np
from problem import B1, B2, EPS, RATE, batches, load, start

import gradchain as gc


def loss_fn(params, x, y):
    hidden = jnp.tanh(x @ params["w1"] + params["b1"])
    logits = hidden @ params["w2"] + params["b2"]
    return jnp.mean(gc.losses.softmax_cross_entropy_with_integer_labels(logits, y))


@jax.jit
def step(tx, params, state, x, y):
    loss, gradient = jax.value_and_grad(loss_fn)(params, x, y)
    updates, state = tx.update(gradient, state, params)
    return gc.apply_updates(params, updates), state, loss


def train(dtype=np.float32):
    params = jax.tree.map(jnp.asarray, start(dtype))
    tx = gc.adam(RATE, b1=B1, b2=B2, eps=EPS)
    state = tx.init(params)
    losses = []
    for x, y in batches(*load(dtype)):
        params, state, loss = step(tx, params, state, x, y)
        losses.append(float(loss))
    return losses
