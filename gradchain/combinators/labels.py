"""Labels and masks: which parameters a transform gets, by a tree, by path, by array, or by a function."""

import dataclasses
import enum
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from gradchain.combinators.names import EMBEDDINGS, HEADS, VECTORS
from gradchain.core.foreign import NamedChildrenKind
from gradchain.core.hyper import FrozenTree, MaskKind
from gradchain.core.hyperparams import LEAF
from gradchain.core.transform import lacks_params
from gradchain.core.value import Kind
from gradchain.signatures import public
from gradchain.tree import Placeholder, Tree, flatten_optional


def path_name(path: Any) -> str:
    """Return a leaf's path as ``block/kernel``, the form that patterns are matched with."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def listed(names: Iterable[str], most: int = 20) -> str:
    """Return names for an error message, the first ``most`` of them."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more


def label_name(where: str, label: Any) -> str | None:
    """Return the string that stands for a label: its text, an enum member's name, what ``str`` makes of anything else.

    Members that are strings or whole numbers are those; ``None`` is the label of nothing.
    """
    label = label.item() if isinstance(label, np.generic) else label
    if label is None or isinstance(label, str):
        return label if label is None else str.__str__(label)
    try:
        hash(label)
    except TypeError:
        raise TypeError(
            f"{where}: a label is hashable (a string, bool, whole number or enum, say), found {label!r}"
        ) from None
    if isinstance(label, enum.Enum) and not isinstance(label, int):
        return label.name
    return int.__repr__(label) if isinstance(label, int) and not isinstance(label, bool) else str(label)


class LayerShape(jax.ShapeDtypeStruct):
    """Stands for one layer of a stack inside ``per_layer``: what reads names must not take it for a stack."""


class Labels:
    """A function from parameters to the tree of their labels (or bools) that decides for each array by itself."""

    by_structure: ClassVar[bool] = True
    """Whether it looks only at paths and numbers of axes, in which updates agree with their parameters."""

    def label(self, path: str, leaf: Any) -> Any:
        """Return the label of one array."""
        raise TypeError(f"{type(self).__name__} must define label")

    def check(self, paths: list[str]) -> None:
        """Raise ``ValueError`` if this can't be meant for a tree with these paths."""

    def over(self, tree: Tree, checked: bool) -> Tree:
        """Return the tree of labels, ``checked`` or not."""
        pairs, treedef = jax.tree_util.tree_flatten_with_path(tree)
        if checked and pairs:  # a combinator around this one may leave it nothing, whatever the patterns
            self.check([path_name(path) for path, _ in pairs])
        return treedef.unflatten([self.label(path_name(path), leaf) for path, leaf in pairs])

    def __call__(self, params: Tree) -> Tree:
        return self.over(params, checked=True)


def matches(pattern: str, path: str) -> bool:
    """Return whether a pattern fits whole names in a row, anywhere in the path; from its start if it begins with /."""
    start = "" if pattern.startswith("/") else "*/"
    return fnmatch.fnmatchcase(f"/{path}/", f"{start}{pattern.rstrip('/')}/*")


def check_pattern(where: str, pattern: Any) -> None:
    """Raise an error that shows the pattern if it isn't one: no string, or a set of characters that nothing is in."""
    if not isinstance(pattern, str):
        raise TypeError(f"{where}: a pattern is a string, got {pattern!r}; write '*norm*/scale', for instance")
    for characters in re.findall(r"\[!?(\]?[^]]*)\]", pattern):
        for low, high in re.findall(r"(?s)(.)-(.)", characters):
            if low > high:
                raise ValueError(
                    f"{where}: pattern {pattern!r} has the range {low}-{high}, which nothing is in; write "
                    f"{high}-{low}, as in 'layers/[0-3]'"
                )
    try:
        fnmatch.fnmatchcase("", pattern)
    except (re.error, SyntaxError) as error:
        raise ValueError(f"{where}: {pattern!r} isn't a valid pattern, such as 'layers/[0-3]/*': {error}") from None


