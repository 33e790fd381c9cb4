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

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.accept

ROOT = pathlib.Path(__file__).parents[2]
HEAD = json.loads((ROOT / "tests/recorded/optax_head.json").read_text())
EXCEPTIONS = {
    row["name"]: row["reason"] for row in csv.DictReader((ROOT / "docs/optax_exceptions.csv").read_text().splitlines())
}
NAMESPACE = {"jax": jax, "jnp": jnp, "np": np}
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
        return a is b or a.__name__ == getattr(b, "__name__", None)
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
    if isinstance(theirs, types.ModuleType) or not callable(theirs) or not hasattr(theirs, "__module__"):
        return ""
    if not callable(ours):
        return "not callable"
    return differences(parameters(ours), parameters(theirs)) if inspect.isroutine(theirs) else ""


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


def of_installed(module):
    """Return what differs from the installed Optax, by name."""
    found = {}
    for name in public_names(module_of("optax", module)):
        ours, theirs = look_up("gradchain.optax", module, name), look_up("optax", module, name)
        found[f"{module}.{name}"] = "missing" if ours is MISSING else compare_installed(ours, theirs)
    return found


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


def test_each_exception_is_needed():
    differing = {}
    for module in HEAD["modules"]:
        for found in (of_installed(module), of_head(module)):
            differing |= {name: text for name, text in found.items() if text}
    assert sorted(EXCEPTIONS.keys() - differing.keys()) == []
