"""Rates, decays and initial values that stay right when the model gets wider."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gradchain.combinators.factors import UNCHANGED, Factors, scalable, scale_by_path, scale_hyperparams
from gradchain.combinators.labels import check_pattern, listed, matches
from gradchain.combinators.layers import inside
from gradchain.core.foreign import Child, as_transform
from gradchain.core.hyper import FrozenTree
from gradchain.core.rule import Rule
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.tree import mismatch
from gradchain.tree.alignment import T, is_array
from gradchain.tree.state import numbered
from gradchain.width.exponents import DecayScaling, Scaling, initial_factor, scalings
from gradchain.width.multipliers import Widths, check_widths


@public
def scale_by_width(widths: Widths, rule: str | Sequence[tuple[str, str]]) -> Transform:
    """Multiply each array's updates by the factor of its rate, see :func:`mup`: a stage for chains of one's own.

    It goes anywhere behind the direction; in front of the weight decay, so that this isn't scaled. Adam's ``eps`` isn't
    scaled: make it small (1e-15), or use :func:`mup`.

    Args:
      widths: what :func:`width_multipliers` returns.
      rule: what decides the size of the updates: a name, or pairs of a pattern and a name, as for :func:`mup`.

    Example:
      >>> def shapes(n):
      ...     return {"w1": jax.ShapeDtypeStruct((8, n), float), "w2": jax.ShapeDtypeStruct((n, n), float)}
      >>> widths = width_multipliers(shapes(256), shapes(64))
      >>> wide = chain(scale_by_adam(eps=1e-15), scale_by_width(widths, "adam"), scale_by_learning_rate(1e-3))
    """
    return scale_by_path(_factors(widths, scalings(widths, rule), lambda scaling: scaling.rate))


@public
def mup(
    tx: Child,
    widths: Widths,
    rule: str | Sequence[tuple[str, str]] | None = None,
    *,
    decay: DecayScaling = "independent",
    depth: float = 1.0,
    depth_paths: Sequence[str] = (),
    depth_exponent: float = 1.0,
) -> Transform:
    r"""Scale an optimizer's rates, decays and eps with the width of the model (muP).

    An update should change each layer's outputs equally at every width, for which its spectral norm must be
    proportional to :math:`\sqrt{n_\mathrm{out} / n_\mathrm{in}}`. How large it is by itself depends on the rule. So
    each family has a formula for the factor of the learning rate, with the ratios :math:`r_\mathrm{in}` and
    :math:`r_\mathrm{out}` to the base model:

    - ``"sgd"``, ``"momentum"``: :math:`r_\mathrm{out} / r_\mathrm{in}`, and :math:`r_\mathrm{out}` for vectors. Below,
      vectors have the factor 1.
    - ``"adam"``, ``"adamw"``, ``"lion"``, ``"sign"``, ``"rmsprop"``, ``"adafactor"``, ``"adopt"``, ``"laprop"``,
      ``"ademamix"``, ``"mars"``, ``"soap"``, ``"kl_soap"``, ``"splus"``, ``"grafted"`` (Shampoo with Adam's norm):
      :math:`1 / r_\mathrm{in}`.
    - ``"muon"``, orthogonal directions times :math:`\sqrt{\max(1, n_\mathrm{out} / n_\mathrm{in})}`: what
      :math:`\sqrt{\min(1, n_\mathrm{out} / n_\mathrm{in})}` is, relative to the base model.
    - ``"muon_rms"`` (``consistent_rms``): what :math:`\sqrt{n_\mathrm{out} / n_\mathrm{in}} / \sqrt{\max(n_\mathrm{in},
      n_\mathrm{out})}` is, relative to the base model.
    - ``"orthogonal"``, without a scale, and ``"shampoo"``, if its roots add up to 1/2 and it isn't grafted:
      :math:`\sqrt{r_\mathrm{out} / r_\mathrm{in}}`.
    - ``"muon_spectral"``, ``"scion"``, ``"spectral"`` (:func:`scale_by_spectral_norm`), ``"hyperball"``: 1.

    Adam's ``eps`` is multiplied by :math:`1 / r_\mathrm{out}`, as gradients are, in rules that have ``eps`` and
    ``eps_root``. The output layer must start smaller than usual: :func:`mup_init`. Print :func:`describe_widths` to
    see every factor, and check a new model by :func:`gradchain.training.coordinate_check`. Clipping by the global norm
    isn't scaled: norms of gradients change with the width.

    Args:
      tx: an optimizer with a ``learning_rate``, tuned on the base model.
      widths: what :func:`width_multipliers` returns.
      rule: what decides the size of the updates: a name from the table, or pairs of a pattern and a name, of which the
        first that matches decides. By default it is read off the rules in ``tx`` that act on each array.
      decay: ``"independent"`` keeps :math:`\eta \lambda` as in the base model, so that the weight decay is divided by
        the rate's factor; ``"inverse_width"`` makes :math:`\eta\lambda` fall as 1 / width; ``"coupled"`` leaves
        :math:`\lambda`, so that decay falls with the rate.
      depth: how many times more blocks the model has than the base model, if each block's output is multiplied by
        ``depth ** -depth_exponent`` in the model (CompleteP). Rates inside of blocks are multiplied by ``depth **
        (depth_exponent - 1)``, Adam's ``eps`` by ``depth ** -depth_exponent``.
      depth_paths: patterns of the arrays inside of blocks.
      depth_exponent: :math:`\alpha`, from 0.5 to 1.

    Returns:
      ``tx`` in :func:`scale_hyperparams`, whose state is that of ``tx``: checkpoints, names of hyperparameters, sweeps
      and schedules of the rate stay as they are.

    Raises:
      ValueError: for an unknown name, rules in ``tx`` that don't decide, or patterns that match nothing; if ``tx`` has
        no learning rate that can differ between arrays.

    Example:
      >>> def shapes(n):
      ...     return {"w1": jax.ShapeDtypeStruct((8, n), float), "w2": jax.ShapeDtypeStruct((n, n), float)}
      >>> wide = mup(adamw(3e-3, weight_decay=0.1), width_multipliers(shapes(256), shapes(64)))
      >>> print(hyperparams(wide)["scale_hyperparams.factors.learning_rate.hidden"])
      0.25

    References:
      Yang et al., *Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer*, 2022.
      Yang, Simon and Bernstein, *A Spectral Condition for Feature Learning*, 2023.
      Dey et al., *Don't be lazy: CompleteP enables compute-efficient deep transformers*, 2025 (depth).
    """
    tx = as_transform(tx)
    found = scalings(widths, tx if rule is None else rule, decay, depth, depth_paths, depth_exponent)
    rules = [x.unlayered for x in inside(tx) if isinstance(x, Rule)]
    factors = {"learning_rate": _factors(widths, found, lambda scaling: scaling.rate)}
    if any(scalable(x, "weight_decay") for x in rules):
        factors["weight_decay"] = _factors(widths, found, lambda scaling: scaling.decay)
    for x in rules:
        if scalable(x, "eps") and scalable(x, "eps_root"):
            factors[f"{x.name}:eps"] = _factors(widths, found, lambda scaling: scaling.eps)
            if x.settings()["eps_root"] != 0:
                factors[f"{x.name}:eps_root"] = _factors(widths, found, lambda scaling: scaling.eps**2)
    return scale_hyperparams(tx, {name: x for name, x in factors.items() if x.numbers or name == "learning_rate"})


def _factors(widths: Widths, found: dict[str, Scaling], choose: Callable[[Scaling], float]) -> Factors:
    """Return factors by the arrays' kinds; a second number of one kind is called ``hidden_2``."""
    numbers: dict[tuple[str, float], str] = {}
    for path, width in widths.items():
        number = choose(found[path])
        if number != 1 and (width.kind, number) not in numbers:
            numbers[width.kind, number] = numbered(width.kind, list(numbers.values()))
    named = {path: numbers.get((width.kind, choose(found[path])), UNCHANGED) for path, width in widths.items()}
    leaves, treedef = jax.tree.flatten(widths.tree, is_leaf=lambda x: x is None)
    labels = tuple(UNCHANGED if width is None else named[width.path] for width in leaves)
    return Factors(FrozenTree(labels, treedef), dict(sorted((name, number) for (_, number), name in numbers.items())))


@public
def mup_init(params: T, widths: Widths, *, by_features: Sequence[str] = ()) -> T:
    r"""Return initial parameters as :func:`mup` needs them, from those that the model's usual initialisers drew.

    Output layers are divided by :math:`\sqrt{r_\mathrm{in}}`, so that their standard deviation falls as 1 / width.
    Other arrays stay: those drawn with :math:`1/\sqrt{n_\mathrm{in}}` are right already.

    Args:
      params: the initial parameters.
      widths: what :func:`width_multipliers` returns.
      by_features: patterns of input arrays that were drawn with :math:`1/\sqrt{n_\mathrm{out}}`, as Flax's ``Embed``
        does: ``["*embed*"]``, say. They are multiplied by :math:`\sqrt{r_\mathrm{out}}`, so that the size of their
        entries doesn't depend on the width, as that of Haiku's and Equinox' embeddings doesn't.

    Raises:
      ValueError: if params and widths differ in structure or shapes, or a pattern matches nothing.
    """
    check_widths("mup_init", widths)
    for pattern in by_features:
        check_pattern("mup_init: by_features", pattern)
        if not any(matches(pattern, path) for path in widths):
            raise ValueError(f"mup_init: by_features: {pattern!r} matches no parameter; there are: {listed(widths)}")

    def leaf(x: Any, width: Any) -> Any:
        if width is None or not is_array(x):
            return x
        if x.shape != width.shape:
            raise ValueError(f"mup_init: {width.path} has shape {x.shape}, and {width.shape} in widths")
        embeds = width.kind == "input" and any(matches(pattern, width.path) for pattern in by_features)
        factor = width.outputs**0.5 if embeds else initial_factor(width)
        return x if factor == 1 else (x * factor).astype(jnp.result_type(x))

    leaves, treedef = jax.tree.flatten(params)
    found, _ = jax.tree.flatten(widths.tree, is_leaf=lambda x: x is None)
    if len(leaves) != len(found):
        problem = mismatch(params, widths.tree, "params", "widths")
        raise ValueError(f"mup_init: {problem}; there are {listed(widths)}")
    return treedef.unflatten([leaf(x, width) for x, width in zip(leaves, found, strict=True)])
