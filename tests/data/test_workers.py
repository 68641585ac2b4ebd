"""Checks that worker processes end when they should."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from recu_jax.data.stream import train_batches
from recu_jax.data.workers import leave_stop_signals_to_other_threads
from tests.support import ROOT
from tests.support.photo_streams import TRAIN

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
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as script:
        worker = int(script.stdout.readline())
        assert running(worker)
        os.kill(worker, signal.SIGTERM)  # a cluster signals all processes; workers ignore it
        os.kill(worker, signal.SIGINT)
        time.sleep(0.2)
        assert running(worker)
        script.kill()
    deadline = time.monotonic() + 20
    while running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(worker)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no signal masks")
def test_control_c_while_a_worker_starts_is_left_to_the_main_process(broken):
    """On a terminal Control-C reaches a worker while it still imports JAX, before its own handlers are set."""
    signalled = []

    def signal_the_first_worker():
        while not (workers := multiprocessing.active_children()):
            time.sleep(0.001)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(workers[0].pid, number)
            signalled.append(number)

    threading.Thread(target=signal_the_first_worker, daemon=True).start()
    with (
        train_batches(broken, **TRAIN, num_workers=1, on_corrupt="skip") as batches,
        ThreadPoolExecutor(1, initializer=leave_stop_signals_to_other_threads) as thread,
    ):
        assert thread.submit(next, batches).result()["image"].shape[0] == TRAIN["batch_size"]
    assert len(signalled) == 2
