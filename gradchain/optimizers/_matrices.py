"""What the optimizers for matrices end with."""

from typing import Any

from gradchain.combinators.chain import chain
from gradchain.combinators.hidden_matrices import for_hidden_matrices
from gradchain.core.transform import Transform
from gradchain.transforms.scaling import scale_by_learning_rate


def beside_adam(name: str, stages: tuple[Transform, ...], learning_rate: Any, rest: Transform, dims: Any) -> Transform:
    """Return a chain of stages and a learning rate for matrices, and ``rest``, labelled ``"adam"``, for the others."""
    return for_hidden_matrices(chain(*stages, scale_by_learning_rate(learning_rate)), rest, dims, labels=(name, "adam"))
