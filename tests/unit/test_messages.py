"""Wrong calls as newcomers from PyTorch, Keras and Optax write them, and the words that lead them to the right one."""

import jax
import jax.numpy as jnp
import pytest

import gradchain as gc
from gradchain import losses, training

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}
GRADS = jax.tree.map(lambda x: x + 0.5, PARAMS)
TX = gc.adam(1e-3)
STATE = TX.init(PARAMS)
PAIR = (GRADS, STATE)
RATE = gc.cosine_decay_schedule(0.1, 100)
DATA = {"x": jnp.arange(8.0)}


def loss_fn(w, batch):
    return jnp.mean((w - batch["x"]) ** 2)


KEYWORDS = [
    (lambda: gc.sgd(lr=0.1), "sgd", "lr", "learning_rate"),
    (lambda: gc.sgd(step_size=0.1), "sgd", "step_size", "learning_rate"),
    (lambda: gc.sgd(0.1, nestrov=True), "sgd", "nestrov", "nesterov"),
    (lambda: gc.noisy_sgd(0.1, weight_decay=1e-4), "noisy_sgd", "weight_decay", "add_decayed_weights"),
    (lambda: gc.adam(1e-3, betas=(0.9, 0.99)), "adam", "betas", "'b1' and 'b2'"),
    (lambda: gc.adam(1e-3, beta_1=0.9), "adam", "beta_1", "'b1'"),
    (lambda: gc.adam(1e-3, beta2=0.9), "adam", "beta2", "'b2'"),
    (lambda: gc.adam(1e-3, epsilon=1e-7), "adam", "epsilon", "'eps'"),
    (lambda: gc.adam(1e-3, weight_decay=0.1), "adam", "weight_decay", "adamw"),
    (lambda: gc.adam(1e-3, amsgrad=True), "adam", "amsgrad", r"amsgrad\(learning_rate\)"),
    (lambda: gc.adam(1e-3, clipnorm=1.0), "adam", "clipnorm", "clip_by_global_norm"),
    (lambda: gc.adam(1e-3, clipvalue=1.0), "adam", "clipvalue", r"clip\(1.0\)"),
    (lambda: gc.adam(1e-3, use_ema=True), "adam", "use_ema", "average_params"),
    (lambda: gc.adam(1e-3, gradient_accumulation_steps=4), "adam", "gradient_accumulation_steps", "accumulate"),
    (lambda: gc.adam(PARAMS, params=PARAMS), "adam", "params", r"tx.init\(params\)"),
    (lambda: gc.adamw(1e-3, wd=0.1), "adamw", "wd", "weight_decay"),
    (lambda: gc.adamw(1e-3, weight_decay_mask=True), "adamw", "weight_decay_mask", "mask"),
    (lambda: gc.rmsprop(0.1, alpha=0.99), "rmsprop", "alpha", "'decay'"),
    (lambda: gc.rmsprop(0.1, rho=0.99), "rmsprop", "rho", "'decay'"),
    (lambda: gc.adadelta(0.1, decay=0.9), "adadelta", "decay", "'rho'"),
    (lambda: gc.lion(1e-4, beta1=0.9), "lion", "beta1", "'b1'"),
    (lambda: gc.prodigy(betas=(0.9, 0.99), beta_3=0.9), "prodigy", "beta_3", "'beta3'"),
    (lambda: gc.trace(momentum=0.9), "trace", "momentum", "'decay'"),
    (lambda: gc.trace(0.9, nesterovs=True), "trace", "nesterovs", "'nesterov'"),
    (lambda: gc.ema(momentum=0.9), "ema", "momentum", "'decay'"),
    (lambda: gc.clip_by_global_norm(clip_norm=1.0), "clip_by_global_norm", "clip_norm", "'max_norm'"),
    (lambda: gc.clip(max_value=1.0), "clip", "max_value", "'max_delta'"),
    (lambda: gc.add_decayed_weights(wd=0.1), "add_decayed_weights", "wd", "'weight_decay'"),
    (lambda: gc.exponential_decay(0.1, 10, gamma=0.9), "exponential_decay", "gamma", "'decay_rate'"),
    (lambda: gc.exponential_decay(lr=0.1), "exponential_decay", "lr", "'init_value'"),
    (lambda: gc.cosine_decay_schedule(0.1, T_max=10), "cosine_decay_schedule", "T_max", "'decay_steps'"),
    (lambda: gc.cosine_decay_schedule(0.1, steps=10), "cosine_decay_schedule", "steps", "'decay_steps'"),
    (lambda: gc.linear_schedule(0.1, 0.0, steps=10), "linear_schedule", "steps", "'transition_steps'"),
    (lambda: gc.linear_schedule(0.1, end_lr=0.0), "linear_schedule", "end_lr", "'end_value'"),
    (
        lambda: gc.warmup_cosine_decay_schedule(0.0, 0.1, warmup=3),
        "warmup_cosine_decay_schedule",
        "warmup",
        "'warmup_steps'",
    ),
    (lambda: gc.join_schedules([0.1, 0.2], milestones=[5]), "join_schedules", "milestones", "'boundaries'"),
    (lambda: gc.accumulate(TX, k=4), "accumulate", "k", "'every'"),
    (lambda: gc.lookahead(TX, k=5), "lookahead", "k", "'sync_period'"),
    (lambda: gc.partition({"a": TX}, labels="a"), "partition", "labels", "'param_labels'"),
    (lambda: gc.masked(tx=TX, mask=True), "masked", "tx", "'inner'"),
    (lambda: gc.inject_hyperparams(factory=gc.adam), "inject_hyperparams", "factory", "'inner_factory'"),
    (lambda: gc.masked(optimizer=TX, mask=True), "masked", "optimizer", "'inner'"),
    (lambda: gc.average_params(TX, momentum=0.9), "average_params", "momentum", "'decay'"),
    (lambda: gc.schedules.schedule(init_value=1.0), "schedule", "init_value", "signature"),
    (lambda: losses.squared_error(y_pred=1.0, y_true=0.0), "squared_error", "y_pred", "'predictions'"),
    (lambda: losses.squared_error(1.0, target=0.0), "squared_error", "target", "'targets'"),
    (lambda: losses.squared_error(1.0, 0.0, reduction="mean"), "squared_error", "reduction", "mean"),
    (lambda: losses.huber_loss(1.0, 0.0, beta=1.0), "huber_loss", "beta", "'delta'"),
    (lambda: losses.softmax_cross_entropy(input=1.0), "softmax_cross_entropy", "input", "'logits'"),
    (lambda: losses.softmax_cross_entropy(1.0, y_true=1.0), "softmax_cross_entropy", "y_true", "'labels'"),
    (
        lambda: losses.softmax_cross_entropy(1.0, 1.0, label_smoothing=0.1),
        "softmax_cross_entropy",
        "label_smoothing",
        "smooth_labels",
    ),
    (lambda: training.fit(loss_fn, 0.0, TX, DATA, num_epochs=1), "fit", "num_epochs", "'epochs'"),
    (lambda: training.fit(loss_fn, 0.0, TX, DATA, validation_data=DATA), "fit", "validation_data", "'validation'"),
    (lambda: training.fit(loss_fn, 0.0, TX, DATA, verbose=1), "fit", "verbose", "'progress'"),
    (lambda: training.fit(loss_fn, 0.0, TX, DATA, patience=3), "fit", "patience", r"EarlyStopping\(patience=3"),
    (lambda: training.sweep(loss_fn, 0.0, TX, DATA, monitor="loss"), "sweep", "monitor", "'select'"),
    (lambda: training.sweep(loss_fn, 0.0, TX, DATA, bs=4), "sweep", "bs", "'batch_size'"),
    (lambda: training.make_step(loss=loss_fn, tx=TX), "make_step", "loss", "'loss_fn'"),
    (lambda: gc.inject_hyperparams(gc.adam)(lr=0.1), r"inject_hyperparams\(adam\)", "lr", "'learning_rate'"),
    (lambda: gc.elementwise(slot=("mu",)), "elementwise", "slot", "'slots'"),
]


