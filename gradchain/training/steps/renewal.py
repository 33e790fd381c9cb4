"""Renewing a model's running statistics for weights at which they weren't taken, such as averaged ones."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from gradchain.compiled import Compiled
from gradchain.signatures import public
from gradchain.training.data.examples import check_batches
from gradchain.training.data.streams import Stream, as_stream
from gradchain.training.keys import as_key
from gradchain.training.steps.objective import Objective
from gradchain.training.variables import Adapter, Variables, checked
from gradchain.tree import Tree
from gradchain.tree.alignment import T

RAISED = 0.0, 1.0, 2.0
"""How far the statistics are moved, in units of one more than the largest of them, to see how much of it is left."""


@public
def renew_state(
    loss_fn: Callable[..., Any], params: T, data: Tree, *, batch_size: int | None = None,
    key: int | Array | None = None, has_aux: bool = False, takes_key: bool = False,
) -> T:  # fmt: skip
    r"""Return a model whose running statistics are those of its present weights, by one pass over the data.

    Averaged weights (:func:`~gradchain.eval_params`) haven't been trained with, so that no statistics belong to them;
    those of a training that has just ended lag behind, too. Here the means and variances of :math:`B` batches are
    averaged instead: every array :math:`s` of the model state that each step moves by
    :math:`s \leftarrow m s + (1 - m) b` towards a number :math:`b` of the batch, whatever its decay :math:`m < 1`,
    becomes the mean of :math:`b` over the batches, each weighted by its size. No statistics from before enter it.
    (Which arrays these are, and :math:`m`, is found by calling the loss with the statistics at three values.)
    All other parts of the state are as after the last batch. The parameters stay as they are.

    Args:
      loss_fn: the mean loss over a batch, see :func:`~gradchain.training.train_step`, of a model with state; it is
        called with ``training=True``.
      params: :class:`~gradchain.training.Variables`, or the model that an adapter takes.
      data: those of the training: a tree of arrays with the examples on the leading axis, taken in their order; or a
        stream of batches, see :func:`~gradchain.training.fit`: a list of batches, a data loader, an iterator, or a
        function of the epoch's number, which is called with 0.
      batch_size: examples in a batch; the last one may be smaller. Use the one of the training: the mean of variances
        within batches depends on it. Needed for arrays.
      key: a PRNG key or seed for the loss, if it takes one.
      has_aux: whether ``loss_fn`` returns aux, which isn't used.
      takes_key: whether ``loss_fn`` takes a key.

    Returns:
      What ``params`` was, with its state renewed.

    Raises:
      TypeError: if ``params`` has no model state, or data are neither arrays nor a stream of batches.
      ValueError: for data or batch sizes that don't fit.

    Example:
      >>> def loss_fn(params, mean, batch):
      ...     now = jnp.mean(batch["x"], 0)
      ...     return jnp.mean((batch["y"] - now[None]) ** 2), 0.9 * mean + 0.1 * now
      >>> variables = renew_state(loss_fn, Variables(params, jnp.zeros(4)), data, batch_size=32)
      >>> bool(jnp.allclose(variables.model_state, data["x"].mean(0), atol=1e-4))
      True

    References:
      Izmailov et al., *Averaging Weights Leads to Wider Optima and Better Generalization*, 2018, section 3.2
      (https://arxiv.org/abs/1803.05407).
    """
    objective, variables = Objective.of(loss_fn, has_aux, takes_key).enter(params)
    if not objective.has_state:
        raise TypeError("renew_state: params has no state to renew; hand in Variables(params, model_state)")
    if takes_key and key is None:
        raise ValueError("renew_state: takes_key=True needs a PRNG key: pass key=jax.random.key(0)")
    key = None if key is None else as_key(key, "key")
    once: Any = (lambda epoch: data) if hasattr(data, "__next__") else data  # pyright: ignore[reportUnknownLambdaType]
    stream = as_stream(once, batch_size, "keep", "renew_state: data", shuffle=False)
    if stream is not None:
        return objective.leave(renew_on_stream(objective, checked(variables), stream, key))
    if batch_size is None:
        raise ValueError("renew_state: data in arrays need a batch_size")
    return objective.leave(renew(objective, checked(variables), data, batch_size, key))


def renew(
    objective: Objective, variables: Variables[Any], data: Tree, batch_size: int, key: Array | None
) -> Variables[Any]:
    """Do what :func:`renew_state` does, for an ``Objective`` and its variables. Pure."""
    n = check_batches(data, batch_size)
    data, steps = jax.tree.map(jnp.asarray, data), n // batch_size
    full = jax.tree.map(lambda x: x[: steps * batch_size].reshape(steps, batch_size, *x.shape[1:]), data)

    def follow(passed: _Passed, batch: Tree, number: Any, size: int) -> _Passed:
        return _follow(objective, variables, passed, batch, key, number, size / n)

    def body(passed: _Passed, x: tuple[Tree, Array]) -> tuple[_Passed, None]:
        return follow(passed, *x, batch_size), None

    passed, _ = lax.scan(body, _Passed.start(variables.model_state), (full, jnp.arange(steps)))
    if n % batch_size:
        rest = jax.tree.map(lambda x: x[steps * batch_size :], data)
        passed = follow(passed, rest, steps, n % batch_size)
    return _finished(objective, variables, passed)


def renew_on_stream(
    objective: Objective, variables: Variables[Any], stream: Stream, key: Array | None
) -> Variables[Any]:  # fmt: skip
    """Do what :func:`renew` does, on a pass over a stream."""
    passed, seen = _Passed.start(variables.model_state), 0
    for number, (batch, size) in enumerate(stream.once(objective.placement)):
        passed = _compiled_follow(objective, variables, passed, batch, key, number, float(size))
        seen += size
    return _finished(objective, variables, passed._replace(means=[x / seen for x in passed.means]))


def _follow(
    objective: Objective, variables: Variables[Any], passed: "_Passed", batch: Tree, key: Array | None, number: Any,
    weight: Any,
) -> "_Passed":  # fmt: skip
    batch_key = None if key is None else jax.random.fold_in(key, number)

    def after(model_state: Tree) -> Tree:
        return objective(variables._replace(model_state=model_state), batch, batch_key, training=True)[2]

    return passed.follow(after, weight)


_compiled_follow = Compiled(_follow)


def _finished(objective: Objective, variables: Variables[Any], passed: "_Passed") -> Variables[Any]:
    variables = variables._replace(model_state=passed.finish())
    return objective.loss_fn.settle(variables) if isinstance(objective.loss_fn, Adapter) else variables


class _Passed(NamedTuple):
    """The arrays of a model state in the midst of a pass over the data."""

    state: Tree
    """As after the last batch."""
    means: list[Array]
    """Of the floating-point ones, what the mean of the batches' statistics has so far."""
    averages: list[Array]
    """Whether each of them has been a running average in every step."""

    @classmethod
    def start(cls, model_state: Tree) -> "_Passed":
        floating = _floating(model_state)
        return cls(model_state, [jnp.zeros_like(x) for x in floating], [jnp.asarray(True) for _ in floating])

    def follow(self, after: Callable[[Tree], Tree], weight: Any) -> "_Passed":
        """Return what it is after one more batch, with ``after(model_state) -> model_state``."""
        before = _floating(self.state)
        units = [1 + jnp.max(jnp.abs(x), initial=0) for x in before]

        def raised(by: Array) -> Tree:
            return after(
                _with_floating(
                    self.state, [x + by.astype(x.dtype) * unit for x, unit in zip(before, units, strict=True)]
                )
            )

        states = jax.vmap(raised)(jnp.asarray(RAISED))
        found = [_batch_statistic(*x) for x in zip(before, units, _floating(states), strict=True)]
        means = [mean + weight * b for mean, (b, _) in zip(self.means, found, strict=True)]
        averages = [so_far & is_one for so_far, (_, is_one) in zip(self.averages, found, strict=True)]
        return _Passed(jax.tree.map(lambda x: x[0], states), means, averages)

    def finish(self) -> Tree:
        """Return the state after the last batch, with means in the place of running averages."""
        last = zip(self.averages, self.means, _floating(self.state), strict=True)
        return _with_floating(self.state, [jnp.where(is_one, mean, x) for is_one, mean, x in last])


def _batch_statistic(s: Array, unit: Array, after: Array) -> tuple[Array, Array]:
    """Return the b of s <- m s + (1 - m) b, and whether that is how s moves.

    Args:
      s: an array before the step.
      unit: what it was raised by for the second value of ``after``; twice as much for the third.
      after: the array after the step, of shape ``(3, *s.shape)``.
    """
    raised = jnp.stack([s + by * unit for by in RAISED[1:]])
    kept = (after[1:] - after[:1]) / (raised - s[None])
    m, eps = jnp.mean(kept), jnp.finfo(s.dtype).eps
    is_average = jnp.all(jnp.abs(kept - m) <= 32 * eps) & (m >= -32 * eps) & (1 - m >= 256 * eps)
    return s + (after[0] - s) / jnp.where(is_average, 1 - m, 1), is_average


def _is_floating(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _floating(tree: Tree) -> list[Array]:
    return [x for x in jax.tree.leaves(tree) if _is_floating(x)]


def _with_floating(tree: Tree, arrays: list[Array]) -> Tree:
    """Return a tree with other arrays in the place of its floating-point ones."""
    new = iter(arrays)
    return jax.tree.map(lambda x: next(new) if _is_floating(x) else x, tree)
