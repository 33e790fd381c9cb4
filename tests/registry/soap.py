"""Rules in the eigenbases of Shampoo's factors, and optimizers made of them."""

import gradchain as gc
from tests import oracles
from tests.registry.matrices import by_kind
from tests.registry.row import Row, descent

OF_ALL_AXES = {"update_interval": 2, "ridge": 0.01, "weight_dimension_numbers": "axes"}

EIGENBASES = [
    Row(
        "scale_by_soap",
        lambda: gc.scale_by_soap(0.9, 0.97, **OF_ALL_AXES),
        lambda: oracles.soap(0.9, 0.97, every=2, ridge=0.01, axes=True),
        steep=True,
    ),
    Row(
        "scale_by_soap_kl",
        lambda: gc.scale_by_soap(factors="kl", **OF_ALL_AXES),
        lambda: oracles.soap(every=2, ridge=0.01, axes=True, kl=True),
        steep=True,
    ),
    Row(
        "scale_by_kl_shampoo",
        lambda: gc.partition(
            {"adam": gc.scale_by_adam(), "matrices": gc.scale_by_kl_shampoo(update_interval=2, ridge=0.01)},
            gc.matrices_and_rest((), (2,), "matrices", "adam"),
        ),
        lambda: by_kind(oracles.kl_shampoo(every=2, ridge=0.01), oracles.adam()),
        smooth=False,  # a first eigenvalue of 0 stands for that of the first gradient
    ),
    Row(
        "scale_by_splus",
        lambda: gc.scale_by_splus(**OF_ALL_AXES),
        lambda: oracles.splus(every=2, ridge=0.01, axes=True),
        steep=True,
    ),
    Row(
        "whiten_momentum",
        lambda: gc.whiten_momentum(**OF_ALL_AXES),
        lambda: oracles.whiten_momentum(every=2, ridge=0.01),
    ),
]
IN_EIGENBASES = [
    Row(
        "soap",
        lambda: gc.soap(0.01),
        lambda: by_kind(*2 * [descent(oracles.soap(), oracles.weight_decay(0.01))]),
        needs_params=True,
        any_tree=False,  # names and shapes decide what is a matrix, and the oracle goes by the number of axes
    ),
    Row(
        "kl_shampoo",
        lambda: gc.kl_shampoo(0.01),
        lambda: by_kind(
            descent(oracles.kl_shampoo(), oracles.weight_decay(0.01)),
            descent(oracles.adam(0.9, 0.98), oracles.weight_decay(0.01)),
        ),
        needs_params=True,
        any_tree=False,  # names and shapes decide what is a matrix, and the oracle goes by the number of axes
    ),
    Row(
        "splus",
        lambda: gc.splus(0.125, other_scale=2.0**-6),  # powers of two: a hundred equal steps add up without rounding
        lambda: descent(oracles.splus(vector=2.0**-6), rate=0.125),
        needs_params=True,
        any_tree=False,  # names and shapes decide what is a matrix, and the oracle goes by the number of axes
    ),
]
