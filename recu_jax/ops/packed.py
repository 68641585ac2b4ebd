"""Computes with packed signs, by the compiled kernels of CPUs or by XLA. The functions can be called inside `jit`.

On CPUs with compiled kernels the operations run the C++ code of csrc/ through XLA's FFI. On other devices, or with
`backend="xla"`, XLA convolves +-1 numbers: a CPU in float32, a GPU or TPU in bfloat16 with sums in float32. Both are
exact for sums of fewer than 2^24 products.

Zero padding is added after the sign, so taps outside the image add 0 to a sum (SPEC.md section 2).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from recu_jax.ops import native
from recu_jax.ops.by_platform import by_platform, compiled_or_xla
from recu_jax.ops.conv import ConvSpec, match_varying_axes, per_channel
from recu_jax.ops.geometry import BLOCK, Geometry
from recu_jax.ops.packing import (
    AnyArray,
    pack_groups,
    unpack_bits,
    unpack_groups,
    word_count,
)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["backend"])
@dataclasses.dataclass(frozen=True)
class Kernel:
    """Weights in the layout of a backend, created by `arrange_kernel`.

    Attributes:
      arrays: for "xla", the weights as int8, +1 and -1. For other backends, the packed weights, and for each tap and
        output channel the number that `arrange_kernel` calls `minus`.
      backend: name of the backend.
    """

    arrays: tuple[Any, ...]
    backend: str


def pack(x: jax.Array, groups: int = 1, backend: str | None = None, norm: jax.Array | None = None) -> jax.Array:
    """Packs the signs of real numbers x into bits; `packing` describes the layout.

    Args:
      x: (..., channels).
      groups: number of groups of channels. Each group begins a new word.
      backend: an instruction set of `native.instruction_sets()`, or "xla"; None means the fastest backend of the device
        that the program is compiled for.
      norm: (3, channels), mean, factor and bias of a `batch_norm` that is applied to x first, or None; only with one
        group.

    Returns:
      uint32, (..., groups * words).
    """
    if backend is None:
        return compiled_or_xla(
            x, norm,
            compiled=lambda backend, x, norm: pack(x, groups, backend, norm),
            xla=lambda x, norm: pack(x, groups, "xla", norm),
        )  # fmt: skip
    if norm is not None and (backend == "xla" or x.dtype != jnp.float32):
        x, norm = batch_norm(x, norm), None
    if backend == "xla":
        return pack_groups(x, groups)
    if x.dtype != jnp.float32:  # a cast to float32 may round a small negative number to 0
        x = jnp.where(x >= 0, jnp.float32(1), jnp.float32(-1))
    channels = x.shape[-1] // groups
    shape = jax.ShapeDtypeStruct((*x.shape[:-1], groups * word_count(channels)), jnp.uint32)
    return call("recu_pack", shape, x, or_empty(norm), channels=np.int64(channels), isa=backend)


def pack_signs_of_kernel(kernel: jax.Array, backend: str) -> jax.Array:
    """Packs the signs of a kernel, (*window, channels, features), into uint32, (features, *window, words).

    The number of words is even, as in `pack`.
    """
    return pack(jnp.moveaxis(kernel, -1, 0), 1, backend)


def batch_norm(x: jax.Array, norm: jax.Array) -> jax.Array:
    """Computes `(x - mean) * factor + bias` for x, (..., channels), and norm, (3, channels)."""
    mean, factor, bias = (per_channel(row, x) for row in norm)
    return (x - mean) * factor + bias


def arrange_kernel(words: AnyArray, channels: int, groups: int, backend: str | None = None) -> Kernel:
    """Converts packed weights to the layout of a backend. One conversion serves any number of convolutions.

    Args:
      words: uint32, (features, *window, words), the result of `pack_kernel` or `pack_signs_of_kernel`.
      channels: input channels of a group.
      groups: number of groups of channels.
      backend: an instruction set of `native.instruction_sets()`, or "xla"; None means the fastest backend of this
        machine's CPU.
    """
    backend = backend or native.cpu_backend()
    xp: Any = np if isinstance(words, np.ndarray) else jnp
    features, *window, _ = words.shape
    if backend == "xla":
        signs = xp.where(unpack_bits(words, channels), np.int8(1), np.int8(-1))
        return Kernel((xp.moveaxis(signs, 0, -1),), backend)
    taps, per_group = int(np.prod(window)), features // groups
    blocks = -(-per_group // BLOCK)
    even = word_count(channels)
    panels = words.reshape(groups, per_group, taps, words.shape[-1])
    panels = xp.pad(panels, [(0, 0), (0, blocks * BLOCK - per_group), (0, 0), (0, even - words.shape[-1])])
    panels = panels.reshape(groups, blocks, BLOCK, taps, even // 2, 2)
    # Outside the image the input words are 0, which the compiled kernels count as signs of -1 in all channels. `minus`
    # is what such a tap adds to a sum. The kernels subtract it again.
    minus = np.int32(channels) - 2 * _popcount(panels).sum((-2, -1), dtype=np.int32)
    tap_sums = xp.moveaxis(minus, 2, 3)
    return Kernel((xp.moveaxis(_with_shared_words(panels, channels), 2, 4), tap_sums), backend)


def _with_shared_words(panels, channels):
    """Puts several taps of few channels into each word, as Geometry::word_taps of csrc/binary_conv.h says.

    Args:
      panels: uint32, (groups, blocks, BLOCK, taps, words of 64 bits, 2).
      channels: input channels of a group.
    """
    word_taps = 8 if channels <= 8 else 4 if channels <= 16 else 2 if channels <= 32 else 1
    if word_taps == 1:
        return panels
    xp: Any = np if isinstance(panels, np.ndarray) else jnp
    low = panels[..., 0, 0]
    low = xp.pad(low, [(0, 0)] * 3 + [(0, -low.shape[3] % word_taps)])
    low = low.reshape(*low.shape[:3], -1, 1, 2, word_taps // 2)
    shifts = np.arange(word_taps // 2, dtype=np.uint32) * np.uint32(64 // word_taps)
    return (low << shifts.reshape((1,) * 6 + (-1,))).sum(-1, dtype=np.uint32)


def _popcount(words):
    return np.bitwise_count(words) if isinstance(words, np.ndarray) else lax.population_count(words)


def call(target: str, shapes: Any, *args: jax.Array, **attributes: Any) -> Any:
    """Calls a compiled kernel of `native.TARGETS`."""
    results = jax.ffi.ffi_call(target, shapes, vmap_method="sequential")(*args, **attributes)
    # Within `jax.shard_map` JAX does not know that the results differ between devices where the arguments do.
    return jax.tree.map(lambda result: match_varying_axes(result, *args)[0], results)


def call_with_kernel(
    target: str, shapes: Any, geometry: Geometry, kernel: Kernel, x: jax.Array, *args: jax.Array, **attributes: Any
) -> Any:
    """Calls a compiled kernel that convolves x with `kernel`."""
    return call(target, shapes, x, *kernel.arrays, *args, geometry=geometry.numbers(), isa=kernel.backend, **attributes)


def conv_sums(x: jax.Array, kernel: Kernel, geometry: Geometry) -> jax.Array:
    """Convolves packed activations with packed weights.

    Args:
      x: packed activations, uint32, `geometry.input_shape`.
      kernel: result of `arrange_kernel`.
      geometry: geometry of the convolution.

    Returns:
      Exact integer sums: int32, `geometry.output_shape`.
    """
    if kernel.backend != "xla":
        shape = jax.ShapeDtypeStruct(geometry.output_shape, jnp.int32)
        return call_with_kernel("recu_conv_sums", shape, geometry, kernel, x)
    sums = functools.partial(_sums_of_floats, geometry)
    return by_platform(
        x, kernel.arrays[0],
        cpu=functools.partial(sums, jnp.float32), default=functools.partial(sums, jnp.bfloat16),
    )  # fmt: skip


def _sums_of_floats(geometry, dtype, x, kernel):
    spatial = len(geometry.window)
    signs = unpack_groups(x, geometry.groups * geometry.channels, geometry.groups, dtype)
    spec = ConvSpec(geometry.strides, geometry.padding, geometry.dilation, geometry.groups)
    y = lax.conv_general_dilated(
        signs,
        kernel.reshape(*geometry.window, geometry.channels, -1).astype(dtype),
        (1,) * spatial if not spatial else spec.strides,
        spec.padding,
        rhs_dilation=spec.kernel_dilation,
        dimension_numbers=spec.dimension_numbers,
        feature_group_count=spec.feature_group_count,
        preferred_element_type=jnp.float32,
    )
    return y.astype(jnp.int32)


def conv_thresholds(x: jax.Array, kernel: Kernel, geometry: Geometry, thresholds: jax.Array) -> jax.Array:
    """Convolves packed signs and packs the results of `direction * sum >= threshold` as bits.

    Args:
      x, kernel, geometry: as in `conv_sums`; one group.
      thresholds: int32, (2, features): the thresholds, and the directions, each +1 or -1.

    Returns:
      uint32, `geometry.bits_shape`.
    """
    if kernel.backend != "xla":
        shape = jax.ShapeDtypeStruct(geometry.bits_shape, jnp.uint32)
        return call_with_kernel("recu_conv_thresholds", shape, geometry, kernel, x, padded(thresholds))
    sums = conv_sums(x, kernel, geometry)
    threshold, direction = (lax.expand_dims(row, range(sums.ndim - 1)) for row in thresholds)
    return pack_groups(jnp.where(direction * sums >= threshold, 0.0, -1.0))


def conv_affine(
    x: jax.Array, kernel: Kernel, geometry: Geometry, affine: jax.Array, shortcut: jax.Array | None, clamp: bool
) -> tuple[jax.Array, jax.Array]:
    """Convolves packed signs; computes `(sum * alpha - mean) * factor + bias + shortcut` and the signs of this result.

    Args:
      x, kernel, geometry: as in `conv_sums`; one group.
      affine: float32, (4, features): alpha, mean, factor, bias.
      shortcut: float32, `geometry.output_shape`, or None.
      clamp: whether to clamp the result to [-1, 1].

    Returns:
      The result, float32, `geometry.output_shape`, and its packed signs, uint32, `geometry.bits_shape`.
    """
    if kernel.backend != "xla":
        shapes = (
            jax.ShapeDtypeStruct(geometry.output_shape, jnp.float32),
            jax.ShapeDtypeStruct(geometry.bits_shape, jnp.uint32),
        )
        return call_with_kernel(
            "recu_conv_affine", shapes, geometry, kernel, x, padded(affine), or_empty(shortcut), clamp=bool(clamp)
        )
    sums = conv_sums(x, kernel, geometry)
    alpha, mean, factor, bias = (lax.expand_dims(row, range(sums.ndim - 1)) for row in affine)
    y = (sums.astype(jnp.float32) * alpha - mean) * factor + bias
    y = y if shortcut is None else y + shortcut
    y = jax.nn.hard_tanh(y) if clamp else y
    return y, pack_groups(y)


def kernel_gradient(x: jax.Array, dy: jax.Array, geometry: Geometry, backend: str) -> jax.Array:
    """Computes the gradient of `conv_sums` with respect to the weights.

    Args:
      x: packed activations, uint32, `geometry.input_shape`.
      dy: gradient of the output, float32, `geometry.output_shape`.
      geometry: geometry of the convolution.
      backend: an instruction set of `native.instruction_sets()`.

    Returns:
      float32, (*window, channels, groups * features).
    """
    shape = (*geometry.window, geometry.channels, geometry.groups * geometry.features)
    result = jax.ShapeDtypeStruct(shape, jnp.float32)
    return call("recu_kernel_gradient", result, x, dy, geometry=geometry.numbers(), isa=backend)


def input_gradient(
    kernel: jax.Array, alpha: jax.Array | None, dy: jax.Array, geometry: Geometry, backend: str
) -> jax.Array:
    """Computes the gradient of `alpha * conv_sums` with respect to the activations.

    Args:
      kernel: signs of the weights, uint32, (groups * features, *window, words), with an even number of words.
      alpha: float32, (groups * features,), or None.
      dy, geometry, backend: as in `kernel_gradient`.

    Returns:
      float32, (batch, *spatial, groups * channels).
    """
    shape = (geometry.batch, *geometry.spatial, geometry.groups * geometry.channels)
    result = jax.ShapeDtypeStruct(shape, jnp.float32)
    return call("recu_input_gradient", result, kernel, or_empty(alpha), dy, geometry=geometry.numbers(), isa=backend)


def or_empty(array: jax.Array | None) -> jax.Array:
    """Converts an optional argument of a compiled kernel: None becomes an empty array."""
    return jnp.zeros((0,), jnp.float32) if array is None else array


def padded(rows: jax.Array) -> jax.Array:
    """Pads the last axis of an array, (rows, features), with zeros to a multiple of `BLOCK`."""
    return jnp.pad(rows, ((0, 0), (0, -rows.shape[1] % BLOCK)))
