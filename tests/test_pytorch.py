"""Tests reading and writing of PyTorch files: wrappers, precisions, files that must be refused."""

import sys

import jax
import numpy as np
import pytest

from recu_jax import UserError
from recu_jax.pytorch import variables as torch_variables
from recu_jax.pytorch.files import read
from recu_jax.training.checkpoint import read_best
from recu_jax.training.pretrained import import_torch_file
from tests.support import golden_values as golden
from tests.support.bad_files import OFFICIAL

torch = pytest.importorskip("torch", reason="pip install torch (on Python 3.11: torch==2.13.0 is a CPU build)")


@pytest.fixture(scope="module")
def official():
    return torch.load(OFFICIAL, weights_only=True, map_location="cpu")


@pytest.mark.slow
def test_other_files_that_are_refused(tmp_path, official):
    def refused(content, message, name="cifar_resnet20"):
        path = tmp_path / "file.pth"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(UserError, match=message) as error:
            torch_variables.load_variables(path, name)
        assert "\n" not in str(error.value) and str(path) in str(error.value)

    state_dict = dict(official["state_dict"])
    refused(b"", "no whole file")
    refused(b"these are not the weights you look for\n" * 20, "no whole file")
    refused([torch.zeros(3)], "holds a list")
    refused({}, "empty state_dict")
    refused({"epoch": 3, "args": "none"}, "entry 'epoch' is a int, not a tensor")
    refused({"state_dict": {**state_dict, "bn1.bias": [0.0] * 16}}, "entry 'bn1.bias' is a list, not a tensor")
    refused({**state_dict, "bn1.bias": torch.zeros(16).to_sparse()}, "'bn1.bias' is a tensor without plain")
    refused({**state_dict, "bn1.bias": torch.zeros(17)}, r"misshapen bn1.bias \(17,\), should be \(16,\)")
    # Two prefixes, because a prefix that all names share would be removed.
    two = {f"{'stem' if 'layer' in k else 'body'}.{k}": v for k, v in state_dict.items()}
    refused(two, "and 235 more; it fits no model of this library")
    for path, message in ((tmp_path / "none.pth", "does not exist"), (tmp_path, "cannot be read: Is a directory")):
        with pytest.raises(UserError, match=message):
            read(path)
    with pytest.raises(UserError, match="did you mean 'cifar_resnet20'"):
        torch_variables.load_variables(OFFICIAL, "cifar_resnet200")


def test_wrappers_bare_state_dicts_and_half_precision(tmp_path, official):
    expected = torch_variables.load_variables(OFFICIAL, "cifar_resnet20")
    path = tmp_path / "file.pth"
    for prefix in ("", "module.", "_orig_mod.", "module._orig_mod."):
        torch.save({prefix + k: v for k, v in official["state_dict"].items()}, path)
        got = torch_variables.load_variables(path, "cifar_resnet20")
        jax.tree.map(np.testing.assert_array_equal, got, expected)
    torch.save({"epoch": 1, "model": {k: v.bfloat16() for k, v in official["state_dict"].items()}}, path)
    got = torch_variables.load_variables(path, "cifar_resnet20")
    assert {a.dtype for a in jax.tree.leaves(got)} == {np.dtype("float32")}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), got, expected)


@pytest.mark.slow
def test_weights_of_a_real_twin(tmp_path, official):
    path = tmp_path / "twin.pth"
    torch.save({k: v for k, v in official["state_dict"].items() if not k.endswith(("alpha", "tau"))}, path)
    with pytest.raises(UserError, match="it fits cifar_resnet20 with conv float"):
        torch_variables.load_variables(path, "cifar_resnet20", conv="binary")
    record = import_torch_file(path, "cifar_resnet20", tmp_path / "w", conv="float")
    assert record["conv"] == "float" and record["epoch"] is None
    assert read_best(tmp_path / "w")[1]["config"]["conv"] == "float"


def test_a_saved_model_loads_strictly_in_pytorch(tmp_path):
    from experiments.benchmarks import torch_recu

    filled = golden.state_dict(golden.load("cifar_resnet20")[0])
    variables = torch_variables.from_torch("cifar_resnet20", {k: v.astype(np.float32) for k, v in filled.items()})
    torch_variables.save_torch(tmp_path / "m.pth.tar", "cifar_resnet20", variables, 7, 55.5, tau=0.875, steps=99)
    saved = torch.load(tmp_path / "m.pth.tar", weights_only=True)
    assert (saved["epoch"], saved["model"], saved["best_prec1"]) == (7, "cifar_resnet20", 55.5)
    model = torch_recu.build("cifar_resnet20")
    for module in model.modules():
        if isinstance(module, torch_recu.BinaryConv2d):
            module.register_buffer("tau", torch.zeros(1))
    model.load_state_dict(saved["state_dict"], strict=True)
    assert model.bn1.num_batches_tracked == 99 and model.layer1[0].conv1.tau == 0.875
    for key, array in filled.items():
        np.testing.assert_array_equal(model.state_dict()[key].numpy(), array.astype(np.float32), err_msg=key)

    with pytest.raises(UserError, match=r"missing layer1\.0\.conv1\.alpha"):
        del variables["params"]["layer1_0"]["conv1"]["alpha"]
        torch_variables.save_torch(tmp_path / "n.pth.tar", "cifar_resnet20", variables)


def test_without_pytorch_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"^torch is not installed; type: pip install 'recu_jax\[torch\]'$"):
        read(OFFICIAL)
