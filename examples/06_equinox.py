"""Fit a sine with an Equinox network.

A model is a pytree that holds functions besides its arrays. ``eqx.filter(model, eqx.is_inexact_array)`` puts ``None``
in the place of what isn't trained, and gradchain leaves ``None`` alone.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

import gradchain as gc


def loss_fn(model, x, y):
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


@eqx.filter_jit
def train_step(model, tx, state, x, y):
    loss, grads = eqx.filter_value_and_grad(loss_fn)(model, x, y)
    params = eqx.filter(model, eqx.is_inexact_array)
    updates, state = tx.update(grads, state, params)
    return eqx.apply_updates(model, updates), state, loss


def main(steps=400):
    key_model, key_data = jax.random.split(jax.random.key(0))
    x = jax.random.uniform(key_data, (128, 1), minval=-3, maxval=3)
    y = jnp.sin(x)
    model = eqx.nn.MLP(in_size=1, out_size=1, width_size=32, depth=2, activation=jax.nn.tanh, key=key_model)
    tx = gc.adam(1e-2)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    for k in range(steps):
        model, state, loss = train_step(model, tx, state, x, y)
        if k % 100 == 0:
            print(f"step {k:4d}   loss {loss:.5f}")
    final = float(loss_fn(model, x, y))
    print(f"mean squared error after {steps} steps: {final:.5f}")
    return {"loss": final}


if __name__ == "__main__":
    main()
