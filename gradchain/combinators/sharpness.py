"""Sharpness-aware minimisation: descend along the gradient taken at the worst point nearby."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradchain import tree
from gradchain.combinators._weights import copies, stored, wide
from gradchain.core.extra import demand_function
from gradchain.core.foreign import Child
from gradchain.core.hyper import Count
from gradchain.core.transform import Part, Transform, apply_updates, both, check_state
from gradchain.core.value import register
from gradchain.numerics import safe_increment
from gradchain.signatures import public
from gradchain.tree import Tree


class SAMState(NamedTuple):
    """State of :func:`sam` in its alternating form."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    steps_since_sync: jax.Array
    opt_state: Any
    adv_state: Any
    cache: Tree
    """The weights that the climb began at."""


@register
class SAM(Transform):
    """What both forms of :func:`sam` share."""

    optimizer: Child
    adv_optimizer: Child
    sync_period: Count = 2
    reset_state: bool = True

    def constrained(self, weights: Tree, state: Any, params: Tree, relying: str = "") -> Tree:
        return self.optimizer.constrained(weights, state.opt_state, params, relying)

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        opt_state, adv_state = (None, None) if state is None else (state.opt_state, state.adv_state)
        return [Part("", self.optimizer, opt_state, params), Part("adversary", self.adv_optimizer, adv_state, params)]


