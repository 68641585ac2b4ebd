"""Defines full-precision ResNets for 224x224 images, the teachers of the two-stage recipe (SPEC.md section 7).

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385. In `resnet50` the 3x3
convolution of a block has the stride, not the first 1x1 convolution ("v1.5"). Submodules have the names of torchvision,
with `_` instead of `.` before a number. The initialization is torchvision's too. `recu_jax.pytorch` reads torchvision's
weight files.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from recu_jax.layers import NOT_GIVEN, Conv, Tau
from recu_jax.models.batch_norm import BatchNorm
from recu_jax.models.parts import PAD_1, LastLinear, halved, pointwise_conv, projection, stages, stem_conv

_fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class BasicBlock(nn.Module):
    """Computes `relu(BN(conv(relu(BN(conv(x))))) + short(x))` with two 3x3 convolutions.

    `short` is a projection where the shape changes, and otherwise the identity.
    """

    features: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    shortcut_conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, tau: Tau, progress: jax.Array | float | None, train: bool) -> jax.Array:
        y = self.conv(self.features, strides=self.stride, name="conv1")(x, tau=tau, progress=progress, train=train)
        y = nn.relu(self.norm(name="bn1")(y, use_running_average=not train))
        y = self.conv(self.features, name="conv2")(y, tau=tau, progress=progress, train=train)
        y = self.norm(name="bn2")(y, use_running_average=not train)
        return nn.relu(y + projection(x, self.features, self.stride, self.shortcut_conv, self.norm, train))


class Bottleneck(nn.Module):
    """Applies 1x1, 3x3 and 1x1 convolutions, with one shortcut over all three. Returns 4 * `features` channels."""

    features: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    shortcut_conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, tau: Tau, progress: jax.Array | float | None, train: bool) -> jax.Array:
        thin = partial(self.conv, kernel_size=(1, 1), padding="VALID")
        y = thin(self.features, name="conv1")(x, tau=tau, progress=progress, train=train)
        y = nn.relu(self.norm(name="bn1")(y, use_running_average=not train))
        y = self.conv(self.features, strides=self.stride, name="conv2")(y, tau=tau, progress=progress, train=train)
        y = nn.relu(self.norm(name="bn2")(y, use_running_average=not train))
        y = thin(4 * self.features, name="conv3")(y, tau=tau, progress=progress, train=train)
        y = self.norm(name="bn3")(y, use_running_average=not train)
        return nn.relu(y + projection(x, 4 * self.features, self.stride, self.shortcut_conv, self.norm, train))


class ResNet(nn.Module):
    """A 7x7 convolution, max pooling, stages of residual blocks, global mean and a linear layer.

    `tau` and `progress` are ignored.

    Attributes:
      stage_sizes: blocks per stage. The first block of every stage except the first stage has stride 2.
      block: `BasicBlock` or `Bottleneck`.
      widths: channels per stage; a `Bottleneck` returns four times as many channels. The first convolution has
        `widths[0]` channels.
      num_classes: number of logits.
      dtype: dtype of the computation; None infers it from input and parameters.
      param_dtype: dtype of the parameters.
      conv: convolution of the blocks.
      norm_axis: name of the mapped axis over which batch norm averages; with None each device has its own statistics.
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
    def __call__(
        self,
        x: jax.Array,
        tau: Tau = NOT_GIVEN,
        train: bool = False,
        progress: jax.Array | float | None = None,
    ) -> jax.Array:
        """Computes logits, (batch, num_classes), of normalized images, (batch, height, width, channels)."""
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
        x = halved(nn.relu(norm(name="bn1")(x, use_running_average=not train)), 3, train)
        x = stages(x, block, self.stage_sizes, self.widths, tau, progress, train)
        return LastLinear(self.num_classes, name="fc", **types)(x.mean((1, 2)))


MODELS = {
    "resnet18": partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock),
    "resnet34": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock),
    "resnet50": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck),
}
