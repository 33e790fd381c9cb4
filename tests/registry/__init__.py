"""The one table of what the contract tests run on: every transform, optimizer and flag that changes the maths.

Adding an optimizer to the tests is adding a row. No test looks at a row's name.
"""

import dataclasses

from tests.registry.adaptive_transforms import ADAPTIVE, SIGNS, VARIANTS
from tests.registry.classic_optimizers import ADAM, RMS, SGD
from tests.registry.combinators import COMBINATORS
from tests.registry.layerwise_transforms import FACTORED, LAYERWISE
from tests.registry.newer_optimizers import ADAM_VARIANTS, LARGE_BATCH, LITTLE_MEMORY, NOISE_AND_GAMES, SIGN_DESCENT
from tests.registry.plain_transforms import BOUNDS, DECAY, MOMENTUM, SCALING
from tests.registry.row import Row
from tests.registry.when import WHEN

TRANSFORMS = [
    *SCALING,
    *MOMENTUM,
    *ADAPTIVE,
    *VARIANTS,
    *SIGNS,
    *LAYERWISE,
    *FACTORED,
    *DECAY,
    *BOUNDS,
]
FAMILIES = [
    SGD,
    RMS,
    ADAM,
    ADAM_VARIANTS,
    SIGN_DESCENT,
    LARGE_BATCH,
    LITTLE_MEMORY,
    NOISE_AND_GAMES,
]
OPTIMIZERS = [dataclasses.replace(row, descends=True) for family in FAMILIES for row in family]
ROWS = [*TRANSFORMS, *OPTIMIZERS, *COMBINATORS, *WHEN]

__all__ = ["OPTIMIZERS", "ROWS", "TRANSFORMS", "Row"]
