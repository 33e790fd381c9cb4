"""Optimizers that need no schedule: gradients are taken between the base optimizer's weights and their average."""

import math
from typing import Annotated, Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from gradchain import tree
from gradchain.combinators._around import check_own_gradients, where
from gradchain.combinators._weights import copies, stored, wide, widened
from gradchain.core.combinator import combinator
from gradchain.core.evaluation import check_plain
from gradchain.core.extra import demand_number
from gradchain.core.foreign import Child
from gradchain.core.hyper import Decay, DType, NonNegative, Number, TermMask, TermMaskKind, Whole
from gradchain.core.transform import Transform, check_state, scalar_dtype
from gradchain.numerics import divide, ema, safe_increment, sum_of_weights
from gradchain.signatures import public
from gradchain.tree import Tree

WEIGHT = Number("Fraction", "(0, 1]")
"""The average's weight in the point where gradients are taken: it is divided by."""


def average_in(y: Tree, z: Tree, beta: Any) -> Tree:
    r"""Return the average :math:`x` in :math:`y = \beta x + (1 - \beta) z`, in the dtypes of ``y``."""

    def leaf(y: Any, z: Any) -> Any:
        return (z + (y - z) / beta).astype(y.dtype)

    return jax.tree.map(leaf, y, z)


def move(y: Tree, z: Tree, updates: Tree, betas: tuple[Any, Any], share: Any) -> tuple[Tree, Tree]:
    r"""Move :math:`z` by ``updates``, draw the average after it, and return the update of :math:`y`, and :math:`z`.

    With :math:`d = x - z = (y - z) / \beta_0`, the differences are written out, so that no small number is the
    difference of large ones:

    .. math:: z' - z = u, \qquad x' - x = c\,(z' - x) = c\,(u - d), \qquad
        y' - y = \beta_1 (x' - x) + (1 - \beta_1)\,u + (\beta_1 - \beta_0)\,d

    Args:
      y: where the gradient was taken.
      z: the base optimizer's own weights.
      updates: :math:`u`, the base optimizer's step.
      betas: :math:`\beta_0`, with which ``y`` was made, and :math:`\beta_1` for the next.
      share: :math:`c`, the share of the new :math:`z` in the average.
    """
    old, new = betas

    def leaf(y: Any, z: Any, u: Any) -> Any:
        d = (y - z) / old
        return new * share * (u - d) + (1 - new) * u + (new - old) * d

    return jax.tree.map(leaf, y, z, updates), tree.add(z, updates)


def if_emitted(base_optimizer: Transform, u: Tree, updates: Tree, old: Any, new: Any) -> tuple[Tree, Any]:
    """Return ``updates`` and the ``new`` state, if the base optimizer emitted an update, else ``u`` as it is.

    What isn't 0 then, such as momentum behind an accumulation in a chain, moves both weights alike.
    """
    emitted = base_optimizer.emitted(old.base_optimizer_state, new.base_optimizer_state)
    rested = old._replace(base_optimizer_state=new.base_optimizer_state, z=new.z)
    return where(emitted, (updates, new), (u, rested))


