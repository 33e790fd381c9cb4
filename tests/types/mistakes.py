"""A user's mistakes: a type checker finds each, on its line."""

import jax.numpy as jnp
from jax import Array

import gradchain as gc
from gradchain import training


@gc.elementwise()
def half(g: Array, slot: gc.Slots, at: gc.At, factor: gc.Hyper = 0.5) -> Array:
    return factor * g


def loss_fn(params: Array, batch: Array) -> Array:
    return jnp.mean((params - batch) ** 2)


data, start, tx = jnp.ones((8, 3)), jnp.ones(3), gc.adam(0.1)

gc.adam("x")  # error
gc.adam([0.1])  # error
gc.adam(None)  # error
gc.adam(0.1, b1="0.9")  # error
gc.adam(0.1, beta1=0.9)  # error
gc.adam()  # error
gc.adam(gc.sgd(0.1))  # error
gc.scale_by_adam("x")  # error
gc.scale_by_adam(nesterov="yes")  # error
gc.adamm(0.1)  # error
half("x")  # error
half(0.5, 0.5)  # error
half(facter=0.5)  # error
gc.cosine_decay_schedule("x", 10)  # error
gc.chain([gc.clip(1.0), tx])  # error
gc.chain(gc.clip(1.0), gc.adam)  # error
gc.chain(gc.clip(1.0), gc.scale_by_adam)  # error
gc.chain(0.1)  # error
gc.named_chain(tx)  # error
gc.average_params(0.9)  # error
gc.average_params(tx, decay="x")  # error
gc.average_params(tx, decai=0.9)  # error
gc.apply_updates(start)  # error
tx.update(start)  # error
training.fit(loss_fn, start, 0.1, data, epochs=1, batch_size=4)  # error
training.fit(loss_fn, start, tx, data, epochs=1, batch_size="4")  # error
training.fit(loss_fn, start, tx, data, epochs="1", batch_size=4)  # error
training.fit(loss_fn, start, tx, data, epochs=1, batch_size=4, remainder="all")  # error
training.fit(loss_fn, start, tx, data, epochs=1, batch_size=4).params["a"].b  # error
training.fit(loss_fn, start, tx, data, epochs=1, batch_size=4).parameters  # error
training.sweep(loss_fn, start, "adam", data, epochs=1, batch_size=4)  # error
training.sweep(loss_fn, start, tx, data, epochs=1, batch_size=4).winners  # error
training.make_step(loss_fn, tx)(start, tx.init(start))  # error
gc.minimize(lambda x: jnp.sum(x**2), start, "lbfgs")  # error
gc.minimize(lambda x: jnp.sum(x**2), start).param  # error
gc.parallel([gc.sgd(0.1), tx], merge=gc.tree.add)  # error
gc.partition([gc.sgd(0.1)], lambda params: "a")  # error
gc.tree.zeros_like({"a": start}).sum()  # error
