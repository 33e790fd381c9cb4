"""``gradchain.optax`` has every public name of the installed Optax, and of its newest sources, with its signature.

What differs is in docs/optax_exceptions.csv, with the reason; a row that isn't needed any more is an error, too.
"""

import csv
import importlib
import inspect
import json
import pathlib
import re
import types
import typing
import warnings
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradchain import optax as our_optax

pytestmark = pytest.mark.accept

ROOT = pathlib.Path(__file__).parents[2]
HEAD = json.loads((ROOT / "tests/recorded/optax_head.json").read_text())
EXCEPTIONS = {
    row["name"]: row["reason"] for row in csv.DictReader((ROOT / "docs/optax_exceptions.csv").read_text().splitlines())
}
PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
FLAGS = {"w": True, "b": False}
NUMBERS = {
    **dict.fromkeys(
        ["learning_rate", "clipping", "eta", "gamma", "max_delta", "threshold", "max_norm", "step_size"], 0.1
    ),
    **dict.fromkeys(["l2_norm_clip", "noise_multiplier", "decay", "slow_step_size"], 0.5),
    **dict.fromkeys(
        ["max_consecutive_errors", "seed", "sync_period", "max_backtracking_steps", "max_linesearch_steps"], 3
    ),
    **dict.fromkeys(["mask", "freeze_mask"], FLAGS),
    "param_labels": {"w": "x", "b": "y"},
    "should_transform_fn": lambda step, **extra: step < 2,
    "measure": lambda updates, **extra: updates["b"],
    "measure_name": "b",
    "step_size_fn": lambda count: 0.1 * count,
    "f": lambda updates, params: updates,
}
"""What functions without defaults are called with."""
PARTS = ("inner", "fast_optimizer", "optimizer", "tx", "base_optimizer", "adv_optimizer")
WITHOUT_ANNOTATION = ("dog", "dowg", "hutchinson_estimator_diag_hessian")
NAMESPACE = {"jax": jax, "jnp": jnp, "np": np}
WITH_STATES = ("optax", "optax.contrib", "optax.transforms")
MISSING = object()
KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional_only",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "any",
    inspect.Parameter.VAR_POSITIONAL: "var_positional",
    inspect.Parameter.KEYWORD_ONLY: "keyword_only",
    inspect.Parameter.VAR_KEYWORD: "var_keyword",
}
UNKNOWN = object()
"""A default that can't be told from its source text."""


def module_of(library, module):
    """Return a module of a library as a program finds it, or ``MISSING``."""
    found = importlib.import_module(library)
    for name in module.split(".")[1:]:
        found = getattr(found, name, MISSING)
    return found


