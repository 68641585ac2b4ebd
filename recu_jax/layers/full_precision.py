"""Defines Flax's layers with the call arguments of the 1-bit layers, so that a model can use either kind."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from recu_jax.layers.one_bit_layer import kaiming_normal


class Conv(nn.Conv):
    """Full-precision counterpart of `BinaryConv`: an `nn.Conv` that takes and ignores `tau`, `train` and `progress`.

    The defaults of `use_bias` and `kernel_init` are those of `BinaryConv`.
    """

    use_bias: bool = False
    kernel_init: Callable[..., jax.Array] = kaiming_normal

    def __call__(self, inputs: jax.Array, tau: Any = None, train: bool = False, progress: Any = None) -> jax.Array:
        return super().__call__(inputs)


class Dense(nn.Dense):
    """Full-precision counterpart of `BinaryDense`: an `nn.Dense` that takes and ignores `tau`, `train`, `progress`."""

    def __call__(self, inputs: jax.Array, tau: Any = None, train: bool = False, progress: Any = None) -> jax.Array:
        return super().__call__(inputs)
