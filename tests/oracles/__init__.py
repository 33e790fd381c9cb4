"""Each rule a second time: in plain NumPy, in double precision, written from the paper it comes from."""

from tests.oracles.adaptive import adam, rms, rss
from tests.oracles.core import Arrays, Oracle, chain
from tests.oracles.simple import (
    centralize,
    clip,
    clip_by_global_norm,
    ema,
    identity,
    l1_penalty,
    learning_rate,
    plain,
    scale,
    set_to_zero,
    sign,
    trace,
    weight_decay,
    zero_nans,
)

__all__ = [
    "Arrays",
    "Oracle",
    "adam",
    "centralize",
    "chain",
    "clip",
    "clip_by_global_norm",
    "ema",
    "identity",
    "l1_penalty",
    "learning_rate",
    "plain",
    "rms",
    "rss",
    "scale",
    "set_to_zero",
    "sign",
    "trace",
    "weight_decay",
    "zero_nans",
]
