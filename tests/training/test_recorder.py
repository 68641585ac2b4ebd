"""Tests what a run keeps: rows, checkpoints, the best epoch."""

import json

import jax
import pytest

from recu_jax import RunFailed
from recu_jax.records import read_epochs, read_run
from recu_jax.training.checkpoint import read_best, saved
from recu_jax.training.epoch import StepMetrics
from recu_jax.training.recorder import RunRecorder
from recu_jax.training.run import find_start, prepare, read_given_variables
from recu_jax.training.step import replicate
from tests.support.small_runs import digits

TRAINED = {"train_loss": 1.0, "train_top1": 50.0, "images_per_second": 100.0}


def results(top1):
    return {"test_loss": 0.5, "test_top1": top1, "test_top5": 99.0, "test_images": 360}


def run_of(**fields):
    return prepare(digits(model="digits_resnet8", epochs=4, report=False, diagnostics=False, **fields))


def started(run, workdir):
    return find_start(run, workdir, read_given_variables(run, workdir).first)


def test_rows_checkpoints_and_the_best_epoch(tmp_path, capsys):
    run = run_of(checkpoint_every_epochs=3)
    start = started(run, tmp_path)
    state = replicate(start.state, run.devices)
    with RunRecorder(run, tmp_path, start) as recorder:
        for epoch, top1 in enumerate((40.0, 60.0, 60.0, 50.0)):
            recorder.start_epoch(epoch, StepMetrics())
            recorder.check()
            recorder.end_epoch(state.replace(step=state.step + 44 * (epoch + 1)), epoch, TRAINED, results(top1))
    last, best = recorder.last_and_best()
    assert (last["epoch"], best["epoch"], best["test_top1"]) == (4, 3, 60.0)
    rows = read_epochs(tmp_path / "metrics.jsonl")
    assert rows == [json.loads(json.dumps(row)) for row in rows] and [row["step"] for row in rows] == [44, 88, 132, 176]
    assert (
        rows[0]["learning_rate"] == pytest.approx(float(run.recipe.learning_rate(0)))
        and rows[0]["tau"] < rows[3]["tau"]
    )
    # Checkpoints of the third epoch and of the last, which is always saved.
    assert [checkpoint.step for checkpoint in saved(tmp_path)] == [132, 176]
    assert read_best(tmp_path)[1]["metrics"]["epoch"] == 3
    record = read_run(tmp_path)
    assert record["config"]["model"] == "digits_resnet8" and [s["epoch"] for s in record["starts"]] == [1]
    assert "epoch 4/4" in capsys.readouterr().out

    again = started(run, tmp_path)
    with RunRecorder(run, tmp_path, again) as recorder:
        assert recorder.last_and_best()[0]["epoch"] == 4
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "finished: all 4 epochs are done, and nothing is left to train"


@pytest.mark.parametrize("done", [2, 44])
def test_a_stop_within_an_epoch_is_saved_and_said_when_it_goes_on(done, tmp_path, capsys):
    run = run_of()
    with RunRecorder(run, tmp_path, started(run, tmp_path)):
        pass  # saves nothing, so its start is dropped
    start = started(run, tmp_path)
    metrics = StepMetrics({"loss": [1.0, 2.0] * (done // 2), "top1": [0.0] * done})
    state = jax.device_get(start.state)
    with RunRecorder(run, tmp_path, start) as recorder:
        recorder.start_epoch(0, StepMetrics())
        recorder.save_unfinished(replicate(state.replace(step=state.step + done), run.devices), 0, metrics)
    again = started(run, tmp_path)
    assert (again.epoch, again.metrics.as_json()) == (0, metrics.as_json())
    with RunRecorder(run, tmp_path, again):
        pass
    assert [s["epoch"] for s in read_run(tmp_path)["starts"]] == [1, 1]
    said = capsys.readouterr().out
    of_next = f"{done} of the 44 steps of the next" if done < 44 else "all steps of the next, which is tested now"
    assert f"at step {done} of 176: 0 of 4 epochs are done, and {of_next}\n" in said
    assert ("compiling" in said.partition("of the next")[2]) == (
        done < 44
    )  # after all 44 steps only the test is left, which itself says that it compiles


def test_what_is_not_finite_is_not_saved(tmp_path):
    run = run_of()
    start = started(run, tmp_path)
    broken = start.state.replace(params=jax.tree.map(lambda a: a * float("nan"), start.state.params))
    with RunRecorder(run, tmp_path, start) as recorder, pytest.raises(RunFailed, match="is not finite after step 0"):
        recorder.start_epoch(0, StepMetrics())
        recorder.save_unfinished(replicate(broken, run.devices), 0, StepMetrics())
    assert saved(tmp_path) == []
