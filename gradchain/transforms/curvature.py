"""Division by an estimate of the Hessian's diagonal that is updated every few steps."""

import operator
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gradchain import tree
from gradchain.core.combinator import combinator
from gradchain.core.foreign import Child
from gradchain.core.hyper import Count, Decay, DType, Key, NonNegative
from gradchain.core.rule import Rule, elementwise, treewise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.transform import Part, Transform, check_state
from gradchain.core.value import Integer
from gradchain.matrices.refreshing import due, refresh
from gradchain.numerics import by_parts, clamp, divide, ema
from gradchain.transforms.noise import sample_parts
from gradchain.tree import Tree


@treewise(param=True, random=True, extra=("value_fn",))
def hutchinson_estimator_diag_hessian(updates: Tree, slot: Slots, at: At, random_seed: Key = 0):
    r"""Estimate the diagonal of the objective's Hessian: :math:`u = r \odot \nabla^2 f(w)\,r`, with random signs r.

    The estimate is unbiased, and exact if the Hessian is diagonal. One estimate takes about as long as two gradients.
    The incoming updates are ignored; ``update`` needs the parameters and ``value_fn``, a function from parameters (here
    in at least float32) to the loss on the current batch: ``tx.update(grads, state, params, value_fn=lambda p: loss(p,
    batch))``. The training loops pass it; Optax's name for it, ``obj_fn``, is accepted too. The real and imaginary
    parts of complex parameters count as two variables.

    Args:
      random_seed: an integer seed or a PRNG key. An array of seeds or keys makes a batch of transforms.

    References:
      Hutchinson, *A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian Smoothing Splines*, 1990.
      Liu et al., *Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training*, 2024,
      algorithm 1 (with normal numbers in place of signs).
    """
    signs = tree.random_like(at.key, at.param, sample_parts(jax.random.rademacher))
    _, product = jax.jvp(jax.grad(at.value_fn), (at.param,), (signs,))
    return jax.tree.map(lambda r, h: by_parts(operator.mul, r, jnp.conj(h)), signs, product)


@elementwise(slots={"mu": Slot(dtype="mu_dtype"), "nu": Slot()}, debiased=("b1",))
def sophia_direction(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay,
    eps: NonNegative,
    gamma: NonNegative,
    clip_threshold: NonNegative | None,
    mu_dtype: DType | None,
):
    """Return Sophia's update from the curvatures in ``nu``, which stay as they are; see ``scale_by_sophia``."""
    mu = ema(slot.mu, g, b1)
    scaled = by_parts(lambda m, h: divide(m, jnp.maximum(gamma * h, eps), eps == 0), mu / at.weight_sum("b1"), slot.nu)
    return scaled if clip_threshold is None else clamp(scaled, clip_threshold), slot(mu=mu, nu=slot.nu)


HUTCHINSON = hutchinson_estimator_diag_hessian()


class SophiaState(NamedTuple):
    """State of :func:`scale_by_sophia`."""

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    weight_sums: dict[str, Array]
    mu: Any
    nu: Any
    hessian_fn_state: Any


