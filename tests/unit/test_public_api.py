"""The public names: consistent, documented, and imported only upward through the layers."""

import ast
import functools
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

import gradchain
from gradchain.core.value import Value

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gradchain"
REFERENCE = ROOT / "docs" / "reference"
OPTIMIZERS = ROOT / "docs" / "optimizers"

SUBMODULES = (
    *("schedules", "losses", "projections", "perturbations", "assignment"),
    *("training", "plots", "tree", "numerics", "matrices"),
)
MODULES = ("gradchain", *(f"gradchain.{m}" for m in SUBMODULES))
SHORT = ("gradchain.tree", "gradchain.numerics")
"""Modules of small helpers, where one line may say it all."""

LAYERS = (
    "signatures",
    "lazy",
    "eager",
    "numerics",
    "rounding",
    "codecs",
    "tree",
    "arguments",
    "compiled",
    "core",
    "schedules",
    "projections",
    "perturbations",
    "assignment",
    "linear_algebra",
    "matrices",
    "losses",
    "transforms",
    "native",
    "combinators",
    "optimizers",
    "linesearch",
    "quasi_newton",
    "second_order",
    "solvers",
    "training",
    "introspect",
    "width",
    "interop",
    "plots",
    "optax",
)
FOLDERS = {"training": ("data", "steps", "watching", "saving", "fitting", "search", "widths")}
"""The order of a layer's folders; a file beside them is before them all."""
OPTIONAL = {
    "matplotlib",
    "tqdm",
    "flax",
    "equinox",
    "haiku",
    "optax",
    "orbax",
    "etils",
    "typing_extensions",
    "tensorboardX",
}
LATE = {"gradchain.plots", "gradchain.introspect.describe"}
"""What may be imported from a later layer inside a function: pictures and reports, loaded when they are asked for."""
REQUIRED = {"jax", "jaxlib", "numpy", "gradchain"}


def public_names(module_name):
    """Return a module's public names: its ``__all__``, or else the functions and classes that it defines."""
    module = importlib.import_module(module_name)
    if hasattr(module, "__all__"):
        return list(module.__all__)
    own = {n: x for n, x in vars(module).items() if not n.startswith("_") and callable(x)}
    return [n for n, x in own.items() if getattr(x, "__module__", None) == module_name]


def documented_names():
    """Return the full names that the pages of the API reference have an entry for."""
    entry = re.compile(r"^\.\. (currentmodule|py:data|py:class|autofunction|autoclass|automodule):: (\S+)", re.M)
    names, module = [], ""
    for page in sorted(REFERENCE.glob("*.rst")):
        for directive, name in entry.findall(page.read_text()):
            if directive == "currentmodule":
                module = name
            elif directive == "automodule":
                names.append(name)
            else:
                names.append(f"{module}.{name}")
    return names + [f"gradchain.{page.stem}" for page in OPTIMIZERS.glob("*.md") if page.stem != "index"]


def test_all_is_sorted_unique_and_resolves():
    assert gradchain.__all__ == sorted(set(gradchain.__all__))
    for name in gradchain.__all__:
        assert getattr(gradchain, name) is not None


