"""Defines VGG-small for 32x32 images (SPEC.md section 6)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from recu_jax.errors import UserError
from recu_jax.layers import NOT_GIVEN, BinaryConv, Tau
from recu_jax.models.batch_norm import BatchNorm
from recu_jax.models.parts import PAD_1, first_conv, halved, nonlinearity
from recu_jax.models.unit import conv_of_units, unit

# N(0, sqrt(2 / (k k C_out))) for k x k kernels. The 1-bit residual networks use the fan-in instead of the fan-out.
_fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class CifarVgg(nn.Module):
    """Six 3x3 convolutions, three 2x2 max poolings and one linear layer.

    Attributes:
      widths: channels of the convolutions; the first convolution is full precision.
      pooled: indices of the convolutions with a max pooling between convolution and batch norm.
      num_classes: number of logits.
      dtype: dtype of the computation; None infers it from input and parameters.
      param_dtype: dtype of the parameters.
      conv: all convolutions except the first; `recu_jax.layers.Conv` makes the model full precision.
      norm_axis: name of the mapped axis over which batch norm averages; with None each device has its own statistics.
      nonlinearity: nonlinearity after all convolutions except the first, one of `parts.NONLINEARITIES`.
      fused: whether each 1-bit convolution that no pooling follows is computed together with its batch norm and
        hardtanh, by the compiled CPU kernels of `recu_jax.ops.unit`. Use it only on CPUs.
    """

    widths: Sequence[int] = (128, 128, 256, 256, 512, 512)
    pooled: Sequence[int] = (1, 3, 5)
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
          UserError: height or width is smaller than 2 to the power of the number of poolings, or `nonlinearity` is
            unknown.
        """
        least = 2 ** len(self.pooled)
        if min(x.shape[1:3]) < least:
            raise UserError(f"images are {x.shape[1]}x{x.shape[2]}; this model needs sides of at least {least} pixels")
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        nonlinear = nonlinearity(self.nonlinearity, self.fused, **types)
        norm = partial(BatchNorm, axis_name=self.norm_axis, **types)
        conv = conv_of_units(self.conv, self.fused)
        conv = partial(conv, kernel_size=(3, 3), padding=PAD_1, kernel_init=_fan_out_normal, **types)
        for i, features in enumerate(self.widths):
            if i == 0:
                x = first_conv(features, kernel_init=_fan_out_normal, name="conv0", **types)(x)
                x = jax.nn.hard_tanh(norm(name="bn0")(x, use_running_average=not train))
            elif i not in self.pooled:
                x = unit(x, partial(conv, features), norm, nonlinear, i, tau=tau, progress=progress, train=train)
            else:
                x = conv(features, name=f"conv{i}")(x, tau=tau, progress=progress, train=train)
                x = norm(name=f"bn{i}")(halved(x, 2, train), use_running_average=not train)
                x = nonlinear(x, f"nonlinear{i}")
        # PyTorch's order (channel, row, column), so that the linear layer has the same matrix as in PyTorch.
        x = jnp.transpose(x, (0, 3, 1, 2)).reshape(x.shape[0], -1)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="fc", **types)(x)


MODELS = {"cifar_vgg_small": CifarVgg}
