"""Defines residual networks for 224x224 images (SPEC.md section 6): `imagenet_resnet18` and `imagenet_resnet34`.

The first convolution, the projection shortcuts and the last linear layer are full precision. All other convolutions are
1 bit. Submodules have the names of the official state_dicts, with `_` instead of `.` before a number.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from recu_jax.layers import NOT_GIVEN, BinaryConv, Tau, kaiming_normal
from recu_jax.models.batch_norm import BatchNorm
from recu_jax.models.parts import (
    PAD_1,
    LastLinear,
    halved,
    nonlinearity,
    pointwise_conv,
    projection,
    stages,
    stem_conv,
)
from recu_jax.models.unit import conv_of_units, unit

# Initial scale of every batch norm except the last one, after the global mean (SPEC.md 6). It is so small that at first
# all activations of the stem and the blocks are near 0, and hardtanh clips none.
SMALL_SCALE = 1e-8


class ProjectionBlock(nn.Module):
    """Computes `y = hardtanh(BN(conv(x)) + short(x))` and returns `hardtanh(BN(conv(y)) + y)`.

    `short` is a projection where the shape changes, and otherwise the identity. The field `nonlinearity` may replace
    hardtanh.
    """

    features: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    shortcut_conv: Callable[..., nn.Module]
    nonlinearity: Callable[[jax.Array, str], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, tau: Tau, progress: jax.Array | float | None, train: bool) -> jax.Array:
        apply = partial(unit, norm=self.norm, nonlinear=self.nonlinearity, tau=tau, progress=progress, train=train)
        added = projection(x, self.features, self.stride, self.shortcut_conv, self.norm, train)
        x = apply(x, partial(self.conv, self.features, strides=self.stride), number=1, shortcut=added)
        return apply(x, partial(self.conv, self.features), number=2, shortcut=x)


class ImagenetResNet(nn.Module):
    """A 7x7 convolution, max pooling, stages of residual blocks, global mean, batch norm and a linear layer.

    Attributes:
      stage_sizes: blocks per stage. The first block of every stage except the first stage has stride 2.
      widths: channels per stage. The first convolution has as many channels as the first stage.
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
    widths: Sequence[int] = (64, 128, 256, 512)
    num_classes: int = 1000
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
          UserError: `nonlinearity` is unknown.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = conv_of_units(self.conv, self.fused)
        conv = partial(conv, kernel_size=(3, 3), padding=PAD_1, kernel_init=kaiming_normal, **types)
        norm = partial(BatchNorm, axis_name=self.norm_axis, **types)
        small_norm = partial(norm, scale_init=nn.initializers.constant(SMALL_SCALE))
        block = partial(
            ProjectionBlock,
            conv=conv,
            norm=small_norm,
            shortcut_conv=partial(pointwise_conv, **types),
            nonlinearity=nonlinearity(self.nonlinearity, self.fused, **types),
        )
        x = stem_conv(self.widths[0], name="conv1", **types)(x)
        x = halved(jax.nn.hard_tanh(small_norm(name="bn1")(x, use_running_average=not train)), 3, train)
        x = stages(x, block, self.stage_sizes, self.widths, tau, progress, train)
        x = x.mean((1, 2))
        x = norm(name="bn2")(x, use_running_average=not train)
        return LastLinear(self.num_classes, name="fc", **types)(x)


MODELS = {
    "imagenet_resnet18": partial(ImagenetResNet, stage_sizes=(2, 2, 2, 2)),
    "imagenet_resnet34": partial(ImagenetResNet, stage_sizes=(3, 4, 6, 3)),
}