class ScheduleFreeState(NamedTuple):
    """State of :func:`schedule_free`."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    b1: jax.Array
    """With which the present parameters were made."""
    weight_sum: jax.Array
    max_lr: jax.Array
    base_optimizer_state: Any
    z: Tree


@combinator
class schedule_free(Transform):
    r"""Make an optimizer schedule-free: averaging replaces learning-rate decay and momentum.

    The base optimizer moves :math:`z`; gradients are taken at the parameters :math:`y`; :math:`x` is the average, and
    what ``eval_params(tx, state, params)`` returns:

    .. math::
        z_{k+1} = z_k + u_k, \qquad x_{k+1} = (1 - c_k)\,x_k + c_k\,z_{k+1}, \qquad
        y_{k+1} = \beta_1 x_{k+1} + (1 - \beta_1)\,z_{k+1}

    .. math:: c_k = \frac{w_k}{w_1 + \dots + w_k}, \qquad w_k = k^r (\max_{i \le k} \eta_i)^p

    Only :math:`z` is stored: :math:`x` follows from it and from the parameters. If the learning rate is a schedule, it
    should only warm up. As in the paper, :math:`\eta_k` is the rate that the base optimizer's step has used; Optax
    evaluates a schedule one step later for the weight than for the step. With a constant rate the two agree. :math:`z`
    is float32 for half-precision parameters, where Optax's is in their dtype.

    In Optax, evaluation weights can be computed only from the transform's own state, not from that of a chain around
    it; :func:`eval_params` finds them at any depth.

    Make it the outermost transform, or the last: :math:`x` follows from the parameters only if its updates are applied
    unchanged. For parameters frozen by a later :func:`freeze`, the evaluation weights are the parameters; with a later
    constraint, such as :func:`project`, ``eval_params`` raises an error. Steps on which ``base_optimizer`` emits
    nothing (:func:`accumulate` between its rounds, guards) don't count.

    Args:
      base_optimizer: without momentum: ``sgd(rate)``, or Adam with ``b1=0``. It sees the parameters :math:`y`.
      learning_rate: the rate, or schedule, that ``base_optimizer`` has too; here it determines the weights of the
        average.
      b1: :math:`\beta_1` in (0, 1], or a schedule; the share of the average in the parameters.
      weight_lr_power: :math:`p \ge 0`; with 0, the weights don't depend on the rate.
      state_dtype: dtype of :math:`z`.
      r: :math:`r \ge 0`; the larger it is, the less early steps count in the average. 0 weighs all steps equally. Optax
        has no such argument.

    Reference: Defazio et al., *The Road Less Scheduled*, 2024, equations 3-5, algorithm 1; the authors' code for
    :math:`r`.
    """

    counted = frozenset({"z"})
    relies = True
    base_optimizer: Child
    learning_rate: NonNegative
    b1: Annotated[Any, WEIGHT] = 0.9
    weight_lr_power: NonNegative = 2.0
    state_dtype: DType | None = None
    r: NonNegative = 0.0

    def init(self, params: Tree) -> ScheduleFreeState:
        base = self.base_optimizer.init(params)
        count, dtype = jnp.zeros((), jnp.int32), scalar_dtype(params)
        b1 = jnp.array(self.number("b1", count, dtype), dtype, copy=True)
        z = copies(self.name, params, self.state_dtype)
        return ScheduleFreeState(count, b1, jnp.zeros((), dtype), jnp.zeros((), dtype), base, z)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, ScheduleFreeState._fields)
        y, dtype = wide(self, params), state.b1.dtype
        rate, b1, power, r = (
            self.number(name, state.count, dtype) for name in ("learning_rate", "b1", "weight_lr_power", "r")
        )
        u, base = self.base_optimizer.step(updates, state.base_optimizer_state, params, extra)
        max_lr = jnp.maximum(state.max_lr, rate)
        weight = max_lr**power * (state.count + 1).astype(dtype) ** r
        total = state.weight_sum + weight
        z = wide(self, tree.match(state.z, y, self.name, "the state's z", "params"))
        updates, z = move(y, z, u, (state.b1, b1), divide(weight, total))
        new = ScheduleFreeState(
            safe_increment(state.count), jnp.array(b1, dtype, copy=True), total, max_lr, base, stored(z, state.z)
        )
        return if_emitted(self.base_optimizer, u, updates, state, new)

    def eval_params(self, state: Any, params: Tree) -> Tree:
        check_plain(self.name, self.parts(state, params)[0])
        average = schedule_free_eval_params(state, params)
        return self.base_optimizer.constrained(average, state.base_optimizer_state, params)


@public
def schedule_free_eval_params(state: Any, params: Tree) -> Tree:
    r"""Return the average :math:`x = (y - (1 - \beta_1) z) / \beta_1` from the state of :func:`schedule_free` itself.

    :func:`eval_params` needs no knowledge of where in a chain that state is.

    Args:
      state: the state of :func:`schedule_free`, not of a chain around it.
      params: the current parameters :math:`y`.

    Raises:
      ValueError: if ``state`` is another transform's.
    """
    check_state("schedule_free_eval_params", state, ScheduleFreeState._fields)
    z = tree.match(state.z, params, "schedule_free_eval_params", "the state's z", "params")
    return average_in(params, z, state.b1)


class PrimalAveragingState(NamedTuple):
    """State of :func:`primal_averaging`."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    mu_y: jax.Array
    """With which the present parameters were made."""
    base_optimizer_state: Any
    z: Tree


