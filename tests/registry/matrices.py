"""Rules and optimizers that see matrices."""

import optax.contrib

import gradchain as gc
from tests import oracles
from tests.registry.routing import other, two_axes
from tests.registry.row import Row, descent, twin

TURNED = {"bias": None, "kernel": (1, 0), "scale": None}


def turned(library):
    """Return dimension numbers of the transposed kernel."""
    return {name: axes and library.MuonDimensionNumbers(*axes) for name, axes in TURNED.items()}


def by_kind(matrices, rest):
    """Return the oracle of one optimizer for matrices and another for the rest."""
    return oracles.chain(oracles.routed(matrices, two_axes), oracles.routed(rest, other))


MATRICES = [
    twin(
        "muon",
        lambda: by_kind(descent(oracles.muon(), oracles.by_shape()), descent(oracles.adam(nesterov=True))),
        *("", 0.01),
        theirs=optax.contrib,
        needs_params=True,
        any_tree=False,  # names and shapes decide what is a matrix, and the oracle goes by the number of axes
        steep=True,
    ),
    Row(
        "muon_dimension_numbers",
        lambda: gc.muon(
            *(0.01, "quintic", 5, 0.9, 1e-8, 0.1),
            nesterov=False,
            adaptive=True,
            muon_weight_dimension_numbers=turned(gc),
            adam_learning_rate=0.1,
            consistent_rms=0.2,
        ),
        lambda: by_kind(
            descent(
                oracles.muon(0.9, oracles.QUINTIC, nesterov=False, adaptive=True),
                oracles.by_shape(0.2, turned=True),
                oracles.weight_decay(0.1),
            ),
            descent(oracles.adam(), rate=0.1),
        ),
        lambda: optax.contrib.muon(
            *(0.01, "dion", 5, 0.9, 1e-8, 0.1),
            nesterov=False,
            adaptive=True,
            muon_weight_dimension_numbers=turned(optax.contrib),
            adam_learning_rate=0.1,
            consistent_rms=0.2,
        ),
        optax_complex=False,
        needs_params=True,
        any_tree=False,
    ),
    Row(
        "galore",
        lambda: gc.galore(0.01, 1, 40, 0.25, weight_decay=0.1),
        lambda: descent(oracles.galore(1, 40, 0.25, oracles.adam()), oracles.weight_decay(0.1)),
        needs_params=True,
        any_tree=False,  # names and shapes decide what is a matrix, and the oracle goes by the number of axes
    ),
]
