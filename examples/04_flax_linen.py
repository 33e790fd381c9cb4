"""Train a Flax linen network on handwritten digits, with Flax's TrainState and a warm-up-and-cosine schedule.

Data: 1,797 images of 8 by 8 pixels (in scikit-learn). One epoch of mini-batches is one ``lax.scan``.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.training.train_state import TrainState
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gradchain as gc


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(64)(x))
        return nn.Dense(10)(x)


def load():
    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(images / 16, labels, test_size=0.2, random_state=0)
    return jnp.float32(x_train), jnp.asarray(y_train), jnp.float32(x_test), jnp.asarray(y_test)


def train_step(state, batch):
    def loss_fn(params):
        logits = state.apply_fn(params, batch[0])
        return jnp.mean(gc.losses.softmax_cross_entropy_with_integer_labels(logits, batch[1]))

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    return state.apply_gradients(grads=grads), loss


@jax.jit
def train_epoch(state, x, y, key):
    order = jax.random.permutation(key, len(x))[: len(x) // 64 * 64].reshape(-1, 64)
    return jax.lax.scan(lambda state, i: train_step(state, (x[i], y[i])), state, order)


def main(epochs=15):
    x_train, y_train, x_test, y_test = load()
    steps = epochs * (len(x_train) // 64)
    rate = gc.warmup_cosine_decay_schedule(0.0, 1e-2, warmup_steps=steps // 10, decay_steps=steps)
    tx = gc.chain(gc.clip_by_global_norm(1.0), gc.adamw(rate))
    model = Net()
    state = TrainState.create(apply_fn=model.apply, params=model.init(jax.random.key(0), x_train[:1]), tx=tx)
    for epoch in range(epochs):
        state, losses = train_epoch(state, x_train, y_train, jax.random.key(epoch))
        now = gc.hyperparams(tx, state.opt_state)["scale_by_learning_rate.learning_rate"]
        print(f"epoch {epoch + 1:2d}   loss {losses.mean():.4f}   next learning rate {now:.5f}")
    accuracy = float(jnp.mean(state.apply_fn(state.params, x_test).argmax(-1) == y_test))
    print(f"accuracy on held-out digits: {accuracy:.3f}")
    return {"accuracy": accuracy}


if __name__ == "__main__":
    main()
