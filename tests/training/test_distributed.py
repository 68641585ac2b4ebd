"""Tests a run of two real processes. Each has two virtual CPU devices. They connect over loopback."""

import pathlib
import shutil
import signal
import socket
import time

import numpy as np
import pytest

from experiments.runs import differences, final_state, log, measured, rows
from tests.support import one_block
from tests.support.processes import PATIENCE_SECONDS, end_all, start

pytestmark = pytest.mark.slow
# The batch has 256 images. With fewer values per channel, batch norm of a sum of signs can be exactly 0. The sign of
# this 0 depends on rounding, which differs with the number of devices (see `small_recipe` in test_step.py).
EXACT = [
    "--config.dtype=float64", "--config.global_batch_norm=True", "--config.epochs=1", "--config.batch_size=256",
    "--config.eval_batch_size=360", "--config.log_every_steps=1", "--config.report=False",
]  # fmt: skip
# Collectives take more of a step's time than arithmetic, so few large batches are quicker than many small ones.
QUICK = ["--config.epochs=8", "--config.batch_size=128", "--config.report=False"]
PROCESSES, TRIES = 2, 4
NOT_MET = "Gloo context initialization failed: DEADLINE_EXCEEDED"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def begin(arguments, workdir, environment, log=None):
    """Starts one process, without XLA's optimizations: they do not change what these tests compare."""
    folder = workdir.parent
    environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return start([*one_block.arguments(folder), *arguments], workdir, folder / "cache", environment, log=log)


def start_all(workdir, arguments):
    """Starts the processes of one run. Returns them when process 0 has compiled, or when one has ended.

    The log of process i is WORKDIR.i.log. The processes have 30 s to connect. On a busy machine this may be too short:
    then all are started again, up to `TRIES` times in total.
    """
    for _ in range(TRIES):
        before = [len(said(workdir, i)) for i in range(PROCESSES)]
        processes = start_once(workdir, arguments)
        while all(p.poll() is None for p in processes) and "compiled, and" not in said(workdir, 0)[before[0] :]:
            time.sleep(0.05)
        if not any(NOT_MET in said(workdir, i)[before[i] :] for i in range(PROCESSES)):
            break
        end_all()
        if not rows(workdir):
            shutil.rmtree(workdir, ignore_errors=True)
    return processes


def start_once(workdir, arguments):
    coordinator = f"127.0.0.1:{free_port()}"
    found = []
    for i in range(PROCESSES):
        environment = {
            "JAX_COORDINATOR_ADDRESS": coordinator, "JAX_NUM_PROCESSES": str(PROCESSES), "JAX_PROCESS_ID": str(i),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        }  # fmt: skip
        found.append(begin([*arguments, "--distributed"], workdir, environment, own_log(workdir, i)))
    return found


def own_log(workdir, i):
    return pathlib.Path(f"{workdir}.{i}.log")


def said(workdir, i):
    return own_log(workdir, i).read_text() if own_log(workdir, i).exists() else ""


def end(processes):
    """Returns the exit statuses. A process that hangs fails the test, and `conftest.py` kills it."""
    until = time.monotonic() + PATIENCE_SECONDS
    return [p.wait(max(until - time.monotonic(), 0.1)) for p in processes]


def devices_of(count):
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}


def run_on(devices, workdir):
    assert begin(EXACT, workdir, devices_of(devices)).wait(PATIENCE_SECONDS) == 0, log(workdir)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distributed")


def left_alone(folder, name, arguments):
    workdir = folder / name
    assert end(start_all(workdir, arguments)) == [0, 0], said(workdir, 0) + said(workdir, 1)
    return workdir


@pytest.fixture(scope="module")
def exact(folder):
    """Returns the workdir of a run of both processes without faults, with the arguments EXACT."""
    return left_alone(folder, "exact", EXACT)


@pytest.fixture(scope="module")
def quick(folder):
    """Returns the workdir of a run without faults, with QUICK: in float32, and with batch norm per device."""
    return left_alone(folder, "quick", QUICK)


