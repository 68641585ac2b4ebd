"""Defines ReActNet-style networks for 224x224 images (SPEC.md section 6): `react_resnet18` and `react_resnet34`.

Each block has one convolution. Learned shifts are added to the input of the convolution, and to the input and output of
the PReLU. Submodules have the names of the official state_dicts, with `_` instead of `.` before a number.

Stage 1 of two-stage training needs real weights and binary activations:
`conv=partial(BinaryConv, binary_weights=False)`. `conv=recu_jax.layers.Conv` makes the activations real too.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from recu_jax.binarizers.react import Move, RPRelu
from recu_jax.layers import NOT_GIVEN, BinaryConv, Tau, kaiming_normal
from recu_jax.models.batch_norm import BatchNorm
from recu_jax.models.parts import (
    PAD_1,
    LastLinear,
    avg_pool,
    check_halved_evenly,
    halved,
    pointwise_conv,
    stages,
    stem_conv,
)


class ReactBlock(nn.Module):
    """Computes `move2(PReLU(move1(BN(conv(move0(x))) + short(x))))`.

    `move0` and the sign that `conv` takes of its input form RSign. `move1`, PReLU and `move2` form RPReLU. Where the
    shape changes, `short` is 2x2 average pooling, a 1x1 convolution and batch norm. Otherwise `short` is the identity.
    """

    features: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    shortcut_conv: Callable[..., nn.Module]
    types: Any

    @nn.compact
    def __call__(self, x: jax.Array, tau: Tau, progress: jax.Array | float | None, train: bool) -> jax.Array:
        y = Move(name="move0", **self.types)(x)
        y = self.conv(self.features, strides=self.stride, name="conv")(y, tau=tau, progress=progress, train=train)
        y = self.norm(name="bn")(y, use_running_average=not train)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = avg_pool(x, 2, self.stride)
            x = self.shortcut_conv(self.features, name="downsample_1")(x)
            x = self.norm(name="downsample_2")(x, use_running_average=not train)
        nonlinearity = RPRelu(**self.types)
        # In the official state_dicts the moves and PReLU belong to the block itself. There is no submodule RPReLU.
        nn.share_scope(self, nonlinearity)
        return nonlinearity(y + x)


class ReactResNet(nn.Module):
    """A 7x7 convolution, max pooling, stages of one-convolution blocks, global mean and a linear layer.

    Attributes:
      stage_sizes: blocks per stage. The first block of every stage except the first stage has stride 2.
      widths: channels per stage. The first convolution has as many channels as the first stage.
      num_classes: number of logits.
      dtype: dtype of the computation; None infers it from input and parameters.
      param_dtype: dtype of the parameters.
      conv: convolution of the blocks; `recu_jax.layers.Conv` makes the model full precision.
      norm_axis: name of the mapped axis over which batch norm averages; with None each device has its own statistics.
    """

    stage_sizes: Sequence[int]
    widths: Sequence[int] = (64, 128, 256, 512)
    num_classes: int = 1000
    dtype: Any = None
    param_dtype: Any = jnp.float32
    conv: Callable[..., nn.Module] = BinaryConv
    norm_axis: str | None = None

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
          UserError: a quarter of the height or width, rounded up, cannot be halved once for each stage after the first.
        """
        images = x
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(self.conv, kernel_size=(3, 3), padding=PAD_1, kernel_init=kaiming_normal, **types)
        norm = partial(BatchNorm, axis_name=self.norm_axis, **types)
        shortcut_conv = partial(pointwise_conv, **types)
        block = partial(ReactBlock, conv=conv, norm=norm, shortcut_conv=shortcut_conv, types=types)
        x = stem_conv(self.widths[0], name="conv", **types)(x)
        x = halved(norm(name="bn")(x, use_running_average=not train), 3, train)
        check_halved_evenly(images, x, len(self.stage_sizes) - 1)
        x = stages(x, block, self.stage_sizes, self.widths, tau, progress, train)
        return LastLinear(self.num_classes, name="fc", **types)(x.mean((1, 2)))


MODELS = {
    "react_resnet18": partial(ReactResNet, stage_sizes=(4, 4, 4, 4)),
    "react_resnet34": partial(ReactResNet, stage_sizes=(6, 8, 12, 6)),
}
