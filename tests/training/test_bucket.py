"""Tests runs in buckets, with an S3 server (moto) in a process of its own."""

import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time

import pytest

from experiments.runs import differences, final_state, log, rows
from recu_jax import RunFailed, UserError, config, load_variables
from recu_jax.commands import report
from recu_jax.training import bucket, loop
from tests.support import one_block
from tests.support.processes import PATIENCE_SECONDS, start

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


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Returns the folder of the local copies. Sets made-up credentials and the address of a missing server."""
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(f"AWS_{name}", str(tmp_path / "none"))
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "somebody")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(tmp_path, cache, monkeypatch):
    started = Server(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", started.address)
    started.start()
    yield started
    started.stop()


def tiny(folder, **changes):
    one_block.arguments(folder)
    return config.load(
        "digits", model=one_block.MODEL, dataset="npz", data_dir=str(folder / "digits.npz"), num_devices=1,
        tensorboard=False, report=False, diagnostics=False, **changes,
    )  # fmt: skip


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


@pytest.mark.slow
def test_a_killed_run_goes_on_from_the_bucket(server, cache, tmp_path, capsys):
    """Another machine, which has no local copy, continues the run. The result is the same, bit for bit."""
    arguments = [
        *one_block.arguments(tmp_path),
        "--config.epochs=8",
        "--config.report=False",
        "--config.diagnostics=False",
    ]
    compiled, address, said = tmp_path / "compiled", "s3://bucket/runs/one", tmp_path / "bucket.log"
    assert start(arguments, tmp_path / "alone", compiled).wait(PATIENCE_SECONDS) == 0, log(tmp_path / "alone")
    killed = start(arguments, address, compiled, log=said)
    server.wait_for_a_record("runs/one")
    killed.kill()
    killed.wait()
    shutil.rmtree(cache)
    assert start(arguments, address, compiled, log=said).wait(PATIENCE_SECONDS) == 0, said.read_text()
    assert re.search(r"\nresuming .* at step \d+ of 352: [1-7] of 8 epochs are done", said.read_text()), (
        said.read_text()
    )
    assert said.read_text().rstrip().endswith(f"; workdir {address}")

    shutil.rmtree(cache)
    found = bucket.fetched(address)
    assert differences(final_state(tmp_path / "alone"), final_state(found)) == []
    assert rows(found) == rows(tmp_path / "alone")
    shutil.rmtree(cache)
    best = max(rows(tmp_path / "alone"), key=lambda row: (row["test_top1"], row["epoch"]))
    evaluated = loop.evaluate(tiny(tmp_path), address)
    assert evaluated["epoch"] == best["epoch"] and evaluated["test_top1"] == pytest.approx(best["test_top1"], abs=0.6)
    assert set(load_variables(address)) == {"params", "batch_stats"}
    report.main([address, f"--out={tmp_path / 'one.html'}"])
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'one.html'}\n")


@pytest.mark.slow
def test_a_server_that_goes_away(server, capfd):
    """The run goes on, and says where the files are that the bucket lacks. Started again, it uploads them."""
    address = "s3://bucket/run"
    copy = pathlib.Path(bucket.folder_of(address))
    lacks = f"{address} cannot be written to: Could not connect to .*; what the bucket lacks is in {copy}"
    with pytest.raises(RunFailed) as failed, bucket.mirrored(address):
        checkpoint(copy, 1)
        server.wait_for_a_record("run")
        server.stop()
        checkpoint(copy, 2)
        began, said = time.monotonic(), ""
        while not said.endswith("\n"):
            assert time.monotonic() - began < PATIENCE_SECONDS
            time.sleep(0.05)
            said += capfd.readouterr().err
    assert re.fullmatch(f"{lacks}; the next checkpoint tries again\n", said)
    assert re.fullmatch(f"the run finished, but {lacks}; run the same command again", str(failed.value))
    assert capfd.readouterr().err == ""

    server.start()
    with bucket.mirrored(address):
        server.wait_for_a_record("run")
    assert f"{address} holds no checkpoint; step 2 is taken from {copy}" in capfd.readouterr().out
    kept = files().find("bucket/run")
    assert {"bucket/run/metrics.jsonl", "bucket/run/checkpoints/2/record/metadata"} <= set(kept)
    # A run that is stopped also says what the bucket lacks.
    with pytest.raises(KeyboardInterrupt), bucket.mirrored(address):
        server.stop()
        raise KeyboardInterrupt
    assert re.fullmatch(rf"({lacks}(; the next checkpoint tries again)?\n)+", capfd.readouterr().err)


@pytest.mark.slow
def test_the_bucket_can_be_resumed_from_at_every_moment(server):
    """The order is: rows of metrics, the files of a checkpoint, its record, and then deletions."""
    with bucket.mirrored("s3://bucket/run") as folder:
        checkpoint(pathlib.Path(folder), 1)
        pathlib.Path(folder, "lock").touch()
        pathlib.Path(folder, ".run.json.1.tmp").touch()
        pathlib.Path(folder, "checkpoints/2.orbax-checkpoint-tmp").mkdir()
        pathlib.Path(folder, "checkpoints/2.orbax-checkpoint-tmp/state").touch()
        server.wait_for_a_record("run")
        first = server.changes()
        checkpoint(pathlib.Path(folder), 2)
        shutil.rmtree(f"{folder}/checkpoints/1")
    second = server.changes(since=len(first))
    at = "run/checkpoints/{}/{}".format
    assert first[:3] == [("PUT", "run/.writable"), ("DELETE", "run/.writable"), ("PUT", "run/metrics.jsonl")]
    assert sorted(first[3:5]) == [("PUT", at(1, "state/d/one")), ("PUT", at(1, "state/manifest"))]
    assert first[5:] == [("PUT", at(1, "record/metadata"))]
    assert second[0] == ("PUT", "run/metrics.jsonl") and second[3] == ("PUT", at(2, "record/metadata"))
    assert second[4:] == [("DELETE", at(1, "record/metadata")), ("POST", "?delete")]
    assert {name for name in files().find("bucket/run") if "/checkpoints/" in name} == {
        f"bucket/{at(2, name)}" for name in ("record/metadata", "state/d/one", "state/manifest")
    }


@pytest.mark.slow
def test_which_of_bucket_and_copy_is_taken(server, capsys):
    address = "s3://bucket/run"
    copy = pathlib.Path(bucket.folder_of(address))
    with bucket.mirrored(address):
        checkpoint(copy, 1)
    files().pipe_file("bucket/run/checkpoints/7/state/manifest", b"the run was killed before it copied the record")

    # Another machine fetches the run, and continues it.
    shutil.move(copy, f"{copy}.elsewhere")
    with bucket.mirrored(address):
        assert steps(copy) == [1] and (copy / "metrics.jsonl").read_text() == "1\n"
        checkpoint(copy, 2)
    # The copy of the first machine has nothing that the bucket lacks, so it is replaced.
    shutil.rmtree(copy)
    shutil.move(f"{copy}.elsewhere", copy)
    assert bucket.fetched(address) == str(copy) and steps(copy) == [1, 2] and "now" not in capsys.readouterr().out
    # A copy that is ahead of the bucket stays.
    checkpoint(copy, 3)
    shutil.rmtree(copy / "checkpoints/1")
    shutil.rmtree(copy / "checkpoints/2")
    bucket.fetched(address)
    assert f"{address} holds step 2; step 3 is taken from {copy}" in capsys.readouterr().out and steps(copy) == [3]
    # Now the bucket holds another run. The copy has a checkpoint that the bucket never had, so it is moved aside.
    files().rm("bucket/run", recursive=True)
    files().pipe_file("bucket/run/checkpoints/2/record/metadata", b"of another run")
    bucket.fetched(address)
    assert steps(copy) == [2] and steps(f"{copy}.1") == [3]
    assert f"{copy} held another state than {address}; it is now {copy}.1" in capsys.readouterr().out


@pytest.mark.slow
def test_two_runs_do_not_write_over_each_other(server):
    address = "s3://bucket/run"
    line = f"but another run writes to {address}; give another --workdir"
    with pytest.raises(RunFailed, match=line), bucket.mirrored(address) as folder:
        files().pipe_file("bucket/run/checkpoints/9/record/metadata", b"of another run")
        checkpoint(pathlib.Path(folder), 1)
    assert files().find("bucket/run") == ["bucket/run/checkpoints/9/record/metadata"]


@pytest.mark.slow
def test_a_bucket_that_does_not_exist(server, cache):
    with pytest.raises(
        UserError, match=r"^s3://none/run cannot be written to: The specified bucket does not exist; see"
    ):
        loop.train(config.load("digits"), "s3://none/run")
    assert not cache.exists()


@pytest.mark.parametrize("scheme, package", [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_package_that_is_not_installed(scheme, package, monkeypatch, cache):
    monkeypatch.setitem(sys.modules, package, None)
    line = rf"{package} is not installed; type: pip install {package}"
    with pytest.raises(UserError, match=line):
        loop.train(config.load("digits"), f"{scheme}://bucket/run")
    with pytest.raises(UserError, match=line):
        loop.evaluate(config.load("digits"), f"{scheme}://bucket/run")
    assert not cache.exists()


def test_no_credentials(monkeypatch, cache):
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    with pytest.raises(UserError, match=r"^s3://b/run cannot be read: there are no credentials; type: aws configure$"):
        loop.evaluate(config.load("digits"), "s3://b/run")
    assert not cache.exists()


@pytest.mark.slow
def test_a_server_that_does_not_answer(cache):
    line = "^s3://b/run cannot be written to: Could not connect to the endpoint URL: .*; see to the network, the bucket"
    with pytest.raises(UserError, match=line):
        loop.train(config.load("digits"), "s3://b/run")
    assert not cache.exists()


def test_several_processes_are_refused(monkeypatch, cache):
    monkeypatch.setattr(bucket.distributed, "several", lambda: True)
    line = r"needs a folder that all of them see; mount the bucket \(gcsfuse BUCKET DIR\) and give DIR$"
    with pytest.raises(UserError, match=line):
        loop.train(config.load("digits"), "gs://b/run")
    assert not cache.exists()
