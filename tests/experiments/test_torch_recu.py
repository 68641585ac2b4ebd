"""Tests the official checkpoint file, and the PyTorch version that benchmarks compare with. Needs PyTorch."""

import numpy as np
import pytest

from tests.support import golden_values as golden

torch = pytest.importorskip("torch", reason="pip install torch (on Python 3.11: torch==2.13.0 is a CPU build)")


def test_the_stored_arrays_are_those_of_the_official_checkpoint():
    file = torch.load(golden.FOLDER / "official_checkpoint_resnet20.pth.tar", weights_only=True, map_location="cpu")
    stored = dict(np.load(golden.FOLDER / "official_checkpoint_resnet20.npz"))
    assert stored.keys() == file["state_dict"].keys()
    for name, tensor in file["state_dict"].items():
        np.testing.assert_array_equal(stored[name], tensor.numpy())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_resnet18", "cifar_vgg_small"])
def test_the_benchmarks_pytorch_version_is_the_same_network(name):
    from experiments.benchmarks import torch_recu

    record, arrays = golden.load(name)
    model = torch_recu.build(name).double()
    model.load_state_dict({k: torch.as_tensor(v) for k, v in golden.state_dict(record).items()}, strict=False)
    x, y = golden.batch(name, record, 10)
    x = torch.as_tensor(x.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        model.eval()
        np.testing.assert_allclose(model(x, record["tau"]).numpy(), arrays["eval_logits"], rtol=1e-8)
    model.train()
    logits = model(x, record["tau"])
    loss = torch.nn.functional.cross_entropy(logits, torch.as_tensor(y))
    loss.backward()
    np.testing.assert_allclose(loss.item(), record["loss"], rtol=1e-10)
    for key, parameter in model.named_parameters():
        norm, projection = golden.norm_and_projection(key, parameter.grad.numpy())
        expected_norm, expected_projection = record["grad_norm_and_projection"][key]
        assert abs(norm - expected_norm) < 1e-8 * expected_norm, key
        assert abs(projection - expected_projection) < 1e-8 * expected_norm, key
