"""Checks that trackers get the numbers of a run, resumed or not, and that a tracker that fails does not end a run."""

import contextlib
import importlib.util
import json
import os
import sqlite3
import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from recu_jax import UserError
from recu_jax.training.epoch import StepMetrics
from recu_jax.training.recorder import RunRecorder
from recu_jax.training.run import find_start, prepare, read_given_variables
from recu_jax.training.step import replicate
from recu_jax.training.trackers import Trackers
from tests.support import ROOT
from tests.support.own_module import Kept
from tests.support.small_runs import digits

OWN = "tests.support.own_module:"


def row(epoch):
    return {"epoch": epoch, "step": 10 * epoch, "test_top1": 50.0 + epoch, "tau": 0.9}


def measured(epoch):
    counts = np.zeros(64, int)
    counts[30:34] = (1, 5, 6, epoch)
    layer = {"clipped": 0.25, "quantile": None, "scale": 2.0, "histogram": counts.tolist()}
    return {"epoch": epoch, "step": 10 * epoch, "layers": {"layer1_0/conv1": layer}}


SCALARS = {"epoch", "test_top1", "tau", "clipped/layer1_0/conv1", "scale/layer1_0/conv1"}


def write(workdir, epochs, resumed=False, **fields):
    """Writes the numbers of epochs to the tracker, as a run does in one process."""
    trackers = Trackers(digits(**fields), workdir, 10 * epochs[0], resumed)
    for epoch in epochs:
        trackers.write(row(epoch), measured(epoch))
    trackers.close()


