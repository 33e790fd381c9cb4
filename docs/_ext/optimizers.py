"""The pages of the optimizers: what is written in docs/optimizers, and what gradchain itself says of each.

A file there has a few lines of facts at its top, a title, and what else is to be said. The rest is computed when the
pages are built: state, needs, defaults, formulas and the example's output.
"""

import functools
import inspect
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import gradchain as gc
from gradchain.core.transform import Transform

FOLDER = Path(__file__).parents[1] / "optimizers"
PATHS = FOLDER / "paths"
FAMILIES = (
    "Gradient descent",
    "Rates for each coordinate",
    "Adam and its relatives",
    "Signs",
    "Layers and matrices",
    "Little memory",
    "Without a schedule",
    "Without a rate to tune",
    "Curvature",
    "Privacy",
)
SIDE = 1024
MATRIX = {"kernel": jax.ShapeDtypeStruct((SIDE, SIDE), jnp.float32)}
SHAPES = {"kernel": jnp.zeros((64, 32)), "bias": jnp.zeros(32)}
GRADIENTS = "gradients and state only"
EXAMPLES = "examples' gradients"
HIDDEN = ("scale", "identity", "scale_by_learning_rate")
"""Stages that are said in one sentence for all."""


class Entry(NamedTuple):
    """A page: its facts, and what is written below its title."""

    name: str
    family: str
    line: str
    when: str
    example: str
    picture: str
    shape: tuple[int, ...]
    year: str
    text: str

    @property
    def function(self) -> Any:
        return getattr(gc, self.name)

    @property
    def transform(self) -> Transform:
        return eval(self.example, {"gc": gc})


def parse(name: str, page: str) -> Entry:
    """Return what a page says."""
    _, head, body = re.split(r"^---$", page, maxsplit=2, flags=re.M)
    facts = dict(line.split(": ", 1) for line in head.strip().splitlines())
    title, _, text = body.strip().partition("\n")
    if title != f"# {name}":
        raise ValueError(f"{name}.md: the title must be '# {name}', got {title!r}")
    shape = tuple(map(int, facts.pop("shape", "2").split()))
    year = facts.pop("year", None) or _year(getattr(gc, name))
    return Entry(name=name, text=text.strip(), shape=shape, year=year, **facts)


def entries() -> list[Entry]:
    """Return all pages, family by family, each by year."""
    files = [path for path in FOLDER.glob("*.md") if path.stem != "index"]
    found = [parse(path.stem, path.read_text(encoding="utf-8")) for path in files]
    return sorted(found, key=lambda e: (FAMILIES.index(e.family), e.year, e.name))


def _year(function: Any) -> str:
    """Return the year of the first source that a docstring names."""
    source = re.search(
        r"^References?:(.*)", inspect.getdoc(function) or "", re.M | re.S
    )
    years = re.findall(r"\b(19\d\d|20\d\d)\b", source[1]) if source else []
    if not years:
        raise ValueError(f"{function.__name__}: no source with a year; write year: ...")
    return years[0]


def state_per_parameter(tx: Transform) -> float:
    """Return how many float32 numbers of state there are to each number of a large matrix."""
    return gc.describe(tx, MATRIX).state_bytes / (4 * SIDE**2)


def show_state(tx: Transform) -> str:
    numbers = state_per_parameter(tx)
    digits = 0 if abs(numbers - round(numbers)) < 0.01 else 2
    return f"{numbers:.{digits}f}"


def needs(tx: Transform) -> str:
    """Return what ``update`` must be given besides gradients and state, found by trying."""
    state = jax.eval_shape(tx.init, SHAPES)

    def works(grads: Any, *params: Any, **extra: Any) -> bool:
        try:
            jax.eval_shape(
                lambda g, s, *p: tx.update(g, s, *p, **extra), grads, state, *params
            )
        except (TypeError, ValueError):
            return False
        return True

    examples = jax.tree.map(lambda x: x[None], SHAPES)
    functions = {"value_fn": lambda w: sum(jnp.sum(x**2) for x in jax.tree.leaves(w))}
    loss = {"value": 1.0}
    tried = {
        GRADIENTS: lambda: works(SHAPES),
        "parameters": lambda: works(SHAPES, SHAPES),
        "the loss": lambda: works(SHAPES, **loss),
        "parameters, the loss": lambda: works(SHAPES, SHAPES, **loss),
        "the loss function": lambda: works(SHAPES, SHAPES, **functions),
        "the loss and its function": lambda: works(
            SHAPES, SHAPES, **functions, **loss, grad=SHAPES
        ),
        EXAMPLES: lambda: works(examples, SHAPES),
    }
    return next(need for need, test in tried.items() if test())


@functools.cache
def computed(e: Entry) -> tuple[str, str]:
    """Return an optimizer's state and what it needs, as pages say it."""
    return show_state(e.transform), needs(e.transform)


