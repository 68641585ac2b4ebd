"""Compares `ResidentFeed`, which has its data set on the device, with `StreamFeed`. Their images must be equal."""

import concurrent.futures
import dataclasses
import threading
import time
import types
import unittest.mock
from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recu_jax import UserError
from recu_jax.config import base_config
from recu_jax.data import Dataset, Photos, photos
from recu_jax.data.order import train_order
from recu_jax.training.feed import ResidentFeed, StreamFeed, make_feed, shares
from recu_jax.training.recipe import make_recipe
from recu_jax.training.step import create_state, place, replicate
from tests.support import image_folders

DEVICES = jax.local_devices()[:2]
SIZE, EPOCHS = 16, 2


def config(**changes):
    c = base_config()
    c.dataset, c.model, c.augment, c.epochs = "image_folder", "digits_resnet8", False, EPOCHS
    c.batch_size = c.eval_batch_size = 8
    c.image_size = c.eval_resize = SIZE
    c.num_workers = 0
    for name, value in changes.items():
        c[name] = value
    return c


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Writes lossless images of two classes, 20 for training and 13 for testing."""

    def noise(r):
        return r.integers(0, 256, (SIZE, SIZE, 3), np.uint8)

    return image_folders.write(tmp_path_factory.mktemp("photos"), 20, 13, ".png", noise)


@pytest.fixture(scope="module")
def both(folder):
    """Returns the folder as a streamed data set, and as a data set of arrays."""
    streamed = photos.load("image_folder", str(folder))
    arrays = []
    for records in (streamed.train, streamed.test):
        read = [records.read(i) for i in range(len(records))]
        bgr = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data, _ in read]
        arrays += [np.stack(bgr)[..., ::-1], np.array([label for _, label in read], np.int32)]
    return streamed, Dataset(*arrays, 2, streamed.mean, streamed.std)


def run(feed, recipe, start=0):
    """Returns the losses of all steps, the test set's metrics after them, the epoch's metrics, and the first images."""
    state = replicate(create_state(recipe, 0, feed.image_shape), DEVICES)
    step, metrics, losses = feed.step(recipe), None, []
    feed.start(start)
    try:
        first = feed.first_images(32)
        for i in range(start, EPOCHS * feed.steps_per_epoch):
            steps, arguments = feed.take(i, metrics)
            assert steps == 1
            state, metrics = step(state, {}, *arguments)
            losses.append(float(metrics["loss"][0]))
        return losses, feed.evaluator(recipe)(state), feed.epoch_metrics(1.0), first
    finally:
        feed.close()


def narrow(c, dataset):
    recipe = make_recipe(c, dataset, 2)
    return dataclasses.replace(recipe, model=recipe.model.clone(stage_sizes=(1,), widths=(4,)))


@pytest.mark.slow
def test_a_stream_trains_as_arrays_do(both):
    c = config()
    feeds = [make_feed(c, data, DEVICES) for data in both]
    assert [type(feed) for feed in feeds] == [StreamFeed, ResidentFeed]
    assert feeds[0].steps_per_epoch == 2
    by_stream, by_array = (run(feed, narrow(c, data)) for feed, data in zip(feeds, both, strict=True))
    assert by_stream[:2] == by_array[:2]
    assert by_stream[1]["test_images"] == 13
    assert set(by_stream[2]) == {"data_wait"} and by_array[2] == {}
    # A batch has 8 images. If it is streamed, the first device has half of them.
    assert by_array[3].shape == (8, SIZE, SIZE, 3) and by_array[3].dtype == np.uint8
    np.testing.assert_array_equal(by_stream[3], by_array[3][:4])


@pytest.mark.slow
def test_a_corrupt_image_stops_or_is_counted(both):
    streamed, _ = both
    bad = 3

    class Broken:
        def __len__(self):
            return len(streamed.train)

        def read(self, i):
            data, label = streamed.train.read(i)
            return (data[:20] if i == bad else data), label

        def name(self, i):
            return streamed.train.name(i)

    broken = Photos(Broken(), Broken(), 2, streamed.mean, streamed.std)
    c = config()
    with pytest.raises(UserError, match=r"train image 3 \(.*\.png\)"):
        run(make_feed(c, broken, DEVICES), narrow(c, broken))
    c = config(on_corrupt="skip")
    losses, tested, metrics, _ = run(make_feed(c, broken, DEVICES), narrow(c, broken))
    assert len(losses) == 4 and np.isfinite(losses).all()
    assert tested["test_images"] == 19
    assert 0 <= metrics["skipped_records"] <= 2


class Slow:
    """Records that each take 30 ms to read."""

    def __init__(self, records):
        self._records = records

    def __len__(self):
        return len(self._records)

    def read(self, i):
        time.sleep(0.03)
        return self._records.read(i)

    def name(self, i):
        return self._records.name(i)


@pytest.mark.slow
def test_the_wait_for_data_is_measured(both):
    streamed, _ = both
    c = config(epochs=6)
    waits = {}
    for name, records in (("slow", Slow(streamed.train)), ("ready", streamed.train)):
        feed = make_feed(c, dataclasses.replace(streamed, train=records), DEVICES)
        feed.start(0)
        busy = jax.jit(lambda x: x + 1)
        began, result = time.monotonic(), None
        for i in range(8):
            feed.take(i, result)
            result = busy(jnp.zeros(()))
            if name == "ready":
                time.sleep(0.1)  # stands for a long step
        waits[name] = feed.epoch_metrics(time.monotonic() - began)["data_wait"]
        feed.close()
    # Four threads need at least 60 ms to read a batch of 8 images, 30 ms each. The steps take almost no time.
    assert waits["slow"] > 0.5
    assert waits["ready"] < 0.1


def test_batches_go_straight_to_their_devices():
    images = np.arange(8 * 3).reshape(8, 3)
    placed = place(images, DEVICES)
    np.testing.assert_array_equal(placed, images.reshape(2, 4, 3))
    assert {s.device: s.data.shape for s in placed.addressable_shards} == {d: (1, 4, 3) for d in DEVICES}
    # A pmapped function takes the placed images without a transfer between devices.
    double = jax.pmap(partial(jnp.multiply, 2), devices=DEVICES)
    double(placed)
    with jax.transfer_guard("disallow"):
        np.testing.assert_array_equal(jax.device_get(double(placed)), 2 * images.reshape(2, 4, 3))


@given(
    owners=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    per_device=st.integers(1, 3),
    step=st.integers(0, 200),
    seed=st.integers(0, 2**32),
)
def test_the_parts_of_all_processes_make_the_batch_once(owners, per_device, step, seed):
    """The place of an image in the batch does not depend on which process owns its device."""
    c = config(batch_size=len(owners) * per_device, seed=seed)
    batch = shares.records(c, 53, step)
    devices = [types.SimpleNamespace(process_index=owner) for owner in owners]
    found = {}
    for process in range(4):
        with unittest.mock.patch("jax.process_index", return_value=process):
            parts = shares.this_process_part(batch[None], devices)
        found |= zip((i for i, owner in enumerate(owners) if owner == process), parts, strict=True)
    np.testing.assert_array_equal([found[i][0] for i in range(len(owners))], batch.reshape(len(owners), per_device))
    epoch, row = divmod(step, 53 // c.batch_size)
    np.testing.assert_array_equal(batch, train_order(seed, epoch, 53, c.batch_size)[row])


class OddAreBroken(Slow):
    def read(self, i):
        data, label = super().read(i)
        return (data[:20] if i % 2 else data), label


def test_the_counters_of_a_stream_are_those_of_one_epoch(both):
    """Each call of `epoch_metrics` starts the counters anew."""
    streamed, _ = both
    records = OddAreBroken(streamed.train)
    feed = make_feed(config(epochs=6, on_corrupt="skip"), dataclasses.replace(streamed, train=records), DEVICES)
    feed.start(0)
    feed.take(0, None)
    first, second = feed.epoch_metrics(1.0), feed.epoch_metrics(1.0)
    feed.close()
    assert first["data_wait"] > 0 and first["skipped_records"] > 0
    assert second == {"data_wait": 0.0, "skipped_records": 0}


def test_records_are_indices_in_the_file_of_the_data_set():
    """Where images are held out, the training images are numbered anew, but errors name the image in the file."""
    images, labels = np.zeros((24, 8, 8, 1), np.uint8), np.zeros(24, np.int32)
    whole = Dataset(images, labels, images[:2], labels[:2], 10, (0.5,), (0.5,))
    held_out = dataclasses.replace(whole, train_records=np.arange(100, 124))
    found = ResidentFeed(config(), whole, DEVICES).records(1)
    assert sorted(found) != list(range(8)) and len(found) == 8
    np.testing.assert_array_equal(ResidentFeed(config(), held_out, DEVICES).records(1), found + 100)


@pytest.mark.parametrize("hangs", [False, True])
def test_settling_waits_for_the_batch_that_is_coming_unless_the_thread_hangs(hangs):
    coming = concurrent.futures.Future()
    assert coming.set_running_or_notify_cancel()
    threading.Timer(0.3, coming.set_result, [None]).start()
    StreamFeed._settle(types.SimpleNamespace(_hangs=hangs), coming)
    assert coming.done() != hangs
