"""Per-example gradients: clipped one by one, summed, and made private by noise.

Here every array of updates has a leading batch axis: ``jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, batch)``.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from gradchain import tree
from gradchain.core.hyper import Key, NonNegative
from gradchain.core.rule import treewise
from gradchain.core.spec import At, Slots
from gradchain.numerics import compute_dtype, shrink_factor
from gradchain.signatures import public
from gradchain.transforms.noise import sample_parts
from gradchain.tree import Tree


@public
def per_example_global_norm_clip(grads: Tree, l2_norm_clip: NonNegative) -> tuple[Tree, Array]:
    r"""Return :math:`\sum_i g_i \min(1, c / \|g_i\|_2)` over the examples, and how many of them were clipped.

    The norm of an example's gradient is taken over all arrays. Sums are in at least float32. An example with a NaN
    makes everything NaN.

    Args:
      grads: a tree of arrays whose first axis counts the examples.
      l2_norm_clip: :math:`c \ge 0`.

    Returns:
      (sums, number): a tree without the batch axis, and an integer.

    Raises:
      ValueError: if the first axis is missing or differs between arrays.

    Reference: Abadi et al., *Deep Learning with Differential Privacy*, 2016, algorithm 1.
    """
    examples = jnp.arange(tree.batch_size(grads, "per_example_global_norm_clip"))
    norms = jax.vmap(lambda _, g: tree.norm(g))(examples, grads)
    factors = shrink_factor(norms, l2_norm_clip)

    def total(g: Array) -> Array:
        dtype = compute_dtype(jnp.result_type(g))
        return jnp.tensordot(factors.astype(dtype), jnp.asarray(g, dtype), axes=1, precision="highest")

    return jax.tree.map(total, grads), jnp.sum(factors < 1)


@public
def per_example_layer_norm_clip(
    grads: Tree, global_l2_norm_clip: NonNegative, uniform: bool = True
) -> tuple[Tree, Tree]:
    r"""Clip the gradient of each example separately in each array, by its part of the bound, and sum over the examples.

    The norm over all arrays is still bounded by :math:`c`. Array :math:`l` of :math:`L` has the bound
    :math:`c_l = c / \sqrt L`, or :math:`c_l = c \sqrt{d_l / d}` where :math:`d_l` of an example's :math:`d` elements
    are in array :math:`l`.

    Args:
      grads: a tree of arrays whose first axis counts the examples.
      global_l2_norm_clip: :math:`c \ge 0`.
      uniform: whether all arrays have the same bound; otherwise the bounds depend on their sizes.

    Returns:
      (sums, numbers): two trees: the sums without the batch axis, and how many examples were clipped in each array.

    Raises:
      ValueError: if the first axis is missing or differs between arrays.

    Reference: McMahan et al., *Learning Differentially Private Recurrent Language Models*, 2018, section 2.
    """
    tree.batch_size(grads, "per_example_layer_norm_clip")
    leaves, treedef = jax.tree.flatten(grads)
    sizes = [1 if uniform else math.prod(g.shape[1:]) for g in leaves]
    shares = [math.sqrt(size / max(sum(sizes), 1)) for size in sizes]
    results = [per_example_global_norm_clip(g, global_l2_norm_clip * x) for g, x in zip(leaves, shares, strict=True)]
    return treedef.unflatten([total for total, _ in results]), treedef.unflatten([number for _, number in results])


@treewise(random=True, per_example=True)
def differentially_private_aggregate(
    updates: Tree, slot: Slots, at: At, l2_norm_clip: NonNegative, noise_multiplier: NonNegative, key: Key
):
    r"""Average per-example gradients with differential privacy: clip each, and add noise to their sum.

    .. math:: u = \frac1n \left(\sum_{i=1}^n g_i \min(1, c / \|g_i\|_2) + c\,\sigma\,\varepsilon\right)

    with :math:`\varepsilon` standard normal, independent for each element and update; the real and the imaginary part
    each have variance 1 (in Optax 1/2, less than the guarantee needs). Put it first in a chain: ``update`` takes
    gradients with a leading batch axis, which neither the parameters nor the updates have. An empty batch gives the
    noise alone. It can't be wrapped in combinators that accumulate gradients.

    Args:
      l2_norm_clip: :math:`c \ge 0`, the bound on the norm of an example's gradient over all arrays.
      noise_multiplier: :math:`\sigma \ge 0`; with 0 there is no noise, whatever the bound.
      key: an integer seed or a PRNG key. An array of seeds or keys makes a batch of transforms. (Optax's deprecated
        ``seed`` is not supported.)

    Reference: Abadi et al., *Deep Learning with Differential Privacy*, 2016, algorithm 1.
    """
    sums, _ = per_example_global_norm_clip(updates, l2_norm_clip)
    scale = jnp.where(noise_multiplier == 0, 0, jnp.multiply(l2_norm_clip, noise_multiplier))
    noise = tree.random_like(at.key, sums, sample_parts(jax.random.normal))
    size = max(tree.batch_size(updates), 1)
    return jax.tree.map(lambda g, e: (g + scale.astype(at.dtype) * e) / size, sums, noise)
