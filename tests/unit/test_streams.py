"""Streams of batches: what may be handed in, how smaller batches are treated, coming back to a position, the thread."""

import _thread
import contextlib
import functools
import json
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.training import fit, scan_epoch
from gradchain.training.budget import Epochs, Steps
from gradchain.training.data.positions import Position, from_plain, plain
from gradchain.training.data.streams import as_stream


def batch(number, size=4):
    return {"x": np.full((size, 2), number, np.float32), "y": np.arange(size) + 10 * number}


def batches(count=5, last=4):
    return [batch(i) for i in range(count - 1)] + [batch(count - 1, last)]


class Loader:
    """Iterated over anew in each epoch."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


class Counting:
    """An iterator with a state, which tells how many batches were drawn from it."""

    def __init__(self, items):
        self.items, self.at, self.drawn, self.closed = items, 0, 0, False

    def __iter__(self):
        return self

    def __next__(self):
        if self.at == len(self.items):
            raise StopIteration
        self.at, self.drawn = self.at + 1, self.drawn + 1
        return self.items[self.at - 1]

    def close(self):
        self.closed = True

    def get_state(self):
        return {"at": self.at}

    def set_state(self, state):
        self.at = state["at"]


def endless():
    for i in range(10**6):
        yield batch(i)


def taken(data, *limits, start=None, per_call=2, remainder="drop", batch_size=None, **options):
    """Return the blocks that a stream gives for some limits."""
    stream = as_stream(data, batch_size, remainder)
    with stream.feed(start or Position(), per_call, **options) as feed:
        return [feed.take(limit) for limit in limits]


def numbers(blocks):
    return [block.batches["x"][:, 0, 0].tolist() for block in blocks]


SOURCES = {
    "a list": lambda items: items,
    "a loader": Loader,
    "a function": lambda items: lambda epoch: iter(items),
    "a function that returns a list": lambda items: lambda epoch: items,
    "iterators with a state": lambda items: lambda epoch: Counting(items),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_blocks_follow_each_other_from_epoch_to_epoch(source):
    blocks = taken(source(batches()), *[None] * 5)
    assert numbers(blocks) == [[0, 1], [2, 3], [4], [0, 1], [2, 3]]
    assert [block.ends_epoch for block in blocks] == [False, False, True, False, False]
    assert [block.position[:2] for block in blocks] == [(0, 2), (0, 4), (1, 0), (1, 2), (1, 4)]
    assert [block.count for block in blocks] == [2, 2, 1, 2, 2]
    assert blocks[0].batches["y"].shape == (2, 4)
    assert blocks[0].sizes.tolist() == [4, 4]
    assert all(block.weights is None for block in blocks)


def test_a_function_is_told_the_number_of_the_epoch():
    blocks = taken(lambda epoch: [batch(10 * epoch + i) for i in range(2)], None, None, None, start=Position(3))
    assert numbers(blocks) == [[30, 31], [40, 41], [50, 51]]


def test_an_iterator_goes_on_for_as_many_steps_as_are_asked_for():
    assert numbers(taken(endless(), 5, 3, 1, left=Steps(5))) == [[0, 1], [2, 3], [4]]


def test_a_limit_cuts_blocks_whatever_was_foreseen():
    blocks = taken(endless(), 1, 7, 5, 1, 2, None, 4, per_call=4)
    assert numbers(blocks) == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9], [10, 11], [12, 13, 14, 15], [16, 17, 18, 19]]


def test_drop_leaves_smaller_batches_out():
    blocks = taken(batches(4, last=3), None, None, None)
    assert numbers(blocks) == [[0, 1], [2], [0, 1]]
    assert blocks[1].ends_epoch


def test_keep_makes_a_smaller_batch_a_block_of_its_own():
    blocks = taken(batches(4, last=3), None, None, None, remainder="keep", per_call=4)
    assert numbers(blocks) == [[0, 1, 2], [3], [0, 1, 2]]
    assert [block.sizes.tolist() for block in blocks] == [[4, 4, 4], [3], [4, 4, 4]]
    assert [block.ends_epoch for block in blocks] == [False, True, False]
    assert blocks[1].batches["x"].shape == (1, 3, 2)


def test_pad_repeats_the_last_example_with_weight_0():
    (block,) = taken(batches(2, last=3), None, remainder="pad")
    assert block.ends_epoch
    assert block.sizes.tolist() == [4, 3]
    assert block.batches["y"].tolist() == [[0, 1, 2, 3], [10, 11, 12, 12]]
    assert block.weights.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert block.weights.dtype == jnp.float32


def test_jax_arrays_and_keys_are_padded_and_stacked_on_the_device():
    def data(size):
        return {"x": jnp.arange(float(size)), "key": jax.random.split(jax.random.key(0), size)}

    (block,) = taken([data(3), data(2)], None, remainder="pad")
    assert block.batches["x"].tolist() == [[0, 1, 2], [0, 1, 1]]
    assert (block.batches["key"][0] == data(3)["key"]).all()


@pytest.mark.parametrize(
    ("source", "remainder", "count"),
    [
        (batches(5, last=3), "drop", 4),
        (batches(5, last=3), "keep", 5),
        (batches(5), "drop", 5),
        (Loader(batches()), "drop", None),
        (lambda epoch: batches(), "drop", None),
    ],
)
def test_the_number_of_steps_is_told_where_it_is_known(source, remainder, count):
    assert as_stream(source, None, remainder).per_epoch == count


@pytest.mark.parametrize(("drop_last", "count"), [(False, 3), (True, 4)])
def test_a_loader_whose_last_batch_is_smaller_says_so(drop_last, count):
    class TorchLike(Loader):
        batch_size, dataset = 4, range(13 if not drop_last else 16)

        def __len__(self):
            return 4

    loader = TorchLike(batches(4))
    loader.drop_last = drop_last
    assert as_stream(loader, None, "drop").per_epoch == count
    assert as_stream(loader, None, "keep").per_epoch == 4


@pytest.mark.parametrize(("examples", "count"), [(13, 3), (16, 4)])
def test_a_loader_that_draws_only_some_of_its_examples_counts_those(examples, count):
    class Sampler:
        batch_size, drop_last, sampler = 4, False, range(examples)

    class TorchLike(Loader):
        batch_sampler, dataset = Sampler(), range(14)

        def __len__(self):
            return 4

    assert as_stream(TorchLike(batches(4)), None, "drop").per_epoch == count


@pytest.mark.parametrize("remainder", ["drop", "keep", "pad"])
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_run_goes_on_from_every_position(source, remainder):
    """Whatever JSON keeps of it."""
    short = source(batches(5, last=3))
    whole = taken(short, *[None] * 7, per_call=1, remainder=remainder)
    for i, block in enumerate(whole[:-1]):
        start = Position(**json.loads(json.dumps(block.position._asdict())))
        (now,) = taken(short, None, start=start, per_call=1, remainder=remainder)
        assert now.position[:2] == whole[i + 1].position[:2]
        assert now.ends_epoch == whole[i + 1].ends_epoch
        assert now.sizes.tolist() == whole[i + 1].sizes.tolist()
        np.testing.assert_array_equal(now.batches["y"], whole[i + 1].batches["y"])


def test_an_iterator_that_has_a_state_is_set_to_it_and_skips_nothing():
    first = Counting(batches())
    (block,) = taken(first, 2, left=Steps(2))
    assert from_plain(block.position.iterator) == {"at": 2}
    again = Counting(batches())
    assert numbers(taken(again, 2, start=block.position, left=Steps(2))) == [[2, 3]]
    assert again.drawn == 2


def test_a_new_iterator_without_a_state_skips_what_was_taken_and_a_live_one_goes_on():
    source = endless()
    (block,) = taken(source, 2, left=Steps(2))
    assert numbers(taken(endless(), 2, start=block.position)) == [[2, 3]]
    assert numbers(taken(source, 2, start=Position(0, 2))) == [[2, 3]]


def test_data_in_another_order_are_noticed_where_batches_are_skipped():
    (block,) = taken(batches(), None)
    with pytest.raises(ValueError, match=r"its first batch isn't what it was.*with the epoch as the seed"):
        taken(batches()[::-1], None, start=block.position)


def test_other_examples_than_before_are_listed():
    (block,) = taken(batches(), None)
    other = [{"x": x["x"][:, :1], "y": x["y"]} for x in batches()]
    with pytest.raises(ValueError, match=r"\['x'\]: float32 of shape \(2,\) before, float32 of shape \(1,\) now"):
        taken(other, None, start=block.position)


def test_a_pass_that_has_become_shorter_is_an_error():
    (block,) = taken(batches(), None, per_call=4)
    with pytest.raises(ValueError, match="was at batch 4 of epoch 0, counted from 0, but that epoch has 2 now"):
        taken(batches(2), None, start=block.position)


def test_states_of_every_kind_come_back():
    rng = np.random.default_rng(0)
    state = {"rng": rng.bit_generator.state, "seen": (3, b"\x00\xff", None), 7: [1.5, float("inf")], "x": np.arange(3)}
    back = from_plain(json.loads(json.dumps(plain(state))))
    np.testing.assert_array_equal(back.pop("x"), state.pop("x"))
    assert back == state
    assert isinstance(from_plain(plain(np.float32(2))), np.float32)
    with pytest.raises(TypeError, match=r"get_state\(\) returned one with a set"):
        plain({"a": [{1}]})


@pytest.mark.parametrize(
    ("data", "remainder", "error", "message"),
    [
        (batches(), "wrap", ValueError, "remainder='wrap' needs arrays; for batches write 'drop', 'keep' or 'pad'"),
        (lambda: batches(), "drop", TypeError, r"must take one argument, the epoch's number: def <lambda>\(epoch\)"),
        (lambda epoch: 3, "drop", TypeError, r"<lambda>\(0\) returned 3, expected an iterator of batches"),
        (Loader([(np.zeros(3), 1)]), "drop", ValueError, r"\[1\] is a single number"),
        (Loader([(np.zeros(3), "a")]), "drop", TypeError, r"\[1\] is 'a', expected an array of numbers"),
        (Loader([{"x": np.float32(1)}]), "drop", ValueError, "single number.*A stream gives whole batches, not single"),
        (Loader([{"x": np.array(["a"])}]), "drop", TypeError, r"\['x'\] is an array of shape \(1,\) of <U1"),
        (Loader([{"x": np.zeros(3), "y": np.zeros(2)}]), "drop", ValueError, r"\['x'\] has 3, \['y'\] has 2"),
        (Loader([]), "drop", ValueError, "epoch 0, counted from 0, has no batch"),
        (Loader([np.zeros(2), np.zeros(3)]), "drop", ValueError, "has 3 examples, more than a full batch with 2"),
        (Loader([np.zeros(n) for n in (4, 3, 2)]), "drop", ValueError, "batches of 4, 3 and 2 examples"),
        (Loader([np.zeros(2), np.zeros(2, int)]), "drop", ValueError, "float64 of shape .. before, int64 of shape"),
        (Loader([np.zeros(2), (np.zeros(2),)]), "drop", ValueError, "nothing now"),
        (Loader([[np.zeros(2)], (np.zeros(2),)]), "drop", ValueError, "containers differ"),
        (iter(batches()), "drop", ValueError, "the iterator has ended before all steps were taken; give fewer steps"),
    ],
)
def test_errors_say_what_to_write(data, remainder, error, message):
    with pytest.raises(error, match=message):
        taken(data, *[None] * 9, remainder=remainder)


def test_a_data_set_of_single_examples_is_no_stream():
    class Dataset:
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return np.zeros(2), 1

    with pytest.raises(TypeError, match=r"a Dataset gives single examples.*DataLoader\(dataset"):
        as_stream(Dataset(), None, "drop")


def test_the_size_of_a_full_batch_may_be_given():
    assert numbers(taken(Loader([batch(0, 3), batch(1), batch(2)]), None, batch_size=4)) == [[1, 2]]
    with pytest.raises(ValueError, match="has no batch of 8 examples"):
        taken(batches(), None, batch_size=8)


def test_trees_of_arrays_are_no_streams():
    for data in (batch(0), (np.zeros(3), jnp.zeros(3)), [np.zeros(3), np.zeros(3)], np.zeros(3), None):
        assert as_stream(data, 2, "drop") is None


def test_memory_that_the_source_uses_again_is_copied_first():
    def source(epoch):
        x = np.zeros((4, 2), np.float32)
        for i in range(6):
            x[:] = i
            yield {"x": x}

    assert numbers(taken(source, None, None, per_call=3)) == [[0, 1, 2], [3, 4, 5]]


def settled(source):
    """Wait until no more batches are drawn, and return how many there were."""
    drawn = None
    while drawn != source.drawn:
        drawn = source.drawn
        time.sleep(0.03)
    return drawn


def test_no_more_is_drawn_than_the_run_takes():
    source, begun = Counting(batches(9)), []

    def of_epoch(epoch):
        begun.append(epoch)
        source.set_state({"at": 0})
        return source

    with as_stream(source, None, "drop").feed(Position(), 2, left=Steps(5)) as feed:
        assert numbers(feed.take(limit) for limit in (5, 3, 1)) == [[0, 1], [2, 3], [4]]
        assert settled(source) == 5
    with as_stream(of_epoch, None, "drop").feed(Position(), 9, left=Epochs(2)) as feed:
        assert [feed.take().ends_epoch, feed.take().ends_epoch] == [True, True]
        assert settled(source) == 5 + 9 + 9
    assert begun == [0, 1]


def test_a_block_that_is_ready_is_cut_anew_for_another_limit():
    source = Counting(batches(9))
    with as_stream(source, None, "drop").feed(Position(), 3) as feed:
        feed.take()
        for limit, wanted, foreseen in ((1, [3], 7), (5, [4, 5, 6], 9), (1, [7], 9)):
            settled(source)
            assert numbers([feed.take(limit)]) == [wanted]
            assert settled(source) == foreseen


def test_the_next_block_is_drawn_while_the_last_one_is_used():
    source = Counting(batches(9))
    with as_stream(source, None, "drop").feed(Position(), 2) as feed:
        feed.take()
        assert settled(source) == 4


def feeding():
    return [thread for thread in threading.enumerate() if thread.name == "gradchain feed"]


def failing():
    yield batch(0)
    yield batch(1)
    raise OSError("the disk is gone")


def test_what_the_source_raises_is_raised_in_the_callers_thread():
    with as_stream(failing(), None, "drop").feed(Position(), 2) as feed:
        assert numbers([feed.take()]) == [[0, 1]]
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is gone") as caught:
                feed.take()
        assert caught.traceback[-1].name == "failing"
    assert not feeding()


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
def test_the_thread_ends_with_the_run_and_closes_what_it_began(error):
    closed = []

    def source(epoch):
        try:
            yield from endless()
        finally:
            closed.append(epoch)

    with (
        contextlib.suppress(KeyboardInterrupt, ValueError),
        as_stream(source, None, "drop").feed(Position(), 2) as feed,
    ):
        feed.take()
        assert len(feeding()) == 1
        if error is not None:
            raise error
    assert not feeding()
    assert closed == [0]


def test_iterators_that_the_run_began_are_closed_and_others_are_not():
    one, other = Counting(batches(9)), Counting(batches(9))
    taken(lambda epoch: one, None)
    taken(other, None)
    assert (one.closed, other.closed) == (True, False)


@pytest.fixture
def interruptible():
    """Let SIGINT raise KeyboardInterrupt, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_run_that_is_interrupted_while_it_waits_ends_cleanly(interruptible):
    """The main thread's wait can be interrupted; the source then ends its batch."""
    reached, go_on = threading.Event(), threading.Event()

    def source(epoch):
        yield batch(0)
        reached.set()
        go_on.wait(10)
        yield batch(1)

    def interrupt():
        reached.wait(10)
        time.sleep(0.02)
        _thread.interrupt_main()
        time.sleep(0.02)
        go_on.set()

    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(KeyboardInterrupt), as_stream(source, None, "drop").feed(Position(), 4) as feed:
        feed.take()
    helper.join()
    assert not feeding()


