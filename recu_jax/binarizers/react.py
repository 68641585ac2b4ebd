"""Defines ReActNet's layers between convolutions: learned shifts, PReLU, and RPReLU, which combines both.

Liu et al., "ReActNet: Towards Precise Binary Neural Network with Generalized Activation Functions", ECCV 2020, arXiv
2003.03488. ReActNet's RSign is `recu_jax.binarizers.activations.RSign`, or a `Move` before another binarizer.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from recu_jax.ops.conv import per_channel


class Move(nn.Module):
    """Adds a learned shift to each channel. Variables: `params/bias`, (channels,), initially 0."""

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bias = self.param("bias", nn.initializers.zeros_init(), x.shape[-1:], self.param_dtype)
        x, bias = nn.dtypes.promote_dtype(x, bias, dtype=self.dtype)
        return x + per_channel(bias, x)


class PRelu(nn.Module):
    """Returns `x` where x is positive, and `slope * x` elsewhere.

    `nn.PReLU` has one slope for all channels; this layer has one per channel. Variables: `params/slope`, (channels,),
    initially 0.25.
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        slope = self.param("slope", nn.initializers.constant(0.25), x.shape[-1:], self.param_dtype)
        x, slope = nn.dtypes.promote_dtype(x, slope, dtype=self.dtype)
        return jnp.where(x > 0, x, per_channel(slope, x) * x)


class RPRelu(nn.Module):
    """Computes RPReLU: `y + after` where `y = x + before` is positive, and `slope * y + after` elsewhere.

    Section 4.2 of the paper defines RPReLU with the two shifts `-before` and `after`. The gradient is exact. With
    respect to x and `before` it is 1 where y > 0, and slope elsewhere. With respect to `slope` it is 0 where y > 0, and
    y elsewhere. With respect to `after` it is 1.

    Variables: `params/move1/bias` (before), `params/nonlinear/slope`, `params/move2/bias` (after), each (channels,).
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = PRelu(name="nonlinear", **types)(Move(name="move1", **types)(x))
        return Move(name="move2", **types)(x)
