"""Lets the 1-bit layers compute with packed variables, which `recu_jax.pack` returns.

A packed layer holds two entries of `params` in place of `kernel` and `alpha`. Both have the rank of the kernel, so that
`nn.scan` and `nn.vmap` split them along the axis along which they split the kernel:

- `kernel_bits`: uint32, (1, ..., 1, words), the result of `ops.bit_kernel.bits_of_kernel`.
- `kernel_scale`: (1, ..., 1, features), alpha times the scale of the kernel binarizer; ones without a scale.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from recu_jax.errors import UserError
from recu_jax.layers.not_given import NOT_GIVEN
from recu_jax.ops.bit_kernel import BitKernel
from recu_jax.ops.packing import WORD_BITS

BITS, SCALE = "kernel_bits", "kernel_scale"


def packed_trains(what: str) -> UserError:
    """Returns the error for a call that trains a packed layer or model, which `what` names."""
    return UserError(
        f"{what} is packed, and packed weights do not train; evaluate (train=False, or model.eval() in NNX), or train "
        "with the variables that recu_jax.pack was given"
    )


def latent_weights_are_gone(layer: Any) -> UserError:
    """Returns the error for a packed layer whose latent weights are needed. The layer is of Linen or of NNX."""
    return UserError(
        f"a {type(layer).__name__} of the model is packed, and its latent weights are gone; give what "
        "recu_jax.pack was given"
    )


def packed_kernel(layer: nn.Module, shape: tuple[int, ...], tau: Any) -> tuple[BitKernel, jax.Array]:
    """Returns the kernel and the scale, (features,), of a packed layer.

    Args:
      layer: a Linen layer with the entry `BITS`.
      shape: shape of its kernel.
      tau: as in a call of the layer.

    Raises:
      UserError: tau would change the scale, or the entries do not fit the layer.
    """
    where = "/".join(layer.path) or type(layer).__name__
    if layer.alpha == "mean" and tau is not None and tau is not NOT_GIVEN:
        raise UserError(
            f"{where} is packed, and its alpha belongs to the tau of the last training step; leave out tau, or "
            "evaluate the variables that recu_jax.pack was given"
        )
    bits, scale = (nn.meta.unbox(layer.get_variable("params", name)) for name in (BITS, SCALE))
    if isinstance(bits, jax.Array) and not isinstance(bits, jax.core.Tracer) and bits.is_fully_addressable:
        bits = np.asarray(bits)  # NumPy, so that the bits are arranged at trace time (see `BitKernel`)
    wanted = (*[1] * (len(shape) - 1), -(-math.prod(shape) // WORD_BITS))
    if bits.shape != wanted or bits.dtype != jnp.uint32 or scale.size != shape[-1]:
        raise UserError(
            f"{where}: {BITS} is {bits.dtype} of shape {bits.shape} and {SCALE} has {scale.size} numbers; a kernel of "
            f"shape {shape} has uint32 of shape {wanted}, and {shape[-1]} numbers; pack the variables of this "
            "model again"
        )
    return BitKernel(bits.ravel(), shape), jnp.asarray(scale).ravel()
