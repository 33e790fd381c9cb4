"""Muon and its relatives as other implementations have them, each said in gradchain, against their recorded ends."""

import pytest

import gradchain as gc
from tests import references

CONV = gc.MuonDimensionNumbers((0, 1, 2), 3)
ALL = gc.MuonDimensionNumbers()
MATRICES = ("lstsq", "mlp", "square")
AVERAGE = {"momentum": "average", "eps": 0.0}
"""As in PyTorch and NVIDIA's code, where norms are at least 1e-7, which isn't reached here."""
DION = {"momentum": "sum", "nesterov": False, "scale": "spectral", "eps": 1e-8 / 1.02}
"""Microsoft's code, which adds eps to 1.02 times the norm."""


def muon(*coefficients, **options):
    return gc.muon(0.02, *coefficients, weight_decay=0.01, **(AVERAGE | options))


def normuon(axis, *coefficients, dims=ALL, **options):
    given = {"weight_decay": 0.01} | AVERAGE | options
    return gc.normuon(0.02, axis, *coefficients, weight_dimension_numbers=dims, **given)


def nvidia(axis, **options):
    return normuon(axis, "quintic", nesterov=False, consistent_rms=1.0, **options)


def adamuon(dims):
    given = {"momentum": "debiased", "nesterov": False, "beta": 0.9, "moment_eps": 1e-10, "dims": dims}
    return normuon("elements", "standard", norm="exact", consistent_rms=0.2, **given)


def track3(axis):
    return gc.normuon(
        *(0.035, axis, "converging"),
        weight_decay=0.025,
        moment_eps=0.0,  # there second moments are at least 1e-10, which isn't reached
        weight_dimension_numbers=ALL,
        **AVERAGE,
    )


def normuon_of_pytorch_optimizer(dims, **options):
    return normuon("outputs", "standard", moment_eps=1e-10, dims=dims, **options)


MATCH_RMS = {"norm": "exact", "consistent_rms": 0.2}
AOL = ((4.0098, -7.0585, 2.4635), (3.4585, -5.5479, 2.5959), (2.7573, -3.2939, 1.4254), (2.7215, -3.0494, 1.3169))


def scion(norm, constrained=True):
    """Return Scion as its authors' code has it for matrices, with 1e-7 in the iteration, and for vectors."""
    parts = {
        "matrices": gc.scale_by_lmo(norm, 3.0, eps=1e-7 if norm == "auto" else 1e-8),
        "vectors": gc.scale_by_lmo("rms", 3.0),
    }
    return gc.chain(
        gc.ema(0.9, debias=False),
        gc.partition(parts, gc.matrices_and_rest((), (2, 4), "matrices", "vectors")),
        gc.add_decayed_weights(1.0 if constrained else 0.0),
        gc.scale_by_learning_rate(0.02),
    )


def dion2(fraction, moment_decay=None):
    return gc.dion2(0.02, fraction, 0.95, moment_decay, eps=1e-8 / 1.02, weight_dimension_numbers=ALL)


CASES = [
    ("muon/torch", MATRICES, lambda: muon()),
    ("muon/torch-match-rms", MATRICES, lambda: muon(consistent_rms=0.2)),
    ("muon/kellerjordan", MATRICES, lambda: muon(eps=1e-7)),
    # a convolution is scaled there by the last two axes of PyTorch's layout, those of its square window: not at all
    ("muon/kellerjordan", ("conv",), lambda: muon(eps=1e-7, muon_weight_dimension_numbers=CONV, scale="none")),
    ("muon/emerging-simple", (), lambda: muon()),
    ("muon/emerging-quintic", (), lambda: muon("quintic")),
    ("muon/emerging-polar_express", (), lambda: muon("polar_express")),
    ("muon/emerging-cans", (), lambda: muon("cans")),
    # whose fifth step begins with the first row again, and whose matrices are divided by their norms
    ("muon/emerging-aol", (), lambda: muon((*AOL, AOL[0]))),
    ("muon/track3-36", (), lambda: gc.muon(0.025, "converging", weight_decay=0.05, **AVERAGE)),
    ("muon/dion", (), lambda: muon("polar_express_5", **DION)),
    ("normuon/dion", (), lambda: normuon("outputs", **DION)),
    (
        "normuon/dion-cautious-rms",
        (),
        lambda: normuon(
            "outputs",
            **(DION | {"nesterov": True, "consistent_rms": 0.2, "weight_decay": 0.1, "cautious_decay": True}),
        ),
    ),
    ("normuon/pytorch_optimizer", MATRICES, lambda: normuon_of_pytorch_optimizer(ALL)),
    ("normuon/pytorch_optimizer", ("conv",), lambda: normuon_of_pytorch_optimizer(CONV)),
    ("normuon/pytorch_optimizer-match-rms", MATRICES, lambda: normuon_of_pytorch_optimizer(ALL, **MATCH_RMS)),
    ("normuon/pytorch_optimizer-match-rms", ("conv",), lambda: normuon_of_pytorch_optimizer(CONV, **MATCH_RMS)),
    ("normuon/emerging", (), lambda: nvidia("longer", moment_eps=0.0)),
    ("normuon/track3-10", (), lambda: track3("longer")),
    ("adamuon/emerging", (), lambda: nvidia("elements", norm="free")),
    ("adamuon/pytorch_optimizer", MATRICES, lambda: adamuon(ALL)),
    ("adamuon/pytorch_optimizer", ("conv",), lambda: adamuon(CONV)),
    ("namo/emerging", (), lambda: nvidia("all")),
    ("scion/epfl-constrained", (), lambda: scion("auto")),
    ("scion/epfl-unconstrained", (), lambda: scion("auto", constrained=False)),
    ("scion/epfl-sign", (), lambda: scion("sign")),
    ("scion/epfl-colnorm", (), lambda: scion("inputs")),
    ("scion/epfl-rownorm", (), lambda: scion("outputs")),
    ("dion2/dion-0.25", (), lambda: dion2(0.25)),
    ("dion2/dion-0.5", (), lambda: dion2(0.5)),
    ("nordion2/dion-0.25", (), lambda: dion2(0.25, 0.95)),
    ("nordion2/dion-0.5", (), lambda: dion2(0.5, 0.95)),
]
FAST = {("muon/torch", "lstsq"), ("normuon/dion", "lstsq"), ("nordion2/dion-0.5", "lstsq")}


def each():
    for reference, problems, build in CASES:
        for problem in problems or references.recorded()["references"][reference]["params"]:
            marks = [] if (reference, problem) in FAST else [pytest.mark.slow]
            yield pytest.param(reference, problem, build, id=f"{reference}-{problem}", marks=marks)


@pytest.mark.parametrize(("reference", "problem", "build"), list(each()))
def test_each_ends_where_the_other_implementation_does(reference, problem, build):
    references.assert_reproduces(reference, build(), (problem,))


def test_all_references_of_the_family_are_there():
    families = {"muon", "normuon", "adamuon", "namo", "scion", "dion2", "nordion2"}
    ends = references.recorded()["references"]
    theirs = {(n, p) for n, entry in ends.items() if n.partition("/")[0] in families for p in entry["params"]}
    assert {(n, p) for n, problems, _ in CASES for p in problems or ends[n]["params"]} == theirs
