"""Coordinate checks: whether activations, and updates, change by the same amount at every width."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain.arguments import check_whole
from gradchain.core.foreign import as_transform
from gradchain.core.transform import Transform, apply_updates
from gradchain.signatures import brief, public
from gradchain.training.history import text_table
from gradchain.tree import Tree

Numbers = np.ndarray[Any, Any]
Verdict = Literal["ok", "grows", "shrinks", "still", "not finite"]
Model = tuple[Callable[[Array], Tree], Callable[[Any, Any], tuple[Any, Mapping[str, Any]]]]
SHRINKS = -0.4
"""The slope below which a check warns: with a small output layer -0.1 to -0.3 is usual."""


@public
@dataclass(frozen=True, eq=False, repr=False)
class CoordinateCheck:
    """What :func:`coordinate_check` and :func:`update_check` return: sizes at each width, and their slopes.

    A slope is the exponent :math:`a` in :math:`\\mathrm{size} \\propto \\mathrm{width}^a`, by least squares of
    logarithms, averaged over the seeds: 0 is what :func:`gradchain.mup` is for, 0.5 or 1 means that the rate is too
    large for wide models.
    """

    widths: tuple[int, ...]
    names: tuple[str, ...]
    """What was measured: activations by name, or arrays by path."""
    initial: Numbers
    """Root mean squares of activations before training, of shape ``(widths, seeds, names)``; spectral norms of
    matrices."""
    changes: Numbers
    """Root mean squares of their changes since then, of shape ``(widths, seeds, steps, names)``."""

    @property
    def slopes(self) -> dict[str, float]:
        """The slope of each change after the last step; NaN for what doesn't change, or isn't finite."""
        return _slopes(self.widths, self.names, self.changes[:, :, -1])

    @property
    def initial_slopes(self) -> dict[str, float]:
        """The slope of each size before training; NaN for what is zero, or isn't finite."""
        return _slopes(self.widths, self.names, self.initial)

    def verdicts(self, tolerance: float = 0.2) -> dict[str, Verdict]:
        """Return what is the matter with each: a slope above ``tolerance`` grows, one below -0.4 shrinks.

        What never changes is ``"still"``, as features are that aren't trained.
        """
        last = self.changes[:, :, -1]

        def verdict(i: int, slope: float) -> Verdict:
            if not last[..., i].any():
                return "still"
            if not math.isfinite(slope):
                return "not finite"
            return "grows" if slope > tolerance else "shrinks" if slope < SHRINKS else "ok"

        return {name: verdict(i, slope) for i, (name, slope) in enumerate(self.slopes.items())}

    def ok(self, tolerance: float = 0.2) -> bool:
        """Return whether nothing grows with the width, and all is finite. What shrinks learns slowly, but is safe."""
        return not {"grows", "not finite"} & {*self.verdicts(tolerance).values()}

    def table(self) -> str:
        """Return a text table with a line for each name: its change at each width, its slopes, the verdict.

        In the place of a slope, ``zero`` says that there is nothing to measure, at any width.
        """
        sizes = _centre(self.changes[:, :, -1])
        header = ["", *(f"width {width}" for width in self.widths), "slope", "at start", "verdict"]
        slopes, starts = self.shown_slopes(self.changes[:, :, -1]), self.shown_slopes(self.initial)
        lines = zip(self.names, sizes.T, slopes, starts, self.verdicts().values(), strict=True)
        return text_table(header, [[name, *each, slope, start, said] for name, each, slope, start, said in lines])

    def shown_slopes(self, sizes: Numbers) -> list[str]:
        """Return slopes as text; what is zero at every width, as logits of a head that starts at zero are, has none."""
        slopes = _slopes(self.widths, self.names, sizes).values()
        there = np.any(sizes, axis=(0, 1)).tolist()
        return [f"{slope:+.2f}" if on else "zero" for slope, on in zip(slopes, there, strict=True)]

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        shown = zip(self.names, self.shown_slopes(self.changes[:, :, -1]), strict=True)
        slopes = ", ".join(f"{name} {slope}" for name, slope in shown)
        return f"CoordinateCheck(widths={list(self.widths)}, slopes: {slopes})"

    def plot(self, ax: Any = None) -> Any:
        """Plot changes against the width; see :func:`gradchain.plots.plot_widths`."""
        from gradchain.plots import plot_widths

        return plot_widths(self, ax=ax)