def test_numbers_have_64_bits_where_the_callers_thread_says_so(x64):
    (block,) = taken([{"x": np.zeros((2, 2)), "n": np.arange(2)}], None)
    assert {str(x.dtype) for x in block.batches.values()} == {"float64", "int64"}


def arrays(n=11):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(n, 2)).astype(np.float32)
    return {"x": x, "y": x @ np.array([1.0, -1.0], np.float32)}


def mapped(data, folder):
    for name, x in data.items():
        np.save(folder / f"{name}.npy", x)
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in data}


@pytest.mark.parametrize("remainder", ["drop", "keep", "wrap"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_arrays_on_the_host_come_in_the_order_of_scan_epoch(remainder, shuffle, tmp_path):
    def seen(params, batch):
        return params * 0, {"y": jnp.sum(jnp.exp2(batch["y"]))}

    data, tx, key, w = {"y": np.arange(11.0, dtype=np.float32)}, gc.sgd(0.1), jax.random.key(5), jnp.zeros(())
    options = {"batch_size": 4, "shuffle": shuffle, "remainder": remainder}
    epochs = [
        scan_epoch(seen, w, tx, tx.init(w), data, jax.random.fold_in(key, i), has_aux=True, **options) for i in range(2)
    ]
    want = np.concatenate([epoch.metrics.aux["y"] for epoch in epochs])
    stream = as_stream(mapped(data, tmp_path), **options)
    assert stream.per_epoch == len(want) // 2
    with stream.feed(Position(), 1, key=key, left=Epochs(2)) as feed:
        blocks = [feed.take() for _ in want]
    np.testing.assert_array_equal([np.exp2(b.batches["y"]).sum() for b in blocks], want)
    assert [b.ends_epoch for b in blocks].count(True) == 2
    with stream.feed(blocks[0].position, 1, key=key) as feed:
        np.testing.assert_array_equal(feed.take().batches["y"], blocks[1].batches["y"])


def test_a_budget_decides_which_arrays_stay_on_the_host(tmp_path):
    data = arrays()
    size = sum(x.nbytes for x in data.values())
    stays = functools.partial(as_stream, batch_size=4, remainder="drop")
    assert stays(data) is None
    assert stays(data, device_memory=size) is None
    assert stays(data, device_memory=size - 1) is not None
    assert stays(mapped(data, tmp_path)) is not None
    assert stays(mapped(data, tmp_path), device_memory=size) is None
    assert stays(jax.tree.map(jnp.asarray, data), device_memory=1) is None
    with pytest.raises(ValueError, match="arrays need a batch_size"):
        stays(data, batch_size=None, device_memory=1)
    with pytest.raises(ValueError, match="batch_size is 12, larger than the data, which has 11 examples"):
        stays(data, batch_size=12, device_memory=1)


def loss_fn(params, batch, key, weights=None):
    noise = 0 if key is None else 0.01 * jax.random.normal(key, params.shape)
    return jnp.average((batch["x"] @ (params + noise) - batch["y"]) ** 2, weights=weights)


def trained(data, **options):
    options = {"epochs": 3, "takes_key": True, "seed": 2} | options
    return fit(loss_fn, jnp.zeros(2), gc.sgd(0.1, momentum=0.9), data, **options)


def cut(data, size=4):
    n = len(data["y"])
    return [jax.tree.map(lambda x, i=i: x[i : i + size], data) for i in range(0, n, size)]


@pytest.mark.parametrize("remainder", ["drop", "keep", "pad"])
def test_fit_takes_the_same_steps_on_arrays_and_on_streams(remainder):
    data = arrays()
    whole = trained(data, batch_size=4, shuffle=False, remainder=remainder)
    streamed = trained(cut(data), remainder=remainder, steps_per_call=2)
    np.testing.assert_allclose(streamed.params, whole.params, rtol=2e-6)
    np.testing.assert_allclose(streamed.history.step_loss, whole.history.step_loss, rtol=1e-5)
    np.testing.assert_allclose(streamed.history.columns["loss"], whole.history.columns["loss"], rtol=1e-5)
    assert streamed.epochs_done == 3


def test_fit_takes_the_same_steps_on_arrays_that_stay_on_the_host():
    data = arrays()
    whole = trained(data, batch_size=4)
    streamed = trained(data, batch_size=4, device_memory=40, steps_per_call=2)
    np.testing.assert_allclose(streamed.params, whole.params, rtol=2e-6)
    np.testing.assert_allclose(streamed.history.step_loss, whole.history.step_loss, rtol=1e-5)


def test_fit_counts_the_steps_of_an_iterator_and_refuses_to_count_its_epochs():
    data = cut(arrays(8))
    result = trained((data[i % 2] for i in range(10**6)), epochs=None, steps=6, steps_per_call=4)
    one_epoch = trained([data[i % 2] for i in range(6)], epochs=1, steps_per_call=4)
    np.testing.assert_array_equal(result.params, one_epoch.params)
    assert result.steps_done == 6
    with pytest.raises(ValueError, match=r"gives its batches only once.*steps=\.\.\..*function of the epoch's number"):
        trained(iter(data))
