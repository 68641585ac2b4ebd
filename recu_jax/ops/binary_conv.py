"""Convolves and multiplies signs that are packed as bits, for a user's own programs.

Pack the signs first, then convolve the words:

    words = pack(x)                                       # signs of (batch, height, width, channels), 32 a word
    sums = binary_conv(words, pack_kernel(kernel), x.shape[-1], padding="SAME")     # int32, exact
"""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from recu_jax.errors import UserError
from recu_jax.ops import native
from recu_jax.ops.by_platform import compiled_or_xla
from recu_jax.ops.conv import ConvSpec, PaddingLike, wrap_padding
from recu_jax.ops.geometry import Geometry
from recu_jax.ops.packed import arrange_kernel, conv_sums, pack
from recu_jax.ops.packing import kernel_word_count, pack_kernel

__all__ = ["arrange_kernel", "binary_conv", "binary_dense", "pack", "pack_kernel"]


def binary_conv(
    x: jax.Array,
    kernel: jax.Array,
    in_features: int,
    *,
    strides: int | Sequence[int] | None = 1,
    padding: PaddingLike = "SAME",
    kernel_dilation: int | Sequence[int] | None = 1,
    feature_group_count: int = 1,
    backend: str | None = None,
) -> jax.Array:
    """Convolves packed signs with packed signs. The sums equal those of a convolution of +-1 floats.

    Args:
      x: uint32, (batch, *spatial, groups * words), the result of `pack(..., groups)`; any number of spatial dimensions.
      kernel: uint32, (features, *window, words), the result of `pack_kernel`.
      in_features: input channels of all groups.
      strides, padding, kernel_dilation, feature_group_count: as in `recu_jax.functional.conv_of_signs`.
      backend: as in `pack`. With more than 3 spatial dimensions XLA convolves, whatever the backend.

    Returns:
      int32, (batch, *out_spatial, features).

    Raises:
      UserError: the shapes do not fit each other, or the padding or backend is unknown.
    """
    window, groups = kernel.shape[1:-1], feature_group_count
    if in_features % groups or kernel.shape[-1] != kernel_word_count(in_features // groups):
        raise UserError(
            f"kernel is {kernel.shape} for {in_features} input channels in {groups} groups; its last axis must be "
            f"{kernel_word_count(in_features // groups)}, the words that hold a group's channels"
        )
    # "CIRCULAR" and "REFLECT" copy pixels, so they can be applied to packed words.
    x, spec = wrap_padding(x, window, ConvSpec.create(window, strides, padding, kernel_dilation, groups))
    geometry = Geometry.create(
        x.shape[0], x.shape[1:-1], window, in_features, kernel.shape[0], spec.strides, spec.padding,
        spec.kernel_dilation, groups,
    )  # fmt: skip
    if x.shape != geometry.input_shape:
        raise UserError(
            f"x is {x.shape}; for {in_features} channels in {groups} groups it must be {geometry.input_shape}"
        )

    def sums(backend, x, kernel=kernel):
        return conv_sums(x, arrange_kernel(kernel, geometry.channels, groups, backend), geometry)

    if backend is None and geometry.compiled:
        # A NumPy kernel is arranged once, while the program is traced.
        arguments = (x,) if isinstance(kernel, np.ndarray) else (x, kernel)
        return compiled_or_xla(*arguments, compiled=sums, xla=functools.partial(sums, "xla"))
    return sums(_checked(backend) if backend and geometry.compiled else "xla", x)


def _checked(backend: str) -> str:
    known = ("xla", *native.instruction_sets())
    if backend not in known:
        raise UserError(f"backend is {backend!r}; here it must be one of: {', '.join(known)}")
    return backend


def binary_dense(x: jax.Array, kernel: jax.Array, in_features: int, backend: str | None = None) -> jax.Array:
    """Multiplies packed signs with packed signs, as a dense layer.

    Args:
      x: uint32, (..., words), the result of `pack`.
      kernel: uint32, (features, words), the result of `pack_kernel`. It may have one word less than x.
      in_features: input channels.
      backend: as in `pack`.

    Returns:
      int32, (..., features).

    Raises:
      UserError: the shapes do not fit each other, or the backend is unknown.
    """
    sums = binary_conv(x.reshape(-1, x.shape[-1]), kernel, in_features, padding="VALID", backend=backend)
    return sums.reshape(*x.shape[:-1], kernel.shape[0])
