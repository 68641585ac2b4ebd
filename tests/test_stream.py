"""Batches from disk: what they hold, that any of them can be resumed, and that nothing depends on the workers."""

import itertools
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from recu_jax import UserError
from recu_jax.data import photos, workers
from recu_jax.data.order import eval_order, train_order
from recu_jax.data.stream import eval_batches, train_batches
from recu_jax.data.transform import Transform

TRANSFORM = Transform(image_size=24, eval_resize=28)
IMAGES, CORRUPT = 23, 9
TRAIN = {"seed": 5, "batch_size": 4, "epochs": 5, "transform": TRANSFORM}
STEPS = 5 * (IMAGES // 4)


def write_folder(root, split, images, corrupt=()):
    """Parts of two photographs, in three classes; those numbered `corrupt` lack their second half."""
    china, flower = load_sample_images().images
    for i in range(images):
        part = (china, flower)[i % 2][7 * i : 7 * i + 90, 11 * i : 11 * i + 100 + i, ::-1]
        data = cv2.imencode(".jpg", part)[1].tobytes()
        path = root / split / f"class{i * 3 // images}" / f"{i:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[: len(data) // 2] if i in corrupt else data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    write_folder(root, "train", IMAGES)
    write_folder(root, "val", 6)
    return photos.load("image_folder", str(root)).train


@pytest.fixture(scope="module")
def broken_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("broken")
    write_folder(root, "train", IMAGES, {CORRUPT, CORRUPT + 1, IMAGES - 1})
    write_folder(root, "val", 6)
    return root


@pytest.fixture(scope="module")
def broken(broken_root):
    return photos.load("image_folder", str(broken_root)).train


def kept(batches):
    return [{k: np.array(v) for k, v in batch.items()} for batch in batches]


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key in x:
            assert x[key].dtype == y[key].dtype
            np.testing.assert_array_equal(x[key], y[key], err_msg=key)


@pytest.fixture(scope="module")
def uninterrupted(broken):
    """All batches, made in this process, of a folder with corrupt images."""
    with train_batches(broken, **TRAIN, num_workers=0, on_corrupt="skip") as batches:
        return kept(batches)


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


def test_shares_of_processes_make_the_batch(whole):
    batches = kept(train_batches(whole, **TRAIN, num_workers=0))
    shares = [kept(train_batches(whole, **TRAIN, num_workers=0, process_index=i, process_count=2)) for i in range(2)]
    assert_same([{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*shares, strict=True)], batches)


def test_resuming_in_this_process_at_every_batch(broken, uninterrupted):
    options = {**TRAIN, "num_workers": 0, "on_corrupt": "skip"}
    saved = []
    with train_batches(broken, **options) as batches:
        for _ in range(STEPS):
            saved.append(json.dumps(batches.get_state()))
            next(batches)
        saved.append(json.dumps(batches.get_state()))
        for step in np.random.default_rng(0).permutation(STEPS + 1).tolist():
            batches.set_state(json.loads(saved[step]))  # of a running iterator
            assert len(batches) == STEPS - step
            assert_same([next(batches)] if step < STEPS else list(batches), uninterrupted[step : step + 1])
    for step in range(STEPS + 1):
        with train_batches(broken, **options, start_step=step) as batches:
            assert_same(list(batches), uninterrupted[step:])
        with train_batches(broken, **options) as batches:
            batches.set_state(json.loads(saved[step]))
            assert batches.step == step
            assert_same([next(batches)] if step < STEPS else list(batches), uninterrupted[step : step + 1])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_resuming_with_workers_at_every_batch(broken, uninterrupted, num_workers, monkeypatch):
    monkeypatch.setattr(workers, "_SHARED_FROM", 4 * 24 * 24 * 3)  # bytes of the images of a batch
    if num_workers == 1:  # as in a container whose /dev/shm is full
        monkeypatch.setattr(workers, "_free_shared_memory", lambda: 0)
    # Workers end once they have made the last batch, ahead of time; here they never come to it.
    options = {**TRAIN, "epochs": 1000, "num_workers": num_workers, "on_corrupt": "skip"}
    saved = []
    with train_batches(broken, **options, start_step=2) as batches:
        for step in range(2, STEPS):
            saved.append(json.dumps(batches.get_state()))
            batch = next(batches)
            assert_same([batch], uninterrupted[step : step + 1])
        assert type(batch["label"]) is np.ndarray
        assert (type(batch["image"]) is np.ndarray) == (num_workers == 1)
        processes = {child.pid for child in multiprocessing.active_children()}
        assert len(processes) == num_workers
        assert len(saved) > 20
        for i in np.random.default_rng(num_workers).permutation(len(saved)).tolist():
            batches.set_state(json.loads(saved[i]))
            assert_same([next(batches)], uninterrupted[2 + i : 3 + i])
        assert {child.pid for child in multiprocessing.active_children()} == processes
    assert not {child.pid for child in multiprocessing.active_children()} & processes
    # A new run, from a position that was saved with another number of workers.
    with train_batches(broken, **options) as batches:
        batches.set_state(json.loads(saved[12]) | {"num_workers": 3 - num_workers})
        assert_same(kept(itertools.islice(batches, STEPS - 14)), uninterrupted[14:])


def test_a_position_of_other_data_is_refused(whole):
    with train_batches(whole, **TRAIN, num_workers=0) as batches:
        state = batches.get_state()
    for change, message in [
        ({"seed": 6}, "of seed 5, this run has 6"),
        ({"batch_size": 5}, "of batch_size 4, this run has 5"),
    ]:
        with pytest.raises(UserError, match=message):
            train_batches(whole, **TRAIN | change, num_workers=0).set_state(state)
    with pytest.raises(UserError, match="step 26; there are 25"):
        train_batches(whole, **TRAIN, num_workers=0).set_state(state | {"step": 26})


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


@pytest.mark.parametrize(
    "change,message",
    [
        ({"batch_size": 24}, "batch_size is 24, but there are 23"),
        ({"process_count": 3}, "does not divide over 3 processes"),
        ({"process_count": 2, "process_index": 2}, "process_index is 2"),
        ({"on_corrupt": "skipp"}, "did you mean 'skip'"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"start_step": 26}, "start_step is 26; there are 25"),
    ],
)
def test_options_that_do_not_fit(whole, change, message):
    with pytest.raises(UserError, match=message):
        train_batches(whole, **TRAIN | {"num_workers": 0} | change)


PLAIN_SCRIPT = """
import multiprocessing, sys, time
from recu_jax.data import photos, stream

if __name__ == "__main__":
    records = photos.load("image_folder", sys.argv[1]).train
    transform = stream.Transform(24, eval_resize=24)
    batches = stream.train_batches(
        records, seed=0, batch_size=2, epochs=10**6, transform=transform, num_workers=1, on_corrupt="skip"
    )
    next(batches)
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(60)
"""


def running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="reads /proc")
def test_workers_of_a_plain_script_end_with_it_even_when_it_is_killed(broken_root, tmp_path):
    (tmp_path / "script.py").write_text(PLAIN_SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(broken_root)]
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as script:
        worker = int(script.stdout.readline())
        assert running(worker)
        os.kill(worker, signal.SIGTERM)  # as a cluster does to all; the main process decides
        os.kill(worker, signal.SIGINT)
        time.sleep(0.2)
        assert running(worker)
        script.kill()
    deadline = time.monotonic() + 20
    while running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(worker)
