"""Who takes part: optimizers as functions of three numbers, and where these are searched.

All optimizers search as wide. The learning rate spans two decades around the documented
default, or around ten times that where steps are about as large as Adam's, since small
networks take larger rates. The decay is 0 for a quarter of the trials, else it spans two
decades, the same for all in terms of what a step takes away at the middle rate. The third
number spans a decade and a half. For rules that are made for matrices, the third number is the
rate of AdamW, which updates embeddings, heads and vectors.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats.qmc import Sobol

import gradchain as gc

ADAM = 5e-3
"""The middle of AdamW's learning rates beside a rule for matrices."""
SPANS = {"learning rate": 2.0, "decay": 2.0, "third": 1.5}
"""Decades that are searched."""
DECAY = 1e-4
"""The middle of the fractions of the weights that a step takes away, at the middle rate."""


class Trial(NamedTuple):
    """The numbers of a trial, or arrays of them: one for each."""

    rate: Any
    decay: Any
    """The fraction of the weights that a step takes away, at the middle rate."""
    third: Any


class Entrant(NamedTuple):
    """An optimizer that takes part."""

    make: Callable[[Trial, int], gc.Transform]
    """``make(trial, steps)`` returns the optimizer, with a schedule for so many steps."""
    rate: float
    """The middle of the learning rates."""
    third: float
    """The middle of the third numbers."""
    interval: float = 10.0
    """Steps from one refresh of its preconditioners to the next."""


def trials(entrant: Entrant, count: int) -> Trial:
    """Return the points of the search: the same for all, but for the middle of the ranges.

    They are the first of Sobol's sequence, in the middles of their cells: of 16, each of the
    three numbers takes 16 values at equal distances.
    """
    places = Sobol(3, scramble=False).random(count) + 0.5 / count
    rate, third = (
        middle * 10 ** (span * (place - 0.5))
        for middle, span, place in (
            (entrant.rate, SPANS["learning rate"], places[:, 0]),
            (entrant.third, SPANS["third"], places[:, 2]),
        )
    )
    above = (places[:, 1] - 0.25) / 0.75
    decay = np.where(above < 0, 0, DECAY * 10 ** (SPANS["decay"] * (above - 0.5)))
    return Trial(rate, decay, third)


def scheduled(peak: Any, steps: int) -> Any:
    """Return a schedule that rises for a twentieth of the steps, and falls linearly to 0."""
    rise = max(steps // 20, 1)
    return gc.warmup_stable_decay_schedule(peak / rise, peak, rise, 0, steps - rise)


def matrices_alone(params: Any) -> Any:
    """Tell which arrays decay: not biases and scales."""
    return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)


def hidden(rule: Callable[[], gc.Transform], rate: float) -> Entrant:
    """Return a rule for hidden matrices that takes part with AdamW for all else.

    Args:
      rule: returns a transform from gradients to directions.
      rate: the middle of its learning rates.
    """

    def make(trial: Trial, steps: int) -> gc.Transform:
        matrices = gc.chain(
            rule(),
            gc.add_decayed_weights(trial.decay / rate),
            gc.scale_by_learning_rate(scheduled(trial.rate, steps)),
        )
        rest = gc.adamw(
            scheduled(trial.third, steps),
            b2=0.99,
            weight_decay=trial.decay / ADAM,
            mask=matrices_alone,
        )
        return gc.for_hidden_matrices(matrices, rest)

    return Entrant(make, rate, ADAM)


def whole(
    build: Callable[..., gc.Transform],
    rate: float,
    third: str = "b2",
    middle: float = 0.01,
    **options: Any,
) -> Entrant:
    """Return an optimizer for all parameters.

    Args:
      build: its constructor.
      rate: the middle of its learning rates.
      third: the name of one of its decays; 1 minus that is searched around the middle.
      middle: see there.
      options: more arguments.
    """

    def make(trial: Trial, steps: int) -> gc.Transform:
        return build(
            scheduled(trial.rate, steps),
            weight_decay=trial.decay / rate,
            mask=matrices_alone,
            **{third: 1 - trial.third},
            **options,
        )

    return Entrant(make, rate, middle)


def schedule_free(trial: Trial, steps: int) -> gc.Transform:
    """Return schedule-free AdamW: a warm-up, then a constant rate."""
    return gc.schedule_free_adamw(
        trial.rate,
        warmup_steps=steps // 20,
        b1=1 - trial.third,
        b2=0.99,
        weight_decay=trial.decay / 1e-2,
        mask=matrices_alone,
    )


def schedule_free_plus(trial: Trial, steps: int) -> gc.Transform:
    """Return Schedule-Free+ AdamW, whose rate follows from the loss.

    The decay is times the squared rate, so that the middle is the usual 30.
    """
    return gc.schedule_free_plus_adamw(
        trial.rate,
        warmup_steps=steps // 20,
        b2=0.99,
        sf_b1=1 - trial.third,
        weight_decay=30 * trial.decay / DECAY,
        mask=matrices_alone,
    )


def muon() -> gc.Transform:
    return gc.chain(gc.scale_by_muon(), gc.scale_by_shape())


def normuon() -> gc.Transform:
    return gc.chain(gc.scale_by_normuon(), gc.scale_by_shape())


ENTRANTS = {
    "adamw": whole(gc.adamw, 1e-2),
    "nadamw": whole(gc.nadamw, 1e-2),
    "sgd": whole(gc.sgd, 0.1, "momentum", 0.1, nesterov=True),
    "lion": whole(gc.lion, 1e-3),
    "adopt": whole(gc.adopt, 1e-2),
    "ademamix": whole(gc.ademamix, 1e-2, "b3", 3e-3, b2=0.99),
    "lamb": whole(gc.lamb, 1e-2),
    "schedule_free_adamw": Entrant(schedule_free, 1e-2, 0.05),
    "schedule_free_plus_adamw": Entrant(schedule_free_plus, 1.0, 0.1),
    "muon": hidden(muon, 0.02),
    "normuon": hidden(normuon, 0.02),
    "soap": hidden(lambda: gc.scale_by_soap(), 1e-2),
    "kl_soap": hidden(lambda: gc.scale_by_soap(factors="kl"), 1e-2),
    "kl_shampoo": hidden(lambda: gc.scale_by_kl_shampoo(), 1e-2),
    "shampoo": hidden(lambda: gc.scale_by_shampoo(), 1e-2),
    "kron": hidden(lambda: gc.scale_by_kron(), 1e-2)._replace(interval=1.0),
    "splus": whole(lambda *a, **k: gc.splus(*a, **k), 0.15, "average_decay", 0.01),
}
"""By the name of the constructor in gradchain; ``kl_soap`` is ``soap(factors="kl")``."""

DECOMPOSING = ("soap", "kl_soap", "kl_shampoo", "splus", "shampoo", "kron")
"""Those that call LAPACK for several matrices at once: two of their programs at the same
time may wait for each other for ever in XLA's pool of threads, so that their runs take turns."""

FIELD = {
    "signals": tuple(ENTRANTS),
    "characters": (
        "adamw",
        "nadamw",
        "schedule_free_adamw",
        "muon",
        "normuon",
        "soap",
        "kl_soap",
        "shampoo",
        "kron",
    ),
    "transformer": ("adamw", "muon", "normuon", "soap"),
}
"""Who takes part in which problem."""
