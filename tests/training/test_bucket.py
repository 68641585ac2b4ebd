"""Tests runs in buckets, with an S3 server (moto) in a process of its own."""

import pathlib
import re
import shutil
import sys
import time

import pytest

from experiments.runs import differences, final_state, log, rows
from recu_jax import RunFailed, UserError, config, load_variables
from recu_jax.commands import report
from recu_jax.training import bucket, loop
from tests.support import one_block
from tests.support.processes import PATIENCE_SECONDS, start
from tests.support.s3 import checkpoint, files

pytestmark = pytest.mark.usefixtures("cache")


def tiny(folder, **changes):
    one_block.arguments(folder)
    return config.load(
        "digits", model=one_block.MODEL, dataset="npz", data_dir=str(folder / "digits.npz"), num_devices=1,
        tensorboard=False, report=False, diagnostics=False, **changes,
    )  # fmt: skip


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