def events(folder):
    """Returns all values by (tag, step). In the files, each event has its length and checksums around it."""
    found = {}
    for path in sorted(folder.glob("events.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                found[value.tag, event.step] = value
    return found


def test_tensorboard_has_the_same_scalars_and_histograms(tmp_path):
    write(tmp_path, (1, 2), tensorboard=True)
    found = events(tmp_path / "tensorboard")
    assert {tag for tag, _ in found} == SCALARS | {"weights/layer1_0/conv1"}
    assert found["clipped/layer1_0/conv1", 20].simple_value == 0.25
    histogram = found["weights/layer1_0/conv1", 20].histo
    assert histogram.num == 14
    # A bin is scale / 4 = 0.5 wide, and its limit is its upper end. So limit 0.5 is the bin from 0 to 0.5.
    limits, counts = np.array(histogram.bucket_limit), np.array(histogram.bucket)
    assert counts[limits == 0.5] == 6 and counts[limits == 0.0] == 5 and counts.sum() == 14


def wandb_records(data):
    """Yields the records of a wandb file.

    The file is a header of 7 bytes and a LevelDB log: blocks of 32 KiB, in which records are whole or in parts.
    """
    at, record = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


def wandb_history(workdir):
    """Yields (run id, rows) of each folder that wandb wrote offline, oldest first."""
    from wandb.proto.wandb_internal_pb2 import Record

    for file in sorted(workdir.glob("wandb/offline-run-*/run-*.wandb")):
        records = [Record.FromString(data) for data in wandb_records(file.read_bytes())]
        items = [record.history.item for record in records if record.history.item]
        rows = [{i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in row} for row in items]
        yield next(record.run.run_id for record in records if record.run.run_id), rows


def test_wandb_gets_the_scalars_and_goes_on_with_the_same_run(tmp_path, monkeypatch, capfd):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    write(tmp_path, (1, 2), tracker="wandb")
    write(tmp_path, (3,), resumed=True, tracker="wandb")
    wandb.teardown()  # after this, wandb's process has written everything
    (first, rows), (second, more) = wandb_history(tmp_path)
    assert first == second == json.loads((tmp_path / "tracker.json").read_text())["id"]
    assert [(r["_step"], r["test_top1"]) for r in rows + more] == [(10, 51.0), (20, 52.0), (30, 53.0)]
    assert rows[0].keys() >= SCALARS and rows[0]["clipped/layer1_0/conv1"] == 0.25
    said = capfd.readouterr()
    assert f"tracking with wandb, run {first} of project recu_jax: offline" in said.out and said.err == ""
    write(tmp_path, (1,), tracker="wandb")
    assert json.loads((tmp_path / "tracker.json").read_text())["id"] != first  # a new run in an old workdir


@pytest.mark.slow
def test_trackio_gets_the_scalars_and_goes_on_with_the_same_run(tmp_path):
    """Needs another process, because trackio reads TRACKIO_DIR when it is imported, and starts threads."""
    pytest.importorskip("trackio")
    program = f"""
        import pathlib
        from tests.training.test_trackers import write
        write(pathlib.Path({str(tmp_path)!r}), (1, 2), tracker="trackio", tracker_project="mine")
        write(pathlib.Path({str(tmp_path)!r}), (3,), resumed=True, tracker="trackio", tracker_project="mine")
    """
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=environment, check=True, cwd=ROOT)
    with contextlib.closing(sqlite3.connect(tmp_path / "trackio" / "mine.db")) as database:
        found = list(database.execute("select run_name, step, metrics from metrics order by step"))
    name = f"{tmp_path.name}-{json.loads((tmp_path / 'tracker.json').read_text())['id']}"
    assert [(run, step) for run, step, _ in found] == [(name, 10), (name, 20), (name, 30)]
    assert json.loads(found[2][2])["test_top1"] == 53.0 and json.loads(found[0][2]).keys() >= SCALARS


@pytest.fixture
def short_run(tmp_path):
    """Returns a function that records two epochs of a run without training, and returns its last and best rows."""

    def record(**fields):
        run = prepare(digits(model=f"{OWN}WithLayerNorm", epochs=2, report=False, diagnostics=False, **fields))
        start = find_start(run, tmp_path, read_given_variables(run, tmp_path).first)
        state = replicate(start.state, run.devices)
        trained = {"train_loss": 1.0, "train_top1": 50.0, "images_per_second": 100.0}
        with RunRecorder(run, tmp_path, start) as recorder:
            for epoch in range(start.epoch, 2):
                recorder.start_epoch(epoch, StepMetrics())
                tested = {"test_loss": 0.5, "test_top1": 50.0 + epoch, "test_top5": 99.0, "test_images": 360}
                recorder.end_epoch(state.replace(step=state.step + 44 * (epoch + 1)), epoch, trained, tested)
        return recorder.last_and_best()

    return record


def test_an_own_tracker_gets_the_run_and_its_numbers(short_run, tmp_path):
    Kept.calls = []
    short_run(tracker=f"{OWN}Kept", tracker_project="mine")
    (run,), *scalars, closed = Kept.calls
    assert (run.workdir, run.project, run.first_step) == (tmp_path, "mine", 0) and run.config["epochs"] == 2
    assert run.id == json.loads((tmp_path / "tracker.json").read_text())["id"]
    assert [(step, values["test_top1"]) for step, values in scalars] == [(44, 50.0), (88, 51.0)]
    assert "learning_rate" in scalars[0][1] and closed == ()


@pytest.mark.parametrize("name", ["FailsAtStart", "FailsWhenItWrites", "FailsAtTheEnd", "EndsTheProgram"])
def test_a_tracker_that_fails_says_one_line_and_the_run_goes_on(short_run, name, capsys):
    last, _ = short_run(tracker=f"{OWN}{name}")
    assert last["epoch"] == 2
    line = f"tracker {OWN}{name} failed, and the run goes on without it: the network is gone, and so on\n"
    assert capsys.readouterr().err == line


def test_a_tracker_that_is_missing_is_refused(monkeypatch):
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else original(name))
    with pytest.raises(UserError, match=r"wandb is not installed; type: pip install wandb$"):
        prepare(digits(tracker="wandb"))
