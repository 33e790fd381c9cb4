"""Factors of hyperparameters for single arrays: learning rates by layer, decays by kind of parameter."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self, cast

import jax

from gradchain.combinators.labels import ByPath, LabelsKind, check_pattern, path_name, resolve
from gradchain.combinators.layers import Around, around_rules, inside
from gradchain.core.combinator import combinator
from gradchain.core.foreign import Child, ChildKind
from gradchain.core.hyper import FrozenTree, NonNegative, Number
from gradchain.core.lift import Own
from gradchain.core.rule import Rule
from gradchain.core.transform import Part, Transform
from gradchain.core.value import Kind, Value, comparable, kind_of, register, show
from gradchain.signatures import brief, did_you_mean, public
from gradchain.transforms.scaling import scale
from gradchain.tree import Tree
from gradchain.tree.state import numbered

UNCHANGED = "unchanged"
"""The label of arrays whose factor is 1, and no hyperparameter."""
FACTOR = cast(Number, kind_of(NonNegative))
LABELS = LabelsKind()


class NumbersKind(Kind):
    """Numbers by label, in the order of the labels."""

    data = True


@register
class Factors(Value):
    """A number for each array, by label: numbers are hyperparameters, labels are static."""

    name = "factors"
    labels: Annotated[Any, LABELS]
    numbers: Annotated[Mapping[str, Any], NumbersKind()]

    def fields(self) -> Iterator[tuple[str, Kind, Any]]:
        """Yield each number by its label, as hyperparameters are listed."""
        yield from ((label, FACTOR, number) for label, number in self.numbers.items())

    def with_fields(self, **changes: Any) -> Self:
        new = {label: FACTOR.normalize(f"factors: {label}", number) for label, number in changes.items()}
        if unknown := [label for label in new if label not in self.numbers]:
            raise ValueError(f"factors: no label is called {unknown[0]!r}{did_you_mean(unknown[0], self.numbers)}")
        return type(self)(self.labels, {**self.numbers, **new})

    def _identity(self) -> tuple[Any, ...]:
        return (type(self), comparable(self.labels), comparable(self.numbers))

    def __repr__(self) -> str:
        numbers = ", ".join(f"{label!r}: {show(number)}" for label, number in self.numbers.items())
        labels = self.labels
        if isinstance(labels, ByPath):
            held = dict(self.numbers)
            plain = ByPath(tuple((p, held.get(k, k)) for p, k in labels.patterns), held.get(labels.default, UNCHANGED))
            if _by_pattern("factors", plain) == self:
                pairs = ", ".join(f"({pattern!r}, {show(number)})" for pattern, number in plain.patterns)
                return f"[{pairs}]" if plain.default == UNCHANGED else f"by_path([{pairs}], default={plain.default!r})"
        return f"({labels!r}, {{{numbers}}})" if numbers or isinstance(labels, FrozenTree) else repr(labels)

    def each(self, where: str, tree: Tree, checked: bool = False) -> list[Any]:
        """Return the factor of each leaf of ``tree``, ``None`` counting as one; ``None`` for a factor of 1.

        Args:
          where: names transform and hyperparameter in error messages.
          tree: the parameters, or a share of them.
          checked: whether a pattern must match a parameter.
        """
        labels = resolve(self.labels, LABELS, where, tree, None if checked else tree)
        return [None if label in (None, UNCHANGED) else self.number(where, label) for label in labels]

    def number(self, where: str, label: str) -> Any:
        """Return the number that a label stands for: its own, or what it says itself."""
        if label in self.numbers:
            return self.numbers[label]
        try:
            return FACTOR.normalize(where, float(label))  # from a function that returns numbers
        except ValueError:
            known = ", ".join(map(repr, self.numbers)) or "numbers alone"
            raise ValueError(f"{where}: no factor for label {label!r}; there are {known}") from None


class FactorKind(Kind):
    """A number for each array."""

    data = True
    label = "Factors"

    def normalize(self, where: str, value: Any) -> Any:
        return _factors(where, value)


FACTORS = FactorKind()


class FactorsKind(Kind):
    """:class:`Factors` by the name of a hyperparameter, as :func:`scale_hyperparams` takes them."""

    data = True
    label = "Mapping[str, Factors]"

    def normalize(self, where: str, value: Any) -> Any:
        if not isinstance(value, Mapping) or not value:
            raise TypeError(
                f"{where} must be a dict from hyperparameters to their factors, such as "
                f"{{'learning_rate': [('embed', 10.0)]}}, got {brief(value)}"
            )
        named = cast(Mapping[Any, Any], value)
        return {name: FACTORS.normalize(f"{where}: {name}", named[name]) for name in sorted(named)}


def _factors(where: str, given: Any) -> Factors:
    """Return factors in their stored form."""
    if isinstance(given, Factors):
        return given
    if isinstance(given, list | tuple):
        items = cast("list[Any]", given)
        if len(items) == 2 and isinstance(items[1], Mapping) and not isinstance(items[0], str | tuple | list):
            return _by_label(where, items[0], cast(Mapping[Any, Any], items[1]))
        if items and all(isinstance(x, list | tuple) and len(x) == 2 and isinstance(x[0], str) for x in items):
            return _by_pattern(where, ByPath(tuple((pattern, x) for pattern, x in items), UNCHANGED))
    if isinstance(given, ByPath):
        return _by_pattern(where, given)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(given, is_leaf=lambda x: x is None or callable(x))
    if callable(given):
        return Factors(given, {})
    if not leaves or any(isinstance(x, str) for _, x in leaves):
        raise TypeError(f"{where} must be pairs of a pattern and a number, or a tree of numbers, got {brief(given)}")
    names = [UNCHANGED if x is None else _key(path_name(path)) for path, x in leaves]
    numbers = {name: x for name, (_, x) in zip(names, leaves, strict=True) if x is not None}
    return Factors(FrozenTree(tuple(names), treedef), _checked(where, numbers))


def _by_pattern(where: str, given: ByPath) -> Factors:
    """Return factors from patterns with numbers; each pattern is the name of its number."""
    labels, numbers = list[Any](), dict[str, Any]()
    for pattern, number in (*given.patterns, ("default", given.default)):
        check_pattern(where, pattern)
        plain = number is None or isinstance(number, str)
        labels.append(number if plain else numbered(_key(pattern), labels))
        if not plain:
            numbers[labels[-1]] = number
    pairs = zip((pattern for pattern, _ in given.patterns), labels[:-1], strict=True)
    return Factors(ByPath(tuple(pairs), labels[-1]), _checked(where, numbers))


def _by_label(where: str, labels: Any, numbers: Mapping[Any, Any]) -> Factors:
    made = Factors(LABELS.normalize(where, labels), _checked(where, numbers))
    given, used = made.labels, list[Any]()
    if isinstance(given, ByPath):
        used = [given.default, *(label for _, label in given.patterns)]
    elif isinstance(given, FrozenTree):
        used = list(given.leaves)
    for label in used:
        if label not in (None, UNCHANGED):
            made.number(where, label)
    return made


def _key(name: str) -> str:
    """Return a name for a hyperparameter, in which dots stand between names."""
    return name.replace(".", "_") or "all"


def _checked(where: str, numbers: Mapping[Any, Any]) -> dict[str, Any]:
    checked = {str(label): FACTOR.normalize(f"{where}: {label}", number) for label, number in numbers.items()}
    return {label: checked[label] for label in sorted(checked)}


class Held(Kind):
    """Something that is passed on as it is."""


@register
class Scaled(Around):
    """One rule with factors of its numbers; made anew in each call of :class:`scale_hyperparams`."""

    name = "scaled"
    tx: Annotated[Any, ChildKind()]  # a rule
    factors: Annotated[Any, Held()]

    def declarations(self, tree: Tree) -> list[Own]:
        columns = [
            [None if x is None else (name, x) for x in factors.each(f"scale_hyperparams: {name}", tree)]
            for name, factors in self.factors.pairs
        ]
        declared = self.tx.declarations(tree)
        if not columns or not declared or not columns[0]:
            return declared
        return [
            own._replace(factors=(*own.factors, *(pair for pair in mine if pair is not None)))
            for own, *mine in zip(declared, *columns, strict=True)
        ]


class _Pairs:
    """Names of fields with their factors, compared by identity, so that they may hold arrays."""

    def __init__(self, pairs: list[tuple[str, Factors]]):
        self.pairs = pairs


def scalable(rule: Rule, name: str) -> str | None:
    """Return the field of a rule that a hyperparameter's name means, if it has one that can be scaled."""
    owner, _, field = name.rpartition(":")
    rule = rule.unlayered
    fits = owner in ("", rule.name) and isinstance(rule.kinds.get(field), Number) and rule.by_leaf
    return field if fits and getattr(rule, field) is not None and field not in rule.spec.debiased else None


