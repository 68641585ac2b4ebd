"""Injects a few faults into runs in real processes. `chaos.py` injects hundreds."""

import json
import os
import random
import signal
import subprocess
import time

import cv2
import numpy as np
import pytest

from experiments.runs import differences, final_state, log, measured, rows
from tests.robustness import faults
from tests.robustness.run_with_faults import Run
from tests.support import image_folders, one_block
from tests.support.processes import PATIENCE_SECONDS, start

pytestmark = pytest.mark.slow
# No report: it is larger than a checkpoint, and a failure to write it does not end a run.
SHORT = ["--config.epochs=4", "--config.report=False"]


def run_of(arguments, folder, seconds=0.0):
    folder.mkdir()
    return Run(arguments, folder / "run", folder.parent / "cache", seconds, os.sched_getaffinity(0))


def left_alone(arguments, folder):
    """Runs twice without faults. Returns the second run's seconds, state, and rows of metrics and diagnostics."""
    assert run_of(arguments, folder / "fills_the_cache").start().wait(PATIENCE_SECONDS) == 0
    run, began = run_of(arguments, folder / "left_alone"), time.monotonic()
    assert run.start().wait(PATIENCE_SECONDS) == 0, log(run.workdir)
    return time.monotonic() - began, final_state(run.workdir), rows(run.workdir) + measured(run.workdir)


