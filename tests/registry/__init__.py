"""The one table of what the contract tests run on: every transform, optimizer and flag that changes the maths.

Adding an optimizer to the tests is adding a row. No test looks at a row's name.
"""

import dataclasses

from tests.registry.adaptive_transforms import ADAPTIVE, SIGNS, VARIANTS
from tests.registry.averages import AROUND, AVERAGES
from tests.registry.classic_optimizers import ADAM, RMS, SGD
from tests.registry.combinators import COMBINATORS
from tests.registry.constraints import CONSTRAINTS
from tests.registry.layerwise_transforms import FACTORED, LAYERWISE
from tests.registry.linesearch import LINESEARCH
from tests.registry.matrices import MATRICES
from tests.registry.newer_optimizers import ADAM_VARIANTS, LARGE_BATCH, LITTLE_MEMORY, NOISE_AND_GAMES, SIGN_DESCENT
from tests.registry.orthogonal import ORTHOGONAL
from tests.registry.parameter_free import BETS, ESTIMATED, FROM_DISTANCES, FROM_THE_LOSS
from tests.registry.parts import OF_PARTS, PARTS
from tests.registry.plain_transforms import BOUNDS, DECAY, MOMENTUM, SCALING
from tests.registry.precision import PRECISION
from tests.registry.quasi_newton import FULL_BATCH, QUASI_NEWTON
from tests.registry.routing import ROUTING
from tests.registry.row import Row
from tests.registry.second_order import CURVATURE
from tests.registry.shampoo import FACTORS, FACTORS_OF_MATRICES
from tests.registry.soap import EIGENBASES, IN_EIGENBASES
from tests.registry.trust_region import TRUST_REGION
from tests.registry.variants import VARIANT_OPTIMIZERS, VARIANT_TRANSFORMS
from tests.registry.when import WHEN
from tests.registry.width import WIDTH

FAMILIES = [
    SCALING,
    MOMENTUM,
    ADAPTIVE,
    VARIANTS,
    SIGNS,
    LAYERWISE,
    [*FACTORED, *FACTORS, *EIGENBASES],
    DECAY,
    BOUNDS,
    ESTIMATED,
    [*CONSTRAINTS, *PARTS],
    VARIANT_TRANSFORMS,
    TRUST_REGION,
    QUASI_NEWTON,
    LINESEARCH,
    CURVATURE,
]
TRANSFORMS = [row for family in FAMILIES for row in family]
CHAINS = [
    SGD,
    RMS,
    ADAM,
    ADAM_VARIANTS,
    SIGN_DESCENT,
    LARGE_BATCH,
    LITTLE_MEMORY,
    NOISE_AND_GAMES,
    FROM_THE_LOSS,
    FROM_DISTANCES,
    BETS,
    MATRICES,
    OF_PARTS,
    ORTHOGONAL,
    IN_EIGENBASES,
    VARIANT_OPTIMIZERS,
    FULL_BATCH,
    FACTORS_OF_MATRICES,
]
OPTIMIZERS = [dataclasses.replace(row, descends=True, composed=True) for family in CHAINS for row in family]
COMBINATIONS = [
    *COMBINATORS,
    *ROUTING,
    *AVERAGES,
    *AROUND,
    *WHEN,
    *PRECISION,
    *WIDTH,
]
ROWS = [*TRANSFORMS, *OPTIMIZERS, *COMBINATIONS]

__all__ = ["FAMILIES", "OPTIMIZERS", "ROWS", "TRANSFORMS", "Row"]
