"""Batches from PyTorch's ``DataLoader``, from Grain, and from files that are larger than the device may hold."""

import functools
import itertools
import pathlib
import re

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import gradchain as gc
from gradchain.losses import softmax_cross_entropy_with_integer_labels
from gradchain.training import EarlyStopping, Steps, fit

pytestmark = pytest.mark.accept

EXAMPLES, SIZE, EPOCHS = 600, 64, 3


@functools.cache
def digits():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return np.float32(images[:EXAMPLES] / 16), np.int32(labels[:EXAMPLES])


def loss_fn(params, batch, weights=None):
    x, y = batch
    logits = jnp.tanh(x @ params["hidden"]) @ params["out"]
    return jnp.average(softmax_cross_entropy_with_integer_labels(logits, y), weights=weights)


def start():
    first, second = jax.random.split(jax.random.key(0))
    return {"hidden": 0.1 * jax.random.normal(first, (64, 16)), "out": 0.1 * jax.random.normal(second, (16, 10))}


def trained(data, **options):
    options = {"epochs": EPOCHS, "steps_per_call": 4} | options
    return fit(loss_fn, start(), gc.adam(0.01), data, **options)


def a_list():
    x, y = digits()
    return [(x[i : i + SIZE], y[i : i + SIZE]) for i in range(0, EXAMPLES, SIZE)]


def a_data_loader(**options):
    x, y = digits()
    return DataLoader(TensorDataset(torch.tensor(x), torch.tensor(y)), SIZE, **options)


def a_grain_data_set(seed=None):
    x, y = digits()
    examples = grain.MapDataset.source(range(EXAMPLES))
    examples = examples if seed is None else examples.shuffle(seed)
    return examples.map(lambda i: (x[i], y[i])).batch(SIZE)


def a_grain_loader():
    x, y = digits()

    class Source:
        def __len__(self):
            return EXAMPLES

        def __getitem__(self, i):
            return x[i], y[i]

        def __repr__(self):
            """Return what Grain tells a data set by, when it resumes."""
            return "digits"

    sampler = grain.samplers.SequentialSampler(EXAMPLES)
    return grain.DataLoader(data_source=Source(), sampler=sampler, operations=[grain.transforms.Batch(SIZE)])


def a_generator(epoch):
    yield from a_list()


SOURCES = {
    "a list": a_list,
    "DataLoader": a_data_loader,
    "Grain's data set": a_grain_data_set,
    "Grain's iterated data set": lambda: a_grain_data_set().to_iter_dataset(),
    "Grain's data loader": a_grain_loader,
    "a function of the epoch": lambda: a_generator,
    "a function that returns a DataLoader": lambda: lambda epoch: a_data_loader(),
}


@pytest.mark.parametrize("remainder", ["drop", "keep", "pad"])
def test_every_source_gives_the_trajectory_of_arrays(remainder):
    whole = trained(digits(), batch_size=SIZE, shuffle=False, remainder=remainder)
    for name, source in SOURCES.items():
        streamed = trained(source(), remainder=remainder)
        for path, x in whole.params.items():
            np.testing.assert_allclose(streamed.params[path], x, rtol=1e-4, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(streamed.history.step_loss, whole.history.step_loss, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(
            streamed.history.columns["loss"], whole.history.columns["loss"], rtol=1e-5, err_msg=name
        )


def shuffled_loader(epoch):
    return a_data_loader(shuffle=True, generator=torch.Generator().manual_seed(epoch))


RESUMABLE = {
    "DataLoader with the epoch's seed": lambda: shuffled_loader,
    "Grain with the epoch's seed": lambda: lambda epoch: a_grain_data_set(epoch),
    "Grain's data loader": a_grain_loader,
}


def same_bits(result, other):
    for path, x in result.params.items():
        np.testing.assert_array_equal(other.params[path], x)
    np.testing.assert_array_equal(other.history.step_loss, result.history.step_loss)


@pytest.mark.parametrize("source", RESUMABLE.values(), ids=RESUMABLE)
def test_a_stopped_run_goes_on_at_the_same_batch(source, tmp_path):
    whole = trained(source(), steps=20, epochs=None)
    options = {"epochs": None, "checkpoint": tmp_path, "checkpoint_every": Steps(3)}
    trained(source(), steps=7, **options)
    same_bits(whole, trained(source(), steps=20, **options))


def test_a_loader_without_a_seed_is_noticed(tmp_path):
    options = {"epochs": None, "checkpoint": tmp_path}
    trained(a_data_loader(shuffle=True), steps=7, **options)
    with pytest.raises(ValueError, match="its first batch isn't what it was"):
        trained(a_data_loader(shuffle=True), steps=20, **options)


def test_the_number_of_steps_of_a_data_loader_is_known():
    seen = []

    def tx(total_steps):
        seen.append(total_steps)
        return gc.adam(gc.cosine_decay_schedule(0.01, total_steps))

    for remainder, steps in (("drop", EPOCHS * (EXAMPLES // SIZE)), ("keep", EPOCHS * -(-EXAMPLES // SIZE))):
        result = fit(loss_fn, start(), tx, a_data_loader(), epochs=EPOCHS, remainder=remainder)
        assert result.steps_done == seen[-1] == steps


def test_files_larger_than_the_device_may_hold_are_trained_on_in_the_same_order(tmp_path):
    """Of 100 MB, 5 may lie on the device; what does, is counted while the run is under way."""
    n, width, budget = 25_000, 1_000, 5_000_000
    rng = np.random.default_rng(0)
    file = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (n, width))
    for i in range(0, n, 1000):
        file[i : i + 1000] = rng.normal(size=(1000, width))
    file.flush()
    data = {"x": np.load(tmp_path / "x.npy", mmap_mode="r"), "y": np.float32(np.arange(n) % 7)}
    on_device = []

    def count(epoch, row, params, state):
        on_device.append(sum(x.nbytes for x in jax.live_arrays()))

    def loss(params, batch):
        return jnp.mean((batch["x"] @ params - batch["y"]) ** 2)

    train = functools.partial(fit, loss, jnp.zeros(width), gc.sgd(1e-3), batch_size=100, epochs=2, seed=3)
    before = sum(x.nbytes for x in jax.live_arrays())
    streamed = train(data, steps_per_call=4, device_memory=budget, validate_every=Steps(50), on_epoch=count)
    assert len(on_device) == 10
    assert max(on_device) - before < budget
    whole = train(jax.tree.map(np.asarray, {"x": np.array(data["x"]), "y": data["y"]}))
    np.testing.assert_allclose(streamed.params, whole.params, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(streamed.history.step_loss, whole.history.step_loss, rtol=1e-5)


def test_the_page_on_data_runs():
    """With its blocks for libraries that the other tests of pages lack."""
    page = (pathlib.Path(__file__).parents[2] / "docs" / "data.md").read_text()
    blocks = re.findall(r"^```py(?:thon)?\n(.*?)^```$", page, re.M | re.S)
    assert sum("import torch" in block or "import grain" in block for block in blocks) == 2
    exec(compile("\n".join(blocks), "data.md", "exec"), {})


def test_early_stopping_and_an_endless_stream():
    stream = itertools.cycle(a_list())
    stopping = EarlyStopping(patience=1, tolerance=10.0)
    result = trained(stream, epochs=None, steps=60, validate_every=10, early_stopping=stopping, remainder="keep")
    assert result.stopped == "early"
    assert result.steps_done == 20
