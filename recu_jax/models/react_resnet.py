"""ReActNet-style residual networks for 224x224 images (SPEC.md section 6): `react_resnet18` and `react_resnet34`.

One convolution a block, with learned shifts before and after the nonlinearity. The same network with real weights,
`recu_jax.layers.Conv` for `conv`, is not yet its first training stage: that keeps the activations binary. Submodules
bear the names of the official state_dicts, with `_` for `.` before a number.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from recu_jax.binarizers.react import Move, RPRelu
from recu_jax.layers import BinaryConv, kaiming_normal
from recu_jax.models.batch_norm import BatchNorm
from recu_jax.models.parts import (
    PAD_1,
    LastLinear,
    check_halved_evenly,
    pointwise_conv,
    stages,
    stem_conv,
    stem_pool,
)


class ReactBlock(nn.Module):
    """`move2(PReLU(move1(BN(conv(move0(x))) + short(x))))`; `move0` and the sign are RSign, the other three RPReLU.

    `short` is the identity, or where the shape changes 2x2 average pooling, a 1x1 convolution and batch norm.
    """

    features: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    shortcut_conv: Callable[..., nn.Module]
    types: Any

    @nn.compact
    def __call__(self, x: jax.Array, tau: jax.Array | float | None, train: bool) -> jax.Array:
        y = Move(name="move0", **self.types)(x)
        y = self.conv(self.features, strides=self.stride, name="conv")(y, tau=tau, train=train)
        y = self.norm(name="bn")(y, use_running_average=not train)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = nn.avg_pool(x, (2, 2), (self.stride, self.stride))
            x = self.shortcut_conv(self.features, name="downsample_1")(x)
            x = self.norm(name="downsample_2")(x, use_running_average=not train)
        nonlinearity = RPRelu(**self.types)
        # Its parts have the official names in the block itself, not in a submodule of it.
        nn.share_scope(self, nonlinearity)
        return nonlinearity(y + x)


class ReactResNet(nn.Module):
    """Stages of one-convolution blocks between a 7x7 convolution with max pooling and mean, linear.

    Attributes:
      stage_sizes: blocks per stage; the first block of every stage but the first has stride 2.
      widths: channels per stage; the first convolution has those of the first stage.
      conv: what stands in the blocks; `recu_jax.layers.Conv` makes the full-precision twin.
      norm_axis: name of the mapped axis over which batch norm averages; None for per-device statistics.
    """

    stage_sizes: Sequence[int]
    widths: Sequence[int] = (64, 128, 256, 512)
    num_classes: int = 1000
    dtype: Any = None
    param_dtype: Any = jnp.float32
    conv: Callable[..., nn.Module] = BinaryConv
    norm_axis: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, tau: jax.Array | float | None = None, train: bool = False) -> jax.Array:
        """Logits, (batch, num_classes), of normalised images, (batch, height, width, channels).

        Raises:
          UserError: a quarter of a side of the images cannot be halved at every stage but the first.
        """
        images = x
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(self.conv, kernel_size=(3, 3), padding=PAD_1, kernel_init=kaiming_normal, **types)
        norm = partial(BatchNorm, axis_name=self.norm_axis, **types)
        shortcut_conv = partial(pointwise_conv, **types)
        block = partial(ReactBlock, conv=conv, norm=norm, shortcut_conv=shortcut_conv, types=types)
        x = stem_conv(self.widths[0], name="conv", **types)(x)
        x = stem_pool(norm(name="bn")(x, use_running_average=not train))
        check_halved_evenly(images, x, len(self.stage_sizes) - 1)
        x = stages(x, block, self.stage_sizes, self.widths, tau, train)
        return LastLinear(self.num_classes, name="fc", **types)(x.mean((1, 2)))


MODELS = {
    "react_resnet18": partial(ReactResNet, stage_sizes=(4, 4, 4, 4)),
    "react_resnet34": partial(ReactResNet, stage_sizes=(6, 8, 12, 6)),
}
