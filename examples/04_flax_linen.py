"""Train a Flax linen network on handwritten digits, with a warmup and a cosine decay that end with the run.

Data: 1,797 images of 8 by 8 pixels (in scikit-learn).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gradchain as gc
from gradchain import training


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(64)(x))
        return nn.Dense(10)(x)


def load():
    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(images / 16, labels, test_size=0.2, random_state=0)
    return (jnp.float32(x_train), jnp.asarray(y_train)), (jnp.float32(x_test), jnp.asarray(y_test))


def loss_fn(net, batch):
    x, y = batch
    logits = net(x)
    losses = gc.losses.softmax_cross_entropy_with_integer_labels(logits, y)
    return jnp.mean(losses), {"accuracy": jnp.mean(logits.argmax(-1) == y)}


def optimizer(total_steps):
    rate = gc.warmup_cosine_decay_schedule(0.0, 1e-2, warmup_steps=total_steps // 10, decay_steps=total_steps)
    return gc.chain(gc.clip_by_global_norm(1.0), gc.adamw(rate))


def main(epochs=15):
    train, held_out = load()
    net = Net()
    result = training.fit(
        training.linen(net, loss_fn),
        net.init(jax.random.key(0), train[0][:1]),
        optimizer,
        train,
        epochs=epochs,
        batch_size=64,
        validation=held_out,
        has_aux=True,
    )
    print(result.history.table())
    accuracy = float(result.history["val_accuracy"][-1])
    print(f"accuracy on held-out digits: {accuracy:.3f}")
    return {"accuracy": accuracy}


if __name__ == "__main__":
    main()
