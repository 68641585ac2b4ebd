"""Full-precision residual networks for 224x224 images, the teachers of the two-stage recipe (SPEC.md section 7).

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385; in `resnet50` the 3x3
convolution of a block has its stride, not the first one ("v1.5"). Names, shapes and initialisation are those of
torchvision, whose weight files `recu_jax.torch_import` reads.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from recu_jax.layers import Conv
from recu_jax.models.batch_norm import BatchNorm
from recu_jax.models.parts import PAD_1, LastLinear, pointwise_conv, projection, stages, stem_conv, stem_pool

_fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions: `relu(BN(conv(relu(BN(conv(x))))) + short(x))`."""

    features: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    shortcut_conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, tau: jax.Array | float | None, train: bool) -> jax.Array:
        y = self.conv(self.features, strides=self.stride, name="conv1")(x, tau=tau, train=train)
        y = nn.relu(self.norm(name="bn1")(y, use_running_average=not train))
        y = self.conv(self.features, name="conv2")(y, tau=tau, train=train)
        y = self.norm(name="bn2")(y, use_running_average=not train)
        return nn.relu(y + projection(x, self.features, self.stride, self.shortcut_conv, self.norm, train))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last with four times the channels, and one shortcut over them."""

    features: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    shortcut_conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, tau: jax.Array | float | None, train: bool) -> jax.Array:
        thin = partial(self.conv, kernel_size=(1, 1), padding="VALID")
        y = thin(self.features, name="conv1")(x, tau=tau, train=train)
        y = nn.relu(self.norm(name="bn1")(y, use_running_average=not train))
        y = self.conv(self.features, strides=self.stride, name="conv2")(y, tau=tau, train=train)
        y = nn.relu(self.norm(name="bn2")(y, use_running_average=not train))
        y = thin(4 * self.features, name="conv3")(y, tau=tau, train=train)
        y = self.norm(name="bn3")(y, use_running_average=not train)
        return nn.relu(y + projection(x, 4 * self.features, self.stride, self.shortcut_conv, self.norm, train))


class ResNet(nn.Module):
    """Stages of residual blocks between a 7x7 convolution with max pooling and mean, linear; `tau` is ignored.

    Attributes:
      stage_sizes: blocks per stage; the first block of every stage but the first has stride 2.
      block: `BasicBlock` or `Bottleneck`.
      widths: channels per stage (a quarter of them for `Bottleneck`); the first convolution has those of the first.
      conv: what stands in the blocks.
      norm_axis: name of the mapped axis over which batch norm averages; None for per-device statistics.
    """

    stage_sizes: Sequence[int]
    block: Callable[..., nn.Module]
    widths: Sequence[int] = (64, 128, 256, 512)
    num_classes: int = 1000
    dtype: Any = None
    param_dtype: Any = jnp.float32
    conv: Callable[..., nn.Module] = Conv
    norm_axis: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, tau: jax.Array | float | None = None, train: bool = False) -> jax.Array:
        """Logits, (batch, num_classes), of normalised images, (batch, height, width, channels)."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        init = {"kernel_init": _fan_out_normal, **types}
        norm = partial(BatchNorm, axis_name=self.norm_axis, **types)
        block = partial(
            self.block,
            conv=partial(self.conv, kernel_size=(3, 3), padding=PAD_1, **init),
            norm=norm,
            shortcut_conv=partial(pointwise_conv, **init),
        )
        x = stem_conv(self.widths[0], name="conv1", **init)(x)
        x = stem_pool(nn.relu(norm(name="bn1")(x, use_running_average=not train)))
        x = stages(x, block, self.stage_sizes, self.widths, tau, train)
        return LastLinear(self.num_classes, name="fc", **types)(x.mean((1, 2)))


MODELS = {
    "resnet18": partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock),
    "resnet34": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock),
    "resnet50": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck),
}
