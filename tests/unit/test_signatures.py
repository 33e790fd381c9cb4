"""Public functions: what help() shows of them, and what a wrong keyword is told."""

import copy
import importlib
import inspect
import pickle
import pydoc
import re
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
from jax.typing import ArrayLike, DTypeLike

import gradchain as gc
from gradchain import Decay, DType, Key, Mask
from gradchain.signatures import FUNCTION_NAMES, USUAL_NAMES, meant, public, readable, spell
from tests.unit.test_public_api import MODULES, public_names

P = typing.ParamSpec("P")


def functions(kind=inspect.isfunction):
    """Return every public function (or class), each once, by its full name."""
    found = {}
    for module in MODULES:
        for name in public_names(module):
            value = getattr(importlib.import_module(module), name)
            if kind(value):
                found.setdefault(id(value), pytest.param(value, id=f"{module}.{name}"))
    return list(found.values())


NOISE = re.compile(r" at 0x|\btyping\.|collections\.|Annotated|Union\[|Optional\[|jaxlib|jax\.|gradchain\.|~|<class|\n")


@pytest.mark.parametrize("function", functions())
def test_signatures_can_be_read_by_users(function):
    """No addresses, no modules, no unions of ten types: one line, as somebody would write it."""
    text = str(inspect.signature(function))
    assert not NOISE.search(text), text
    line = pydoc.plain(pydoc.render_doc(function)).splitlines()[2]
    assert line == f"{function.__name__}{text}"


@pytest.mark.parametrize("function", functions())
def test_a_wrong_keyword_is_named_by_every_function(function):
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()):
        return
    with pytest.raises(
        TypeError, match=rf"^{function.__name__} has no argument 'no_such_word'; its signature is \w+\("
    ):
        function(no_such_word=1)


@pytest.mark.parametrize("function", functions())
def test_public_functions_are_pickled_by_name(function):
    assert pickle.loads(pickle.dumps(function)) is function
    assert copy.deepcopy(function) is function


def test_classes_have_readable_signatures_too():
    shown = {c.id: str(inspect.signature(c.values[0])) for c in functions(inspect.isclass)}
    assert not {name: text for name, text in shown.items() if NOISE.search(text)}


@pytest.mark.parametrize(
    ("cls", "word", "right"),
    [
        (gc.training.EarlyStopping, "min_delta", "did you mean 'tolerance'"),
        (gc.training.EarlyStopping, "patiance", "did you mean 'patience'"),
        (gc.training.Uniform, "min", "its signature is Uniform"),
        (gc.MuonDimensionNumbers, "reduction_axes", "did you mean 'reduction_axis'"),
        (gc.Slot, "no_such_word", "its signature is Slot"),
    ],
)
def test_a_wrong_keyword_is_named_by_classes_too(cls, word, right):
    with pytest.raises(TypeError, match=f"^{cls.__name__} has no argument {word!r}; {right}"):
        cls(**{word: 1})


def test_a_class_makes_the_values_that_it_made():
    stopping = gc.training.EarlyStopping(3, monitor="val_accuracy", mode="max")
    for made in (stopping._replace(), copy.deepcopy(stopping), pickle.loads(pickle.dumps(stopping))):
        assert made == stopping
        assert type(made) is gc.training.EarlyStopping


def test_results_that_derive_from_others_show_their_own_fields():
    assert "parents" in inspect.signature(gc.training.PopulationResult).parameters
    assert "parents" not in inspect.signature(gc.training.SweepResult).parameters


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (Decay, "Decay"),
        (Mask | None, "Mask | None"),
        (tuple[Decay, ...], "tuple[Decay, ...]"),
        (dict[str, DType | Key], "dict[str, DType | Key]"),
        (Any, "Any"),
        (None, "None"),
        (int | None, "int | None"),
        ("Later", "Later"),
        (ArrayLike, "ArrayLike"),
        (ArrayLike | None, "ArrayLike | None"),
        (DTypeLike | None, "DTypeLike | None"),
        (Literal["a", "b"], "'a' | 'b'"),
        (Callable[..., Any], "Callable[..., Any]"),
        (Callable[[int, str], float], "Callable[[int, str], float]"),
        (Callable[P, gc.Transform], "Callable[P, Transform]"),
        (Sequence[gc.Slot], "Sequence[Slot]"),
    ],
)
def test_annotations_are_spelt_as_somebody_would_write_them(annotation, text):
    assert str(readable(inspect.Signature(return_annotation=annotation))) == f"() -> {text}"
    assert annotation == "Later" or spell(annotation) == text


def test_a_function_as_a_default_is_shown_by_name():
    assert "sampler: Callable[..., Array] = normal" in str(inspect.signature(gc.tree.random_like))


def test_a_module_as_a_default_is_shown_by_name():
    assert "xp: Any = numpy)" in str(inspect.signature(gc.training.has_diverged))


def test_a_wrapped_function_is_called_as_it_was():
    @public
    def function(a: Decay, *rest: int, b: int = 2, **others: int):
        """Return everything."""
        return a, rest, b, others

    assert function(1, 2, b=3, c=4) == (1, (2,), 3, {"c": 4})
    assert (function.__name__, function.__doc__) == ("function", "Return everything.")
    assert typing.get_type_hints(function, include_extras=True)["a"] == Decay


def test_names_of_other_libraries_lead_to_names_that_there_are():
    ours = {*gc.__all__, *gc.losses.__all__}
    assert {*FUNCTION_NAMES.values()} <= ours
    assert not {*FUNCTION_NAMES} & ours


def test_arguments_of_other_libraries_lead_to_names_that_there_are():
    known = [*functions(), *functions(inspect.isclass)]
    ours = {name for parameter in known for name in inspect.signature(parameter.values[0]).parameters}
    assert {name for names in USUAL_NAMES.values() for name in names} <= ours | {"param"}


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("lr", ["learning_rate", "momentum"], ["learning_rate"]),
        ("lr", ["init_value", "peak_value"], ["peak_value"]),
        ("betas", ["learning_rate", "b1", "b2", "b3", "eps"], ["b1", "b2", "b3"]),
        ("momentum", ["b1", "decay"], ["decay"]),
        ("lerning_rate", ["learning_rate", "eps"], ["learning_rate"]),
        ("weight_decay", ["b1", "b2", "learning_rate"], []),
        ("lr", [], []),
    ],
)
def test_what_is_meant(name, known, expected):
    assert meant(name, known) == expected