@pytest.mark.parametrize(("call", "where", "word", "right"), KEYWORDS)
def test_a_usual_keyword_leads_to_the_right_one(call, where, word, right):
    with pytest.raises(TypeError, match=rf"^{where} has no argument '{word}'; .*{right}"):
        call()


CALLS = [
    # names
    (lambda: gc.Adam, AttributeError, "no attribute 'Adam'; did you mean 'adam'"),
    (lambda: gc.SGD, AttributeError, "did you mean 'sgd'"),
    (lambda: gc.RMSprop, AttributeError, "did you mean 'rmsprop'"),
    (lambda: gc.apply_update, AttributeError, "did you mean 'apply_updates'"),
    (lambda: gc.multi_transform, AttributeError, "did you mean 'partition'"),
    (lambda: gc.MultiSteps, AttributeError, "did you mean 'accumulate'"),
    (lambda: gc.CosineAnnealingLR, AttributeError, "did you mean 'cosine_decay_schedule'"),
    (lambda: gc.clip_grad_norm_, AttributeError, "did you mean 'clip_by_global_norm'"),
    (lambda: gc.schedules.StepLR, AttributeError, "did you mean 'exponential_decay'"),
    (lambda: losses.MSELoss, AttributeError, r"module 'gradchain\.losses' has .*did you mean 'squared_error'"),
    (lambda: losses.CrossEntropyLoss, AttributeError, "did you mean 'softmax_cross_entropy_with_integer_labels'"),
    (lambda: losses.binary_crossentropy, AttributeError, "did you mean 'sigmoid_binary_cross_entropy'"),
    (lambda: losses.hubber_loss, AttributeError, "did you mean 'huber_loss'"),
    (lambda: losses.no_such_loss, AttributeError, "has no attribute 'no_such_loss'$"),
    (lambda: TX.replace(lr=0.1), ValueError, r"'lr' is unknown; did you mean 'learning_rate'\? Known are: scale_by"),
    (lambda: gc.set_hyperparams(TX, {"beta1": 0.1}), ValueError, "'beta1' is unknown; did you mean 'b1'"),
    (lambda: gc.from_config({"name": "adam", "lr": 0.1}), ValueError, "lr: adam has no .*did you mean 'learning_rate'"),
    (lambda: gc.from_config({"name": "AdamW"}), ValueError, "no public constructor 'AdamW'; did you mean 'adamw'"),
    (lambda: RATE.with_fields(steps=3), ValueError, "has no field 'steps'; did you mean 'decay_steps'"),
    # attributes of other libraries' optimizers
    (lambda: TX.learning_rate, AttributeError, r"chain has no attribute 'learning_rate'; .*hyperparams\(tx\)"),
    (lambda: TX.zero_grad(), AttributeError, "chain has no attribute 'zero_grad'; gradients are values"),
    (lambda: TX.apply_gradients(GRADS), AttributeError, r"tx\.update\(grads, state, params\)"),
    (lambda: gc.clip(1.0).no_such_thing, AttributeError, "^clip has no attribute 'no_such_thing'$"),
    # functions, lists, numbers, parameters and schedules in the place of transforms
    (lambda: gc.chain(gc.adam), TypeError, r"got the function adam; call it to get one: adam\(\.\.\.\)"),
    (lambda: gc.chain(TX, gc.clip), TypeError, r"got the function clip; call it to get one: clip\(\.\.\.\)"),
    (lambda: gc.chain([gc.clip(1.0), gc.scale(2.0)]), TypeError, r"chain\(first, second, \.\.\.\)"),
    (lambda: gc.chain(TX, 0.1), TypeError, r"got 0\.1; scale\(factor\)"),
    (lambda: gc.chain(lambda updates: updates), TypeError, r"got the function <lambda>; .*stateless\(f\)"),
    (lambda: gc.chain(RATE), TypeError, r"scale_by_learning_rate\(schedule\)"),
    (lambda: gc.chain(gc.Transform), TypeError, "got the class Transform; call it to get one"),
    (lambda: gc.masked(gc.adam, True), TypeError, "got the function adam"),
    (lambda: gc.partition({"a": gc.adam}, "a"), TypeError, "got the function adam"),
    (lambda: gc.named_chain(("a", gc.adam)), TypeError, "got the function adam"),
    (lambda: gc.parallel(gc.adam, merge=gc.graft), TypeError, "got the function adam"),
    (lambda: gc.accumulate(gc.adam, 4), TypeError, "got the function adam"),
    (lambda: gc.hyperparams(gc.adam), TypeError, "got the function adam"),
    (lambda: gc.set_hyperparams(gc.adam, {}), TypeError, "got the function adam"),
    (lambda: gc.batch_axes(gc.adam), TypeError, "got the function adam"),
    (lambda: gc.hyperparams(PARAMS), TypeError, "expected a transform"),
    (lambda: training.make_step(loss_fn, gc.adam), TypeError, "got the function adam"),
    (lambda: gc.inject_hyperparams(TX), TypeError, r"such as adam and not adam\(0\.1\).*hyperparams_in_state\(tx\)"),
    (lambda: gc.stateless(TX), TypeError, "stateless: f can't be a transform"),
    # numbers
    (lambda: gc.adam(PARAMS), TypeError, r"learning_rate must be a number.*parameters go to tx\.init\(params\)"),
    (lambda: gc.adam(TX), TypeError, r"learning_rate must be a number.*; chain\(\.\.\.\) puts transforms together"),
    (lambda: gc.adam(gc.adam), TypeError, r"learning_rate must be .*got the function adam; call it: adam\(\.\.\.\)"),
    (lambda: gc.sgd(gc.cosine_decay_schedule), TypeError, "got the function cosine_decay_schedule; call it"),
    (lambda: gc.scale(gc.clip), TypeError, "got the function clip; call it"),
    (lambda: gc.sgd(0.1, momentum=gc.Transform), TypeError, "got the class Transform; call it"),
    # flags: PyTorch's SGD has dampening third
    (lambda: gc.sgd(0.1, 0.9, 0.9), TypeError, r"trace: nesterov must be True or False, got 0\.9"),
    (lambda: gc.adam(1e-3, nesterov="yes"), TypeError, "scale_by_adam: nesterov must be True or False, got 'yes'"),
    (lambda: gc.trace(0.9).replace(nesterov=1), TypeError, "trace: nesterov must be True or False, got 1"),
    (lambda: gc.exponential_decay(0.1, 10, 0.9, staircase=2), TypeError, "staircase must be True or False, got 2"),
    # what rules declare
    (lambda: gc.elementwise(3), TypeError, "^@elementwise: slots is a sequence of names, got 3"),
    (lambda: gc.treewise(TX), TypeError, "^@treewise: slots is a sequence of names, got chain"),
    (lambda: gc.leafwise(extra=(1,)), TypeError, r"^@leafwise: extra is a sequence of names, got \(1,\)"),
    # static whole numbers
    (lambda: gc.galore(0.1, rank=None), TypeError, "scale_by_galore: rank must be a whole number, got None"),
    (lambda: gc.muon(0.1, momentum=0.95), TypeError, r"momentum must be one of .*, got 0\.95; its decay is beta=0\.95"),
    (lambda: gc.muon(0.1, ns_steps=2.5), TypeError, r"scale_by_muon: ns_steps must be a whole number, got 2\.5"),
    (lambda: gc.mechanize(TX, num_betas=0), ValueError, "mechanize: num_betas must be at least 1, got 0"),
    (lambda: gc.adafactor(min_dim_size_to_factor=None), TypeError, "min_dim_size_to_factor must be a whole number"),
    (lambda: gc.sophia(0.1, print_win_rate_every_n_steps=None), TypeError, "must be a whole number, got None"),
    # merges
    (lambda: gc.graft(TX, gc.sgd(0.1)), TypeError, r"parallel\(first, second, merge=graft\)"),
    (lambda: gc.graft(TX, TX), TypeError, r"parallel\(first, second, merge=graft\)"),
    (lambda: gc.graft(gc.adam, gc.sgd), TypeError, r"parallel\(first, second, merge=graft\), got the function adam"),
    (lambda: gc.graft(GRADS, TX), TypeError, r"parallel\(first, second, merge=graft\)"),
    (lambda: gc.graft_global(TX, gc.sgd(0.1)), TypeError, r"parallel\(first, second, merge=graft_global\)"),
    (lambda: gc.graft({"w": 1.0}, GRADS), ValueError, r"direction has \['b'\], which magnitude lacks"),
    # arguments in each other's places
    (lambda: TX.update(GRADS, PARAMS), ValueError, r"the order is update\(updates, state, params\)"),
    (lambda: TX.update(GRADS, PARAMS, STATE), ValueError, r"the order is update\(updates, state, params\)"),
    (lambda: TX.update(STATE, GRADS, PARAMS), ValueError, r"the order is update\(updates, state, params\)"),
    (lambda: TX.update(STATE, GRADS), ValueError, r"the order is update\(updates, state, params\)"),
    (lambda: TX.update(GRADS, PAIR, PARAMS), ValueError, "state is a pair of updates and state.*unpack it"),
    (lambda: TX.update(PAIR, STATE, PARAMS), ValueError, "updates is a pair of updates and state.*unpack it"),
    (lambda: TX.update(GRADS, STATE, PAIR), ValueError, "params is a pair of updates and state.*unpack it"),
    (lambda: TX.update((1.0, GRADS), STATE, PARAMS), ValueError, "value_and_grad's .*pass the gradients alone"),
    (lambda: TX.update(GRADS, None, PARAMS), ValueError, r"the first state is tx\.init\(params\)"),
    (lambda: TX.update(GRADS, TX, PARAMS), ValueError, r"the first state is tx\.init\(params\)"),
    (lambda: TX.update(None, STATE, PARAMS), TypeError, "updates is None"),
    (lambda: gc.apply_updates(PARAMS, PAIR), ValueError, r"updates, state = tx\.update"),
    (lambda: gc.apply_updates(PARAMS, GRADS, STATE), TypeError, r"apply_updates\(params, updates\)"),
]


