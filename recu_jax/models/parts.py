"""The full-precision parts that the models share."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from recu_jax.conv import per_channel
from recu_jax.layers import kaiming_normal

# PyTorch's padding=1. Not "SAME", which at stride 2 pads 0 before and 1 after.
PAD_1 = ((1, 1), (1, 1))

first_conv = partial(nn.Conv, kernel_size=(3, 3), padding=PAD_1, use_bias=False, kernel_init=kaiming_normal)


class LastLinear(nn.Module):
    """Dense layer with weights and bias U(+-1/sqrt(in_features)), as PyTorch initialises it (SPEC.md 6)."""

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bound = x.shape[-1] ** -0.5

        def init(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        kernel = self.param("kernel", init, (x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", init, (self.features,), self.param_dtype)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return x @ kernel + per_channel(bias, x)
