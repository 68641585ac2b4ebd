"""An S3 server (moto) in a process of its own, for tests of runs in buckets."""

import pathlib
import re
import socket
import subprocess
import sys
import time

import pytest

from tests.support.processes import PATIENCE_SECONDS

s3fs = pytest.importorskip("s3fs")


class Server:
    """An S3 server with a bucket called `bucket`. Stopping the server deletes the bucket."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address, self._log = f"http://127.0.0.1:{self._port}", folder / "server.log"

    def start(self):
        with open(self._log, "ab") as said:
            command = [sys.executable, "-m", "moto.server", "-p", str(self._port)]
            self._process = subprocess.Popen(command, stdout=said, stderr=said)
        while True:
            assert self._process.poll() is None, self._log.read_text()
            with socket.socket() as there:
                if there.connect_ex(("127.0.0.1", self._port)) == 0:
                    break
            time.sleep(0.05)
        files().mkdir("bucket")

    def stop(self):
        self._process.kill()
        self._process.wait()

    def changes(self, since=0):
        """Returns (method, name in the bucket) of all writes and deletions, in order, but for the first `since`."""
        return re.findall(r"(PUT|DELETE|POST) /bucket/?(\S+)", self._log.read_text())[since:]

    def wait_for_a_record(self, run):
        began, name = time.monotonic(), re.compile(rf"{run}/checkpoints/\d+/record/metadata")
        while not any(method == "PUT" and name.fullmatch(written) for method, written in self.changes()):
            assert time.monotonic() - began < PATIENCE_SECONDS, self._log.read_text()
            time.sleep(0.02)


def files():
    return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)


def checkpoint(folder, step, says="this run"):
    """Writes files named as those of a checkpoint, and a row of metrics. `bucket` reads only names and records."""
    for name in ("state/manifest", "state/d/one", "record/metadata"):
        file = folder / "checkpoints" / str(step) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{name} of step {step} of {says}")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(f"{step}\n")


def steps(folder):
    return sorted(int(f.name) for f in pathlib.Path(folder, "checkpoints").iterdir())
