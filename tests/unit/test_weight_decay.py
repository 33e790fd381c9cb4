"""Weight decay as an argument of optimizers, and masks that say which parameters it is for."""

import jax
import jax.numpy as jnp
import pytest

import gradchain as gc
from tests import trees
from tests.registry.row import MASK

RATE = gc.scale_by_learning_rate(0.1)
DECAY = gc.add_decayed_weights(0.3, MASK)
DECOUPLED = {
    gc.amsgrad: [gc.scale_by_amsgrad()],
    gc.yogi: [gc.scale_by_yogi()],
    gc.radam: [gc.scale_by_radam()],
    gc.adagrad: [gc.scale_by_rss()],
    gc.rmsprop: [gc.scale_by_rms(0.9)],
    gc.sm3: [gc.scale_by_sm3()],
    gc.sign_sgd: [gc.scale_by_sign()],
    gc.signum: [gc.ema(0.9, False), gc.scale_by_sign()],
    gc.adopt: [gc.scale_by_adopt()],
}
PARAMS = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "scale": jnp.ones(())}


@pytest.mark.parametrize("optimizer", DECOUPLED, ids=lambda optimizer: optimizer.__name__)
def test_weight_decay_of_an_adaptive_optimizer_comes_after_the_scaling(optimizer):
    tx = optimizer(0.1, weight_decay=0.3, mask=MASK)
    assert [stage for stage in tx.stages if stage != gc.identity()] == [*DECOUPLED[optimizer], DECAY, RATE]


def test_sgds_weight_decay_comes_before_the_momentum_as_in_pytorch():
    assert gc.sgd(0.1, 0.9, weight_decay=0.3, mask=MASK) == gc.chain(DECAY, gc.trace(0.9), RATE)


def test_the_trace_of_rmsprop_collects_decayed_steps():
    stages = gc.chain(gc.scale_by_rms(0.9, 1e-10, 1.0), DECAY, RATE, gc.trace(0.9))
    assert gc.rmsprop_tf(0.1, momentum=0.9, weight_decay=0.3, mask=MASK) == stages


def test_masks_reach_the_weight_decay_of_the_optimizers_that_had_no_mask():
    assert DECAY in gc.madgrad(0.1, weight_decay=0.3, mask=MASK).stages
    assert DECAY in gc.rmsprop_torch(0.1, weight_decay=0.3, mask=MASK).stages
    assert DECAY in gc.schedule_free_sgd(0.1, weight_decay=0.3, mask=MASK).base_optimizer.stages
    assert DECAY in gc.schedule_free_adamw(0.1, weight_decay=0.3, mask=MASK).base_optimizer.stages
    rule = gc.scale_by_novograd(0.9, 0.25, 1e-6, weight_decay=0.3, weight_decay_mask=MASK)
    assert gc.novograd(0.1, weight_decay=0.3, mask=MASK) == gc.chain(rule, RATE)


@pytest.mark.parametrize("optimizer", [gc.sgd, *DECOUPLED], ids=lambda optimizer: optimizer.__name__)
def test_without_weight_decay_there_is_no_stage_for_it_and_no_need_of_parameters(optimizer):
    tx = optimizer(0.1)
    assert not any(stage.name == "add_decayed_weights" for stage in tx.stages)
    tx.update(PARAMS, tx.init(PARAMS))


MASKS = {
    "a tree": MASK,
    "a prefix": {"bias": False, "kernel": True, "scale": False},
    "patterns": gc.by_path([("kernel", True)], default=False),
    "a function": lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("name", ["scale_by_novograd", "scale_by_prodigy"])
def test_a_mask_for_one_term_is_given_like_any_other_mask(name, mask):
    def move(decay, mask):
        tx = getattr(gc, name)(weight_decay=decay, weight_decay_mask=mask)
        return tx.update(PARAMS, tx.init(PARAMS), PARAMS)[0]

    plain, masked, everywhere = move(0.0, None), move(0.5, mask), move(0.5, None)
    for path in PARAMS:
        like = everywhere if path == "kernel" else plain
        assert jnp.array_equal(masked[path], like[path])
        assert not jnp.array_equal(everywhere[path], plain[path])


def test_a_mask_for_one_term_must_fit_the_parameters():
    for rule in (gc.scale_by_novograd, gc.scale_by_prodigy):
        tx = rule(weight_decay=0.1, weight_decay_mask={"kernel": True})
        with pytest.raises(ValueError, match=r"weight_decay_mask must be a prefix of the parameters: .*\['bias'\]"):
            tx.init(PARAMS)
        with pytest.raises(TypeError, match=r"weight_decay_mask must be a tree of bools .* found 'yes'"):
            rule(weight_decay_mask={"kernel": "yes"})


def test_a_treewise_rule_gets_the_tree_of_a_mask_with_none_where_nothing_is():
    seen = []

    @gc.treewise()
    def look(g, slot, at, on: gc.TermMask | None = None):
        seen.append(on)
        return g

    params = {"a": jnp.ones(2), "b": None, "c": jnp.ones(3)}
    for tx in (look(), look({"a": False, "b": True, "c": True})):
        tx.update(params, tx.init(params), params)
    assert seen == [{"a": True, "b": None, "c": True}, {"a": False, "b": None, "c": True}]


def test_momo_with_a_mask_steps_to_the_lower_bound_of_its_linear_model():
    # The loss is <d, y>: after a step with a large bound on its size, the model of it is at the lower bound.
    d = {"kernel": jnp.full((2, 2), 0.5), "bias": jnp.array([1.0, -2.0]), "scale": jnp.array(0.3)}

    def loss(w):
        return sum(jnp.vdot(d[n], w[n]) for n in w)

    tx = gc.momo(1e3, lower_bound=-1.0, weight_decay=1e-3, mask=MASK)
    updates, _ = tx.update(d, tx.init(PARAMS), PARAMS, value=loss(PARAMS))
    assert loss(gc.apply_updates(PARAMS, updates)) == pytest.approx(-1.0, abs=1e-5)


def test_adamc_at_its_peak_rate_is_adamw():
    params, gradients = trees.standard(), trees.stream(2)
    ours, theirs = gc.adamc(0.1, 0.1, weight_decay=0.3), gc.adamw(0.1, weight_decay=0.3)
    state, other = ours.init(params), theirs.init(params)
    for k in range(2):
        updates, state = ours.update(trees.at(gradients, k), state, params)
        expected, other = theirs.update(trees.at(gradients, k), other, params)
        trees.assert_close(updates, expected, 1e-6)


def test_the_corrected_decay_follows_the_rate_however_it_is_set():
    """By a schedule, by name, or in the state: the decay falls with its square, by one number."""
    w, g = jnp.array([2.0]), jnp.zeros(1)
    half = gc.descend_with_corrected_decay(0.1, 0.2, weight_decay=0.3)
    injected = gc.inject_hyperparams(gc.descend_with_corrected_decay)(0.2, 0.2, weight_decay=0.3)
    changed = injected.init(w)
    changed.hyperparams["learning_rate"] = jnp.asarray(0.1)
    for tx, state in (
        (half, half.init(w)),
        (half.replace(learning_rate=gc.constant_schedule(0.1)), half.init(w)),
        (gc.set_hyperparams(half.replace(learning_rate=0.2), {"learning_rate": 0.1}), half.init(w)),
        (injected, changed),
    ):
        trees.assert_close(tx.update(g, state, w)[0], -0.1 * 0.5 * 0.3 * w, 1e-6)