def defaults(function: Any) -> str:
    """Return the arguments with a default, as they are written in a call."""
    parameters = inspect.signature(function).parameters.values()
    return ", ".join(
        f"`{p.name}={p.default!r}`" for p in parameters if p.default is not p.empty
    )


def table() -> str:
    """Return the table of all optimizers."""
    rows = [
        "| Optimizer | In one line | Year | State | Needs | Take it for |",
        "|---|---|---|---|---|---|",
    ]
    family = ""
    for e in entries():
        if e.family != family:
            family = e.family
            rows.append(f"| **{family}** | | | | | |")
        state, wanted = computed(e)
        name, wanted = f"[{e.name}]({e.name}.md)", wanted.removeprefix(GRADIENTS)
        rows.append(f"| {name} | {e.line} | {e.year} | {state} | {wanted} | {e.when} |")
    return "\n".join(rows)


def page(e: Entry) -> str:
    """Return the whole page in Markdown."""
    tx, (state, wanted) = e.transform, computed(e)
    lead, _, rest = f"\n{e.text}".partition("\n## ")
    facts = [
        ("Take it for", e.when),
        ("Needs", wanted),
        ("State for each parameter", f"{state} number{'' if state == '1' else 's'}"),
        ("Defaults", defaults(e.function) or "none"),
        ("Year", e.year),
    ]
    parts = [
        f"# {e.name}",
        f"{e.line}.",
        lead.strip(),
        pictures(e),
        "| | |\n|---|---|\n"
        + "\n".join(f"| {key} | {value} |" for key, value in facts),
        "## Formula",
        formulas(tx),
        "## Example",
        example(e, tx),
        rest and f"## {rest}",
        "## Reference",
        f"```{{eval-rst}}\n.. currentmodule:: gradchain\n.. autofunction:: {e.name}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def example(e: Entry, tx: Transform) -> str:
    """Return the example and what it prints."""
    params = 'params = {"kernel": jnp.zeros((64, 32)), "bias": jnp.zeros(32)}'
    code = f"{params}\ntx = {e.example}\nprint(tx.describe(params))"
    output = gc.describe(tx, SHAPES).table(80)
    return f"```python\n{code}\n```\n\n```text\n{output}\n```"


def stages(tx: Transform) -> list[str]:
    """Return the public names of a transform's stages, each once, in order."""
    names = [
        re.sub(r"[#\[].*", "", row.name.split(".")[-1])
        for row in gc.describe(tx, SHAPES).stages
    ]
    return [name for name in dict.fromkeys(names) if name in gc.__all__]


def formulas(tx: Transform) -> str:
    """Return what each stage computes, from its docstring."""
    said = [_stage(name) for name in stages(tx) if name not in HIDDEN]
    parts = ["```{eval-rst}", ".. currentmodule:: gradchain", *said]
    if "scale_by_learning_rate" in stages(tx):
        parts.append(
            r"Last, :func:`scale_by_learning_rate` multiplies by :math:`-\eta`."
        )
    end = r"The result :math:`u` of the last stage is added to the parameters: :math:`w \leftarrow w + u`."
    return "\n\n".join([*parts, end, "```"])


def _stage(name: str) -> str:
    """Return a stage's first sentence, its formulas, and a sentence that goes on behind these."""
    paragraphs = (
        (inspect.getdoc(getattr(gc, name)) or "")
        .split("\nArgs:")[0]
        .strip()
        .split("\n\n")
    )
    first = f":func:`{name}`: {paragraphs[0]}"
    maths = [i for i, text in enumerate(paragraphs) if text.startswith(".. math::")]
    if not maths:
        return first
    last = maths[-1] + (
        maths[-1] + 1 < len(paragraphs)
        and paragraphs[maths[-1] + 1].startswith("with ")
    )
    return "\n\n".join([first, *paragraphs[maths[0] : last + 1]])


def pictures(e: Entry) -> str:
    """Return the two pictures of its path, and what they show."""
    runs = json.loads((PATHS / "runs.json").read_text())[e.name]
    items = []
    for key, run in runs.items():
        call = e.picture.replace("{rate}", f"{run['rate'] or 0:.2g}")
        losses = f"from a loss of {run['first']:.2g} to {run['last']:.2g}"
        said = f"{run['title']}: {run['steps']} steps of `{call}`, {losses}"
        items.append(
            f"- ![{run['title']}: the path of {e.name}](paths/{e.name}_{key}.svg)\n  {said}"
        )
    return "```{container} paths\n\n" + "\n\n".join(items) + "\n```"


def expand(app: Any, docname: str, source: list[str]) -> None:
    """Complete a page of docs/optimizers before Sphinx reads it."""
    folder, _, name = docname.rpartition("/")
    if folder == "optimizers":
        source[0] = (
            source[0].replace("(table)", table())
            if name == "index"
            else page(parse(name, source[0]))
        )


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", expand)
    return {"parallel_read_safe": True}
