"""Defines residual networks for 32x32 images (SPEC.md section 6), such as `cifar_resnet20` and `cifar_resnet18`.

The first convolution and the last linear layer are full precision. All other convolutions are 1 bit. Submodules have
the names of the official state_dicts, with `_` instead of `.` between a stage and its blocks.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from recu_jax.layers import NOT_GIVEN, BinaryConv, Tau, kaiming_normal
from recu_jax.models.batch_norm import BatchNorm
from recu_jax.models.parts import PAD_1, LastLinear, avg_pool, check_halved_evenly, first_conv, nonlinearity, stages
from recu_jax.models.unit import conv_of_units, unit


def shortcut(x: jax.Array, features: int, stride: int) -> jax.Array:
    """Computes the shortcut of x, (batch, height, width, channels). It has no parameters.

    Stride 2 halves height and width by 2x2 average pooling. Missing channels are added as zeros, half of them before
    and half of them after the channels of x.
    """
    if stride != 1:
        x = avg_pool(x, stride, stride)
    extra = features - x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2))) if extra else x


class TwoShortcutBlock(nn.Module):
    """Computes `y = hardtanh(BN(conv(x)) + short(x))` and returns `hardtanh(BN(conv(y)) + y)`.

    `short` is the function `shortcut`. The field `nonlinearity` may replace hardtanh.
    """

    features: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    nonlinearity: Callable[[jax.Array, str], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, tau: Tau, progress: jax.Array | float | None, train: bool) -> jax.Array:
        apply = partial(unit, norm=self.norm, nonlinear=self.nonlinearity, tau=tau, progress=progress, train=train)
        added = shortcut(x, self.features, self.stride)
        x = apply(x, partial(self.conv, self.features, strides=self.stride), number=1, shortcut=added)
        return apply(x, partial(self.conv, self.features), number=2, shortcut=x)


class OneShortcutBlock(nn.Module):
    """Computes `y = hardtanh(BN(conv(x)))` and returns `hardtanh(BN(conv(y)) + short(x))`.

    `short` is the function `shortcut`. The field `nonlinearity` may replace hardtanh.
    """

    features: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    nonlinearity: Callable[[jax.Array, str], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, tau: Tau, progress: jax.Array | float | None, train: bool) -> jax.Array:
        apply = partial(unit, norm=self.norm, nonlinear=self.nonlinearity, tau=tau, progress=progress, train=train)
        y = apply(x, partial(self.conv, self.features, strides=self.stride), number=1)
        added = shortcut(x, self.features, self.stride)
        return apply(y, partial(self.conv, self.features), number=2, shortcut=added)


class CifarResNet(nn.Module):
    """A 3x3 convolution, stages of residual blocks, global mean, batch norm and a linear layer.

    Attributes:
      stage_sizes: blocks per stage. The first block of every stage except the first stage has stride 2.
      widths: channels per stage. The first convolution has as many channels as the first stage.
      block: `TwoShortcutBlock` or `OneShortcutBlock`.
      stem_activation: whether hardtanh follows the first batch norm.
      num_classes: number of logits.
      dtype: dtype of the computation; None infers it from input and parameters.
      param_dtype: dtype of the parameters.
      conv: convolution of the blocks; `recu_jax.layers.Conv` makes the model full precision.
      norm_axis: name of the mapped axis over which batch norm averages; with None each device has its own statistics.
      nonlinearity: nonlinearity of the blocks, one of `parts.NONLINEARITIES`.
      fused: whether each 1-bit convolution is computed together with its batch norm, shortcut and hardtanh, by the
        compiled CPU kernels of `recu_jax.ops.unit`. Use it only on CPUs.
    """

    stage_sizes: Sequence[int]
    widths: Sequence[int]
    block: Callable[..., nn.Module]
    stem_activation: bool
    num_classes: int = 10
    dtype: Any = None
    param_dtype: Any = jnp.float32
    conv: Callable[..., nn.Module] = BinaryConv
    norm_axis: str | None = None
    nonlinearity: str = "hard_tanh"
    fused: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        tau: Tau = NOT_GIVEN,
        train: bool = False,
        progress: jax.Array | float | None = None,
    ) -> jax.Array:
        """Computes logits.

        Args:
          x: normalized images, (batch, height, width, channels).
          tau: in (0.5, 1]. It may be left out or None, with the meaning that `recu_jax.BinaryConv` describes.
          train: whether to train.
          progress: share of the training that is over, from 0 to 1, for annealed binarizers.

        Returns:
          (batch, num_classes).

        Raises:
          UserError: height or width cannot be halved once for each stage after the first, or `nonlinearity` is unknown.
        """
        check_halved_evenly(x, x, len(self.stage_sizes) - 1)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = conv_of_units(self.conv, self.fused)
        conv = partial(conv, kernel_size=(3, 3), padding=PAD_1, kernel_init=kaiming_normal, **types)
        norm = partial(BatchNorm, axis_name=self.norm_axis, **types)
        x = first_conv(self.widths[0], name="conv1", **types)(x)
        x = norm(name="bn1")(x, use_running_average=not train)
        if self.stem_activation:
            x = jax.nn.hard_tanh(x)
        nonlinear = nonlinearity(self.nonlinearity, self.fused, **types)
        block = partial(self.block, conv=conv, norm=norm, nonlinearity=nonlinear)
        x = stages(x, block, self.stage_sizes, self.widths, tau, progress, train)
        x = x.mean((1, 2))
        x = norm(name="bn2")(x, use_running_average=not train)
        return LastLinear(self.num_classes, name="linear", **types)(x)


_resnet20_like = partial(CifarResNet, block=TwoShortcutBlock, stem_activation=True)
_resnet18_like = partial(CifarResNet, block=OneShortcutBlock, stem_activation=False)

MODELS = {
    "cifar_resnet20": partial(_resnet20_like, stage_sizes=(3, 3, 3), widths=(16, 32, 64)),
    # The smallest ResNet of this family, for experiments with many runs.
    "cifar_resnet8": partial(_resnet20_like, stage_sizes=(1, 1, 1), widths=(16, 32, 64)),
    "cifar_resnet18": partial(_resnet18_like, stage_sizes=(2, 2, 2, 2), widths=(64, 128, 256, 512)),
    "cifar_resnet18a": partial(_resnet18_like, stage_sizes=(2, 2, 2, 2), widths=(32, 32, 64, 128)),
    "cifar_resnet18b": partial(_resnet18_like, stage_sizes=(2, 2, 2, 2), widths=(32, 64, 128, 256)),
    "cifar_resnet18c": partial(_resnet18_like, stage_sizes=(2, 2, 2, 2), widths=(64, 64, 128, 256)),
    "cifar_resnet34": partial(_resnet18_like, stage_sizes=(3, 4, 6, 3), widths=(64, 128, 256, 512)),
    # Three blocks, for the data set of 8x8 digits, which needs no download.
    "digits_resnet8": partial(_resnet20_like, stage_sizes=(1, 1, 1), widths=(64, 64, 128)),
}
