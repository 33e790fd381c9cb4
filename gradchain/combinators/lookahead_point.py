"""Gradients taken ahead of the weights, on the line along which these have moved lately."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gradchain import tree
from gradchain.combinators._around import where
from gradchain.combinators._weights import check_arrays, stored, widened
from gradchain.core.combinator import combinator
from gradchain.core.evaluation import check_plain
from gradchain.core.foreign import Child
from gradchain.core.hyper import Decay, NonNegative
from gradchain.core.transform import Transform, check_state, scalar_dtype
from gradchain.core.value import Choice
from gradchain.numerics import compute_dtype, safe_increment
from gradchain.tree import Tree
from gradchain.tree.alignment import inexact


class EmaNesterovState(NamedTuple):
    """State of :func:`ema_nesterov`."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    beta: jax.Array
    """With which the present parameters were made."""
    velocity: Tree
    """The moving average of the steps that the weights have taken, in at least float32."""
    inner_state: Any


@combinator
class ema_nesterov(Transform):
    r"""Take gradients ahead of the weights, at the point to which their average recent step leads.

    The parameters are the points :math:`y` where gradients are taken; ``eval_params(tx, state, params)`` returns the
    weights :math:`x` behind them. With :math:`u_k` the update of ``tx`` at :math:`y_k`,

    .. math::
        x_{k+1} = y_k + u_k, \qquad d_{k+1} = \gamma d_k + (1 - \gamma)(x_{k+1} - x_k), \qquad
        y_{k+1} = x_{k+1} + \beta_{k+1} d_{k+1}

    from :math:`d_0 = 0`, without bias correction. Only :math:`d` is stored. It resembles Nesterov's method, but the
    extrapolation is a long average of the whole optimizer's steps, decay and learning rate included, and not one
    step. With :math:`\beta = 0` the updates are those of ``tx``, while the average goes on.

    In the runs that it comes from, :math:`\beta` is proportional to the learning rate, and zero in the first 300 and in
    the last 950 of 2,900 steps, as in the example.

    With ``step_from="weights"`` the step is added to the weights, :math:`x_{k+1} = x_k + u_k`, so that the point ahead
    serves for the gradient only. This is the *anchor look-ahead*, :math:`y = x + g\,(x - e)`, where :math:`e` is the
    moving average of the weights with time constant :math:`\tau`: take :math:`\beta = g\,(\tau - 1)` and
    :math:`\gamma = 1 - 1/\tau`. Its source has :math:`\tau = 100` and raises :math:`g` from 0 to 0.45 within 100 steps,
    late in the run. The evidence for it is one set of seeds: it is experimental.

    Make it the outermost transform, or the last: :math:`x` follows from the parameters only if its updates are applied
    unchanged. Norms of parameters inside, such as those of :func:`keep_norm`, are those of :math:`y`. For parameters
    frozen by a later :func:`freeze`, the evaluation weights are the parameters; with a later constraint, such as
    :func:`project`, ``eval_params`` raises an error. Steps on which ``tx`` emits nothing don't count.

    Args:
      tx: any optimizer.
      beta: :math:`\beta \ge 0`, or a schedule, of which :math:`\beta_k` is the value after :math:`k` updates, those
        that have led to :math:`y_k`.
      decay: :math:`\gamma` in [0, 1), or a schedule.
      step_from: where the step of ``tx`` starts, ``"lookahead"`` (:math:`y`) or ``"weights"`` (:math:`x`).

    Example:
      >>> rate = warmup_cosine_decay_schedule(0.0, 3e-3, 100, 2900)
      >>> window = join_schedules([0.0, 1.0, 0.0], [300, 1950])
      >>> tx = ema_nesterov(adamw(rate), beta=0.3 * window * rate / 3e-3)

    References:
      Results 39 to 46 of the optimization track of *modded-nanogpt*, 2026, for the rule; its later submissions for the
      anchor.
      Nesterov, *A Method of Solving a Convex Programming Problem with Convergence Rate O(1/k^2)*, 1983.
    """

    relies = True
    tx: Child
    beta: NonNegative = 0.3
    decay: Decay = 0.99
    step_from: Annotated[str, Choice("lookahead", "weights")] = "lookahead"

    def init(self, params: Tree) -> EmaNesterovState:
        check_arrays(self.name, params)
        count, dtype = jnp.zeros((), jnp.int32), scalar_dtype(params)
        beta = jnp.array(self.number("beta", count, dtype), dtype, copy=True)
        velocity = jax.tree.map(lambda x: jnp.zeros_like(x, compute_dtype(jnp.result_type(x))), inexact(params))
        return EmaNesterovState(count, beta, velocity, self.tx.init(params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, EmaNesterovState._fields)
        u, inner = self.tx.step(updates, state.inner_state, params, extra)
        count, dtype = safe_increment(state.count), state.beta.dtype
        decay, beta = self.number("decay", state.count, dtype), self.number("beta", count, dtype)
        before = widened(tree.match(state.velocity, u, self.name, "the state's velocity", "the updates"))
        ahead = tree.scale(state.beta, before)  # y - x
        move = tree.add(u, ahead) if self.step_from == "lookahead" else u  # x' - x
        after = jax.tree.map(lambda d, dx: decay * d + (1 - decay) * dx, before, move)
        kept = u if self.step_from == "lookahead" else tree.sub(u, ahead)  # x' - y
        moved = tree.add(kept, tree.scale(beta, after))
        new = EmaNesterovState(count, jnp.array(beta, dtype, copy=True), stored(after, state.velocity), inner)
        emitted = self.tx.emitted(state.inner_state, inner)
        return where(emitted, (moved, new), (u, state._replace(inner_state=inner)))

    def eval_params(self, state: Any, params: Tree) -> Tree:
        check_plain(self.name, self.parts(state, params)[0])
        d = tree.match(state.velocity, params, self.name, "the state's velocity", "params")
        behind = jax.tree.map(lambda y, d: (y - state.beta * d).astype(y.dtype), params, d)
        return self.tx.constrained(behind, state.inner_state, params)
