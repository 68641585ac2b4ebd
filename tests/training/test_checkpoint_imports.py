"""Tests the workdirs of imported variables: one checkpoint of step 0, or nothing if an import fails."""

import errno
import os
import tempfile

import jax
import numpy as np
import pytest

from recu_jax import UserError
from recu_jax.training.checkpoint import read_best, save_imported

VARIABLES = {
    "params": {"a": {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4)}, "b": {"alpha": np.linspace(0, 1, 7)}},
    "batch_stats": {"bn": {"mean": np.ones(4)}},
}


@pytest.mark.parametrize("given", [{"epoch": None, "best_prec1": None}, {"epoch": 7, "best_prec1": 91.5}])
def test_imported_variables_are_a_checkpoint_of_step_0(tmp_path, given):
    workdir = tmp_path / "runs" / "imported"
    imported = {"model": "m", "conv": "real", **given}
    save_imported(workdir, VARIABLES, imported)
    step, record, found = read_best(workdir)
    assert step == 0 and record["imported"] == imported
    jax.tree.map(np.testing.assert_array_equal, found, VARIABLES)
    assert record["config"] == {"model": "m", "conv": "real", "alpha": "learned"}
    assert record["metrics"] == {"epoch": given["epoch"] or 0, "test_top1": given["best_prec1"] or 0.0}
    assert [f.name for f in workdir.iterdir()] == ["checkpoints"]
    with pytest.raises(UserError, match="already holds checkpoints; give another --workdir"):
        save_imported(workdir, VARIABLES, imported)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file cannot be written to: File exists; give another --workdir"):
        save_imported(tmp_path / "file", VARIABLES, imported)


@pytest.mark.parametrize("there", [False, True])
def test_an_import_that_fails_says_why_and_leaves_nothing(tmp_path, monkeypatch, there):
    """The reason is the error of the system, from which the last error came."""

    def full(**_):
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            raise OSError("no folder")  # noqa: B904  (so that the first error is the context, not the cause)

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    workdir = tmp_path / "w"
    if there:
        workdir.mkdir()
    with pytest.raises(UserError, match="w cannot be written to: No space left on device; give another --workdir"):
        save_imported(workdir, {}, {"model": "m", "conv": "real", "epoch": None, "best_prec1": None})
    assert workdir.exists() == there
