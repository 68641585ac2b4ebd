"""Tests checkpoints on a real disk: damaged ones are recognized, and the newest whole one is used."""

import json
import os
import random
import resource
import shutil
import socket

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recu_jax import RunFailed, UserError
from recu_jax.training.checkpoint import (
    Checkpoints,
    Damaged,
    digests,
    newest_good,
    read_best,
    saved,
    set_aside,
)  # fmt: skip
from recu_jax.training.checkpoint.lock import WorkdirLock
from recu_jax.training.step import TrainState

CONFIG = {"model": "m"}


def state_of(step):
    r = np.random.default_rng(step)
    params = {"a": {"kernel": r.normal(size=(3, 4)).astype(np.float32)}, "b": {"alpha": r.normal(size=7)}}
    return TrainState(np.int32(step), params, {"bn": {"mean": r.normal(size=4)}}, (params, {"count": np.int32(step)}))


@pytest.fixture
def workdir(tmp_path):
    """Writes checkpoints of steps 1 to 4. The first is the best, and the third is from the middle of an epoch."""
    with Checkpoints(tmp_path) as checkpoints:
        for step, top1 in ((1, 90.0), (2, 70.0), (3, None), (4, 60.0)):
            unfinished = {"epoch": 3, "loss": [0.5]} if top1 is None else None
            metrics = {"epoch": step} | ({} if top1 is None else {"test_top1": top1})
            checkpoints.save(state_of(step), CONFIG, metrics, unfinished)
    return tmp_path


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: x.dtype == y.dtype and x.tobytes() == y.tobytes(), a, b))


def test_the_newest_two_and_the_best_stay_and_come_back_bit_for_bit(workdir):
    assert [s.step for s in saved(workdir)] == [1, 3, 4]
    for checkpoint in saved(workdir):
        assert equal(checkpoint.state(state_of(0)), state_of(checkpoint.step))
        assert equal(checkpoint.variables(), state_of(checkpoint.step).variables)
    assert saved(workdir)[1].record["unfinished_epoch"] == {"epoch": 3, "loss": [0.5]}
    step, record, variables = read_best(workdir)
    assert (step, record["metrics"]) == (1, {"epoch": 1, "test_top1": 90.0})
    assert equal(variables, state_of(1).variables)


def test_the_middle_of_an_epoch_is_nobodys_best(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_of(3), CONFIG, {"epoch": 1}, {"epoch": 1})
        with pytest.raises(UserError, match="no checkpoint of a whole epoch"):
            checkpoints.wait()
            read_best(tmp_path)
        # A whole epoch is better than an unfinished one, even with an accuracy of 0.
        checkpoints.save(state_of(4), CONFIG, {"epoch": 1, "test_top1": 0.0})
        for step in (5, 6, 7):
            checkpoints.save(state_of(step), CONFIG, {"epoch": 1}, {"epoch": 1})
    assert [s.step for s in saved(tmp_path)] == [4, 6, 7] and read_best(tmp_path)[0] == 4
    shutil.rmtree(tmp_path / "checkpoints")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_of(3), CONFIG, {"epoch": 1}, {"epoch": 1})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_of(3), CONFIG, {"epoch": 1, "test_top1": 1.0})
    assert read_best(tmp_path)[1]["metrics"]["test_top1"] == 1.0
    assert "unfinished_epoch" not in saved(tmp_path)[0].record


def test_a_save_goes_on_when_the_run_fails(tmp_path):
    with pytest.raises(KeyError), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_of(3), CONFIG, {"epoch": 1, "test_top1": 1.0})
        raise KeyError
    assert [s.step for s in saved(tmp_path)] == [3]


def test_a_check_waits_for_no_save(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_of(3), CONFIG, {"epoch": 1, "test_top1": 1.0})
        with monkeypatch.context() as patch:
            patch.setattr(ocp.CheckpointManager, "is_saving_in_progress", lambda self: True)
            patch.setattr(ocp.CheckpointManager, "wait_until_finished", lambda self: pytest.fail("it waits"))
            checkpoints.check()


