"""Tests batches from the disk: the parts of several processes, resuming at every batch, any number of workers."""

import itertools
import json
import multiprocessing

import numpy as np
import pytest

from recu_jax import UserError
from recu_jax.data import workers
from recu_jax.data.stream import eval_batches, train_batches
from tests.support.photo_streams import STEPS, TRAIN, kept


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key in x:
            assert x[key].dtype == y[key].dtype
            np.testing.assert_array_equal(x[key], y[key], err_msg=key)


def test_shares_of_processes_make_the_batch(whole):
    batches = kept(train_batches(whole, **TRAIN, num_workers=0))
    shares = [kept(train_batches(whole, **TRAIN, num_workers=0, process_index=i, process_count=2)) for i in range(2)]
    assert_same([{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*shares, strict=True)], batches)


@pytest.mark.slow
def test_resuming_in_this_process_at_every_batch(broken, uninterrupted):
    options = {**TRAIN, "num_workers": 0, "on_corrupt": "skip"}
    saved = []
    with train_batches(broken, **options) as batches:
        for _ in range(STEPS):
            saved.append(json.dumps(batches.get_state()))
            next(batches)
        saved.append(json.dumps(batches.get_state()))
        for step in np.random.default_rng(0).permutation(STEPS + 1).tolist():
            batches.set_state(json.loads(saved[step]))  # while the iterator is in use
            assert len(batches) == STEPS - step
            assert_same([next(batches)] if step < STEPS else list(batches), uninterrupted[step : step + 1])
    for step in range(STEPS + 1):
        with train_batches(broken, **options, start_step=step) as batches:
            assert len(batches) == STEPS - step
            assert_same([next(batches)] if step < STEPS else list(batches), uninterrupted[step : step + 1])
        with train_batches(broken, **options) as batches:
            batches.set_state(json.loads(saved[step]))
            assert batches.step == step
            assert_same([next(batches)] if step < STEPS else list(batches), uninterrupted[step : step + 1])


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_resuming_with_workers_at_every_batch(broken, uninterrupted, num_workers, monkeypatch):
    # The bytes of a batch's images, which so just reach the limit.
    monkeypatch.setattr(workers, "_SHARED_FROM", 4 * 24 * 24 * 3)
    if num_workers == 1:  # as in a container whose /dev/shm is full
        monkeypatch.setattr(workers, "_free_shared_memory", lambda: 0)
    # Workers make batches in advance, and end after the last batch. With so many epochs, they do not end in this test.
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
    # A new iterator starts from a position that was saved with another number of workers.
    with train_batches(broken, **options) as batches:
        batches.set_state(json.loads(saved[12]) | {"num_workers": 3 - num_workers})
        assert_same(kept(itertools.islice(batches, STEPS - 14)), uninterrupted[14:])


def test_an_evaluation_goes_on_from_a_saved_position(whole):
    options = {"batch_size": 6, "transform": TRAIN["transform"], "num_workers": 0}
    with eval_batches(whole, **options) as batches:
        first = kept(itertools.islice(batches, 2))
        state = json.loads(json.dumps(batches.get_state()))
        rest = kept(batches)
    with eval_batches(whole, **options) as batches:
        batches.set_state(state)
        assert_same(kept(batches), rest)
    assert len(first) == len(rest) == 2
    with pytest.raises(UserError, match="of batch_size 6, this run has 4"):
        eval_batches(whole, **options | {"batch_size": 4}).set_state(state)


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
