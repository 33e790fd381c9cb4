"""Fit a sine with an Equinox network: the model goes in, functions and all, and comes out trained."""

import equinox as eqx
import jax
import jax.numpy as jnp

import gradchain as gc
from gradchain import training


def loss_fn(model, batch):
    x, y = batch
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def main(steps=400):
    key_model, key_data = jax.random.split(jax.random.key(0))
    x = jax.random.uniform(key_data, (128, 1), minval=-3, maxval=3)
    data = x, jnp.sin(x)
    model = eqx.nn.MLP(in_size=1, out_size=1, width_size=32, depth=2, activation=jax.nn.tanh, key=key_model)
    adapter = training.equinox(loss_fn)
    result = training.fit(adapter, model, gc.adam(1e-2), data, steps=steps, batch_size=len(x))
    print(result.history.table(rows=4))
    final = float(training.evaluate(adapter, result.params, data).loss)
    print(f"mean squared error after {steps} steps: {final:.5f}")
    return {"loss": final}


if __name__ == "__main__":
    main()
