"""Every combinator around any transform, the base optimizers to put in, and nests of them drawn at random."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from hypothesis import strategies as st

import gradchain as gc
from gradchain.core.transform import Transform

BASES = {
    "sgd": gc.sgd(0.01, momentum=0.9),
    "adam": gc.adam(0.01),
    "adafactor": gc.adafactor(0.01, 2),
    "muon": gc.muon(0.01),
}
BESIDE = gc.sgd(0.02)
"""What stands beside a transform in a combinator of two."""


def is_matrix(path, leaf):
    return leaf.ndim == 2


def is_vector(path, leaf):
    return leaf.ndim == 1


def axis_of_vectors(path, leaf):
    return 0 if leaf.ndim == 1 else None


def on_even_counts(count):
    return count % 2 == 0


def half_of(params, step):
    """Return the gradient of half a quadratic, for SAM in its opaque form."""
    return jax.tree.map(lambda w: 0.5 * w, params)


EXTRA = {"grad_fn": half_of, "value": 1.0}
"""Extra arguments of which each transform takes what it knows."""
CLIMB = gc.chain(gc.normalize_by_update_norm(eps=0.0), gc.sgd(0.05))


def and_scale(inner, learning_rate):
    return gc.chain(inner, gc.scale(learning_rate))


@dataclasses.dataclass(frozen=True)
class Combinator:
    """A combinator as a function of ``size`` transforms, and what its documentation says about the ones inside."""

    build: Callable[..., Transform]
    size: int = 1
    weights: bool = False
    """Whether it has evaluation weights."""
    refuses: frozenset[str] = frozenset()
    """What it can't have inside: "weights", "weights in both", or combinators by name."""


def wraps(build, *refuses, **fields):
    return Combinator(build, refuses=frozenset(refuses), **fields)


COMBINATORS = {
    "chain": wraps(lambda a, b: gc.chain(gc.clip_by_global_norm(5.0), a, b), size=2),
    "named_chain": wraps(lambda a, b: gc.named_chain(("first", a), ("second", b)), size=2),
    "masked": wraps(lambda tx: gc.masked(tx, gc.by_leaf(is_matrix))),
    "partition": wraps(lambda a, b: gc.partition({"matrices": a, "rest": b}, gc.matrices_and_rest()), size=2),
    "freeze": wraps(lambda tx: gc.chain(tx, gc.freeze(gc.by_leaf(is_matrix)))),
    "selective_transform": wraps(lambda tx: gc.selective_transform(tx, freeze_mask=gc.by_leaf(is_vector))),
    "parallel": wraps(lambda a, b: gc.parallel(a, b, merge=gc.tree.add), "weights in both", size=2),
    "graft": wraps(lambda a, b: gc.parallel(a, b, merge=gc.graft), "weights in both", size=2),
    "conditionally_transform": wraps(lambda tx: gc.conditionally_transform(tx, on_even_counts)),
    "conditionally_mask": wraps(lambda tx: gc.conditionally_mask(tx, on_even_counts)),
    "accumulate": wraps(lambda tx: gc.accumulate(tx, 2)),
    "accumulate_finite": wraps(lambda tx: gc.accumulate(tx, 2, False, gc.skip_not_finite)),
    "apply_if_finite": wraps(lambda tx: gc.apply_if_finite(tx, 3)),
    "skip_spikes": wraps(lambda tx: gc.skip_spikes(tx, 2.0, 0.9, 2)),
    "skip_spikes_of_the_loss": wraps(lambda tx: gc.skip_spikes(tx, by_value=True)),
    "lookahead": wraps(lambda tx: gc.lookahead(tx, 2, 0.5), "weights", weights=True),
    "lookahead_anew": wraps(lambda tx: gc.lookahead(tx, 2, 0.5, reset_state=True), "weights", weights=True),
    "outer_nesterov": wraps(lambda tx: gc.outer_nesterov(tx, 2), "weights", weights=True),
    "average_params": wraps(gc.average_params, weights=True),
    "moving_average": wraps(lambda tx: gc.average_params(tx, 0.9, start=1), weights=True),
    "schedule_free": wraps(lambda tx: gc.schedule_free(tx, 0.01), "weights", weights=True),
    "primal_averaging": wraps(lambda tx: gc.primal_averaging(tx, 0.9), "weights", weights=True),
    "sam": wraps(lambda tx: gc.sam(tx, CLIMB), weights=True),
    "sam_opaque": wraps(lambda tx: gc.sam(tx, CLIMB, opaque_mode=True)),
    "cautious": wraps(gc.cautious, "accumulate", "accumulate_finite"),
    "mechanize": wraps(lambda tx: gc.mechanize(tx, s_init=1e-3, num_betas=2), "accumulate", "accumulate_finite"),
    "watch": wraps(gc.watch),
    "monitor": wraps(
        lambda tx: gc.chain(gc.monitor({"norm": gc.global_norm, "ema": gc.measure_with_ema(gc.global_norm, 0.9)}), tx)
    ),
    "snapshot": wraps(lambda tx: gc.chain(tx, gc.snapshot("norm", gc.global_norm))),
    "hyperparams_in_state": wraps(gc.hyperparams_in_state, "hyperparams_in_state", "inject_hyperparams"),
    "inject_hyperparams": wraps(lambda tx: gc.inject_hyperparams(and_scale)(tx, 0.5)),
    "float32_updates": wraps(gc.float32_updates),
    "store": wraps(lambda tx: gc.store(tx, "int8", min_size=0), "offload_state"),
    "stochastic_rounding": wraps(gc.stochastic_rounding),
    "kahan": wraps(gc.kahan),
    "master_weights": wraps(lambda tx: gc.master_weights(tx, bits=16)),
    "loss_scale": wraps(lambda tx: gc.loss_scale(tx, 1.0, growth_interval=None)),
    "per_layer": wraps(lambda tx: gc.per_layer(tx, gc.by_leaf(axis_of_vectors)), "inject_hyperparams"),
    "split_real_and_imaginary": wraps(gc.split_real_and_imaginary),
}


