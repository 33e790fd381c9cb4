"""Nearest points of convex sets (and of spheres): functions from trees to trees.

All leaves of a tree together are one vector, as if concatenated: a ball's radius bounds the norm of the whole tree. To
project each array by itself, map the function over the tree. Leaves keep their dtypes; sums over elements are taken in
at least float32. Every projection has finite values and derivatives on finite input, also where Optax divides zero by
zero: at the centre of a sphere, for a ball of radius 0, along a vector of zeros.
"""

from gradchain.projections.affine import projection_halfspace, projection_hyperplane, projection_vector
from gradchain.projections.balls import (
    projection_l1_ball,
    projection_l1_sphere,
    projection_l2_ball,
    projection_l2_sphere,
    projection_simplex,
)
from gradchain.projections.boxes import (
    projection_box,
    projection_hypercube,
    projection_linf_ball,
    projection_non_negative,
)

__all__ = [
    "projection_box",
    "projection_halfspace",
    "projection_hypercube",
    "projection_hyperplane",
    "projection_l1_ball",
    "projection_l1_sphere",
    "projection_l2_ball",
    "projection_l2_sphere",
    "projection_linf_ball",
    "projection_non_negative",
    "projection_simplex",
    "projection_vector",
]
