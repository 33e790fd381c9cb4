"""Muon and its relatives as other implementations have them, each said in gradchain, against their recorded ends."""

import gradchain as gc

CONV = gc.MuonDimensionNumbers((0, 1, 2), 3)
MATRICES = ("lstsq", "mlp", "square")
AVERAGE = {"momentum": "average", "eps": 0.0}
"""The momentum of Jordan's code, PyTorch's and NVIDIA's; their least norm of 1e-7 is never reached here."""


def muon(*coefficients, rate=0.02, decay=0.01, **options):
    """Return Muon for matrices."""
    return gc.muon(rate, *coefficients, weight_decay=decay, **(AVERAGE | options))


def normuon(*coefficients, rate=0.02, decay=0.01, dims=None, axis="longer", **options):
    """Return NorMuon for matrices, whatever they are called."""
    dims = dims or gc.MuonDimensionNumbers()
    coefficients = coefficients or ("polar_express_5",)
    given = AVERAGE | {"weight_dimension_numbers": dims} | options
    return gc.normuon(rate, axis, *coefficients, weight_decay=decay, **given)


DION = {"momentum": "sum", "eps": 1e-8, "nesterov": False, "scale": "spectral"}
NVIDIA = {"nesterov": False, "consistent_rms": 1.0}
PLAIN = {"nesterov": False, "norm": "free"} | NVIDIA

CASES = {
    "muon/kellerjordan": (muon, {}, MATRICES),
    # a convolution is scaled by the last two axes of PyTorch's layout, those of its square window: 1
    "muon/kellerjordan conv": (lambda: muon(muon_weight_dimension_numbers=CONV, scale="none"), {}, ("conv",)),
}