@dataclasses.dataclass(frozen=True, repr=False)
class ByPath(Labels):
    """See :func:`by_path`."""

    patterns: tuple[tuple[str, Any], ...]
    default: Any = None

    def decisive(self, path: str) -> int | None:
        """Return the index of the first pattern that fits, or None."""
        return next((i for i, (pattern, _) in enumerate(self.patterns) if matches(pattern, path)), None)

    def label(self, path: str, leaf: Any) -> Any:
        index = self.decisive(path)
        if index is None and self.default is None:
            patterns = listed(repr(pattern) for pattern, _ in self.patterns)
            raise ValueError(f"by_path: no pattern matches {path!r}, and there is no default; patterns: {patterns}")
        return self.default if index is None else self.patterns[index][1]

    def check(self, paths: list[str]) -> None:
        used = {self.decisive(path) for path in paths}
        for i, (pattern, _) in enumerate(self.patterns):
            if i not in used:
                hidden = any(matches(pattern, path) for path in paths)
                problem = "comes after others that take all it matches" if hidden else "matches no parameter"
                raise ValueError(f"by_path: pattern {pattern!r} {problem}; there are: {listed(paths)}")

    def __repr__(self) -> str:
        return f"by_path({list(self.patterns)!r}, default={self.default!r})"


@public
def by_path(patterns: Sequence[tuple[str, Any]], default: Any = None) -> ByPath:
    """Label parameters by the first pattern that their path matches.

    The result is a function from parameters to the tree of labels, and goes wherever labels or masks do:
    :func:`partition`, :func:`masked`, ``adamw(mask=...)``.

    Args:
      patterns: pairs of a pattern and a label (for a mask: True or False), of which the first match decides. A label is
        a string or anything else that is hashable. A path is written ``encoder/layers/0/kernel``. A pattern matches one
        or more consecutive whole names anywhere in the path, such as ``bias`` or ``layers/0``; with a leading slash, as
        in ``/encoder``, it only matches at the start. ``*`` stands for any characters (``/`` too), ``?`` for one,
        ``[ab]`` for one of those.
      default: the label of parameters that no pattern matches. Without a default these are an error.

    Raises:
      ValueError: for a pattern with an empty range such as ``[9-0]``. When the labels are used: if a pattern decides no
        parameter's label, or if no pattern matches a parameter and there is no default. The message lists the paths.

    Example:
      >>> decayed = by_path([("bias", False), ("*norm*", False)], default=True)
      >>> tx = adamw(1e-3, weight_decay=0.1, mask=decayed)
    """
    if isinstance(patterns, str) or not all(isinstance(p, tuple | list) and len(p) == 2 for p in patterns):  # pyright: ignore
        raise TypeError(f"by_path takes pairs of a pattern and a label, got {patterns!r}")
    for pattern, _ in patterns:
        check_pattern("by_path", pattern)
    for value in (default, *(label for _, label in patterns)):
        label_name("by_path", value)
    return ByPath(tuple((pattern, label) for pattern, label in patterns), default)


@dataclasses.dataclass(frozen=True, repr=False)
class ByLeaf(Labels):
    """See :func:`by_leaf`."""

    by_structure = False
    function: Callable[[str, Any], Any]

    def label(self, path: str, leaf: Any) -> Any:
        return self.function(path, leaf)

    def __repr__(self) -> str:
        return f"by_leaf({self.function!r})"


@public
def by_leaf(function: Callable[[str, Any], Any]) -> ByLeaf:
    """Label each parameter by a function of its path and the array.

    Args:
      function: ``function(path, leaf)`` returns a label (for a mask: True or False). ``path`` is a string such as
        ``encoder/layers/0/kernel``. The array may be traced: use only its shape and dtype.

    Example:
      >>> tx = masked(add_decayed_weights(0.1), by_leaf(lambda path, leaf: leaf.ndim > 1))
    """
    return ByLeaf(function)


NOT_HIDDEN = (*EMBEDDINGS, *HEADS, *VECTORS)
"""Usual names of embeddings and output layers, and of vectors, which scanned layers stack to matrices."""


@dataclasses.dataclass(frozen=True)
class MatricesAndRest(Labels):
    """See :func:`matrices_and_rest`."""

    not_hidden: tuple[str, ...]
    ndims: tuple[int, ...]
    matrices: str
    rest: str

    def label(self, path: str, leaf: Any) -> Any:
        hidden = not any(matches(pattern, path.lower()) for pattern in self.not_hidden)
        return self.matrices if hidden and jnp.ndim(leaf) in self.ndims else self.rest

    def __repr__(self) -> str:
        fields = dataclasses.asdict(self)
        return f"matrices_and_rest({', '.join(f'{name}={value!r}' for name, value in fields.items())})"


