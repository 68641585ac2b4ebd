"""Defines full-precision twins of imagenet_resnet18 and cifar_vgg_small in PyTorch, for comparison in inference.py."""

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import nn


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut each. The first shortcut is a projection if the shape changes."""

    def __init__(self, channels, features, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, features, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        same = stride == 1 and channels == features
        projection = (nn.Conv2d(channels, features, 1, stride, bias=False), nn.BatchNorm2d(features))
        self.shortcut = nn.Identity() if same else nn.Sequential(*projection)

    def forward(self, x):
        x = F.hardtanh(self.bn1(self.conv1(x)) + self.shortcut(x))
        return F.hardtanh(self.bn2(self.conv2(x)) + x)


class ImagenetResNet18(nn.Module):
    def __init__(self):
        super().__init__()
        stem = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.Hardtanh(), nn.MaxPool2d(3, 2, 1))
        blocks, channels = [], 64
        for stage, features in enumerate((64, 128, 256, 512)):
            for i in range(2):
                blocks.append(Block(channels, features, 2 if stage and not i else 1))
                channels = features
        self.features = nn.Sequential(*stem, *blocks)
        self.bn2 = nn.BatchNorm1d(512)
        self.fc = nn.Linear(512, 1000)

    def forward(self, x):
        return self.fc(self.bn2(self.features(x).mean((2, 3))))


class CifarVggSmall(nn.Module):
    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for i, features in enumerate((128, 128, 256, 256, 512, 512)):
            layers.append(nn.Conv2d(channels, features, 3, 1, 1, bias=False))
            layers += [nn.MaxPool2d(2)] if i % 2 else []
            layers += [nn.BatchNorm2d(features), nn.Hardtanh()]
            channels = features
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(8192, 10)

    def forward(self, x):
        return self.fc(self.features(x).flatten(1))


MODELS = {"imagenet_resnet18": (ImagenetResNet18, 224), "cifar_vgg_small": (CifarVggSmall, 32)}


def layer(channels):
    """Returns the float convolution that a binary layer replaces."""
    return nn.Conv2d(channels, channels, 3, 1, 1, bias=False)


def fastest(module, size, channels, time):
    """Returns a function that runs the module on one image, in the memory layout for which `time(function)` is less."""
    functions = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        converted = module.eval().to(memory_format=memory_format)
        x = torch.randn(1, channels, size, size).to(memory_format=memory_format)

        def run(module=converted, x=x):
            with torch.inference_mode():
                return module(x)

        functions.append(run)
    # `to` converts the module in place, so each function is timed while the module has its layout.
    module.to(memory_format=torch.contiguous_format)
    plain = time(functions[0])
    module.to(memory_format=torch.channels_last)
    last = time(functions[1])
    if plain < last:
        module.to(memory_format=torch.contiguous_format)
        return functions[0]
    return functions[1]
