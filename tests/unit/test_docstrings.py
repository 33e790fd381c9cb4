"""The examples in docstrings of public names run, and give what they say they give.

They may use every public name, and what ``surroundings`` gives. Wherever an example sets ``tx``, ``state`` becomes
``tx.init(params)``. They run in an empty folder, where they may write.
"""

import contextlib
import doctest
import functools
import importlib
import inspect
import io
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import gradchain
from tests.unit.test_public_api import MODULES, public_names

CHECKER = doctest.OutputChecker()
LONG = {
    *("gradchain.training.fit", "gradchain.training.sweep", "gradchain.training.hyperband"),
    *("gradchain.training.successive_halving", "gradchain.training.population_based_training"),
    *("gradchain.dpsgd", "gradchain.perturbations.make_perturbed_fun", "gradchain.minimize", "gradchain.lbfgs"),
    *("gradchain.scale_by_gauss_newton", "gradchain.scale_by_newton_cg"),
    *("gradchain.training.coordinate_check", "gradchain.training.learning_rate_transfer"),
}
"""Examples that train or compile for seconds."""


def with_examples():
    """Return the public names whose docstrings hold examples, each docstring once."""
    found = {}
    for module in MODULES:
        for name in public_names(module):
            text = inspect.getdoc(getattr(importlib.import_module(module), name)) or ""
            if ">>>" in text:
                found.setdefault(text, f"{module}.{name}")
    return {name: text for text, name in found.items()}


EXAMPLES = with_examples()


def loss_fn(params, batch):
    """Return the mean squared error of a linear model, and something of every other parameter."""
    layer = params["encoder"]
    error = jnp.mean((batch["x"] @ layer["kernel"] + layer["bias"][None] - batch["y"]) ** 2)
    return error + jnp.mean(params["norm"]["scale"] ** 2)


def surroundings():
    """Return what the examples may use."""
    names = {}
    for module in reversed(MODULES):
        members = importlib.import_module(module)
        names |= {name: getattr(members, name) for name in public_names(module)}
    names |= {name: getattr(gradchain, name) for name in gradchain.__all__}
    key = jax.random.key(0)
    x = jax.random.normal(key, (64, 4))
    data = {"x": x, "y": jnp.sin(x)}
    params = {"encoder": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}, "norm": {"scale": jnp.ones(4)}}
    batch = jax.tree.map(lambda a: a[:32], data)
    names |= {
        "json": json,
        "pathlib": pathlib,
        "jax": jax,
        "jnp": jnp,
        "np": np,
        "functools": functools,
        "partial": functools.partial,
    }
    names |= {"data": data, "train": data, "test": batch, "batch": batch, "batches": [batch, batch]}
    names |= {"images": data["x"], "labels": data["y"], "x": jnp.array([1.0, 2.0, 0.0]), "key": key}
    names |= {"params": params, "specs": jax.tree.map(lambda _: P("x"), params), "P": P}
    names |= {"loss_fn": loss_fn, "loss": 1.0, "grads": jax.grad(loss_fn)(params, batch)}
    names |= {"test_loss": lambda params: loss_fn(params, batch), "run": lambda tx: tx.update(1.0, tx.init(1.0))[0]}
    names |= {"accuracy": lambda params, images, labels: loss_fn(params, {"x": images, "y": labels})}
    tx = gradchain.adam(1e-3)
    return names | {"tx": tx, "state": tx.init(params)}


def run(text, names):
    """Run a docstring's examples; return what was wanted and what came, for those that differ."""
    differ = []
    for example in doctest.DocTestParser().get_examples(text):
        output, before = io.StringIO(), names.get("tx")
        with contextlib.redirect_stdout(output), jax.numpy_rank_promotion("allow"):
            exec(compile(example.source, f"<line {example.lineno}>", "single"), names)
        options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        if example.want and not CHECKER.check_output(example.want, output.getvalue(), options):
            differ.append((example.want, output.getvalue()))
        if names.get("tx") is not before:
            names["state"] = names["tx"].init(names["params"])
    return differ


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in EXAMPLES]
)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(EXAMPLES[name], surroundings()) == []


def test_many_names_have_examples():
    assert len(EXAMPLES) > 50
    assert set(EXAMPLES) > LONG


def test_a_wrong_output_is_found():
    assert run(">>> 1 + 1\n3\n", {}) == [("3\n", "2\n")]
