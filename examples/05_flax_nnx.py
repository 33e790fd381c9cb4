"""Train a Flax NNX network with dropout on handwritten digits: a module goes in, and a trained module comes out.

Data: 1,797 images of 8 by 8 pixels (in scikit-learn).
"""

import jax.numpy as jnp
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gradchain as gc
from gradchain import training


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.relu(self.hidden(x))))


def loss_fn(net, batch):
    x, y = batch
    return jnp.mean(gc.losses.softmax_cross_entropy_with_integer_labels(net(x), y))


def main(epochs=10):
    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(images / 16, labels, test_size=0.2, random_state=0)
    train, held_out = (jnp.float32(x_train), jnp.asarray(y_train)), (jnp.float32(x_test), jnp.asarray(y_test))
    tx = gc.nadamw(3e-3, weight_decay=1e-3)
    result = training.fit(
        training.nnx(loss_fn), Net(nnx.Rngs(0)), tx, train, epochs=epochs, batch_size=64, validation=held_out
    )
    print(result.history.table())
    net = result.params
    net.eval()
    accuracy = float(jnp.mean(net(held_out[0]).argmax(-1) == held_out[1]))
    print(f"accuracy on held-out digits: {accuracy:.3f}")
    return {"accuracy": accuracy}


if __name__ == "__main__":
    main()