def test_diagnostics_and_the_data_set_come_back(tmp_path):
    memory = {"conv": {"epochs": np.arange(3, dtype=np.int32), "signs": np.ones((2, 2), np.uint8)}}
    with Checkpoints(tmp_path) as checkpoints:
        metrics = {"epoch": 1, "test_top1": 1.0}
        checkpoints.save(state_of(1), CONFIG, metrics)
        checkpoints.save(state_of(2), CONFIG, metrics, diagnostics=memory, dataset={"classes": 10})
    without, given = saved(tmp_path)
    assert without.diagnostics() is None and "dataset" not in without.record
    assert equal(given.diagnostics(), memory) and given.record["dataset"] == {"classes": 10}


def test_the_arrays_of_another_step_are_damage(workdir):
    before, newest = saved(workdir)[-2:]
    shutil.rmtree(newest.folder / "state")
    shutil.copytree(before.folder / "state", newest.folder / "state")
    for read, parts in ((lambda: newest.state(state_of(0)), "step|params"), (newest.variables, "params")):
        with pytest.raises(Damaged, match=f"its ({parts}) are not what was written"):
            read()


def test_a_workdir_has_one_run(tmp_path):
    workdir = tmp_path / "runs" / "a"
    lock, other = WorkdirLock(workdir), WorkdirLock(workdir)
    lock.acquire()
    with pytest.raises(UserError) as error:
        other.acquire()
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    assert str(error.value) == f"{workdir} is in use by {holder}; wait for it to end, or give another --workdir"
    other.release()  # does nothing, because it has no lock
    assert (workdir / "lock.holder").read_text() == holder
    lock.release()
    assert not (workdir / "lock.holder").exists()
    other.acquire()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file cannot be made or written to: File exists; give another --workdir"):
        WorkdirLock(tmp_path / "file").acquire()


def files_of(checkpoint):
    return sorted(f for f in checkpoint.folder.rglob("*") if f.is_file() and f.stat().st_size)