def harm(run, kinds, expected):
    """Injects each fault of `kinds`, lets the run end, and compares it with `expected`."""
    r = random.Random(0)
    for kind in kinds:
        kind(run, r)
    assert run.start().wait(PATIENCE_SECONDS) == 0, log(run.workdir)
    _, state, metrics = expected
    assert differences(state, final_state(run.workdir)) == []
    assert rows(run.workdir) + measured(run.workdir) == metrics
    assert "Traceback" not in log(run.workdir)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Returns a folder, the arguments of a run in it, and the results of `left_alone`."""
    folder = tmp_path_factory.mktemp("digits")
    arguments = [*one_block.arguments(folder, one_block.WIDE), *SHORT]
    return folder, arguments, left_alone(arguments, folder)


def after_an_epoch(number, status, send=os.kill):
    """Returns a fault: a signal after an epoch, so that there is something to save. It checks the exit status."""

    def fault(run, r):
        before = len(rows(run.workdir))
        process = run.start()
        while len(rows(run.workdir)) == before:
            assert process.poll() is None, log(run.workdir)
            time.sleep(0.01)
        send(process.pid, number)
        assert process.wait(PATIENCE_SECONDS) == status
        line = log(run.workdir).splitlines()[-1]
        assert line.startswith(f"stopped by {number.name}; the same command continues from step ")
        assert not any("tmp" in name for name in os.listdir(run.workdir / "checkpoints"))

    return fault


@pytest.mark.parametrize(
    "kinds",
    [
        [faults.kill, faults.kill_while_saving, faults.kill],
        [after_an_epoch(signal.SIGTERM, 75), faults.flipped, after_an_epoch(signal.SIGINT, 130)],
        [faults.half_deleted, after_an_epoch(signal.SIGUSR1, 75), faults.failing_write],
    ],
    ids=["killed", "stopped", "damaged"],
)
def test_a_harmed_run_ends_as_one_left_alone(digits, kinds, request):
    folder, arguments, expected = digits
    harm(run_of(arguments, folder / request.node.callspec.id, expected[0]), kinds, expected)


def test_the_comparison_sees_one_bit(digits):
    _, _, (_, state, _) = digits
    path = next(p for p, a in state.items() if a.ndim == 4)
    changed = {**state, path: state[path].copy()}
    changed[path].view("uint32").flat[0] ^= 1
    assert differences(state, changed) == [path]


def test_a_workdir_in_use_is_refused(digits):
    folder, arguments, expected = digits
    assert faults.second_process(run_of(arguments, folder / "twice", expected[0]), random.Random(0)) == "refused"


def test_a_full_disk_stops_the_run_and_keeps_what_there_was(digits):
    folder, arguments, expected = digits
    mounts = ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*mounts, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode:
        pytest.skip("this user may mount nothing: no disk to fill")
    disk = folder / "disk"
    disk.mkdir()
    # The disk first has room for one checkpoint and a part of the next, and then for all.
    script = (
        f'mount -t tmpfs -o size=1500k tmpfs {disk}; "$@" 2>&1; echo "status $?"; ls {disk}/run/checkpoints; '
        f'mount -o remount,size=64m {disk}; "$@" 2>&1; echo "status $?"; cp -r {disk}/run {folder}/filled'
    )
    process = start(arguments, disk / "run", folder / "cache", prefix=[*mounts, "sh", "-c", script, "sh"])
    process.wait(PATIENCE_SECONDS)
    # The log was opened before the disk was mounted, so it is not on the disk.
    said = log(disk / "run")
    assert "status 3\n44\n" in said and said.rstrip().endswith("status 0"), said
    line = next(line for line in said.splitlines() if line.startswith("error: "))
    assert line.startswith("error: the checkpoint of step 88 cannot be written to ")
    assert "No space left on device; that of step 44 is whole" in line
    assert differences(expected[1], final_state(folder / "filled")) == []


def test_a_loss_that_is_not_finite_stops_the_run(digits):
    folder, arguments, _ = digits
    workdir = folder / "not_finite"
    process = start([*arguments, "--config.learning_rate=1e30", "--config.check_finite_every_steps=5"], workdir)
    assert process.wait(PATIENCE_SECONDS) == 3
    said = log(workdir)
    line = said.splitlines()[-1]
    assert "Traceback" not in said and said.count("error: ") == 1
    report = json.loads((workdir / "not_finite.json").read_text())
    assert line.startswith(
        f"error: the loss is {report['loss']} at step {report['step']} (epoch 1, learning rate 1e+30"
    )
    assert report["step"] <= 5 and len(set(report["records"])) == 32
    from recu_jax.data.order import train_order

    np.testing.assert_array_equal(report["records"], train_order(0, 0, 1437, 32)[report["step"] - 1])
    assert not list((workdir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Writes 40 training and 10 test photographs. Returns a run's arguments, the folder, and what `left_alone` gave."""
    folder = tmp_path_factory.mktemp("photos")

    def photograph(r):
        return cv2.resize(r.integers(0, 256, (6, 8, 3), np.uint8), (64, 48))

    image_folders.write(folder / "data", 40, 10, ".jpg", photograph)
    arguments = [
        "--config=configs/imagenet.py", "--config.dataset=image_folder", f"--config.data_dir={folder / 'data'}",
        f"--config.model={one_block.MODEL}", "--config.image_size=16", "--config.eval_resize=18",
        "--config.batch_size=8", "--config.eval_batch_size=10", "--config.num_workers=1", "--config.epochs=6",
        "--config.tensorboard=False", "--config.report=False",
    ]  # fmt: skip
    return arguments, folder, left_alone(arguments, folder)


def test_photographs_end_as_those_left_alone(photos):
    arguments, folder, expected = photos
    run = run_of(arguments, folder / "harmed", expected[0])
    # Control-C on a terminal reaches the workers too. The workers of the second epoch may still be starting.
    control_c = after_an_epoch(signal.SIGINT, 130, os.killpg)
    harm(run, [after_an_epoch(signal.SIGTERM, 75), control_c, faults.kill_while_saving], expected)


def test_workers_that_die_or_hang_are_noticed(photos):
    arguments, folder, _ = photos
    forever = [*arguments, "--config.epochs=1000", "--config.data_timeout_seconds=10"]
    run = run_of(forever, folder / "workers", seconds=2.0)
    for harmed, words in (
        (
            faults.worker_killed,
            "error: an input worker is gone (Worker process was terminated unexpectedly with exit code -9",
        ),
        (faults.worker_hangs, "error: no batch came for 10 s: an input worker or the disk that it reads hangs"),
    ):
        assert harmed(run, random.Random(0)) == "stopped with a line"
        assert log(run.workdir).splitlines()[-1].startswith(words)
        assert "Traceback" not in log(run.workdir)