def around(name: str, inner: Transform) -> Transform:
    """Return a combinator around one transform."""
    combinator = COMBINATORS[name]
    return combinator.build(inner, *[BESIDE] * (combinator.size - 1))


class Nest(NamedTuple):
    """A transform drawn at random."""

    tx: Any
    inside: frozenset[str] = frozenset()
    """The names of the combinators in it."""

    @property
    def weights(self) -> bool:
        """Whether there are evaluation weights in it."""
        return any(COMBINATORS[name].weights for name in self.inside & COMBINATORS.keys())


def admits(name: str, children: list[Nest]) -> bool:
    """Return whether a combinator is documented to work around these."""
    refuses, keeping = COMBINATORS[name].refuses, sum(child.weights for child in children)
    if ("weights" in refuses and keeping) or ("weights in both" in refuses and keeping > 1):
        return False
    return not any(child.inside & refuses for child in children)


@st.composite
def layer(draw, child):
    """Draw what ``child`` draws, and a combinator that admits it."""
    children = [draw(child), draw(child)]
    fitting = [name for name, c in COMBINATORS.items() if admits(name, children[: c.size])]
    name = draw(st.sampled_from(fitting))
    combinator = COMBINATORS[name]
    children = children[: combinator.size]
    inside = frozenset({name}).union(*(child.inside for child in children))
    return Nest(combinator.build(*(child.tx for child in children)), inside)


def nests(depth: int, bases: dict[str, Any] = BASES) -> st.SearchStrategy[Nest]:
    """Draw combinators within combinators, ``depth`` of them around a base optimizer, which may be a Nest itself."""
    leaves = st.sampled_from([tx if isinstance(tx, Nest) else Nest(tx) for tx in bases.values()])
    return functools.reduce(lambda child, _: layer(child), range(depth), leaves)