@combinator
class scale_hyperparams(Transform):
    r"""Multiply hyperparameters of a transform by a factor for each array: rates by layer, decays by kind of parameter.

    With the factor :math:`f_i` of array :math:`i`, each rule that has the hyperparameter uses :math:`f_i h` in the
    place of :math:`h` for that array. State, names of hyperparameters and everything that is computed of all arrays
    together, such as a global norm, stay as they are. The hyperparameter itself can be scheduled, swept and replaced as
    before. Factors are hyperparameters, too: numbers, schedules, or arrays for a sweep, at least 0. They are called by
    pattern, as in ``scale_hyperparams.factors.learning_rate.embed``.

    Args:
      tx: any transform, a whole optimizer for instance.
      factors: a dict from the name of a hyperparameter (``learning_rate``, ``weight_decay``, ``eps``) to its factors.
        A name means all rules that have it; ``"scale_by_adam:eps"`` means only that one's. Factors are given as

        - pairs of a pattern and a number, of which the first that matches decides (patterns are those of
          :func:`by_path`); arrays that none matches have the factor 1;
        - :func:`by_path` with numbers, for another default, or for none;
        - a tree of numbers, the parameters' own or a prefix of it by path, with ``None`` for 1;
        - a function from parameters to such a tree, or :func:`by_leaf`: these numbers are static;
        - labels and a dict from label to number, as in ``(by_path([("embed", "slow")], "fast"), {"slow": 0.1, "fast":
          1.0})``.

    Raises:
      TypeError: for factors in another form.
      ValueError: for a negative factor; if no rule that works on single arrays has the hyperparameter, or it is the
        decay of an average that is corrected for its start at zero, whose sum of weights all arrays share. At ``init``:
        if a pattern matches no parameter.

    Example:
      >>> rates, decays = [("encoder", 0.1)], [("norm", 0.0), ("bias", 0.0)]
      >>> tx = scale_hyperparams(adamw(1e-3, weight_decay=0.1), {"learning_rate": rates, "weight_decay": decays})
    """

    tx: Child
    factors: Annotated[Any, FactorsKind()]

    def checked(self) -> Self:
        rules = [rule for rule in inside(self.tx) if isinstance(rule, Rule)]
        for name in self.factors:
            if not any(scalable(rule, name) for rule in rules):
                raise ValueError(f"scale_hyperparams: {_lacks(rules, name)}")
        return self

    @property
    def scaled(self) -> Transform:
        """The inner transform, with factors for the numbers of its rules."""
        return around_rules(self.tx, self._around)

    def _around(self, rule: Rule) -> Transform:
        pairs = [(field, factors) for name, factors in self.factors.items() if (field := scalable(rule, name))]
        return Scaled(rule, _Pairs(pairs)) if pairs else rule

    def init(self, params: Tree) -> Any:
        for name, factors in self.factors.items():
            factors.each(f"scale_hyperparams: {name}", params, checked=True)
        return self.scaled.init(params)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        return self.scaled.step(updates, state, params, extra)

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        return [Part("", self.tx, state, params)]

    def __repr__(self) -> str:
        return f"{self.name}({self.tx!r}, {self.factors!r})"