@register
class AlternatingSAM(SAM):
    """See :func:`sam`."""

    name = "sam"

    def init(self, params: Tree) -> SAMState:
        states = self.optimizer.init(params), self.adv_optimizer.init(params)
        counters = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return SAMState(*counters, *states, copies(self.name, params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, SAMState._fields)
        here, home = wide(self, params), self._home(state, wide(self, params))
        last = state.steps_since_sync + 1 >= self.number("sync_period", state.count, jnp.float32)
        climb, adv_state = self.adv_optimizer.step(updates, state.adv_state, params, extra)
        at_home = tree.cast_like(home, params)
        descent, opt_state = self.optimizer.step(updates, state.opt_state, at_home, extra)
        rested = self.adv_optimizer.init(at_home) if self.reset_state else state.adv_state
        back = tree.sub(home, here)
        return tree.where(last, tree.add(back, descent), jax.tree.map(jnp.negative, climb)), SAMState(
            safe_increment(state.count),
            jnp.where(last, 0, state.steps_since_sync + 1),
            tree.where(last, opt_state, state.opt_state),
            tree.where(last, rested, adv_state),
            stored(home, state.cache),
        )

    def _home(self, state: SAMState, params: Tree) -> Tree:
        """Return the weights that the climb began at: ``params`` on its first step."""
        cache = tree.match(state.cache, params, self.name, "the state's cache", "params")
        return tree.where(state.steps_since_sync == 0, params, cache)

    def eval_params(self, state: Any, params: Tree) -> Tree:
        home = tree.cast_like(self._home(state, params), params)
        return self.optimizer.eval_params(state.opt_state, home)

    @property
    def skips(self) -> bool:
        return True

    def emitted(self, before: Any, after: Any) -> Any:
        return both(after.steps_since_sync == 0, self.optimizer.emitted(before.opt_state, after.opt_state))


def gradient_of(value_fn: Callable[[Tree], Any]) -> Callable[[Tree, int], Tree]:
    """Return the gradient of a loss as a function of the parameters and of a climb's step."""
    return lambda params, i: jax.tree.map(jnp.conj, jax.grad(value_fn)(params))


class OpaqueSAMState(NamedTuple):
    """State of :func:`sam` with ``opaque_mode=True``."""

    opt_state: Any
    adv_state: Any


@register
class OpaqueSAM(SAM):
    """See :func:`sam`."""

    name = "sam"
    sync_period: int = 2  # static: the number of gradients that one update takes
    opaque_mode: bool = True
    batch_axis_name: str | None = None

    def _grad_fn(self, extra: dict[str, Any]) -> Callable[[Tree, int], Tree]:
        if extra.get("grad_fn") is None and extra.get("value_fn") is not None:
            return gradient_of(demand_function(self.name, extra, "value_fn"))
        return demand_function(self.name, extra, "grad_fn")

    def init(self, params: Tree) -> OpaqueSAMState:
        return OpaqueSAMState(self.optimizer.init(params), self.adv_optimizer.init(params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, OpaqueSAMState._fields)
        here, adv_state = wide(self, params), state.adv_state
        grad_fn = self._grad_fn(extra)
        for i in range(self.sync_period - 1):
            climb, adv_state = self.adv_optimizer.step(updates, adv_state, here, extra)
            here = apply_updates(here, jax.tree.map(jnp.negative, climb))
            updates = grad_fn(here, i)
            if self.batch_axis_name is not None:
                updates = lax.pmean(updates, self.batch_axis_name)
        if self.reset_state:
            adv_state = self.adv_optimizer.init(params)
        updates, opt_state = self.optimizer.step(updates, state.opt_state, params, extra)
        return updates, OpaqueSAMState(opt_state, adv_state)

    @property
    def skips(self) -> bool:
        return self.optimizer.skips

    def emitted(self, before: Any, after: Any) -> Any:
        return self.optimizer.emitted(before.opt_state, after.opt_state)


@public
def sam(
    optimizer: Child,
    adv_optimizer: Child,
    sync_period: Count = 2,
    reset_state: bool = True,
    opaque_mode: bool = False,
    batch_axis_name: str | None = None,
) -> Transform:
    r"""Sharpness-aware minimisation: climb to a worse point nearby, and descend with the gradient found there.

    With one ascent step (``sync_period=2``), on the right with the usual
    ``adv_optimizer = chain(normalize_by_update_norm(eps=0.0), sgd(rho))``:

    .. math:: \hat w = w - \mathrm{adv}(\nabla f(w)) = w + \rho\,\frac{\nabla f(w)}{\|\nabla f(w)\|}, \qquad
        w \leftarrow w + \mathrm{opt}(\nabla f(\hat w))

    There are two forms. In the alternating form, each update is one step, up or down: the training loop needs no
    change, two gradients make one step of ``optimizer``, and ``eval_params(tx, state, params)`` returns the weights
    :math:`w`, even during the ascent. In opaque mode each update does both, and is given the gradient function for the
    ascent: ``tx.update(gradient, state, params, grad_fn=lambda params, i: ...)``, where ``i`` is the index of the
    ascent step, and ``params`` the point reached, in at least float32: in bfloat16 a short step would be rounded away.
    Without ``grad_fn`` it is the gradient of ``value_fn``, the loss as a function of the parameters, which the training
    loops pass. Choose opaque mode if a training step has other effects, such as updating batch statistics.

    Unlike Optax's, the alternating form is correct for ``sync_period=1`` (Optax steps from the weights of the step
    before), and outcomes are selected, not weighted by 0 and 1, so that infinities in the unused one do no harm.
    Optax's ``contrib.normalize`` is 0/0 for a zero gradient; :func:`normalize_by_update_norm` is 0.

    Args:
      optimizer: takes the descent step from the original point. Its schedules count these steps.
      adv_optimizer: takes the ascent steps; its updates are negated. Its hyperparameters are listed under
        ``adversary``.
      sync_period: gradients for each step of ``optimizer``; a schedule or array only in the alternating form.
      reset_state: reinitialise ``adv_optimizer`` after each step of ``optimizer``.
      opaque_mode: use the opaque form; the alternating one by default.
      batch_axis_name: in opaque mode, the mapped axis over which to average the gradients of the ascent.

    Raises:
      ValueError: at the update, if ``grad_fn`` and ``value_fn`` are missing in opaque mode.

    Reference: Foret et al., *Sharpness-Aware Minimization for Efficiently Improving Generalization*, 2021, algorithm 1.
    """
    fields = optimizer, adv_optimizer, sync_period, reset_state
    if not opaque_mode:
        return AlternatingSAM.new(*fields)
    if not isinstance(sync_period, int) or sync_period < 1:
        raise ValueError(f"sam: in opaque mode sync_period must be a Python int, at least 1, got {sync_period!r}")
    return OpaqueSAM.new(*fields, opaque_mode, batch_axis_name)
