"""Exports runs to PyTorch files of the authors' form, and tests a run that does not fit this form."""

import json
import subprocess

import pytest

from recu_jax import UserError
from recu_jax.commands import export_torch
from recu_jax.training.checkpoint import digests
from tests.support import commands

torch = pytest.importorskip("torch", reason="pip install torch (on Python 3.11: torch==2.13.0 is a CPU build)")


@pytest.mark.slow
def test_what_is_exported_is_what_the_official_code_writes(imported, official, tmp_path, refusal):
    path = tmp_path / "exported.pth.tar"
    result = commands.run("export-torch", imported, path)
    assert (result.returncode, result.stderr) == (0, "") and str(path) in result.stdout
    exported = torch.load(path, weights_only=True)
    assert exported.keys() == official.keys() - {"optimizer", "lr_scheduler"}
    assert exported["epoch"] == 2 and exported["best_prec1"] == pytest.approx(13.13)
    assert list(exported["state_dict"]) == list(official["state_dict"])
    for key, tensor in official["state_dict"].items():
        ours = exported["state_dict"][key]
        assert (ours.shape, ours.dtype) == (tensor.shape, tensor.dtype), key
        if not key.endswith(("tau", "num_batches_tracked")):
            assert torch.equal(ours, tensor), key
    assert list(tmp_path.iterdir()) == [path]
    assert "already there" in refusal(export_torch.main, imported, path)
    assert "cannot be written" in refusal(export_torch.main, imported, tmp_path / "no" / "folder.pth")


@pytest.mark.slow
def test_a_run_with_another_alpha_is_not_exported(imported, tmp_path):
    # The command reads alpha from the record, so a copy with a changed record is enough.
    copy = tmp_path / "w"
    subprocess.run(["cp", "-r", imported, copy], check=True)
    (record,) = copy.glob("checkpoints/0/record/metadata")
    changed = json.loads(record.read_text())
    changed["config"]["alpha"] = "mean"
    changed["digests"]["record"] = digests.of_record(changed)
    record.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="alpha='mean'"):
        export_torch.export(copy, tmp_path / "m.pth")
