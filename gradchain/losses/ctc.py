"""Connectionist temporal classification: label sequences without alignment, scored at every time step."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from gradchain.core.hyper import Number
from gradchain.losses._arguments import floating, number, pick, same_shape
from gradchain.losses._softmax import log_softmax, log_sum_exp
from gradchain.numerics import compute_dtype, into_range
from gradchain.signatures import public

LOG_ZERO = Number("log of zero", "[-inf, 0]")


@public
def ctc_loss(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: ArrayLike = -1e5,
) -> Array:
    r"""Return the negative log-probability of label sequences, summed over all alignments in time.

    .. math:: -\log \sum_{\pi : B(\pi) = y} \prod_t p_t(\pi_t), \qquad p_t = \operatorname{softmax}(x_t)

    :math:`B` merges equal neighbours in an alignment :math:`\pi` with one class per step, and then deletes blanks.

    Args:
      logits: :math:`x`, of a floating-point dtype and shape ``(batch, steps, classes)``, finite or :math:`-\infty`.
      logit_paddings: 1 where a step is padding, else 0, of shape ``(batch, steps)`` and any real dtype, or booleans.
      labels: :math:`y`, of an integer dtype and shape ``(batch, labels)``, none of them the blank.
      label_paddings: 1 where a label is padding, else 0, of the labels' shape: padding comes last. Padded labels and
        the logits of padded steps are ignored.
      blank_id: the class that is the blank, from 0 on.
      log_epsilon: at most 0, the value used for :math:`\log 0` where a sequence can't be reached. Losses near its
        negative are no longer exact; with ``-jnp.inf`` all are, and impossible sequences have infinite loss.

    Returns:
      The losses, of shape ``(batch,)``: NaN where a label names no class (Optax treats it as certain).

    Raises:
      ValueError: if the shapes don't fit, or ``blank_id`` or ``log_epsilon`` is out of range.
      TypeError: if the logits aren't floating-point or the labels not integers.

    Reference: Graves, Fernández, Gomez and Schmidhuber, *Connectionist Temporal Classification*, 2006.
    """
    return ctc_loss_with_forward_probs(
        logits, logit_paddings, labels, label_paddings, blank_id=blank_id, log_epsilon=log_epsilon
    )[0]


@public
def ctc_loss_with_forward_probs(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: ArrayLike = -1e5,
) -> tuple[Array, Array, Array]:
    r"""Return :func:`ctc_loss` and the forward log-probabilities at each step.

    .. math:: \alpha_t^{\text{blank}}(n),\quad \alpha_t^{\text{label}}(n): \text{ that steps } 1 \dots t \text{ give }
        y_1 \dots y_n \text{ and end in a blank, or in } y_n

    Args:
      logits: of a floating-point dtype and shape ``(batch, steps, classes)``, finite or :math:`-\infty`.
      logit_paddings: 1 where a step is padding, else 0, of shape ``(batch, steps)``.
      labels: of an integer dtype and shape ``(batch, labels)``, none of them the blank.
      label_paddings: 1 where a label is padding, else 0, of the labels' shape: padding comes last.
      blank_id: the class that is the blank, from 0 on.
      log_epsilon: at most 0, stands for :math:`\log 0`; as in :func:`ctc_loss`.

    Returns:
      The losses, of shape ``(batch,)``; :math:`\log \alpha^{\text{blank}}`, of shape ``(steps, batch, labels + 1)``,
      the last step's with :math:`\alpha^{\text{label}}` added; and :math:`\log \alpha^{\text{label}}`, of shape
      ``(steps, batch, labels)``.

    Raises:
      ValueError: if the shapes don't fit, or ``blank_id`` or ``log_epsilon`` is out of range.
      TypeError: if the logits aren't floating-point or the labels not integers.

    Reference: Graves, Fernández, Gomez and Schmidhuber, *Connectionist Temporal Classification*, 2006.
    """
    x, padded, y, absent = _checked(logits, logit_paddings, labels, label_paddings, blank_id)
    log_zero = jnp.asarray(number("ctc_loss", "log_epsilon", log_epsilon, LOG_ZERO), compute_dtype(x.dtype))
    valid = (y >= 0) & (y < x.shape[-1])
    blank, emit = _log_probabilities(x, padded, jnp.where(valid, y, 0), blank_id)
    repeats = jnp.pad(y[:, :-1] == y[:, 1:], ((0, 0), (0, min(1, y.shape[1]))))
    start = _Alpha.start(y.shape, log_zero)
    steps = (jnp.moveaxis(blank, 1, 0), jnp.moveaxis(emit, 1, 0), padded.T)
    _, alpha = lax.scan(lambda a, step: (b := a.step(*step, repeats, log_zero), b), start, steps)
    last = _advance(alpha.blank[-1], alpha.label[-1])
    length = y.shape[1] - jnp.sum(absent, 1)
    loss = into_range(-pick(last, length), 0, math.inf)
    loss = jnp.where(jnp.all(valid | absent, 1), loss, math.nan)
    return loss.astype(x.dtype), alpha.blank.at[-1].set(last), alpha.label


class _Alpha(NamedTuple):
    """Log-probabilities of having come so far and ending in a blank, or in a label."""

    blank: Array
    label: Array

    @classmethod
    def start(cls, shape: tuple[int, ...], log_zero: Array) -> "_Alpha":
        """Return the state before the first step: nothing emitted, as if after a blank."""
        batch, labels = shape
        nothing = jnp.full((batch, labels), log_zero)
        return cls(jnp.concatenate([jnp.zeros((batch, 1), log_zero.dtype), nothing], 1), nothing)

    def step(self, blank: Array, emit: Array, padded: Array, repeats: Array, log_zero: Array) -> "_Alpha":
        """Take one time step; a label equal to the next must be followed by a blank."""
        free = _advance(self.blank, self.label + jnp.where(repeats, log_zero, 0))
        label = _log_add(free[:, :-1], self.label) + emit
        stay = _advance(self.blank, self.label) + blank
        keep = padded[:, None]
        return _Alpha(jnp.where(keep, self.blank, stay), jnp.where(keep, self.label, label))


def _advance(blank: Array, label: Array) -> Array:
    return jnp.concatenate([blank[:, :1], _log_add(blank[:, 1:], label)], 1)


def _log_add(x: Array, y: Array) -> Array:
    both = jnp.stack([x, y])
    return log_sum_exp(both, (0,), both != -math.inf)[0]


def _log_probabilities(x: Array, padded: Array, y: Array, blank_id: int) -> tuple[Array, Array]:
    """Return log-probabilities of the blank, ``(batch, steps, 1)``, and of the labels, ``(batch, steps, labels)``."""
    wide = jnp.where(padded[..., None], 0, x.astype(compute_dtype(x.dtype)))
    log_p = log_softmax(wide, (2,), wide != -math.inf)
    index = jnp.broadcast_to(y[:, None, :], (*x.shape[:2], y.shape[1]))
    return log_p[:, :, blank_id : blank_id + 1], jnp.take_along_axis(log_p, index, 2)


def _checked(
    logits: ArrayLike, logit_paddings: ArrayLike, labels: ArrayLike, label_paddings: ArrayLike, blank_id: int
) -> tuple[Array, Array, Array, Array]:
    where = "ctc_loss"
    x, padded, y, absent = (
        floating(where, "logits", logits),
        *map(jnp.asarray, (logit_paddings, labels, label_paddings)),
    )
    if x.ndim != 3 or y.ndim != 2 or x.shape[0] != y.shape[0]:
        raise ValueError(
            f"{where}: logits must have shape (batch, steps, classes) and labels (batch, labels), "
            f"got {x.shape} and {y.shape}"
        )
    same_shape(where, {"logit_paddings": padded.shape, "logits without classes": x.shape[:2]})
    same_shape(where, {"label_paddings": absent.shape, "labels": y.shape})
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(f"{where}: labels must be integers, got {y.dtype}")
    if x.shape[1] == 0:
        raise ValueError(f"{where}: there must be a time step, got logits of shape {x.shape}")
    if not 0 <= blank_id < x.shape[2]:
        raise ValueError(f"{where}: blank_id must be in [0, {x.shape[2]}), got {blank_id}")
    return x, padded != 0, y.astype(int) if y.dtype.itemsize < 4 else y, absent != 0