@combinator
class primal_averaging(Transform):
    r"""Generalised primal averaging (GPA): a moving average of the weights, with gradients taken close to it.

    .. math::
        z_{k+1} = z_k + u_k, \qquad x_{k+1} = \mu_x x_k + (1 - \mu_x)\,z_{k+1}, \qquad
        y_{k+1} = \mu_y x_{k+1} + (1 - \mu_y)\,z_{k+1}

    The base optimizer, such as AdamW, moves :math:`z`; the parameters are :math:`y`; ``eval_params(tx, state, params)``
    is the average :math:`x`. It smooths :func:`outer_nesterov`: the average moves at every step instead of jumping
    every :math:`k`, with one more copy of the weights instead of two. And it is :func:`schedule_free` with an
    exponential average in place of a uniform one. Equal :math:`\mu_x` and :math:`\mu_y` are Nesterov's method.

    Args:
      base_optimizer: any optimizer, with its momentum and its schedule. It sees the parameters :math:`y`.
      mu_x: :math:`\mu_x` in [0, 1), or a schedule. To imitate an outer momentum :math:`\mu` every :math:`k` steps, take
        :math:`\mu^{1/k}`.
      mu_y: :math:`\mu_y` in (0, 1], or a schedule.
      state_dtype: dtype of :math:`z`; by default the parameters', at least float32.

    Reference: Defazio et al., *Smoothing DiLoCo with Primal Averaging for Faster Training of LLMs*, 2025.
    """

    relies = True
    base_optimizer: Child
    mu_x: Decay = 0.995
    mu_y: Annotated[Any, WEIGHT] = 0.9
    state_dtype: DType | None = None

    def init(self, params: Tree) -> PrimalAveragingState:
        base = self.base_optimizer.init(params)
        count, dtype = jnp.zeros((), jnp.int32), scalar_dtype(params)
        mu_y = jnp.array(self.number("mu_y", count, dtype), dtype, copy=True)
        return PrimalAveragingState(count, mu_y, base, copies(self.name, params, self.state_dtype))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, PrimalAveragingState._fields)
        y, dtype = wide(self, params), state.mu_y.dtype
        mu_x, mu_y = (self.number(name, state.count, dtype) for name in ("mu_x", "mu_y"))
        u, base = self.base_optimizer.step(updates, state.base_optimizer_state, params, extra)
        z = wide(self, tree.match(state.z, y, self.name, "the state's z", "params"))
        updates, z = move(y, z, u, (state.mu_y, mu_y), 1 - mu_x)
        new = PrimalAveragingState(
            safe_increment(state.count), jnp.array(mu_y, dtype, copy=True), base, stored(z, state.z)
        )
        return if_emitted(self.base_optimizer, u, updates, state, new)

    def eval_params(self, state: Any, params: Tree) -> Tree:
        check_plain(self.name, self.parts(state, params)[0])
        z = tree.match(state.z, params, self.name, "the state's z", "params")
        return self.base_optimizer.constrained(average_in(params, z, state.mu_y), state.base_optimizer_state, params)


class ScheduleFreePlusState(NamedTuple):
    """State of :func:`schedule_free_plus`."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    b1: jax.Array
    """With which the present parameters were made."""
    weight_sum: jax.Array
    max_lr: jax.Array
    norm: jax.Array
    """The moving average of the gradients' norms, not corrected for its start at zero."""
    norm_weight: jax.Array
    """The sum of the weights in it."""
    base_optimizer_state: Any
    z: Tree


