"""Relatives of Muon: forms of its momentum, second moments of its updates, other norms, slices."""

import gradchain as gc
from tests import oracles
from tests.registry.matrices import by_kind
from tests.registry.routing import two_axes
from tests.registry.row import Row, descent

CUBIC = ((1.5, -0.5, 0.0),) * 5
"""Coefficients that hardly enlarge rounding errors; tests/unit/test_orthogonal.py has the defaults."""

ORTHOGONAL = [
    Row(
        "muon_sum",
        lambda: gc.muon(
            *(0.01, "quintic"),
            weight_decay=0.1,
            momentum="sum",
            scale="spectral",
            cautious_decay=True,
        ),
        lambda: by_kind(
            descent(
                oracles.muon(rows=oracles.QUINTIC, form="sum"),
                oracles.by_shape(spectral=True),
                oracles.cautious_decay(0.1),
            ),
            descent(oracles.adam(nesterov=True)),
        ),
        needs_params=True,
        any_tree=False,  # names and shapes decide what is a matrix, and the oracle goes by the number of axes
        steep=True,
    ),
    Row(
        "normuon",
        lambda: gc.normuon(0.01, ns_coeffs="cubic", weight_decay=0.1),
        lambda: by_kind(
            descent(oracles.normuon(rows=CUBIC), oracles.by_shape(), oracles.weight_decay(0.1)),
            descent(oracles.adam(b2=0.95, nesterov=True), rate=1e-3),
        ),
        needs_params=True,
        any_tree=False,  # names and shapes decide what is a matrix, and the oracle goes by the number of axes
        steep=True,
    ),
    Row(
        "normuon_all",
        lambda: gc.normuon(0.01, "all", "cubic", nesterov=False, consistent_rms=0.2),
        lambda: by_kind(
            descent(oracles.normuon("all", nesterov=False, rows=CUBIC), oracles.by_shape(0.2)),
            descent(oracles.adam(b2=0.95), rate=1e-3),
        ),
        needs_params=True,
        any_tree=False,  # names and shapes decide what is a matrix, and the oracle goes by the number of axes
        steep=True,
    ),
    Row(
        "isomuon",
        lambda: gc.for_hidden_matrices(
            gc.chain(
                gc.ema(0.9, debias=False),
                gc.orthogonalize_in_metric("cubic"),
                gc.scale_by_shape(),
                gc.scale_by_learning_rate(0.01),
            ),
            rest=gc.sgd(0.1),
        ),
        lambda: by_kind(
            descent(oracles.ema(0.9, debias=False), oracles.in_metric(rows=CUBIC), oracles.by_shape()),
            descent(rate=0.1),
        ),
        any_tree=False,  # names and shapes decide what is a matrix, and the oracle goes by the number of axes
        steep=True,
    ),
    Row(
        "scion",
        lambda: gc.scion(0.01, 2.0, ns_coeffs="cubic"),
        lambda: descent(
            oracles.ema(0.9, debias=False),
            oracles.routed(oracles.lmo("spectral", 2.0, rows=CUBIC), two_axes),
            oracles.routed(oracles.lmo("conv", 2.0, rows=CUBIC), lambda name, w: w.ndim > 2),
            oracles.routed(oracles.lmo("rms"), lambda name, w: w.ndim < 2),
            oracles.weight_decay(1.0),
        ),
        needs_params=True,
        any_tree=False,  # names and shapes decide what is a matrix, and the oracle goes by the number of axes
        steep=True,
    ),
    Row(
        "dion2",
        lambda: gc.dion2(0.01, 0.6, moment_decay=0.9, ns_coeffs="cubic"),
        lambda: by_kind(
            descent(
                oracles.dion2(0.6, b2=0.9, rows=CUBIC), oracles.by_shape(spectral=True), oracles.weight_decay(0.01)
            ),
            descent(oracles.adam(b2=0.95), rate=1e-3),
        ),
        needs_params=True,
        any_tree=False,  # names and shapes decide what is a matrix, and the oracle goes by the number of axes
        steep=True,
    ),
]
