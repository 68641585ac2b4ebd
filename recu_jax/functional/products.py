"""Computes 1-bit convolutions and dense layers from binary activations and binary weights (SPEC.md section 3)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recu_jax.ops.bit_kernel import BitKernel
from recu_jax.ops.conv import ConvSpec, PaddingLike, match_varying_axes, per_channel, wrap_padding
from recu_jax.ops.scaled_conv import scaled_conv


def conv_of_signs(
    signs: jax.Array,
    weights: jax.Array | BitKernel,
    alpha: jax.Array | None = None,
    *,
    strides: int | Sequence[int] | None = 1,
    padding: PaddingLike = "SAME",
    kernel_dilation: int | Sequence[int] | None = 1,
    feature_group_count: int = 1,
    input_dilation: int | Sequence[int] | None = 1,
    precision: Any = None,
    binary: bool = True,
) -> jax.Array:
    """Computes the 1-bit convolution `alpha * conv(signs, weights)` of binary activations and weights (SPEC.md 3).

    Zero padding is added to the signs. A kernel position outside the image thus adds 0 to the sum, not +1 or -1.

    A NaN among the signs or weights gives NaN in each output that depends on it. The compiled CPU kernels give NaN in
    all outputs of the sample whose signs hold the NaN, or of the output channel whose weights hold it.

    Args:
      signs: (batch, *spatial, in_features), +1 and -1; their dtype is the dtype of the computation.
      weights: (*window, in_features / groups, features), +1 and -1, or real weights with `binary=False`. A `BitKernel`
        holds them as bits.
      alpha: scale, (features,), or None.
      strides: an int, or one per spatial dimension.
      padding: `"SAME"`, `"SAME_LOWER"`, `"VALID"`, `"CIRCULAR"`, `"REFLECT"`, `"CAUSAL"` (1-D), an int, or one int or
        (low, high) per spatial dimension.
      kernel_dilation: an int, or one per spatial dimension.
      feature_group_count: groups of channels; `in_features` groups make a depthwise convolution.
      input_dilation: an int, or one per spatial dimension. The zeros between the signs add 0 to a sum, like padding.
      precision: as in `nn.Conv`; sums of signs are exact with every precision.
      binary: False if the weights are real. Only the activations are then 1 bit, as in stage 1 of two-stage training
        (SPEC.md 7).

    Returns:
      (batch, *out_spatial, features) in the dtype of `signs`.

    Raises:
      UserError: the padding is unknown, or it is `"SAME"` or `"SAME_LOWER"` with an input dilation.
    """
    window = weights.shape[:-2]
    spec = ConvSpec.create(window, strides, padding, kernel_dilation, feature_group_count, input_dilation, precision)
    signs, spec = wrap_padding(signs, window, spec)
    if isinstance(weights, BitKernel):
        return _of_bits(signs, weights, alpha, lambda signs, weights: weights.conv(signs, spec))
    operands: Any = match_varying_axes(signs, weights.astype(signs.dtype), alpha)
    return scaled_conv(operands[0], operands[1], operands[2], spec, binary)


def dense_of_signs(
    signs: jax.Array, weights: jax.Array | BitKernel, alpha: jax.Array | None = None, *, precision: Any = None
) -> jax.Array:
    """Computes the 1-bit dense layer `alpha * (signs @ weights)` of binary activations and weights.

    Args:
      signs: (..., in_features), +1 and -1.
      weights: (in_features, features), +1 and -1. A `BitKernel` holds them as bits.
      alpha: scale, (features,), or None.
      precision: as in `nn.Dense`; sums of signs are exact with every precision.

    Returns:
      (..., features) in the dtype of `signs`.
    """
    if isinstance(weights, BitKernel):
        return _of_bits(signs, weights, alpha, lambda signs, weights: weights.dense(signs, precision))
    y = jnp.matmul(signs, weights.astype(signs.dtype), precision=precision)
    return y if alpha is None else y * per_channel(alpha, y)


def _of_bits(signs, weights, alpha, product):
    is_constant = isinstance(weights.bits, np.ndarray)
    operands: Any = match_varying_axes(signs, None if is_constant else weights.bits, alpha)
    signs, bits, alpha = operands
    y = product(signs, weights if is_constant else BitKernel(bits, weights.shape))
    return y if alpha is None else y * per_channel(alpha, y)
