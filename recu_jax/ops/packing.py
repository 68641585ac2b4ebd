"""Packs signs into bits: 1 for +1, 0 for -1.

Packed activations are uint32, (..., groups * words). `words` is even, because the compiled kernels read 64-bit words.
Each group of channels begins a new word. Channel c is bit c % 32 of word c // 32. The bits after the last channel are
0.

Kernels of `pack_kernel` are uint32, (features, *window, words), with as few words as the channels of a group need.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

WORD_BITS = 32
AnyArray = TypeVar("AnyArray", np.ndarray, jax.Array)


def word_count(channels: int) -> int:
    """Returns the number of 32-bit words for one group of packed activations, which is always even."""
    return 2 * (-(-channels // (2 * WORD_BITS)))


def kernel_word_count(channels: int) -> int:
    """Returns the number of 32-bit words for one tap of a kernel of one group."""
    return -(-channels // WORD_BITS)


def pack_bits(bits: AnyArray, words: int) -> AnyArray:
    """Packs booleans, (..., channels), into uint32, (..., words). NumPy arrays stay NumPy arrays."""
    xp: Any = np if isinstance(bits, np.ndarray) else jnp
    padding = words * WORD_BITS - bits.shape[-1]
    bits = xp.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, padding)])
    bits = bits.reshape(*bits.shape[:-1], words, WORD_BITS).astype(np.uint32)
    places = xp.arange(WORD_BITS, dtype=np.uint32).reshape((1,) * (bits.ndim - 1) + (WORD_BITS,))
    return (bits << places).sum(-1, dtype=np.uint32)


def unpack_bits(words: AnyArray, channels: int) -> AnyArray:
    """Unpacks uint32, (..., words), into booleans, (..., channels). NumPy arrays stay NumPy arrays."""
    xp: Any = np if isinstance(words, np.ndarray) else jnp
    places = xp.arange(WORD_BITS, dtype=np.uint32).reshape((1,) * words.ndim + (WORD_BITS,))
    bits = (words[..., None] >> places) & np.uint32(1)
    return bits.reshape(*words.shape[:-1], words.shape[-1] * WORD_BITS)[..., :channels].astype(bool)


def pack_groups(x: jax.Array, groups: int = 1) -> jax.Array:
    """Packs the signs of x, (..., channels), group by group, into uint32, (..., groups * words).

    This version uses plain XLA. `packed.pack` is faster on CPUs.
    """
    channels = x.shape[-1] // groups
    bits = pack_bits((x >= 0).reshape(*x.shape[:-1], groups, channels), word_count(channels))
    return bits.reshape(*x.shape[:-1], groups * word_count(channels))


def unpack_groups(words: jax.Array, channels: int, groups: int = 1, dtype: Any = jnp.float32) -> jax.Array:
    """Unpacks a result of `pack_groups` into +1 and -1 of `dtype`, (..., channels), the channels of all groups."""
    grouped = words.reshape(*words.shape[:-1], groups, words.shape[-1] // groups)
    bits = unpack_bits(grouped, channels // groups)
    one = jnp.ones((), dtype)
    return jnp.where(bits, one, -one).reshape(*words.shape[:-1], channels)


def pack_kernel(kernel: np.ndarray) -> np.ndarray:
    """Packs the signs of a kernel.

    Args:
      kernel: (*window, in_features / groups, features).

    Returns:
      uint32, (features, *window, words).
    """
    bits = np.moveaxis(np.asarray(kernel) >= 0, -1, 0)
    return pack_bits(bits, kernel_word_count(bits.shape[-1]))


def unpack_kernel(words: np.ndarray, channels: int) -> np.ndarray:
    """Unpacks a result of `pack_kernel` into +1 and -1: int8, (*window, channels, features)."""
    bits = np.moveaxis(unpack_bits(np.asarray(words), channels), 0, -1)
    return np.where(bits, np.int8(1), np.int8(-1))
