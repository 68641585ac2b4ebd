"""Whole runs in this process: trained, resumed, evaluated, refused, and exported."""

import shutil

import jax
import numpy as np
import pytest

from recu_jax import UserError
from recu_jax.commands import export_torch
from recu_jax.deploy import check, trained
from recu_jax.training import loop
from recu_jax.training.checkpoint import saved
from tests.support.small_runs import digits

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two epochs of what has the most parts: a scale of its own, annealing, RPReLU, Bop with its averages."""
    folder = tmp_path_factory.mktemp("runs")
    fields = {
        "weight_binarizer": "xnor_net", "activation_binarizer": "ede", "nonlinearity": "rprelu",
        "optimizer": "bop", "learning_rate": 0.01, "bop_gamma": 1e-2, "weight_decay": 0.0, "epochs": 2,
    }  # fmt: skip
    return fields, folder, loop.train(digits(**fields), folder / "whole")


def test_bop_flips_signs_and_keeps_magnitudes(run):
    _, folder, result = run
    assert result.final["test_top1"] > 60
    first, last = (checkpoint.state()["params"] for checkpoint in saved(folder / "whole"))
    before, after = (np.asarray(p["layer1_0"]["conv1"]["kernel"]) for p in (first, last))
    np.testing.assert_array_equal(abs(before), abs(after))
    assert 0.001 < (before != after).mean() < 0.5
    assert (np.asarray(first["conv1"]["kernel"]) != np.asarray(last["conv1"]["kernel"])).all()


def test_resumed_and_evaluated_as_never_stopped(run):
    fields, folder, result = run
    # What a run leaves that was stopped after its first epoch.
    shutil.copytree(folder / "whole", folder / "stopped")
    shutil.rmtree(folder / "stopped" / "checkpoints" / str(saved(folder / "stopped")[-1].step))
    resumed = loop.train(digits(**fields), folder / "stopped")
    jax.tree.map(np.testing.assert_array_equal, resumed.state, result.state)
    assert loop.evaluate(digits(**fields), folder / "whole")["test_top1"] == result.best["test_top1"]


@pytest.mark.parametrize(
    "field,value,was",
    [
        ("weight_binarizer", "dorefa", "xnor_net"),
        ("activation_binarizer", "approx_sign", "ede"),
        ("nonlinearity", None, "rprelu"),
    ],
)
def test_another_pair_is_refused(run, field, value, was):
    fields, folder, _ = run
    other = digits(**{**fields, field: value})
    with pytest.raises(UserError, match=f"holds a run with {field}='{was}', the config says {value!r}"):
        loop.evaluate(other, folder / "whole")
    with pytest.raises(UserError, match=f"{field} was '{was}' and is {value!r}"):
        loop.train(other, folder / "whole")


def test_its_file_gives_what_it_gives(run, tmp_path):
    best = trained.read_trained(run[1] / "whole")
    trained.write(best, tmp_path / "digits.recu")
    assert check.check(best, tmp_path / "digits.recu").startswith("360 test images: 0 differing predictions")
    with pytest.raises(UserError, match="nonlinearity='rprelu'; the authors' code knows ReCU and its own models alone"):
        export_torch.export(run[1] / "whole", tmp_path / "x.pth")
