"""Losses, one value per example: take the ``jnp.mean`` of the result, or a sum or weighted mean.

None of them broadcasts: shapes that differ are errors, since ``(n, 1)`` predictions against ``(n,)`` targets would
otherwise give an ``(n, n)`` table whose mean looks like a loss. They compute in at least float32 and return the dtype
that their inputs promote to, as Optax does: a half-precision loss is exact until it is rounded once, at the end.
"""

from typing import TYPE_CHECKING, Any

from gradchain.losses.classification import (
    poly_loss_cross_entropy,
    safe_softmax_cross_entropy,
    sigmoid_binary_cross_entropy,
    sigmoid_focal_loss,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from gradchain.losses.ctc import ctc_loss, ctc_loss_with_forward_probs
from gradchain.losses.divergences import generalized_kl_divergence, kl_divergence, kl_divergence_with_log_targets
from gradchain.losses.fenchel_young import make_fenchel_young_loss
from gradchain.losses.margins import (
    hinge_loss,
    multiclass_hinge_loss,
    multiclass_perceptron_loss,
    multiclass_sparsemax_loss,
    perceptron_loss,
    sparsemax_loss,
)
from gradchain.losses.ranking import ranking_softmax_loss
from gradchain.losses.regression import cosine_distance, cosine_similarity, huber_loss, l2_loss, log_cosh, squared_error
from gradchain.losses.segmentation import binary_dice_loss, dice_loss, multiclass_generalized_dice_loss
from gradchain.losses.self_supervised import ntxent, triplet_margin_loss
from gradchain.losses.smoothing import smooth_labels
from gradchain.signatures import no_attribute

__all__ = [
    "binary_dice_loss",
    "cosine_distance",
    "cosine_similarity",
    "ctc_loss",
    "ctc_loss_with_forward_probs",
    "dice_loss",
    "generalized_kl_divergence",
    "hinge_loss",
    "huber_loss",
    "kl_divergence",
    "kl_divergence_with_log_targets",
    "l2_loss",
    "log_cosh",
    "make_fenchel_young_loss",
    "multiclass_generalized_dice_loss",
    "multiclass_hinge_loss",
    "multiclass_perceptron_loss",
    "multiclass_sparsemax_loss",
    "ntxent",
    "perceptron_loss",
    "poly_loss_cross_entropy",
    "ranking_softmax_loss",
    "safe_softmax_cross_entropy",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "smooth_labels",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "sparsemax_loss",
    "squared_error",
    "triplet_margin_loss",
]

if not TYPE_CHECKING:  # to which any name would be one

    def __getattr__(name: str) -> Any:
        raise no_attribute(__name__, name, __all__)