@combinator
class schedule_free_plus(Transform):
    r"""Schedule-Free+: :func:`schedule_free` with a learning rate that follows from the loss.

    .. math::
        \gamma_k = \eta\,\frac{\max(f(y_k) + \langle g_k, z_k - y_k\rangle, 0)}{\sqrt{\pi/2}\;\bar n_k}, \qquad
        \bar n_k = \text{average of } \|g_k\|_1

    .. math::
        z_{k+1} = z_k + \gamma_k u_k - \gamma_k^2 \lambda\,y_k, \qquad x_{k+1} = (1 - c_k)\,x_k + c_k z_{k+1}, \qquad
        y_{k+1} = \beta_1 x_{k+1} + (1 - \beta_1)\,z_{k+1}

    Gradients are taken at the parameters :math:`y`, and ``eval_params(tx, state, params)`` returns :math:`x`. The
    numerator is the loss at :math:`z`, to first order, above a minimum of 0: the rate is Polyak's, in the norm that
    belongs to sign descent, of which Adam is a smooth form. For :math:`n` normally distributed entries,
    :math:`\sqrt{\pi/2}\,\|g\|_1` is :math:`\sqrt n\,\|g\|_2`. In the weights of the average, :math:`\gamma_k` takes
    the place of the rate:

    .. math:: c_k = \frac{w_k}{\sum_{k_0 \le i \le k} w_i}, \qquad w_k = (k + 1)^r (\max_{i \le k} \gamma_i)^p

    with :math:`c_k = 1` before :math:`k_0`. Weight decay goes with the square of the rate (as in AdamC, where it is
    the rate times its share of the largest one), so that values of 20 to 50 are usual.

    The loss is an extra argument, ``update(grads, state, params, value=loss)``, and must be that of the batch that the
    gradients come from; no earlier stage may rescale these. A loss that may be negative needs a constant added. A zero
    gradient makes no step.

    The authors' implementation multiplies :math:`z - x` by the present :math:`\beta_1`, while :math:`y` was made with
    the last one; that differs from the above only while :math:`\beta_1` changes. It also feeds the corrected average of
    the norms back into the average (for ``norm_decay`` above 0), which isn't done here.

    Make it the outermost transform, or the last, as :func:`schedule_free`, whose remarks hold here, too.

    Args:
      base_optimizer: a direction downhill, such as ``chain(scale_by_adam(0.9, 0.95), scale(-1.0))``, with momentum if
        you like. It sees the parameters :math:`y`, and its updates are multiplied by the rate.
      learning_rate: :math:`\eta \ge 0`, the factor of Polyak's rate: 1, or a schedule that rises to 1.
      b1: :math:`\beta_1` in (0, 1], or a schedule. The authors raise it to 0.965 in long runs, along ``1 -
        exponential_decay(0.1, steps, 0.35, end_value=0.035)``.
      weight_decay: :math:`\lambda \ge 0`, or a schedule.
      mask: which parameters to decay, see :func:`add_decayed_weights`.
      norm_decay: decay of :math:`\bar n`, which is corrected for its start at zero; with 0 it is the present norm.
      start: :math:`k_0`, the number of updates before averaging starts: once or twice the length of the warm-up.
      weight_lr_power: :math:`p \ge 0`.
      r: :math:`r \ge 0`; 2 may be better for long runs.
      state_dtype: dtype of :math:`z`; by default the parameters', at least float32.

    Raises:
      ValueError: if ``base_optimizer`` accumulates gradients: only the last one's loss would be known.

    Example:
      >>> rate = linear_schedule(0.0, 1.0, 500)
      >>> base = chain(scale_by_adam(0.9, 0.95), scale(-1.0))
      >>> tx = schedule_free_plus(base, rate, weight_decay=20.0, start=1000)

    References:
      Defazio, *Why Gradients Rapidly Increase Near the End of Training*, 2025 (decay by the squared rate).
      ``AdamCScheduleFreePlusPaper`` in the repository *facebookresearch/schedule_free*, 2026.
    """

    counted = frozenset({"z"})
    relies = True
    base_optimizer: Child
    learning_rate: NonNegative = 1.0
    b1: Annotated[Any, WEIGHT] = 0.9
    weight_decay: NonNegative = 0.0
    mask: TermMask | None = None
    norm_decay: Decay = 0.0
    start: Whole = 0
    weight_lr_power: NonNegative = 2.0
    r: NonNegative = 0.0
    state_dtype: DType | None = None

    def checked(self) -> Self:
        check_own_gradients(self.name, self.base_optimizer)
        return self

    def init(self, params: Tree) -> ScheduleFreePlusState:
        base, count, dtype = self.base_optimizer.init(params), jnp.zeros((), jnp.int32), scalar_dtype(params)
        b1 = jnp.array(self.number("b1", count, dtype), dtype, copy=True)
        weight_sum, max_lr, norm, norm_weight = (jnp.zeros((), dtype) for _ in range(4))
        z = copies(self.name, params, self.state_dtype)
        return ScheduleFreePlusState(count, b1, weight_sum, max_lr, norm, norm_weight, base, z)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, ScheduleFreePlusState._fields)
        y, dtype = wide(self, params), state.b1.dtype
        now = {name: self.number(name, state.count, dtype) for name in self.settings()}
        loss = jnp.asarray(demand_number(self.name, extra, "value"), dtype)
        u, base = self.base_optimizer.step(updates, state.base_optimizer_state, params, extra)
        emitted = self.base_optimizer.emitted(state.base_optimizer_state, base)
        loss, g = where(emitted, (loss, widened(updates)), (jnp.zeros_like(loss), tree.zeros_like(widened(updates))))
        z = wide(self, tree.match(state.z, y, self.name, "the state's z", "params"))
        t = (state.count + 1).astype(dtype)
        norm = ema(state.norm, tree.norm(g, 1).astype(dtype), now["norm_decay"])
        norm_weight = sum_of_weights(state.norm_weight, now["norm_decay"], t)
        gap = jnp.maximum(loss + jnp.real(tree.vdot(g, tree.sub(z, y))).astype(dtype), 0)
        rate = now["learning_rate"] * divide(gap, math.sqrt(math.pi / 2) * norm / norm_weight)
        max_lr, averages = jnp.maximum(state.max_lr, rate), state.count >= now["start"]
        total = state.weight_sum + jnp.where(averages, weight := max_lr ** now["weight_lr_power"] * t ** now["r"], 0)
        step = tree.sub(tree.scale(rate, u), self._decayed(y, rate**2 * now["weight_decay"]))
        step = where(emitted, step, u)
        share = jnp.where(averages, divide(weight, total), 1)
        moved, z = move(y, z, step, (state.b1, now["b1"]), share)
        count, b1 = safe_increment(state.count), jnp.array(now["b1"], dtype, copy=True)
        new = ScheduleFreePlusState(count, b1, total, max_lr, norm, norm_weight, base, stored(z, state.z))
        return if_emitted(self.base_optimizer, u, moved, state, new)

    def _decayed(self, y: Tree, strength: Any) -> Tree:
        """Return the multiple of the weights that decay takes away, 0 where the mask is False."""
        leaves, treedef = tree.flatten_optional(y)
        mask = TermMaskKind().resolve(f"{self.name}: mask", self.mask, y)
        pairs = zip(leaves, mask, strict=True)
        return treedef.unflatten([w if w is None else strength * w if on else jnp.zeros_like(w) for w, on in pairs])

    def eval_params(self, state: Any, params: Tree) -> Tree:
        check_plain(self.name, self.parts(state, params)[0])
        z = tree.match(state.z, params, self.name, "the state's z", "params")
        return self.base_optimizer.constrained(average_in(params, z, state.b1), state.base_optimizer_state, params)