def assert_close(a, b, rtol=1e-6):
    a, b = final_state(a), final_state(b)
    assert a.keys() == b.keys() and len(a) > 20
    for path in a:
        scale = max(np.abs(a[path]).max(), 1e-30)
        assert np.abs(a[path] - b[path]).max() <= rtol * scale, path


@pytest.mark.parametrize("devices", [4, 1])
def test_two_processes_equal_one(exact, folder, devices):
    alone = folder / f"alone_{devices}"
    run_on(devices, alone)
    assert_close(exact, alone)
    for a, b in zip(rows(exact), rows(alone), strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose([a[k] for k in a], [b[k] for k in a], rtol=1e-9)
    for a, b in zip(measured(exact), measured(alone), strict=True):
        for layer in a.keys() | b.keys():
            numbers = sorted(a[layer].keys() - {"histogram"})  # a weight at the edge of a bin may fall to either side
            np.testing.assert_allclose([a[layer][k] for k in numbers], [b[layer][k] for k in numbers], 1e-3, 1e-4)


def test_one_process_speaks_for_all(quick):
    assert "final test top-1" in said(quick, 0) and "epoch 8/8" in said(quick, 0)
    assert "top-1" not in said(quick, 1)
    assert len(rows(quick)) == 8


def harmed(workdir, number, victim):
    """Runs both processes, and sends one of them a signal after the next epoch. Returns both exit statuses."""
    before = len(rows(workdir))
    processes = start_all(workdir, QUICK)
    while len(rows(workdir)) == before:
        assert all(p.poll() is None for p in processes), said(workdir, 0) + said(workdir, 1)
        time.sleep(0.02)
    processes[victim].send_signal(number)
    return end(processes)


def test_preemption_and_killed_processes_change_nothing(quick, folder):
    """Stops or kills one run three times, not three runs once each, because each start of processes takes long."""
    workdir = folder / "harmed"
    # A notice to one process stops all of them at the same step.
    assert harmed(workdir, signal.SIGTERM, 1) == [75, 75]
    lines = [said(workdir, i).rstrip().splitlines()[-1] for i in range(PROCESSES)]
    step = lines[0].split("from step ")[1].split(",")[0]
    for line in lines:
        assert line.startswith(f"stopped by a preemption notice; the same command continues from step {step}, saved in")
    for victim, other in ((0, 1), (1, 0)):
        before = len(said(workdir, other))
        statuses = harmed(workdir, signal.SIGKILL, victim)
        # The other process ends with 3 if a collective notices the loss, and with SIGABRT if JAX's runtime does.
        assert statuses[victim] == -signal.SIGKILL and statuses[other] in (3, -signal.SIGABRT)
        if statuses[other] == 3:
            assert (
                f"error: process {other} of 2 cannot go on, probably because another is gone"
                in said(workdir, other)[before:]
            )
    assert end(start_all(workdir, QUICK)) == [0, 0]
    assert f"resuming {workdir} at step {step} of " in said(workdir, 0)
    assert differences(final_state(quick), final_state(workdir)) == []


def test_a_mistake_ends_all(folder):
    processes = start_all(folder / "mistake", [*QUICK, "--config.num_devices=3"])
    assert end(processes) == [2, 2]
    for i in range(PROCESSES):
        assert "error: config.num_devices is 3; the processes of this run have 4" in said(folder / "mistake", i)
    assert not (folder / "mistake").exists()


def test_a_checkpoint_of_four_devices_resumes_on_two_and_on_one(exact, folder):
    workdir = folder / "begun_on_four"
    for devices, last in ((4, 1), (2, 3)):
        process = begin(EXACT, workdir, devices_of(devices))
        while f"step {last}/5" not in log(workdir):
            assert process.poll() is None, log(workdir)
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 75
    run_on(1, workdir)
    assert log(workdir).count("resuming") == 2
    assert_close(exact, workdir)


def test_half_an_address_is_a_mistake(folder):
    environment = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"}
    workdir = folder / "half"
    assert begin(QUICK, workdir, environment).wait(PATIENCE_SECONDS) == 2
    assert "error: JAX_NUM_PROCESSES is 'two'; it must be a whole number" in log(workdir)
    assert "Traceback" not in log(workdir) and not workdir.exists()
