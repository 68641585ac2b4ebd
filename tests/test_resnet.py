"""Compares the full-precision ResNets with PyTorch versions, written from the papers with torchvision's names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax import create_model
from recu_jax.pytorch.variables import from_torch, to_torch
from tests.support import float64_conv
from tests.support import golden_values as golden

torch = pytest.importorskip("torch", reason="pip install torch (on Python 3.11: torch==2.13.0 is a CPU build)")
nn = torch.nn


class Block(nn.Module):
    """Convolutions of the given (kernel, channels), and a shortcut. The convolution `convs[strided]` has the stride."""

    def __init__(self, in_channels, convs, strided, stride):
        super().__init__()
        self.count, channels = len(convs), in_channels
        for i, (kernel, out) in enumerate(convs):
            conv = nn.Conv2d(channels, out, kernel, stride if i == strided else 1, kernel // 2, bias=False)
            setattr(self, f"conv{i + 1}", conv)
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(out))
            channels = out
        self.downsample = nn.Identity()
        if stride != 1 or channels != in_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = y.relu() if i < self.count else y
        return (y + self.downsample(x)).relu()


class ResNet(nn.Module):
    def __init__(self, sizes, bottleneck, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, size in enumerate(sizes):
            width, blocks = 64 * 2**stage, []
            convs = [(1, width), (3, width), (1, 4 * width)] if bottleneck else [(3, width), (3, width)]
            for i in range(size):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(Block(channels, convs, 1 if bottleneck else 0, stride))
                channels = convs[-1][1]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("name,sizes,bottleneck", [("resnet34", (3, 4, 6, 3), False), ("resnet50", (3, 4, 6, 3), True)])
def test_same_network_as_in_pytorch(name, sizes, bottleneck, x64, monkeypatch):
    reference = ResNet(sizes, bottleneck, 10).double()
    filled = {
        key: golden.value(key, tuple(v.shape))
        for key, v in reference.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    reference.load_state_dict({k: torch.as_tensor(v) for k, v in filled.items()}, strict=False)
    variables = from_torch(name, reference.state_dict())
    assert to_torch(name, variables).keys() == filled.keys()
    # With this size, layers of stride 2 get odd and even sizes. A wrong padding shows at one of them.
    x = golden.rng(f"{name}.input").standard_normal((2, 75, 97, 3))
    nchw = torch.as_tensor(x.transpose(0, 3, 1, 2).copy())
    monkeypatch.setattr(jax.lax, "conv_general_dilated", float64_conv.conv_general_dilated)
    model = create_model(name, 10, param_dtype=jnp.float64)

    @jax.jit
    def both(variables, x):
        trained, _ = model.apply(variables, x, tau=0.9, train=True, mutable=["batch_stats"])
        return model.apply(variables, x), trained

    options = {"xla_backend_optimization_level": 0}
    ours = jax.jit(both, compiler_options=options)(jax.tree.map(jnp.asarray, variables), x)
    with torch.no_grad():
        for logits, train in zip(ours, (False, True), strict=True):
            expected = reference.train(train)(nchw).numpy()
            assert np.abs(logits - expected).max() < 1e-8 * np.abs(expected).max()
