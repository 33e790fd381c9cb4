"""How many examples there are: the leading axis that the arrays of a tree share."""

import jax
import numpy as np

from gradchain.arguments import check_whole, described, is_numeric
from gradchain.training.data.wording import are_batches, how_to_feed
from gradchain.tree import Tree, show_path


def count_examples(data: Tree, what: str = "data") -> int:
    """Return the length of the leading axis that all arrays in ``data`` share.

    Raises:
      TypeError: if a leaf isn't an array (naming its path).
      ValueError: if there is no array, one has no axis, the lengths differ (naming paths), or they are 0.
    """
    lengths: dict[str, int] = {}
    for path, x in jax.tree_util.tree_flatten_with_path(data, is_leaf=lambda x: hasattr(x, "__next__"))[0]:
        if not is_numeric(x):
            hint = how_to_feed(x, what)
            raise TypeError(f"{what}: {show_path(path)} is {described(x)}, expected an array of numbers{hint}")
        if not np.ndim(x):
            raise ValueError(f"{what}: {show_path(path)} is a single number; it needs a leading axis of examples")
        lengths[show_path(path)] = np.shape(x)[0]
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{path} has {n}" for path, n in lengths.items())
        raise ValueError(f"{what}: the arrays differ in their number of examples: {listed}")
    if not lengths or not next(iter(lengths.values())):
        raise ValueError(f"{what}: there are no examples" + ("" if lengths else "; the tree has no arrays"))
    return next(iter(lengths.values()))


def count_all(data: Tree, what: str = "data") -> int:
    """Return what :func:`count_examples` does, of data that are handed in as a whole.

    Raises:
      TypeError: if they come batch by batch.
    """
    if are_batches(data):
        raise TypeError(
            f"{what}: got {described(data)}, expected a tree of arrays, each with all examples on its leading axis"
            f"{how_to_feed(data, what)}"
        )
    return count_examples(data, what)


def check_batches(data: Tree, batch_size: int, what: str = "data") -> int:
    """Return the number of examples, after checking that a batch of this size can be drawn."""
    n = count_all(data, what)
    check_whole("batch_size", batch_size)
    if batch_size > n:
        raise ValueError(f"batch_size is {batch_size}, larger than the {what}, which has {n} examples")
    return n
