"""Tests which files of a run are copied to a bucket, and in which order. The bucket is on a local S3 server (moto)."""

import pathlib
import shutil

import pytest

from recu_jax import RunFailed
from recu_jax.training import bucket
from recu_jax.training.bucket_copy import BucketCopy
from tests.support.s3 import checkpoint, files, steps


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


class Interrupted(BucketCopy):
    """A copy that calls `before(step)` before it lists the files of a checkpoint."""

    def _parts(self, step):
        self.before(step)
        return super()._parts(step)


def copies(server, before):
    """Returns a copy with step 1 in the bucket. Calls `before(folder, step)` before it lists a checkpoint's files."""
    address = "s3://bucket/run"
    found = Interrupted(address, bucket.folder_of(address))
    found.before = lambda step: None
    checkpoint(found.folder, 1)
    assert found.problem_of_copying() is None
    found.before = lambda step: before(found.folder, step)
    return found


@pytest.mark.slow
def test_checkpoints_that_are_deleted_while_they_are_sent(server):
    """Fast runs make and delete checkpoints during one upload. The bucket keeps a checkpoint all the same."""

    def delete(folder, step):
        if step == 3:
            shutil.rmtree(folder / "checkpoints/3", ignore_errors=True)
            shutil.rmtree(folder / "checkpoints/1", ignore_errors=True)

    copy = copies(server, delete)
    checkpoint(copy.folder, 2)
    checkpoint(copy.folder, 3)
    assert copy.problem_of_copying() is None and there() == [1, 2]
    shutil.rmtree(copy.folder / "checkpoints/2")
    checkpoint(copy.folder, 4)
    assert copy.problem_of_copying() is None and there() == [4]


@pytest.mark.slow
def test_an_upload_that_fails_in_the_middle(server):
    """The upload after it goes on, although the copy no longer has the checkpoint that was sent last."""

    def fail(folder, step):
        if step == 3:
            raise OSError("the network is down")

    copy = copies(server, fail)
    checkpoint(copy.folder, 2)
    checkpoint(copy.folder, 3)
    assert "the network is down" in copy.problem_of_copying() and there() == [1, 2]
    copy.before = lambda step: None
    shutil.rmtree(copy.folder / "checkpoints/2")
    assert copy.problem_of_copying() is None and there() == [1, 3]


@pytest.mark.slow
def test_new_checkpoints_replace_all_old_ones_during_an_upload(server):
    copy = copies(server, lambda folder, step: None)
    send = copy._send

    def replace(name, names):
        copy._send = send
        for step in (2, 3):
            checkpoint(copy.folder, step)
        shutil.rmtree(copy.folder / "checkpoints/1")
        send(name, names)

    copy._send = replace
    assert copy.problem_of_copying() is None and there() == [1]
    assert copy.problem_of_copying() is None and there() == [2, 3]


@pytest.mark.slow
def test_a_record_whose_answer_is_lost(server):
    copy = copies(server, lambda folder, step: None)
    pipe = copy._files.pipe_file

    def lose_the_answer(name, data):
        pipe(name, data)
        if name.endswith("/2/record/metadata"):
            raise OSError("no answer")

    copy._files.pipe_file = lose_the_answer
    checkpoint(copy.folder, 2)
    assert "no answer" in copy.problem_of_copying()
    checkpoint(copy.folder, 3)
    shutil.rmtree(copy.folder / "checkpoints/2")
    assert copy.problem_of_copying() is None and there() == [1, 3]


@pytest.mark.slow
def test_a_run_that_was_killed_after_it_sent_a_record(server):
    copy = copies(server, lambda folder, step: None)
    checkpoint(copy.folder, 2)
    files().put(str(copy.folder / "checkpoints/2"), "bucket/run/checkpoints/2", recursive=True)
    again = BucketCopy("s3://bucket/run", copy.folder)
    again.fetch()
    checkpoint(copy.folder, 3)
    shutil.rmtree(copy.folder / "checkpoints/2")
    assert again.problem_of_copying() is None and there() == [1, 3]


def there():
    """Returns the steps of the checkpoints in the bucket that have a record."""
    return sorted(int(name.split("/")[3]) for name in files().glob("bucket/run/checkpoints/*/record/metadata"))
