"""Tests the exit status and last line of a run, without training. `tests/robustness/test_faults.py` trains."""

import errno

import pytest

from recu_jax import RunFailed, UserError
from recu_jax.commands import train
from recu_jax.config import base_config
from recu_jax.training import loop
from recu_jax.training.stopping import Stopped

LOST = OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")


@pytest.fixture
def ends(monkeypatch, tmp_path, capsys):
    """Returns a function that raises the given error in a run. It returns the run's exit status and line."""
    statuses = []
    monkeypatch.setattr(train, "_end", lambda status, several: statuses.append(status))
    monkeypatch.setattr(train, "_hush_failed_saves", lambda: None)

    def of(error):
        def fails(config, workdir, end_process):
            raise error

        monkeypatch.setattr(loop, "train", fails)
        train.train_or_evaluate(base_config(), str(tmp_path / "run"), "train", False)
        (line,) = capsys.readouterr().err.splitlines()
        return statuses.pop(), line

    return of


@pytest.mark.parametrize(
    "error,status,line",
    [
        (UserError("a mistake\nof yours"), 2, "error: a mistake of yours"),
        (RunFailed("the loss is nan"), 3, "error: the loss is nan"),
        (
            LOST,
            3,
            "error: the run stopped: No space left on device (metrics.jsonl); see to it, and run",
        ),
        (Stopped("SIGTERM"), 75, "stopped by SIGTERM; the same command starts anew: nothing is saved yet"),
        (Stopped("SIGUSR1"), 75, "stopped by SIGUSR1; the same command"),
        (Stopped("SIGINT"), 130, "stopped by SIGINT; the same command"),
        (KeyboardInterrupt(), 130, "stopped by SIGINT; the same command"),
    ],
)
def test_what_ends_a_run_has_its_status(ends, error, status, line):
    ended, said = ends(error)
    assert ended == status and said.startswith(line)


def test_a_fault_of_ours_is_not_hidden(ends):
    with pytest.raises(KeyError):
        ends(KeyError("a bug"))


def test_a_run_that_ends_well_prints_a_line(monkeypatch, tmp_path, capsys):
    rows = [{"test_top1": 97.0, "epoch": 2}, {"test_top1": 98.5, "epoch": 1}]
    monkeypatch.setattr(train, "_hush_failed_saves", lambda: None)
    monkeypatch.setattr(loop, "train", lambda config, workdir, end_process: loop.Result(*rows, None))
    train.train_or_evaluate(base_config(), "runs/x", "train", False)
    assert capsys.readouterr().out == "final test top-1 97.00%, best 98.50% (epoch 1); workdir runs/x\n"
