"""Shampoo as Meta's optimizer computes it, said in gradchain."""

import pytest

import gradchain as gc
from tests import references


def meta(shift=1e-8, eps=1e-8, learning_rate=0.01, **options):
    """Return Meta's Shampoo: an absolute shift and no ridge, roots at every update unless told otherwise."""
    return gc.chain(
        gc.scale_by_shampoo(
            **{"b1": 0.9, "b2": 0.95, "shampoo_beta": 0.95, "eps": eps, "ridge": 0.0, "shift": shift}
            | {"update_interval": 1, "weight_dimension_numbers": "axes"}
            | options
        ),
        gc.scale_by_learning_rate(learning_rate),
    )


def test_blocks_with_adams_norms():
    references.assert_reproduces("shampoo/meta-blocks-of-3", meta(block_size=3), ["lstsq"])


REST = {
    "shampoo/meta-quarter": lambda: meta(graft=False),
    "shampoo/meta-quarter-adam-graft": lambda: meta(),
    "shampoo/meta-half-adam-graft": lambda: meta(exponent=0.5),
    "shampoo/meta-half-adam-graft-freq3": lambda: meta(exponent=0.5, update_interval=3, start_preconditioning_step=3),
    "shampoo/meta-one-sided-half-adam-graft": lambda: meta(sides="columns"),
    "shampoo/meta-blocks-of-3": lambda: meta(block_size=3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_meta(name):
    references.assert_reproduces(name, REST[name]())


@pytest.mark.slow
def test_meta_with_pseudo_inverses():
    """Meta inverts all eigenvalues above 0, what rounding makes of zeros among them; we count these as 0."""
    name, tx = "shampoo/meta-quarter-pseudo-inverse-adam-graft", meta(shift=0.0, eps=1e-15)
    references.assert_reproduces(name, tx, ["lstsq"])
    assert max(references.error(name, problem, tx) for problem in ("mlp", "square")) < 2e-8
