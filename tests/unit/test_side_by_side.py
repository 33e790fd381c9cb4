"""The same training in NumPy, PyTorch and gradchain gives the same losses, and the page shows them.

PyTorch's program runs where torch is installed. Its recorded losses (tests/recorded/record_torch.py) are compared with
the others in any case.
"""

import importlib
import importlib.util
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
RECORDED = json.loads((ROOT / "tests" / "recorded" / "side_by_side.json").read_text())["losses"]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def losses():
    names = ["numpy", "gradchain"] + ["torch"] * (importlib.util.find_spec("torch") is not None)
    with pytest.MonkeyPatch.context() as patch, jax.numpy_rank_promotion("allow"):
        patch.syspath_prepend(ROOT / "examples" / "side_by_side")
        return {name: np.array(importlib.import_module(f"with_{name}").train()) for name in names}


@pytest.mark.slow
def test_losses_are_equal(losses):
    assert losses["numpy"].shape == (100,)
    assert losses["numpy"][-1] < 0.1 * losses["numpy"][0]
    for name, values in losses.items():
        np.testing.assert_allclose(values, losses["numpy"], rtol=0, atol=TOLERANCE, err_msg=name)
        np.testing.assert_allclose(values, RECORDED, rtol=0, atol=TOLERANCE, err_msg=f"{name} and recorded")


@pytest.mark.slow
def test_the_page_shows_these_losses(losses):
    page = (ROOT / "docs" / "side_by_side.md").read_text()
    rows = re.findall(r"^ *(\d+)  +(\d\.\d{6})  +(\d\.\d{6})  +(\d\.\d{6})$", page, re.M)
    assert len(rows) > 5
    for step, *shown in rows:
        expected = [losses["numpy"][int(step) - 1], RECORDED[int(step) - 1], losses["gradchain"][int(step) - 1]]
        np.testing.assert_allclose([float(x) for x in shown], expected, rtol=0, atol=TOLERANCE, err_msg=f"step {step}")