def test_the_stub_exports_the_same_names():
    """``a as a`` is how a stub exports what it imports; a name without it would be private to type checkers."""
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text()).body
    imported = [alias for node in stub if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert all(alias.asname == alias.name for alias in imported)
    assert sorted(alias.name for alias in imported) == gradchain.__all__ == dir(gradchain)
    with pytest.raises(AttributeError, match="no attribute 'adamm'"):
        gradchain.adamm  # noqa: B018


def test_a_star_import_brings_every_name():
    names = dict[str, object]()
    exec("from gradchain import *", names)
    assert {n for n in names if not n.startswith("__")} == {*gradchain.__all__}


def test_the_version_is_said_once_and_installed_from_there():
    """Other files name the place, or agree with it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "gradchain.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", gradchain.__version__)
    assert f'__version__ = "{gradchain.__version__}"' in (PACKAGE / "__init__.py").read_text()  # read without an import
    assert "__version__: str" in (PACKAGE / "__init__.pyi").read_text()
    assert f"\nversion: {gradchain.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"  version = {{{gradchain.__version__}}}\n" in (ROOT / "README.md").read_text()


def test_an_editable_install_puts_the_root_on_the_path():
    """With setuptools' finder instead, a clone called gradchain hides the package from scripts beside it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["package-dir"] == {"": "."}


def test_modules_load_when_they_are_used():
    code = "import sys, gradchain; print(*sorted(m for m in sys.modules if m.startswith('gradchain')))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["gradchain", "gradchain.lazy"]
    code = code.replace("; print", "; gradchain.sgd(0.1, momentum=0.9); print")
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "gradchain.optimizers.sgd" in loaded
    assert not {"gradchain.training", "gradchain.losses", "gradchain.matrices"} & set(loaded)


def resolve(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute, None)


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_documented(module):
    documented = {id(resolve(name)) for name in documented_names()}
    members = {n: getattr(importlib.import_module(module), n) for n in public_names(module)}
    missing = [n for n, x in members.items() if id(x) not in documented and not isinstance(x, types.ModuleType)]
    assert not missing, f"add to docs/reference: {missing}"


def test_reference_has_no_duplicates_and_nothing_that_is_gone():
    names = documented_names()
    assert len(names) == len(set(names))
    gone = [name for name in names if resolve(name) is None]
    assert not gone, gone


def listed_members():
    """Yield each class of the reference with the members that its page shows; ``None`` for all."""
    module = ""
    for page in sorted(REFERENCE.glob("*.rst")):
        entry = r"^\.\. (currentmodule|autoclass):: (\S+)((?:\n   :.*)*)"
        for directive, name, options in re.findall(entry, page.read_text(), re.M):
            if directive == "currentmodule":
                module = name
                continue
            listed = re.search(r":members:(.*)", options)
            names = listed[1].replace(",", " ").split() if listed else []
            yield resolve(f"{module}.{name}"), None if listed and not names else set(names)


@pytest.mark.parametrize(("value", "listed"), [pytest.param(*pair, id=pair[0].__name__) for pair in listed_members()])
def test_fields_and_properties_of_classes_are_on_their_page(value, listed):
    if not issubclass(value, Value) and listed is not None:
        fields = getattr(value, "_fields", ()) or getattr(value, "__dataclass_fields__", ())
        properties = [n for n, x in inspect.getmembers(value) if isinstance(x, property | functools.cached_property)]
        missing = {n for n in (*fields, *properties) if not n.startswith("_")} - listed
        assert not missing, f"add to :members: {sorted(missing)}"


def functions_and_classes(*modules):
    found = [(f"{m}.{n}", getattr(importlib.import_module(m), n)) for m in modules for n in public_names(m)]
    return [pytest.param(x, id=name) for name, x in found if inspect.isfunction(x) or inspect.isclass(x)]


@pytest.mark.parametrize("value", functions_and_classes(*MODULES))
def test_docstrings_begin_with_a_sentence(value):
    first = (inspect.getdoc(value) or "").partition("\n\n")[0]
    assert first.endswith((".", ":")) or ":math:" in first, first


@pytest.mark.parametrize("value", functions_and_classes(*MODULES))
def test_arguments_are_explained(value):
    """Several arguments each have an entry; one alone is spoken of, or the function is a small helper."""
    if inspect.isfunction(value) and not value.__module__.startswith(SHORT):
        names = list(inspect.signature(value).parameters)
        pattern = r"^  \**{}:" if len(names) > 1 else r"\b{}\b"
        missing = [name for name in names if not re.search(pattern.format(name), inspect.getdoc(value), re.M)]
        assert not missing, missing


OTHER_PARAMETERS = {
    "add_noise",
    "apply_updates",
    "lbfgs",
    "noisy_sgd",
    "safe_norm",
    "safe_root_mean_squares",
    "scale_by_distance_over_gradients",
    "scale_by_factored_rms",
    "scale_by_lbfgs",
    "scale_by_trust_ratio",
    "value_and_grad_from_state",
}
"""What takes other arguments than in optax; docs/coming_from_optax.md says so."""


OPTAX_MODULES = ("gradchain", "gradchain.losses", "gradchain.projections", "gradchain.tree")


@pytest.mark.parametrize("module", OPTAX_MODULES)
def test_arguments_of_optax_are_taken_at_its_places_with_its_defaults(module):
    theirs = importlib.import_module(module.replace("gradchain", "optax"))
    shared = [n for n in public_names(module) if inspect.isfunction(vars(theirs).get(n))]
    assert len(shared) > 5

    def fits(ours, theirs):
        """Return whether the one takes what the other takes, at the same places; more may follow."""
        mine, others = (inspect.signature(function).parameters.values() for function in (ours, theirs))
        keyword_only = {(p.name, p.default) for p in others if p.kind is p.KEYWORD_ONLY}
        places = [(p.name, p.default) for p in others if p.kind is not p.KEYWORD_ONLY]
        return [(p.name, p.default) for p in mine][: len(places)] == places and keyword_only <= {
            (p.name, p.default) for p in mine if p.kind is p.KEYWORD_ONLY
        }

    differ = {n for n in shared if not fits(resolve(f"{module}.{n}"), getattr(theirs, n))}
    assert differ <= OTHER_PARAMETERS


def imports(path):
    """Yield (module, line, late) for every import in a file, late being inside a function or under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    late = set()
    for node in ast.walk(tree):
        guarded = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if guarded or isinstance(node, ast.FunctionDef):
            late |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{a.name}" if node.module == "gradchain" else node.module for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        for name in names:
            yield name, node.lineno, id(node) in late


def layer(module):
    """Return the place of a module of gradchain in the order of layers, and in that of its layer's folders."""
    _, top, *inner = module.split(".")
    folders = (*FOLDERS.get(top, ()), "__init__")
    return LAYERS.index(top), folders.index(inner[0]) if inner and inner[0] in folders else -1


SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_upward(path):
    own = layer(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module, line, late in imports(path):
        if module.split(".")[0] == "gradchain" and not (late and module in LATE):
            assert layer(module) <= own, f"line {line} imports {module} from a later layer"


@pytest.mark.parametrize("path", [PACKAGE / "__init__.py", *SOURCES], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_jax_is_required(path):
    for module, line, late in imports(path):
        package = module.split(".")[0]
        if package not in sys.stdlib_module_names | REQUIRED:
            assert late, f"line {line} imports {module} at once"
            assert package in OPTIONAL, f"line {line} imports {module}"