def _centre(sizes: Numbers) -> Numbers:
    """Return geometric means over the seeds, axis 1."""
    with np.errstate(divide="ignore"):
        return np.exp(np.mean(np.log(sizes), axis=1))


def _slopes(widths: Sequence[int], names: Sequence[str], sizes: Numbers) -> dict[str, float]:
    """Return for each name the slope of log size over log width, of shape ``(widths, seeds, names)``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.mean(np.log(sizes), axis=1)
        x = np.log(widths) - np.mean(np.log(widths))
        return dict(zip(names, (x @ (y - y.mean(0)) / (x @ x)).tolist(), strict=True))


@public
def coordinate_check(
    make: Callable[[int], Model],
    widths: Sequence[int],
    *,
    tx: Transform | Callable[[int], Any],
    data: Tree | list[Tree],
    steps: int = 4,
    seeds: int = 4,
) -> CoordinateCheck:
    """Train models of several widths for a few steps, and measure how far their activations move.

    Where changes grow with the width, a wide model needs a smaller learning rate than a narrow one; where they don't,
    the rate of the narrow one is a good guess. Passing is necessary for that, and not sufficient: see
    :func:`learning_rate_transfer`. Each width is compiled once, its seeds side by side.

    Args:
      make: ``make(width) -> (init, apply)``: ``init(key)`` returns parameters, ``apply(params, batch)`` the loss and a
        dict from names to activations, arrays of any shape.
      widths: at least two widths.
      tx: ``tx(width)`` returns the transform for a width; or one transform for all, as without muP.
      data: a batch, the same at each step; or a list of batches, which are taken in turn. Activations are those of the
        first.
      steps: how many steps to take, at least 1.
      seeds: from how many seeds to start.

    Raises:
      ValueError: if there are less than two widths, or models of different widths name other activations.

    Example:
      >>> def make(width):
      ...     def init(key):
      ...         k1, k2 = jax.random.split(key)
      ...         w1, w2 = jax.random.normal(k1, (8, width)), jax.random.normal(k2, (width, 1))
      ...         return {"w1": w1 / 8**0.5, "w2": w2 / width**0.5}
      ...     def apply(params, batch):
      ...         h = jnp.tanh(batch @ params["w1"])
      ...         y = h @ params["w2"]
      ...         return jnp.mean((y - 1.0) ** 2), {"h": h, "y": y}
      ...     return init, apply
      >>> batch = jax.random.normal(jax.random.key(0), (16, 8))
      >>> check = training.coordinate_check(make, [16, 64, 256], tx=adam(1e-2), data=batch)
      >>> check.verdicts()
      {'h': 'ok', 'y': 'grows'}

    Reference: Yang et al., *Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer*,
    2022, appendix D.1.
    """
    widths = _checked("coordinate_check", widths)
    check_whole("coordinate_check: steps", steps)
    check_whole("coordinate_check: seeds", seeds)
    batches = cast("list[Any]", data) if isinstance(data, list) else [data]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *(batches[i % len(batches)] for i in range(steps)))
    keys = jax.random.split(jax.random.key(0), seeds)
    found = [
        _measured(*model_of("coordinate_check", make, width), _of_width(tx, width), batches[0], stacked, keys)
        for width in widths
    ]
    names = list(found[0][0])
    for width, (initial, _) in zip(widths, found, strict=True):
        if list(initial) != names:
            raise ValueError(
                f"coordinate_check: apply names {', '.join(names)} at width {widths[0]}, and {', '.join(initial)} at "
                f"width {width}"
            )
    initial, changes = (
        [np.stack([np.asarray(x[n]) for n in names], -1) for x in each] for each in zip(*found, strict=True)
    )
    return CoordinateCheck(widths, tuple(names), np.stack(initial), np.stack(changes))


def model_of(where: str, make: Callable[[int], Model], width: int) -> Model:
    """Return a model, whose two functions are checked."""
    found: Any = make(width)
    if not (isinstance(found, tuple | list) and len(cast(Any, found)) == 2 and all(map(callable, cast(Any, found)))):
        raise TypeError(f"{where}: make(width) must return (init, apply), two functions, got {brief(found)}")
    init, apply = cast("list[Any]", found)

    def checked(params: Any, batch: Any) -> Any:
        result = apply(params, batch)
        if not (isinstance(result, tuple) and len(cast(Any, result)) == 2 and isinstance(result[1], Mapping)):
            raise TypeError(f"{where}: apply must return (loss, a dict of activations), got {brief(result)}")
        return cast(Any, result)

    return init, checked


def _measured(
    init: Callable[..., Any], apply: Callable[..., Any], tx: Transform, batch: Tree, batches: Tree, keys: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return sizes before training (seeds,) and of changes (seeds, steps), by name."""

    def run(key: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        params = init(key)
        first = dict(apply(params, batch)[1])

        def step(carry: tuple[Any, Any], now: Any) -> tuple[tuple[Any, Any], dict[str, Array]]:
            params, state = carry
            grads = jax.grad(lambda params: apply(params, now)[0])(params)
            updates, state = tx.update(grads, state, params)
            params = apply_updates(params, updates)
            last = apply(params, batch)[1]
            return (params, state), {name: _rms(last[name] - x) for name, x in first.items()}

        changes = jax.lax.scan(step, (params, tx.init(params)), batches)[1]
        return {name: _rms(x) for name, x in first.items()}, changes

    return jax.jit(jax.vmap(run))(keys)


def _rms(x: Array) -> Array:
    return jnp.sqrt(jnp.mean(jnp.abs(x.astype(jnp.result_type(x, jnp.float32))) ** 2))


@public
def update_check(
    tx: Transform | Callable[[int], Any],
    gradients: Callable[[int], tuple[Tree, Sequence[Tree]]],
    widths: Sequence[int],
) -> CoordinateCheck:
    r"""Measure how fast the updates of matrices grow with the width, without a model: from gradients alone.

    It compares :math:`\|\Delta W\|_2 \sqrt{n_\mathrm{in} / n_\mathrm{out}}`, the spectral norm of the last update in
    the unit in which it moves outputs. An array with more than two axes counts as a matrix (..., outputs); vectors are
    left out.

    Args:
      tx: ``tx(width)`` returns the transform for a width, or one transform for all.
      gradients: ``gradients(width)`` returns parameters and their gradients at several steps.
      widths: at least two widths.

    Returns:
      A :class:`CoordinateCheck` by paths of arrays, with one seed and one step: the last.

    Raises:
      ValueError: if there are less than two widths, or no matrices.
    """
    widths = _checked("update_check", widths)
    found: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for width in widths:
        params, steps = gradients(width)
        transform = _of_width(tx, width)
        step, state, updates = jax.jit(transform.update), transform.init(params), None
        for grads in steps:
            updates, state = step(grads, state, params)
        found.append((_matrix_norms(params), _matrix_norms(updates)))
    names = list(found[0][0])
    if not names:
        raise ValueError("update_check: there are no matrices among the parameters")
    initial, changes = (np.array([[[x[name] for name in names]] for x in each]) for each in zip(*found, strict=True))
    return CoordinateCheck(widths, tuple(names), initial, changes[:, :, None])


def _matrix_norms(tree: Tree) -> dict[str, float]:
    pairs = [(jax.tree_util.keystr(path, simple=True, separator="/"), x) for path, x in jax.tree.leaves_with_path(tree)]
    matrices = {name: np.asarray(x, float).reshape(-1, x.shape[-1]) for name, x in pairs if np.ndim(x) > 1}
    return {
        name: float(np.linalg.norm(x, 2) * (x.shape[0] / max(x.shape[1], 1)) ** 0.5) for name, x in matrices.items()
    }


def _of_width(tx: Any, width: int) -> Transform:
    is_transform = callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))
    return as_transform(tx if is_transform else tx(width))


def _checked(where: str, widths: Sequence[int]) -> tuple[int, ...]:
    found = tuple(int(width) for width in widths)
    if len({*found}) < max(2, len(found)) or min(found) < 1:
        raise ValueError(f"{where}: widths must be two or more different whole numbers, got {list(widths)}")
    return found