def test_every_file_cut_off_missing_or_changed_is_noticed_or_of_no_consequence(workdir):
    """Damage to some of Orbax's files changes nothing that is read. Then what is read must still be right."""
    whole, (*_, newest) = workdir / "whole", saved(workdir)
    shutil.copytree(newest.folder, whole)
    noticed, r = 0, random.Random(0)
    harms = [
        lambda file: os.truncate(file, file.stat().st_size // 2),
        lambda file: file.unlink(),
        *[lambda file: file.write_bytes(flip(file.read_bytes(), r))] * 4,
    ]
    for file in files_of(newest):
        for harm in harms:
            harm(file)
            (again,) = [s for s in saved(workdir) if s.step == 4]
            try:
                found = again.record, again.state(state_of(0)), again.variables()
                assert found[0]["metrics"] == {"epoch": 4, "test_top1": 60.0}
                assert equal(found[1], state_of(4)) and equal(found[2], state_of(4).variables)
            except Damaged:
                noticed += 1
            shutil.rmtree(newest.folder)
            shutil.copytree(whole, newest.folder)
    assert noticed > len(files_of(newest))


def flip(data, r):
    data = bytearray(data)
    data[r.randrange(len(data))] ^= 1 << r.randrange(8)
    return bytes(data)


def test_a_digest_hangs_on_every_bit_and_on_shape_and_dtype():
    array = np.arange(6, dtype=np.float32)
    digest = digests.of_arrays({"a": array})
    changed = array.copy()
    changed.view(np.uint32)[3] ^= 1
    others = [changed, array.reshape(2, 3), array.view(np.int32), array[:5]]
    assert len({digest, *(digests.of_arrays({"a": o}) for o in others)}) == 5
    assert digests.of_arrays({"a": array.copy()}) == digest
    record = digests.signed({"config": {"epochs": 30}}, {"params": array})
    assert digests.of_record(json.loads(json.dumps(record))) == record["digests"]["record"]
    record["config"]["epochs"] = 31
    assert digests.of_record(record) != record["digests"]["record"]


def test_a_record_that_lost_its_digests_is_damaged(workdir):
    path = saved(workdir)[-1].folder / "record" / "metadata"
    path.write_text(path.read_text().replace('"digests"', '"digestr"'))
    with pytest.raises(Damaged, match="not what was written"):
        _ = saved(workdir)[-1].record


def damage(checkpoint):
    (checkpoint.folder / "record" / "metadata").write_text("{")


def test_the_one_before_is_used_and_the_damaged_ones_are_set_aside(workdir, capsys):
    *_, last = saved(workdir)
    damage(last)
    found = newest_good(workdir, lambda record: None, state_of(0))
    assert (found.step, [d.step for d, _ in found.damaged]) == (3, [4])
    assert equal(found.state, state_of(3))
    assert [s.step for s in saved(workdir)] == [1, 3, 4]  # so far no damaged checkpoint was moved
    set_aside(found)
    assert [s.step for s in saved(workdir)] == [1, 3] and (workdir / "damaged_checkpoints" / "4").is_dir()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("the checkpoint of step 4 is damaged: its record cannot be read") and "step 3" in line
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(state_of(4), CONFIG, {"epoch": 4, "test_top1": 60.0})
    assert equal(saved(workdir)[-1].state(state_of(0)), state_of(4))
    for checkpoint in saved(workdir)[1:]:  # the second one of step 4 is set aside beside the first
        damage(checkpoint)
    set_aside(newest_good(workdir, lambda record: None, state_of(0)))
    assert sorted(f.name for f in (workdir / "damaged_checkpoints").iterdir()) == ["3", "4", "4.1"]


def test_when_none_is_good_it_stays_so(workdir):
    for checkpoint in saved(workdir):
        damage(checkpoint)
    for _ in range(2):
        with pytest.raises(UserError, match=r"all 3 checkpoints in .* are damaged .step 4: its record cannot be read"):
            newest_good(workdir, lambda record: None, state_of(0))
    with pytest.raises(UserError, match="is damaged"):
        read_best(workdir)
    assert newest_good(workdir / "elsewhere", lambda record: None, state_of(0)) is None


def test_another_config_is_no_damage(workdir):
    def refuse(record):
        raise UserError(f"another config: {record['config']}")

    with pytest.raises(UserError, match="another config"):
        newest_good(workdir, refuse, state_of(0))


def test_a_best_checkpoint_that_is_damaged_is_not_passed_over(workdir):
    damage(saved(workdir)[0])
    with pytest.raises(UserError, match=r"checkpoints/1 is damaged: .*; to use the others, move it"):
        read_best(workdir)


@pytest.mark.parametrize("when", ["check", "wait", "save"])
def test_a_refused_write_is_told_and_leaves_the_older_ones_whole(workdir, when):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(workdir)
    big = state_of(5).replace(params={"a": {"kernel": np.random.default_rng(0).normal(size=(300, 300))}})
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(RunFailed) as error:
            checkpoints.save(big, CONFIG, {"epoch": 5, "test_top1": 99.0})
            if when == "save":
                checkpoints.save(state_of(6), CONFIG, {"epoch": 6, "test_top1": 99.0})
            while when == "check":
                checkpoints.check()
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "checkpoint of step 5 cannot be written" in str(error.value) and "File too large" in str(error.value)
    assert "that of step 4 is whole" in str(error.value) and "\n" not in str(error.value)
    found = newest_good(workdir, lambda record: None, state_of(0))
    assert found.step == 4 and equal(found.state, state_of(4))


@given(steps=st.lists(st.integers(0, 10**7), unique=True))
def test_any_steps_are_listed_in_their_order(tmp_path_factory, steps):
    workdir = tmp_path_factory.mktemp("run")
    unfinished = ("7.orbax-checkpoint-tmp-3", "step_4", "1.5", "-1")
    for name in (*unfinished, *map(str, steps)):
        (workdir / "checkpoints" / name).mkdir(parents=True)
    (workdir / "checkpoints" / "99999999").touch()
    assert [s.step for s in saved(workdir)] == sorted(steps)


def test_steps_are_sorted_as_numbers(tmp_path):
    """Sorted as names, 132 would come before 44 and 88, and a run would continue from an old checkpoint."""
    with Checkpoints(tmp_path) as checkpoints:
        for epoch, step in enumerate((44, 88, 132), 1):
            checkpoints.save(state_of(step), CONFIG, {"epoch": epoch, "test_top1": {44: 70.0}.get(step, 50.0)})
    assert [s.step for s in saved(tmp_path)] == [44, 88, 132]
    assert newest_good(tmp_path, lambda record: None, state_of(0)).step == 132