def _lacks(rules: list[Rule], name: str) -> str:
    """Return what is wrong with a name that no rule has a field for."""
    field = name.rpartition(":")[2]
    if any(field in rule.unlayered.spec.debiased for rule in rules):
        return f"{name!r} is the decay of an average whose sum of weights all arrays share; it can't differ"
    if whole := next((rule for rule in rules if not rule.by_leaf and field in rule.kinds), None):
        return f"{whole.name} has one {field} for all arrays together; put scale_by_path(...) behind it"
    known = {f: None for rule in rules for f in rule.unlayered.kinds if scalable(rule, f)}
    hint, there = did_you_mean(field, known), ", ".join(known) or "none"
    cure = "chain(tx, scale_by_path(...)) scales the updates of any transform"
    return f"no rule has the hyperparameter {name!r}{hint}; there are {there}; {cure}"


@public
def scale_by_path(factors: Any) -> Transform:
    r"""Multiply the updates of each array by its factor: :math:`u_i = f_i\,g_i`.

    At the end of a chain this is a learning rate for each array, weight decay included, as in PyTorch's parameter
    groups; between a direction and the decay it leaves the decay alone. For factors of single hyperparameters there is
    :func:`scale_hyperparams`, of which this is one for :func:`scale`.

    Args:
      factors: pairs of a pattern and a number, where arrays that no pattern matches have the factor 1; or another form
        that :func:`scale_hyperparams` takes.

    Example:
      >>> tx = chain(adamw(1e-3), scale_by_path([("encoder", 0.1)]))
      >>> layers = [(f"layers/{i}", 0.8 ** (11 - i)) for i in range(12)]  # a rate that decays from layer to layer
      >>> finetune = chain(adamw(1e-3), scale_by_path([("embed", 0.8**12), *layers]))
    """
    return scale_hyperparams(scale(1.0), {"step_size": factors})
