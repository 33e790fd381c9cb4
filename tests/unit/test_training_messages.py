"""What training says of mistakes: in the caller's words, with what to write instead."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain import training
from gradchain.arguments import described, shown

DATA = {"x": np.arange(8, dtype=np.float32)}
W = np.float32(0)


def loss_fn(w, batch):
    return jnp.mean((w - batch["x"]) ** 2)


fit = functools.partial(training.fit, loss_fn, W, gc.sgd(0.1), DATA, epochs=1, batch_size=4)
EXPLORE = {"learning_rate": training.LogUniform(1e-3, 1.0)}
ENTRIES = {
    "fit": lambda tx, data, params=W: training.fit(loss_fn, params, tx, data, epochs=1, batch_size=4),
    "sweep": lambda tx, data, params=W: training.sweep(loss_fn, params, tx, data, epochs=1, batch_size=4),
    "successive_halving": lambda tx, data, params=W: training.successive_halving(
        loss_fn, params, tx, data, epochs=1, batch_size=4
    ),
    "hyperband": lambda tx, data, params=W: training.hyperband(loss_fn, params, tx, data, epochs=1, batch_size=4),
    "population_based_training": lambda tx, data, params=W: training.population_based_training(
        loss_fn, params, tx, data, explore=EXPLORE, epochs=1, batch_size=4
    ),
    "scan_epoch": lambda tx, data, params=W: training.scan_epoch(loss_fn, params, tx, (), data, 0, batch_size=4),
}
RATES = gc.sgd(jnp.array([0.1, 0.2]))


class Loader:
    """Batches as other libraries hand them out: neither an array nor a pytree."""

    def __iter__(self):
        yield DATA


class Indexed:
    def __getitem__(self, i):
        return DATA

    def __len__(self):
        return 2


BATCHES = {
    "list": lambda: [DATA, DATA],
    "list of pairs": lambda: [(DATA["x"], DATA["x"]), (DATA["x"][:3], DATA["x"][:3])],
    "iterator": lambda: iter([DATA, DATA]),
    "generator": lambda: (batch for batch in [DATA]),
    "loader": Loader,
    "indexed": Indexed,
    "function": lambda: lambda: iter([DATA]),
    "inside": lambda: {"x": iter([DATA["x"]])},
}


@pytest.mark.parametrize("name", BATCHES)
def test_batches_in_the_place_of_arrays_are_sent_to_fit_and_make_step(name):
    message = r"(?s)^data: .*for training.fit .*training.make_step\(loss_fn, tx\).*for batch in batches"
    with pytest.raises(TypeError, match=message):
        ENTRIES["scan_epoch"](RATES, BATCHES[name]())


def test_iterators_inside_a_tree_are_no_stream():
    with pytest.raises(TypeError, match=r"(?s)^data: \['x'\] is a list_iterator.*for training.fit .*make_step"):
        ENTRIES["fit"](RATES, BATCHES["inside"]())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("indexed", "data: an Indexed of 2 gives single examples|data: .*gives single examples"),
        ("function", "must take one argument, the epoch's number"),
    ],
)
def test_what_is_no_stream_either_is_named(name, message):
    for entry in ("fit", "sweep", "successive_halving"):
        with pytest.raises(TypeError, match=message):
            ENTRIES[entry](RATES, BATCHES[name]())


@pytest.mark.parametrize("name", ["fit", "sweep", "successive_halving", "scan_epoch"])
@pytest.mark.parametrize("batches", [(DATA, DATA), [DATA["x"], DATA["x"]]], ids=["tuple", "list of arrays"])
def test_what_may_be_batches_is_sent_to_fit_and_make_step_where_the_loss_fails_on_it(name, batches):
    with pytest.raises(TypeError, match=r"(?s)indices must be integers.* was given a (tuple|list) of 2.*make_step"):
        ENTRIES[name](RATES, batches)


def test_an_error_of_the_loss_function_is_its_own():
    def broken(w, xy):
        raise KeyError("mine")

    with pytest.raises(KeyError, match=r"^'mine'"):
        training.fit(broken, W, gc.sgd(0.1), (DATA["x"], DATA["x"]), epochs=1, batch_size=4)


def test_a_step_from_whole_numbers_says_how_they_are_written():
    tx = gc.sgd(0.1)
    for step in (training.make_step(loss_fn, tx), lambda *args: training.train_step(loss_fn, args[0], tx, *args[1:])):
        with pytest.raises(TypeError, match=r"int32, expected a floating-point.*write -4\.0 for -4"):
            step(jnp.array(3), tx.init(W), DATA)


def test_validation_batch_by_batch_is_put_together():
    with pytest.raises(TypeError, match=r"validation data: .*np.concatenate"):
        training.sweep(loss_fn, W, RATES, DATA, epochs=1, batch_size=4, validation=[DATA, DATA])
    with pytest.raises(TypeError, match="data: got a list_iterator"):
        training.evaluate(loss_fn, W, iter([DATA]))


def test_arrays_of_another_library_are_converted_and_lists_of_arrays_are_data():
    class Frame:
        def __array__(self, dtype=None, copy=None):
            return DATA["x"]

    with pytest.raises(
        TypeError, match=r"\['x'\] is a Frame, expected an array of numbers; convert it with np.asarray"
    ):
        training.fit(loss_fn, W, gc.sgd(0.1), {"x": Frame()}, epochs=1, batch_size=4)
    pair = [DATA["x"], DATA["x"]]
    result = training.fit(lambda w, xy: jnp.mean(w * xy[0] - xy[1]), W, gc.sgd(0.1), pair, epochs=1, batch_size=4)
    assert np.isfinite(result.params)


@pytest.mark.parametrize("name", sorted(ENTRIES.keys() - {"fit", "scan_epoch", "sweep"}))
def test_several_optimizers_are_searched_one_by_one(name):
    optimizers = [RATES, gc.adam(jnp.array([0.1, 0.2]))]
    with pytest.raises(TypeError, match=rf"(?s)^{name}: .*list of 2.*results = \[{name}\(.* for tx in optimizers\]"):
        ENTRIES[name](optimizers, DATA)
    by_name = dict(zip("ab", optimizers, strict=True))
    with pytest.raises(TypeError, match=rf"(?s)dict of 2.*{{name: {name}\(.* for name, tx in optimizers.items\(\)}}"):
        ENTRIES[name](by_name, DATA)


@pytest.mark.parametrize(
    "tx", [RATES, gc.adam(0.1, b1=jnp.array([0.8, 0.9])), gc.sgd(gc.cosine_decay_schedule(jnp.array([0.1, 0.2]), 9))]
)
def test_a_batch_of_numbers_is_for_a_sweep(tx):
    step = training.make_step(loss_fn, tx)
    for call in (lambda: ENTRIES["fit"](tx, DATA), lambda: step(jnp.zeros(()), tx.init(W), DATA)):
        with pytest.raises(ValueError, match=r"holds a batch of shape \(2,\).*training.sweep"):
            call()
    with pytest.raises(ValueError, match=r"training\.sweep"):
        training.trace_path(lambda w: w**2, 1.0, tx, 1)


@pytest.mark.parametrize("stopping", [3, 3.0, "val_loss", True])
def test_early_stopping_is_an_object(stopping):
    with pytest.raises(TypeError, match=r"must be an EarlyStopping, got .*early_stopping=EarlyStopping\(patience=3\)"):
        fit(early_stopping=stopping)


@pytest.mark.parametrize(
    ("result", "has_aux", "message"),
    [
        (lambda w: w, True, r"a pair \(loss, aux\), got one number of float32"),
        (lambda w: {"loss": w}, True, r"a pair \(loss, aux\), got a dict"),
        (lambda w: (w, w, w), True, r"a pair \(loss, aux\), got a tuple of 3"),
        (lambda w: None, False, "one real number, got None"),
        (lambda w: {"loss": w}, False, "one real number, got a dict"),
        (lambda w: [w], False, "one real number, got a list of 1"),
        (lambda w: (w > 0).sum(), False, "one real number, got one number of int32; return a floating-point number"),
        (
            lambda w: w * jnp.ones((2, 1)),
            False,
            r"one real number, got an array of shape \(2, 1\) of float32; take",
        ),
    ],
)
def test_what_a_loss_function_returned_is_described_in_the_callers_words(result, has_aux, message):
    for call in (training.fit, training.sweep):
        tx = RATES if call is training.sweep else gc.sgd(0.1)
        with pytest.raises(TypeError, match=f"loss_fn must return {message}") as error:
            call(lambda w, batch: result(w), W, tx, DATA, epochs=1, batch_size=4, has_aux=has_aux)
        assert "Tracer" not in str(error.value)


def test_what_is_traced_is_described_where_a_message_shows_a_value():
    for call in (
        lambda x: training.evaluate(loss_fn, W, DATA, batch_size=x),
        lambda x: training.trace_path(lambda w: w**2, 1.0, gc.sgd(0.1), x),
        lambda x: training.halving_rungs(x, 3),
    ):
        with pytest.raises(ValueError, match=r"whole number, at least ., got one number of int32"):
            jax.jit(call)(3)
    with pytest.raises(ValueError, match="key must be whole numbers or PRNG keys, at least one, got one number of fl"):
        jax.jit(lambda key: training.evaluate(loss_fn, W, DATA, key=key))(0.5)


MODELS = [
    ({"a": np.array([-4, 2])}, r"\['a'\] is an array of shape \(2,\) of int64, expected .*write -4.0 for -4"),
    ({"a": -4}, r"\['a'\] is -4, expected .*write -4.0 for -4.*astype\(float\)"),
    ({"a": np.array([True])}, r"\['a'\] is an array of shape \(1,\) of bool, expected .*leave out of params what"),
    ({"a": 3, "f": jax.nn.relu}, r"\['a'\] is 3, expected .*eqx.partition"),
    ({"a": 0.5, "f": jax.nn.relu}, r"\['f'\] is the function relu, expected .*eqx.partition"),
    ({"a": 0.5, "f": "tanh"}, r"\['f'\] is 'tanh', expected .*eqx.partition"),
]


class Uninitialised:
    """A model as Flax and Haiku have them: what makes parameters, and what uses them."""

    def init(self, key, x):
        return {}

    def apply(self, params, x):
        return x


@pytest.mark.parametrize(
    ("params", "message"), [*MODELS, (Uninitialised(), r"is an Uninitialised, expected .*model.init\(key, x\)")]
)
def test_parameters_that_can_not_be_trained_are_answered_with_what_fits_them(params, message):
    for call in (ENTRIES["fit"], ENTRIES["sweep"], ENTRIES["scan_epoch"]):
        with pytest.raises(TypeError, match=f"params .*{message}") as error:
            call(RATES, DATA, params)
        assert ("eqx" in str(error.value)) == ("eqx" in message)
    with pytest.raises(TypeError, match=f"start .*{message}"):
        training.trace_path(lambda w: w["a"], params, gc.sgd(0.1), 1)


def test_values_are_described():
    assert described(np.float32(1)) == "one number of float32"
    assert described((1, 2)) == "a tuple of 2"
    assert described(object()) == "an object"
    assert shown([1, 2.5]) == "[1, 2.5]"


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (
            lambda w, x, y: 0.0,
            {},
            r"loss_fn\(params, batch\), but takes \(w, x, y\): missing .*'y'; takes_key=True hands",
        ),
        (lambda w, batch, key: 0.0, {}, r"loss_fn\(params, batch\), .* missing .*'key'; takes_key=True hands in a key"),
        (loss_fn, {"takes_key": True}, r"loss_fn\(params, batch, key\), .* too many .*; leave out takes_key=True"),
    ],
)
def test_a_loss_that_takes_other_arguments_is_told_its_own(loss, options, message):
    for data, size in ((DATA, 4), ([DATA], None)):
        with pytest.raises(TypeError, match=f"^loss_fn is called as {message}"):
            training.fit(loss, W, gc.sgd(0.1), data, epochs=1, batch_size=size, **options)


def test_a_type_error_inside_a_loss_is_its_own():
    def broken(w, batch):
        return len(3)

    with pytest.raises(TypeError, match="has no len"):
        training.fit(broken, W, gc.sgd(0.1), DATA, epochs=1, batch_size=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_divergence": "raise"}, "fit: on_divergence must be 'stop' or 'continue', got 'raise'"),
        ({"remainder": "droplast"}, "remainder must be one of drop, keep, wrap, pad, got 'droplast'"),
        (
            {"early_stopping": training.EarlyStopping(monitor="val_loss")},
            "EarlyStopping: monitor='val_loss' needs validation data",
        ),
    ],
)
def test_what_fit_does_not_know_is_refused_before_training(options, message):
    with pytest.raises(ValueError, match=message):
        training.fit(None, W, gc.sgd(0.1), [DATA], epochs=1, **options)


def test_nothing_to_train_is_an_error():
    for name in ("fit", "sweep", "scan_epoch"):
        with pytest.raises(TypeError, match="params has no arrays: there is nothing to train"):
            ENTRIES[name](RATES if name == "sweep" else gc.sgd(0.1), DATA, params={})


def test_a_tuple_of_batches_is_told_to_be_a_list():
    with pytest.raises(
        ValueError, match=r"data in arrays need a batch_size; batches are handed in as a list: \[\*data\]"
    ):
        training.fit(loss_fn, W, gc.sgd(0.1), (DATA, DATA), epochs=1)


@pytest.mark.parametrize("run", [training.fit, training.sweep])
def test_a_mesh_is_one_of_jax(run):
    with pytest.raises(TypeError, match=r"mesh must be a jax.sharding.Mesh, .* got 3"):
        run(loss_fn, W, gc.sgd(0.1), DATA, epochs=1, batch_size=2, mesh=3)