@pytest.mark.parametrize(("call", "error", "words"), CALLS)
def test_a_wrong_call_is_told_the_right_one(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert " at 0x" not in str(caught.value)


@pytest.mark.parametrize(
    ("gradients", "state", "params"),
    [({"w": GRADS["w"]}, STATE, PARAMS), (GRADS, gc.sgd(0.1).init(PARAMS), PARAMS), (GRADS, STATE, {"w": 1.0})],
)
def test_arguments_in_their_places_are_not_called_misplaced(gradients, state, params):
    with pytest.raises(ValueError, match=r"^(chain|scale_by_adam): ") as caught:
        TX.update(gradients, state, params)
    assert "order" not in str(caught.value)
    assert "pair" not in str(caught.value)


@pytest.mark.parametrize("around", [lambda tx: gc.store(tx, "bfloat16"), gc.hyperparams_in_state])
def test_a_state_of_two_fields_is_not_called_a_pair(around):
    tx = around(gc.adam(0.1))
    with pytest.raises(ValueError, match=r"updates has \['v'\], which params lacks$"):
        tx.update({"v": 1.0}, tx.init(PARAMS), PARAMS)


@pytest.mark.parametrize("route", [gc.masked, lambda tx, mask: gc.partition({"a": tx}, {"w": "a", "b": "a"})])
def test_updates_that_labels_do_not_fit_are_not_called_params(route):
    tx = route(gc.adam(0.1), {"w": True, "b": True})
    with pytest.raises(ValueError, match=r"has \['b'\], which updates lacks"):
        tx.update({"w": GRADS["w"]}, tx.init(PARAMS))


def test_gradients_of_a_transform_are_updates():
    """Transforms are trees of their numbers: what learns them is updated like any other parameters."""
    grads = jax.tree.map(jnp.ones_like, gc.adam(jnp.array(0.1)))
    merged = gc.graft(grads, jax.tree.map(lambda x: 3 * x, grads))
    assert float(merged.stages[0].b1) == pytest.approx(1.0)
