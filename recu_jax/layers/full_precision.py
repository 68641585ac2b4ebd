"""Defines Flax's layers with the call arguments of the 1-bit layers, so that a model can use either kind."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from recu_jax.layers.one_bit_layer import kaiming_normal


class Conv(nn.Conv):
    """`nn.Conv` that takes and ignores `tau`, `train` and `progress`: the full-precision twin of `BinaryConv`."""

    use_bias: bool = False
    kernel_init: Callable[..., jax.Array] = kaiming_normal

    def __call__(self, inputs: jax.Array, tau: Any = None, train: bool = False, progress: Any = None) -> jax.Array:
        return super().__call__(inputs)


class Dense(nn.Dense):
    """`nn.Dense` that takes and ignores `tau`, `train` and `progress`: the full-precision twin of `BinaryDense`."""

    def __call__(self, inputs: jax.Array, tau: Any = None, train: bool = False, progress: Any = None) -> jax.Array:
        return super().__call__(inputs)
