"""Tests a batch as a function of its step: its images, their crops, and what replaces a corrupt image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recu_jax import UserError
from recu_jax.data import photos
from recu_jax.data.batch import TrainBatch
from recu_jax.data.order import eval_order, train_order
from recu_jax.data.stream import eval_batches, train_batches
from tests.support.photo_streams import CORRUPT, IMAGES, STEPS, TRAIN, TRANSFORM, kept, write_folder


def test_a_batch_is_its_images_in_train_order(whole):
    batches = kept(train_batches(whole, **TRAIN, num_workers=0))
    assert len(batches) == STEPS == 25
    for step, batch in enumerate(batches):
        epoch, row = divmod(step, 5)
        records = train_order(5, epoch, IMAGES, 4)[row]
        np.testing.assert_array_equal(batch["record"], records)
        assert batch["image"].shape == (4, 24, 24, 3) and batch["image"].dtype == np.uint8
        for dtype, key in ((np.int32, "label"), (np.float32, "weight"), (np.int32, "record"), (np.int32, "corrupt")):
            assert batch[key].shape == (4,) and batch[key].dtype == dtype
        assert (batch["weight"] == 1).all() and (batch["corrupt"] == -1).all()
        for i, record in enumerate(records.tolist()):
            data, label = whole.read(record)
            assert batch["label"][i] == label == record * 3 // IMAGES
            expected = TRANSFORM.train(data, np.random.default_rng([5, epoch, record, 1]))
            np.testing.assert_array_equal(batch["image"][i], expected)


class FirstDraws:
    """A transform that returns the first numbers of its generator as an image."""

    image_size = 2

    def train(self, data, rng):
        return rng.integers(0, 256, (2, 2, 3), np.uint8)


@given(
    seed=st.integers(0, 2**32),
    step=st.integers(0, 10**6),
    batch_size=st.integers(1, IMAGES),
    share=st.tuples(st.integers(0, IMAGES - 1), st.integers(1, IMAGES)),
)
def test_a_crop_depends_on_seed_epoch_and_record_alone(whole, seed, step, batch_size, share):
    """The number of processes decides which share of a batch a process makes. It changes no crop."""
    share = slice(share[0], sum(share))
    batch = TrainBatch(whole, FirstDraws(), False, seed, batch_size, share)(step)
    epoch, row = divmod(step, IMAGES // batch_size)
    records = train_order(seed, epoch, IMAGES, batch_size)[row, share]
    np.testing.assert_array_equal(batch["record"], records)
    for record, image in zip(records.tolist(), batch["image"], strict=True):
        rng = np.random.default_rng([seed, epoch, record, 1])
        np.testing.assert_array_equal(image, rng.integers(0, 256, (2, 2, 3), np.uint8))


def test_epochs_hold_each_image_at_most_once_and_differ(whole):
    batches = kept(train_batches(whole, **TRAIN, num_workers=0))
    epochs = [np.concatenate([b["record"] for b in batches[i : i + 5]]) for i in range(0, 25, 5)]
    assert all(len(np.unique(e)) == 20 for e in epochs)
    assert len({e.tobytes() for e in epochs}) == 5
    pixels = {}
    for batch in batches:
        for record, image in zip(batch["record"].tolist(), batch["image"], strict=True):
            pixels.setdefault(record, []).append(image.tobytes())
    assert all(len(set(p)) == len(p) for p in pixels.values())  # another crop every epoch
    other = next(iter(train_batches(whole, **TRAIN | {"seed": 6}, num_workers=0)))
    assert (other["record"] != batches[0]["record"]).any()


@pytest.mark.parametrize("batch_size,process_count", [(6, 1), (6, 2), (23, 1), (40, 1)])
def test_evaluation_counts_each_image_once(whole, batch_size, process_count):
    counted = np.zeros(IMAGES)
    for p in range(process_count):
        options = {"batch_size": batch_size, "process_index": p, "process_count": process_count}
        batches = kept(eval_batches(whole, **options, transform=TRANSFORM, num_workers=0))
        records, weights = eval_order(IMAGES, batch_size)
        assert len(batches) == len(records)
        share = batch_size // process_count
        for batch, r, w in zip(batches, records, weights, strict=True):
            np.testing.assert_array_equal(batch["record"], r[p * share : (p + 1) * share])
            np.testing.assert_array_equal(batch["weight"], w[p * share : (p + 1) * share])
            np.add.at(counted, batch["record"], batch["weight"])
            for i in np.flatnonzero(batch["weight"]):
                data, label = whole.read(int(batch["record"][i]))
                assert batch["label"][i] == label
                np.testing.assert_array_equal(batch["image"][i], TRANSFORM.evaluate(data))
    np.testing.assert_array_equal(counted, 1)


def test_evaluation_skips_corrupt_images(broken):
    options = {"batch_size": 6, "transform": TRANSFORM, "num_workers": 0}
    batches = kept(eval_batches(broken, **options, on_corrupt="skip"))
    record, weight, corrupt = (np.concatenate([b[k] for b in batches]) for k in ("record", "weight", "corrupt"))
    lost = [CORRUPT, CORRUPT + 1, IMAGES - 1]
    assert corrupt[corrupt >= 0].tolist() == lost
    assert weight.sum() == IMAGES - 3 and (weight[np.isin(record, lost)] == 0).all()
    with pytest.raises(UserError) as error:
        kept(eval_batches(broken, **options))
    assert f"train image {CORRUPT} (" in str(error.value) and "09.jpg): truncated" in str(error.value)
    assert f"train image {CORRUPT + 1} (" in str(error.value) and "on_corrupt" in str(error.value)


def test_training_takes_the_next_image_for_a_corrupt_one(whole, broken, uninterrupted):
    order = kept(train_batches(whole, **TRAIN, num_workers=0))
    replacement = {CORRUPT: CORRUPT + 2, CORRUPT + 1: CORRUPT + 2, IMAGES - 1: 0}
    seen = 0
    for batch, planned in zip(uninterrupted, order, strict=True):
        for i, record in enumerate(planned["record"].tolist()):
            assert batch["record"][i] == replacement.get(record, record)
            assert batch["corrupt"][i] == (record if record in replacement else -1)
            assert batch["label"][i] == broken.read(replacement.get(record, record))[1]
            seen += record in replacement
            if record not in replacement:
                np.testing.assert_array_equal(batch["image"][i], planned["image"][i])
        assert (batch["weight"] == 1).all()
    assert seen > 6


def test_a_corrupt_image_stops_training_unless_skipped(broken):
    with pytest.raises(UserError) as error, train_batches(broken, **TRAIN, num_workers=0) as batches:
        kept(batches)
    assert "train image" in str(error.value) and "truncated" in str(error.value) and "'skip'" in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_but_corrupt_images_stops_even_so(tmp_path):
    write_folder(tmp_path, "train", 6, range(6))
    write_folder(tmp_path, "val", 3)
    records = photos.load("image_folder", str(tmp_path)).train
    with pytest.raises(UserError, match="cannot decode train image"):
        next(train_batches(records, **TRAIN, num_workers=0, on_corrupt="skip"))