def look_up(library, module, name):
    """Return what a module of a library has under a name, without the warnings of old names."""
    home = module_of(library, module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return getattr(home, name, MISSING)


def parameters(function):
    """Return (name, kind, default) for each parameter; a default is in a list of its own, which is empty without."""
    return [
        (p.name, KINDS[p.kind], [] if p.default is p.empty else [p.default])
        for p in inspect.signature(function).parameters.values()
    ]


def recorded(rows):
    """Return a recorded list of parameters in the same form."""
    return [(name, kind, [] if source is None else [evaluated(source)]) for name, kind, source in rows]


def evaluated(source):
    try:
        return eval(source, dict(NAMESPACE))
    except (NameError, AttributeError):
        return UNKNOWN


def same_default(ours, theirs):
    """Compare two lists of at most one default."""
    if len(ours) != len(theirs) or not ours or theirs[0] is UNKNOWN:
        return len(ours) == len(theirs)
    (a,), (b,) = ours, theirs
    if callable(a) and callable(b) and hasattr(a, "__name__"):
        names = [f.__name__.strip("_") for f in (a, b)]
        return a is b or names[0] == names[1] or names[1] == "<lambda>"  # which has a name here
    if type(a).__module__.startswith(("gradchain", "optax")):
        return type(a).__name__ == type(b).__name__
    return type(a) is type(b) and bool(np.all(a == b))


def differences(ours, theirs):
    """Return what differs between two lists of parameters, as text."""
    if [row[:2] for row in ours] != [row[:2] for row in theirs]:
        return f"parameters {shown(ours)}, not {shown(theirs)}"
    wrong = [
        f"{name}={a} and not {b}"
        for (name, _, a), (_, _, b) in zip(ours, theirs, strict=True)
        if not same_default(a, b)
    ]
    return ", ".join(wrong)


def shown(rows):
    marks = {"var_positional": "*", "var_keyword": "**", "keyword_only": "(by name) "}
    return "(" + ", ".join(f"{marks.get(kind, '')}{name}" for name, kind, _ in rows) + ")"


def compare_installed(ours, theirs):
    """Return what differs between two functions, classes or other values, as text."""
    if isinstance(theirs, type):
        return compare_classes(ours, theirs)
    if not inspect.isroutine(theirs):
        return ""
    return differences(parameters(ours), parameters(theirs)) if callable(ours) else "not callable"


def compare_classes(ours, theirs):
    if not isinstance(ours, type):
        return "no class"
    if hasattr(theirs, "_fields"):
        fields, defaults = getattr(ours, "_fields", None), getattr(ours, "_field_defaults", {})
        same = fields == theirs._fields and defaults.keys() == theirs._field_defaults.keys()
        return "" if same else f"fields {fields}, not {theirs._fields}"
    if getattr(theirs, "_is_protocol", False):
        return ""
    own = [n for n, f in vars(theirs).items() if inspect.isfunction(f) and (not n.startswith("_") or n == "__init__")]
    found = [f"{n}: {compare_methods(ours, theirs, n)}" for n in own]
    return ", ".join(text for text in found if not text.endswith(": "))


def compare_methods(ours, theirs, name):
    if not hasattr(ours, name):
        return "missing"
    return differences(parameters(getattr(ours, name)), parameters(getattr(theirs, name)))


def compare_recorded(ours, record):
    """Return what differs from what is recorded, as text."""
    if record["kind"] == "function":
        return differences(parameters(ours), recorded(record["parameters"]))
    if record["kind"] == "module":
        return "" if isinstance(ours, types.ModuleType) else "no module"
    if record["kind"] == "value":
        return ""
    if not isinstance(ours, type):
        return "no class"
    if "fields" in record:
        fields = tuple(name for name, _ in record["fields"])
        return (
            "" if getattr(ours, "_fields", None) == fields else f"fields {getattr(ours, '_fields', None)}, not {fields}"
        )
    if "members" in record:
        return "" if [m.name for m in ours] == record["members"] else "members"
    return ", ".join(f"has no {name}" for name in record["methods"] if not hasattr(ours, name))


def check(differing):
    """Compare {name: what differs} with the table of exceptions, of the modules in question."""
    unexplained = [f"{name}: {text}" for name, text in differing.items() if text and name not in EXCEPTIONS]
    assert not unexplained, "\n".join(unexplained)


def public_names(module):
    """Return the public names of a module of the installed Optax: its own, and not the modules that it imports."""

    def is_own(name, value):
        if isinstance(value, types.ModuleType):
            return value.__name__ == f"{module.__name__}.{name}"
        return not hasattr(typing, name)

    names = {name for name, value in vars(module).items() if not name.startswith("_") and is_own(name, value)}
    return sorted(names | {n for n in getattr(module, "__all__", ()) if not n.startswith("_")})


@cache
def of_installed(module):
    """Return what differs from the installed Optax, by name, unless the newest sources have changed it so."""
    found, newest = {}, HEAD["modules"][module]
    for name in public_names(module_of("optax", module)):
        ours, theirs = look_up("gradchain.optax", module, name), look_up("optax", module, name)
        text = "missing" if ours is MISSING else compare_installed(ours, theirs)
        is_newer = text and ours is not MISSING and name in newest and not compare_recorded(ours, newest[name])
        found[f"{module}.{name}"] = "" if is_newer else text
    return found


@cache
def of_head(module):
    """Return what differs from Optax's newest sources, by name."""
    found = {}
    for name, record in HEAD["modules"][module].items():
        ours = look_up("gradchain.optax", module, name)
        found[f"{module}.{name}"] = "missing" if ours is MISSING else compare_recorded(ours, record)
    return found


@pytest.mark.parametrize("module", HEAD["modules"])
def test_names_and_signatures_are_those_of_the_installed_optax(module):
    check(of_installed(module))


@pytest.mark.parametrize("module", HEAD["modules"])
def test_names_and_signatures_are_those_of_the_newest_sources(module):
    check(of_head(module))


@pytest.mark.parametrize("module", HEAD["deprecated"])
def test_old_names_warn_or_are_gone_as_in_optax(module):
    theirs, ours = (
        importlib.import_module(module.replace("optax", library, 1)) for library in ("optax", "gradchain.optax")
    )
    for name in HEAD["deprecated"][module]:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            for home in (theirs, ours):
                with pytest.raises((DeprecationWarning, AttributeError), match=f"deprecated|{re.escape(name)}"):
                    getattr(home, name)


@cache
def of_states(module):
    """Return what differs from the states of the installed Optax, by the call that makes the transform."""
    found = {}
    for name in public_names(module_of("optax", module)):
        ours, theirs = (look_up(library, module, name) for library in ("gradchain.optax", "optax"))
        if inspect.isfunction(theirs) and makes_a_transform(theirs):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a missing key, and of an old name for it
                state, expected = first_state(ours, our_optax), first_state(theirs, optax)
            found[f"{module}.{name}()"] = "" if state == expected else f"{state}, not {expected}"
    return found


@pytest.mark.parametrize("module", WITH_STATES)
def test_states_have_the_structure_of_those_of_optax(module):
    found = of_states(module)
    assert len(found) > 10  # they weren't all left out
    check(found)


def makes_a_transform(function):
    made = str(inspect.signature(function).return_annotation)
    makes = "GradientTransformation" in made and not made.startswith("collections.abc.Callable")
    return makes or function.__name__ in WITHOUT_ANNOTATION


def first_state(function, library):
    """Return the structure of a transform's first state, with the shapes and dtypes of its arrays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old names, and of keys that will be required
        state = made(function, library).init(
            library.LookaheadParams.init_synced(PARAMS) if function.__name__ == "lookahead" else PARAMS
        )
    leaves = [f"{jnp.result_type(x)}{list(jnp.shape(x))}" for x in jax.tree.leaves(state)]
    return f"{jax.tree.structure(state)} of {' '.join(leaves)}"


def made(function, library):
    """Return a transform, made with as few arguments as can be."""
    needed = [name for name, _, default in parameters(function) if not default]
    parts = {"x": library.adam(0.1), "y": library.sgd(0.1, 0.9)}
    if needed == ["args"]:
        return function(*(parts.items() if "named" in function.__name__ else parts.values()))
    known = {**NUMBERS, **dict.fromkeys(PARTS, parts["x"]), "transforms": parts}
    return function(**{name: known[name] for name in needed})


def test_each_exception_is_needed():
    differing = {}
    for module in HEAD["modules"]:
        states = of_states(module) if module in WITH_STATES else {}
        for found in (of_installed(module), of_head(module), states):
            differing |= {name: text for name, text in found.items() if text}
    assert sorted(EXCEPTIONS.keys() - differing.keys()) == []
