"""How rates, decays and Adam's eps depend on the width: one formula for each family of rules."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from gradchain.combinators.labels import check_pattern, listed, matches
from gradchain.core.hyperparams import named_parts
from gradchain.core.rule import Rule
from gradchain.core.transform import Transform
from gradchain.introspect.survey import Paths, active
from gradchain.signatures import did_you_mean, public
from gradchain.training.history import text_table
from gradchain.width.multipliers import Width, Widths, check_widths

DecayScaling = Literal["independent", "inverse_width", "coupled"]
RuleNames = str | Sequence[tuple[str, str]] | Transform


class Family(NamedTuple):
    """Rules whose directions grow alike with the width."""

    matrix: Callable[[Width], float]
    """The factor of a matrix's rate."""
    vector: Callable[[Width], float] = lambda width: 1.0
    """The factor of a vector's rate."""
    by_gradient: bool = False
    """Whether its directions are as large as gradients are."""


def _inverse(width: Width) -> float:
    return 1 / width.inputs


def _matched(width: Width) -> float:
    """Return the factor for orthogonal directions times sqrt(max(inputs, outputs))."""

    def wanted(fans: tuple[int, int]) -> float:
        return (fans[1] / fans[0]) ** 0.5 / max(fans) ** 0.5

    return wanted(width.fans) / wanted(width.base_fans)


def _at_least_one(width: Width) -> float:
    """Return the factor for orthogonal directions times sqrt(max(1, outputs / inputs))."""

    def wanted(fans: tuple[int, int]) -> float:
        return min(1.0, fans[1] / fans[0]) ** 0.5

    return wanted(width.fans) / wanted(width.base_fans)


SGD = Family(lambda width: width.outputs / width.inputs, lambda width: width.outputs, by_gradient=True)
ADAM = Family(_inverse)
ROOT = Family(lambda width: (width.outputs / width.inputs) ** 0.5)
ONE = Family(lambda width: 1.0)
FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("sgd", "momentum"), SGD),
    **dict.fromkeys(("adam", "adamw", "lion", "sign", "rmsprop", "adafactor", "adopt", "laprop"), ADAM),
    **dict.fromkeys(("ademamix", "mars", "soap", "kl_soap", "splus", "grafted"), ADAM),
    "muon": Family(_at_least_one),
    "muon_rms": Family(_matched),
    **dict.fromkeys(("muon_spectral", "scion", "spectral", "hyperball"), ONE),
    "orthogonal": ROOT,
    "shampoo": ROOT,
}
"""By the names that :func:`mup` takes. Vectors and what else isn't a matrix count as Adam's, but for SGD."""
DIRECTIONS: dict[str, str] = {
    **{
        f"scale_by_{name}": "adam"
        for name in (
            *("adam", "adamax", "amsgrad", "belief", "yogi", "radam", "adan", "rss", "rms", "stddev", "adadelta"),
            *("factored_rms", "sm3", "adopt", "acprop", "ademamix", "simplified_ademamix", "mars", "laprop"),
            *("sign", "lion", "soap", "kl_soap", "splus"),
        )
    },
    **dict.fromkeys(("scale_by_muon", "scale_by_dion2"), "orthogonal"),
    **dict.fromkeys(("orthogonalize_updates", "orthogonalize_in_metric"), "orthogonal"),
    "scale_by_lmo": "scion",
    "scale_by_spectral_norm": "spectral",
}
"""The family of each rule that decides the size of a direction."""
NEUTRAL = (
    *("identity", "scale", "negate", "trace", "ema", "centralize", "scale_by_learning_rate", "scale_by_schedule"),
    *("add_decayed_weights", "add_cautious_decayed_weights", "add_l2_penalty", "add_l1_penalty", "scale_by_shape"),
    *("clip", "clip_by_global_norm", "clip_by_block_rms", "zero_nans", "add_noise", "keep_params_nonnegative"),
    *("project", "set_to_zero", "scale_by_optimistic_gradient", "ema_mixture"),
    *("decay_updated_weights", "descend_with_corrected_decay"),
)
"""Rules that leave the size of a direction to others, or bound it."""


class Scaling(NamedTuple):
    """The factors of one array's numbers."""

    rule: str
    rate: float
    decay: float
    eps: float


def scalings(
    widths: Widths,
    rule: RuleNames,
    decay: DecayScaling = "independent",
    depth: float = 1.0,
    depth_paths: Sequence[str] = (),
    depth_exponent: float = 1.0,
) -> dict[str, Scaling]:
    """Return the factors of each array, by path; the arguments are those of :func:`mup`."""
    if decay not in get_args(DecayScaling):
        raise ValueError(f"mup: decay must be one of {', '.join(get_args(DecayScaling))}, got {decay!r}")
    if not depth > 0 or (depth != 1) != bool(depth_paths):
        raise ValueError(
            f"mup: depth is the ratio of the numbers of blocks, and depth_paths say which arrays are inside of blocks; "
            f"give both or neither, got depth={depth} and depth_paths={list(depth_paths)}"
        )
    for pattern in depth_paths:
        check_pattern("mup: depth_paths", pattern)
        if not any(matches(pattern, path) for path in widths):
            raise ValueError(f"mup: depth_paths: {pattern!r} matches no parameter; there are: {listed(widths)}")
    check_widths("mup", widths)
    names = rule_names(widths, rule)

    def scaling(path: str, width: Width) -> Scaling:
        family = FAMILIES[names[path]]
        deep = depth if any(matches(pattern, path) for pattern in depth_paths) else 1.0
        if deep != 1 and family.by_gradient:
            raise ValueError(f"mup: depth is for normalised updates, such as Adam's; {path} has those of {names[path]}")
        rate = family.vector(width) if width.kind in ("vector", "fixed") else family.matrix(width)
        rate *= deep ** (depth_exponent - 1)
        scale = {"independent": 1 / rate, "inverse_width": 1 / (rate * width.ratio), "coupled": 1.0}[decay]
        eps = deep**-depth_exponent / width.outputs if family is ADAM else 1.0
        return Scaling(names[path], rate, scale, eps)

    return {path: scaling(path, width) for path, width in widths.items()}


