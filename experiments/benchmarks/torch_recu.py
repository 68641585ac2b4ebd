"""Implements ReCU in PyTorch, as the peer that the JAX train step is timed against.

Written from the paper's formulas (Xu et al., "ReCU: Reviving the Dead Weights in Binary Neural
Networks", ICCV 2021, arXiv:2103.12369) the way a PyTorch user would write them: stock modules,
autograd for everything but the two signs, nothing fused by hand and nothing slowed down. Parameter
names and shapes of the CIFAR models are those of the authors' checkpoints. One difference from the
authors' code: `sign(0)` is +1, not 0, so that weights and activations take two values only.

    from torch_recu import build, make_optimizer, train_step

    model = build("cifar_resnet20")
    optimizer = make_optimizer(model)
    loss = train_step(model, optimizer, images, labels, tau=0.85)  # images: (N, 3, height, width)

Tensors are NCHW. Parameters are float32. Use `model.double()` to compare results with another
implementation, because float32 rounding now and then flips a sign.
"""

import functools
import math

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import nn

VARIANCE_EPSILON = 1e-5
STANDARDIZED_SCALE = 2.0  # the paper's b*: the Laplace scale that weights are standardized to


def sign(x):
    """Returns the sign of `x` with `sign(0) = +1`; `torch.sign` would add the third value 0."""
    # Shifts the three values -1, 0, 1 off zero; four times as fast on a CPU as `torch.where`.
    return x.sign().add_(0.5).sign_()


class WeightSign(torch.autograd.Function):
    """Sign with the straight-through estimator: the gradient passes unchanged."""

    @staticmethod
    def forward(ctx, w):
        return sign(w)

    @staticmethod
    def backward(ctx, grad):
        return grad


class ActivationSign(torch.autograd.Function):
    """Sign with the derivative of Bi-Real's piecewise polynomial, `max(0, 2 - 2|a|)`."""

    @staticmethod
    def forward(ctx, a):
        ctx.save_for_backward(a)
        return sign(a)

    @staticmethod
    def backward(ctx, grad):
        (a,) = ctx.saved_tensors
        return grad * (2 - 2 * a.abs()).clamp(min=0)


def standardize(w):
    """Centers each output channel of `w` (O, I, H, W) and scales it to Laplace scale b*."""
    w = w - w.mean((1, 2, 3), keepdim=True)
    std = torch.sqrt(w.var((1, 2, 3), keepdim=True) + VARIANCE_EPSILON)
    return w * (math.sqrt(2) * STANDARDIZED_SCALE / std)


def recu(w, tau):
    """Applies the rectified clamp: limits `w` to its Laplace quantiles `Q(1 - tau)` and `Q(tau)`.

    `Q(tau) = -b ln(2 - 2 tau)` with the maximum-likelihood scale `b = mean |w|` of the layer. The
    quantile is a constant for the gradient, and `tau = 1` clamps nothing.
    """
    if tau == 1:
        return w
    quantile = -w.detach().abs().mean() * math.log(2 - 2 * tau)
    return torch.clamp(w, -quantile, quantile)


class BinaryConv2d(nn.Conv2d):
    """Convolution of 1-bit activations with 1-bit weights, times a learnable scale per channel."""

    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.alpha = nn.Parameter(torch.rand(out_channels, 1, 1))

    def forward(self, x, tau):
        # Division by a positive number changes the gradient but no sign, so evaluation leaves it out.
        if self.training:
            x = x / torch.sqrt(x.var((1, 2, 3), keepdim=True) + VARIANCE_EPSILON)
        weight = WeightSign.apply(recu(standardize(self.weight), tau))
        # Padding comes after the sign, so padded positions are 0, not +-1, and contribute nothing to the sums.
        out = F.conv2d(ActivationSign.apply(x), weight, stride=self.stride, padding=self.padding)
        return out * self.alpha


def shortcut(x, out_channels):
    """Computes the parameter-free shortcut, which is `x` itself if `x` already has `out_channels` channels.

    Otherwise the shortcut halves the resolution and pads the channels with zeros on both sides.
    """
    if x.shape[1] == out_channels:
        return x
    padding = (out_channels - x.shape[1]) // 2
    return F.pad(F.avg_pool2d(x, 2), (0, 0, 0, 0, padding, padding))