@public
def matrices_and_rest(
    not_hidden: Sequence[str] = NOT_HIDDEN,
    ndims: Sequence[int] = (2,),
    matrices: str = "matrices",
    rest: str = "rest",
) -> MatricesAndRest:
    """Label hidden weight matrices separately from embeddings, output layers, vectors and scalars.

    Methods for matrices, such as Muon, are meant for the first group only. It decides by names, so check ``describe(tx,
    params)`` before a long run.

    Args:
      not_hidden: patterns, as for :func:`by_path` but compared in lower case, of parameters that belong to the rest
        whatever their shape: by default the usual names of embeddings (``*embed*``, ``wte``), output layers (``head``,
        ``lm_head``, ``output``, ``logits*``, ``classifier``) and vectors (``bias``, ``scale``, ``gamma``), as
        :func:`hidden_matrices` knows them. Names given here replace these.
      ndims: how many axes a matrix may have; ``(2, 3)`` to include layers stacked along a first axis.
      matrices: label of the first group.
      rest: label of the second.

    Example:
      >>> tx = partition({"matrices": sgd(0.02, momentum=0.95), "rest": adam(1e-3)}, matrices_and_rest())
      >>> matrices_and_rest()({"hidden": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}})
      {'hidden': {'bias': 'rest', 'kernel': 'matrices'}}
    """
    listed_names = isinstance(not_hidden, Sequence) and not isinstance(not_hidden, str)  # pyright: ignore
    if not listed_names or not all(isinstance(name, str) for name in not_hidden):  # pyright: ignore
        raise TypeError(
            f"matrices_and_rest: not_hidden must be patterns, got {not_hidden!r}; "
            "for the labels of parameters, call what it returns: matrices_and_rest()(params)"
        )
    for pattern in not_hidden:
        check_pattern("matrices_and_rest", pattern)
    return MatricesAndRest(tuple(not_hidden), tuple(ndims), matrices, rest)


class LabelsKind(Kind):
    """A tree of labels over (a prefix of) the parameters, or a function from parameters to one, frozen; as strings."""

    label = "Labels"

    def normalize(self, where: str, value: Any) -> Any:
        if value is None:
            raise TypeError(f"{where} can't be None")
        if isinstance(value, FrozenTree):
            return value
        if isinstance(value, ByPath):
            named = tuple((pattern, label_name(where, label)) for pattern, label in value.patterns)
            return ByPath(named, label_name(where, value.default))
        leaves, treedef = flatten_optional(value)
        if treedef == LEAF and callable(value):
            return value
        return FrozenTree(tuple(label_name(where, leaf) for leaf in leaves), treedef)


class ByLabelKind(NamedChildrenKind):
    """Transforms in a dict by label; kept under the labels' names, in the pytree's order."""

    label = "Mapping[Hashable, Transform]"

    def normalize(self, where: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return super().normalize(where, value)
        named: dict[Any, Any] = {}
        for label, tx in cast(Mapping[Any, Any], value).items():
            name = label_name(where, label)
            if name in named:
                raise ValueError(f"{where}: the label {label!r} and another are both called {name!r}; rename one")
            named[name] = tx
        return super().normalize(where, named)


class RouteKind(MaskKind):
    """A mask that can't be missing."""

    def normalize(self, where: str, value: Any) -> Any:
        if value is None:
            raise TypeError(f"{where} can't be None")
        return super().normalize(where, value)


def resolve(labels: Any, kind: Kind, where: str, params: Tree | None, updates: Tree | None = None) -> list[Any]:
    """Return the label of each leaf; ``None`` counts as a leaf, and has the label ``None``.

    Args:
      labels: as ``kind`` stores it: a frozen tree or a function.
      kind: the kind of the field that holds them.
      where: names transform and field in error messages.
      params: the parameters, which decide. In an update they may be missing if the labels depend on structure alone,
        in which the updates agree with them.
      updates: the updates; absent at ``init``.

    Raises:
      ValueError: if labels and parameters don't fit each other, or params are needed and missing.
    """
    if params is None and callable(labels) and not getattr(labels, "by_structure", False):
        name, _, field = where.partition(": ")
        raise lacks_params(name, f"; its {field} is a function of them")
    tree = updates if params is None else params
    if isinstance(tree, Placeholder):
        return []
    if isinstance(labels, Labels):  # what it must match was checked at init; later gradients may lack some of it
        found = labels.over(tree, checked=updates is None)
    else:
        found = labels(tree) if callable(labels) else labels
    frozen = kind.normalize(where, found)
    if not isinstance(frozen, FrozenTree):
        raise TypeError(f"{where} must return a tree, got {frozen!r}")
    return frozen.broadcast_to_all(where, tree, "updates" if params is None else "params")