def rule_names(widths: Widths, rule: RuleNames) -> dict[str, str]:
    """Return the name of the family that decides each array's direction, by path."""
    if isinstance(rule, Transform):
        return _of_transform(widths, rule)
    pairs = [("*", rule)] if isinstance(rule, str) else list(rule)
    for pattern, name in pairs:
        check_pattern("mup: rule", pattern)
        if name not in FAMILIES:
            hint = did_you_mean(name, FAMILIES) or f"; there are {', '.join(FAMILIES)}"
            raise ValueError(f"mup: there is no rule {name!r}{hint}")
    found = {path: next((n for pattern, n in pairs if matches(pattern, path)), None) for path in widths}
    if missing := [path for path, name in found.items() if name is None]:
        raise ValueError(f"mup: rule has no entry for {listed(missing)}")
    return {path: str(name) for path, name in found.items()}


def _of_transform(widths: Widths, tx: Transform) -> dict[str, str]:
    """Return the names of the families by what a transform's rules do with each array."""
    shapes = jax.tree.map(lambda width: jax.ShapeDtypeStruct(width.shape, jnp.float32), widths.tree)
    rules: dict[str, list[Rule]] = {path: [] for path in widths}
    paths = Paths()
    for part in named_parts(tx, None, shapes):
        leaf = part.transform
        if not isinstance(leaf, Rule) or leaf.parts():
            continue
        if part.params is not None:
            for path in active(leaf, part.params, paths):
                rules[path].append(leaf)
        elif leaf.name not in NEUTRAL:
            raise _undecided(
                "updates", f"{part.name} acts on other arrays than the parameters, projections for instance"
            )
    return {path: _family(path, own) for path, own in rules.items()}


def _family(path: str, rules: list[Rule]) -> str:
    """Return the family of the one rule among those that act on an array that decides the size of its updates."""
    decisive = [rule for rule in rules if rule.name not in NEUTRAL]
    names = list(dict.fromkeys(map(_direction, decisive)))
    if None in names or len(names) > 1:
        unknown = next((rule.name for rule in decisive if _direction(rule) is None), None)
        several = " and ".join(rule.name for rule in decisive)
        problem = f"{unknown} isn't known" if unknown else f"{several} both act on it"
        raise _undecided(f"the updates of {path}", problem)
    name = str(names[0]) if names else "sgd"
    shape = next((rule for rule in rules if rule.name == "scale_by_shape"), None)
    if name != "orthogonal" or shape is None:
        return name
    held = {field: value for field, _, value in shape.fields()}
    if held["consistent_rms"] is not None:
        return "muon_rms"
    return {"original": "muon", "spectral": "muon_spectral", "none": "orthogonal"}[held["scale"]]


def _undecided(what: str, problem: str) -> ValueError:
    return ValueError(
        f"mup: what decides the size of {what}? {problem}; write rule='adam', or pairs of a pattern and a rule; there "
        f"are {', '.join(FAMILIES)}"
    )


def _direction(rule: Rule) -> str | None:
    """Return the family of a rule that decides the size of a direction, ``None`` for one that isn't known."""
    held = {field: value for field, _, value in rule.fields()}
    if rule.name == "scale_by_shampoo" and (held["graft"] or held["exponent"] is None):
        return "grafted" if held["graft"] else "shampoo"
    if rule.name == "scale_by_normuon" and held["norm"] != "free":
        return "orthogonal"
    return DIRECTIONS.get(rule.name)


@public
def describe_widths(widths: Widths, rule: RuleNames | None = None, **options: Any) -> str:
    """Return a table of arrays with their shapes and kinds, and with a rule what :func:`mup` multiplies for each.

    Args:
      widths: what :func:`width_multipliers` returns.
      rule: as :func:`mup` takes it, or the transform itself, whose rules decide; ``None`` for the shapes alone.
      **options: ``decay``, ``depth``, ``depth_paths`` and ``depth_exponent``, as for :func:`mup`.

    Example:
      >>> def shapes(n):
      ...     return {"w1": jax.ShapeDtypeStruct((8, n), float), "w2": jax.ShapeDtypeStruct((n, 10), float)}
      >>> print(describe_widths(width_multipliers(shapes(256), shapes(64)), "adam"))
      path      shape     base    kind  rule  rate  decay   eps  init
        w1   (8, 256)  (8, 64)   input  adam     1      1  0.25     1
        w2  (256, 10)  (64, 10) output  adam  0.25      4     1   0.5
    """
    found: Mapping[str, Scaling] = {} if rule is None else scalings(widths, rule, **options)
    header = ["path", "shape", "base", "kind", *([] if rule is None else ["rule", "rate", "decay", "eps"]), "init"]
    rows = [
        [path, str(width.shape), str(width.base_shape), width.kind, *found.get(path, ()), initial_factor(width)]
        for path, width in widths.items()
    ]
    return text_table(header, rows)


def initial_factor(width: Width) -> float:
    """Return what an array's initial values are multiplied by, if they are drawn with 1/sqrt(inputs)."""
    return width.inputs**-0.5 if width.kind == "output" else 1.0