class Projection(nn.Sequential):
    """Full-precision shortcut where the shape changes."""

    def __init__(self, in_channels, out_channels, stride):
        super().__init__(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class Block(nn.Module):
    """Two binary convolutions, with a shortcut over each of them or one shortcut over both."""

    def __init__(self, in_channels, out_channels, stride, shortcut_per_conv=True, projection=False):
        super().__init__()
        self.conv1 = BinaryConv2d(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = BinaryConv2d(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.out_channels = out_channels
        self.shortcut_per_conv = shortcut_per_conv
        self.downsample = None
        if projection and (stride != 1 or in_channels != out_channels):
            self.downsample = Projection(in_channels, out_channels, stride)

    def forward(self, x, tau):
        residual = shortcut(x, self.out_channels) if self.downsample is None else self.downsample(x)
        out = self.bn1(self.conv1(x, tau))
        if self.shortcut_per_conv:
            out = residual = F.hardtanh(out + residual)
        else:
            out = F.hardtanh(out)
        return F.hardtanh(self.bn2(self.conv2(out, tau)) + residual)


class ResNet(nn.Module):
    """CIFAR ResNet: first convolution and last linear layer in full precision, all other convolutions 1-bit."""

    def __init__(self, depths, widths, shortcut_per_conv, stem_hardtanh, num_classes=10):
        super().__init__()
        self.stem_hardtanh = stem_hardtanh
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stage_names = []
        in_channels = widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(Block(in_channels, width, stride, shortcut_per_conv))
                in_channels = width
            self.stage_names.append(f"layer{stage}")
            self.add_module(self.stage_names[-1], nn.ModuleList(blocks))
        self.bn2 = nn.BatchNorm1d(widths[-1])
        self.linear = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x, tau):
        x = self.bn1(self.conv1(x))
        if self.stem_hardtanh:
            x = F.hardtanh(x)
        for name in self.stage_names:
            for block in getattr(self, name):
                x = block(x, tau)
        return self.linear(self.bn2(x.mean((2, 3))))


class ImagenetResNet(nn.Module):
    """ImageNet ResNet of the same blocks, with projections for shortcuts where the shape changes."""

    def __init__(self, depths, num_classes=1000):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        blocks, in_channels = [], 64
        for stage, (depth, width) in enumerate(zip(depths, (64, 128, 256, 512), strict=True)):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(Block(in_channels, width, stride, projection=True))
                in_channels = width
        self.blocks = nn.ModuleList(blocks)
        self.bn2 = nn.BatchNorm1d(512)
        self.fc = nn.Linear(512, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x, tau):
        x = F.max_pool2d(F.hardtanh(self.bn1(self.conv1(x))), 3, 2, 1)
        for block in self.blocks:
            x = block(x, tau)
        return self.fc(self.bn2(x.mean((2, 3))))


class VGGSmall(nn.Module):
    """VGG-small: six convolutions (the first in full precision) and one linear layer."""

    WIDTHS = (128, 128, 256, 256, 512, 512)
    POOL_AFTER = (1, 3, 5)

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv0 = nn.Conv2d(3, self.WIDTHS[0], 3, padding=1, bias=False)
        self.bn0 = nn.BatchNorm2d(self.WIDTHS[0])
        for i in range(1, len(self.WIDTHS)):
            self.add_module(f"conv{i}", BinaryConv2d(self.WIDTHS[i - 1], self.WIDTHS[i]))
            self.add_module(f"bn{i}", nn.BatchNorm2d(self.WIDTHS[i]))
        self.fc = nn.Linear(self.WIDTHS[-1] * 4 * 4, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x, tau):
        x = F.hardtanh(self.bn0(self.conv0(x)))
        for i in range(1, len(self.WIDTHS)):
            x = getattr(self, f"conv{i}")(x, tau)
            if i in self.POOL_AFTER:
                x = F.max_pool2d(x, 2)
            x = F.hardtanh(getattr(self, f"bn{i}")(x))
        return self.fc(x.flatten(1))


MODELS = {
    "cifar_resnet20": functools.partial(ResNet, (3, 3, 3), (16, 32, 64), shortcut_per_conv=True, stem_hardtanh=True),
    "cifar_resnet18": functools.partial(
        ResNet, (2, 2, 2, 2), (64, 128, 256, 512), shortcut_per_conv=False, stem_hardtanh=False
    ),
    "cifar_vgg_small": VGGSmall,
    "imagenet_resnet18": functools.partial(ImagenetResNet, (2, 2, 2, 2)),
}


def image_size(name):
    """Returns the height and width of the images that a model is made for."""
    return 224 if name.startswith("imagenet") else 32


def build(name, **options):
    """Returns a newly initialized model in train mode, to be called as `model(x, tau)`."""
    if name not in MODELS:
        raise ValueError(f"no PyTorch model {name!r}; there are {', '.join(MODELS)}")
    return MODELS[name](**options)


def make_optimizer(model, lr=0.1, momentum=0.9, weight_decay=5e-4):
    """Returns the CIFAR recipe's SGD, which decays every parameter, `alpha` and batch norm included."""
    return torch.optim.SGD(model.parameters(), lr, momentum=momentum, weight_decay=weight_decay)


def train_step(model, optimizer, x, y, tau):
    """Updates the model on the batch `x` (N, 3, height, width), `y` (N,). Returns the loss before the update."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x, tau), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


@torch.inference_mode()
def eval_step(model, x, y):
    """Returns loss and number of right answers on `x` (N, 3, height, width), `y` (N,). `model` must be in eval mode."""
    logits = model(x, 1)
    return F.cross_entropy(logits, y), (logits.argmax(1) == y).sum()