@combinator
class scale_by_sophia(Transform):
    r"""Divide the averaged gradient by a curvature that is estimated every few steps, and clip the result.

    .. math::
        \mu_k = \beta_1 \mu_{k-1} + (1 - \beta_1)\,g_k, \qquad
        u_k = \mathrm{clip}\left(\frac{\mu_k / (1 - \beta_1^k)}{\max(\gamma\,\nu_{k-1}, \epsilon)}, \pm c\right) \\
        \nu_k = \beta_2 \nu_{k-1} + (1 - \beta_2)\,h_k \text{ if } k - 1 \text{ is a multiple of the interval, else }
        \nu_{k-1}

    :math:`h` is what ``hessian_diagonal_fn`` returns. Where the curvature is negative or not yet known, as on the first
    update, :math:`u` is about :math:`c` times the gradient's sign. As in Optax, and unlike in the paper, :math:`\mu` is
    bias-corrected, and an estimate is used from the next update on. Real and imaginary parts are treated separately.

    The estimate is computed only when it is due (by ``lax.cond`` under ``jit``). Where ``vmap`` maps over states with
    counts of their own, or over a batch of intervals, it is computed on every update; the result is the same.

    Args:
      b1: :math:`\beta_1` in [0, 1).
      b2: :math:`\beta_2` in [0, 1), decay from one estimate to the next.
      eps: :math:`\epsilon \ge 0`, a lower bound; it isn't added.
      gamma: :math:`\gamma \ge 0`; the paper aims for 10 to 50 % of the elements unclipped: raise it if there are fewer.
      clip_threshold: :math:`c \ge 0`; ``None`` doesn't clip.
      update_interval: number of updates from one estimate to the next.
      hessian_diagonal_fn: a transform that turns gradients into estimates of the Hessian's diagonal. It receives the
        parameters and all extra arguments of ``update``; the default estimator needs ``value_fn``. For data-parallel
        training it must average over devices.
      mu_dtype: dtype of the stored average of gradients; by default the parameter's, and at least float32.
      verbose: print the fraction of elements that were not clipped.
      print_win_rate_every_n_steps: how often to print it; 0 means never.

    Reference: Liu et al., *Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training*, 2024,
    algorithm 3.
    """

    counted = frozenset({"mu"})
    b1: Decay = 0.965
    b2: Decay = 0.99
    eps: NonNegative = 1e-8
    gamma: NonNegative = 0.01
    clip_threshold: NonNegative | None = 1.0
    update_interval: Count = 10
    hessian_diagonal_fn: Child = HUTCHINSON
    mu_dtype: DType | None = None
    verbose: bool = False
    print_win_rate_every_n_steps: Annotated[int, Integer()] = 0

    @property
    def direction(self) -> Rule:
        """Return the rule that makes the update."""
        return sophia_direction(self.b1, self.eps, self.gamma, self.clip_threshold, self.mu_dtype)

    def init(self, params: Tree) -> SophiaState:
        own = self.direction.init(params)
        return SophiaState(own.count, own.weight_sums, own.mu, own.nu, self.hessian_diagonal_fn.init(params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, SophiaState._fields)
        direction = self.direction
        new_updates, moments = direction.step(updates, direction.State(*state[:4]), params, extra)
        nu, estimator = self._curvature(updates, state, params, extra)
        if self.verbose and self.print_win_rate_every_n_steps and self.clip_threshold is not None:
            self._report(new_updates, state.count)
        return new_updates, SophiaState(moments.count, moments.weight_sums, moments.mu, nu, estimator)

    def _curvature(self, updates: Tree, state: SophiaState, params: Tree | None, extra: dict[str, Any]) -> Any:
        """Return the curvatures for the next update and the estimator's state: new ones at every interval."""
        interval = self.number("update_interval", state.count)
        b2 = self.number("b2", state.count)

        def estimate(nu: Tree, estimator: Any) -> tuple[Tree, Any]:
            diagonal, estimator = self.hessian_diagonal_fn.step(updates, estimator, params, extra)
            return tree.update_moment(diagonal, nu, b2, order=1), estimator

        kept = state.nu, state.hessian_fn_state
        return refresh(due(state.count, interval), lambda: estimate(*kept), kept)

    def _report(self, updates: Tree, count: Any) -> None:
        """Print, every so often, the share of numbers that the clipping left alone."""
        threshold = self.number("clip_threshold", count)
        free = tree.sum(jax.tree.map(lambda u: jnp.abs(u) < threshold, updates))
        every = self.print_win_rate_every_n_steps

        def show(count: Any, rate: Any) -> None:
            if count % every == 0:
                print(f"Sophia optimizer win rate: {rate}")

        jax.debug.callback(show, count + 1, free / max(tree.size(updates), 1))

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        own = None if state is None else state.hessian_fn_state
        return [Part("", self.hessian_diagonal_fn, own, params)]
