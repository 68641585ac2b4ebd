"""Stores the signs of a kernel as bits, and convolves signs with it.

The bits of a kernel follow each other without gaps: all bits of the first output channel, then those of the second, and
so on. They take a 32nd of the bytes of float32. With `packing.pack_kernel` each word of a depthwise kernel would hold
only one bit.
"""

import dataclasses
import math
from typing import Generic

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from recu_jax.ops.by_platform import compiled_or_xla
from recu_jax.ops.conv import ConvSpec, convolve
from recu_jax.ops.geometry import is_compiled
from recu_jax.ops.packed import arrange_kernel
from recu_jax.ops.packing import WORD_BITS, AnyArray, kernel_word_count, pack_bits, unpack_bits
from recu_jax.ops.scaled_conv import count_bits, nan_of_samples, pack_batch

_DENSE = ConvSpec((), (), ())


def bits_of_kernel(signs: np.ndarray, stacked: int = 0) -> np.ndarray:
    """Packs the signs of a kernel, or of several kernels that are stacked.

    Args:
      signs: +1 and -1, (*stack, *window, in_features / groups, features).
      stacked: number of axes in `stack`.

    Returns:
      uint32, (*stack, words). The signs of one kernel are in the order (features, *window, in_features / groups), with
      no gap between output channels. The first sign is the lowest bit of the first word. Bit 1 means +1. The unused
      bits of the last word are 0.
    """
    bits = np.moveaxis(np.asarray(signs) >= 0, -1, stacked)
    bits = bits.reshape(*bits.shape[:stacked], -1)
    return pack_bits(bits, -(-bits.shape[-1] // WORD_BITS))


@dataclasses.dataclass(frozen=True)
class BitKernel(Generic[AnyArray]):
    """The signs of a kernel as bits, in the place of a kernel of +1 and -1.

    Attributes:
      bits: uint32, (words,), the result of `bits_of_kernel`. The compiled kernels need another layout. A NumPy array is
        converted to it while the program is traced. A JAX array is converted in each call.
      shape: shape of the kernel, (*window, in_features / groups, features).
    """

    bits: AnyArray
    shape: tuple[int, ...]

    @property
    def _stored_shape(self) -> tuple[int, ...]:
        *window, channels, features = self.shape
        return (features, *window, channels)

    def signs(self, dtype: jax.typing.DTypeLike) -> jax.Array:
        """Returns +1 and -1 of `dtype`, in the shape of the kernel."""
        one = jnp.ones((), dtype)
        # Without the barrier XLA would unpack constant bits at compile time. The program would hold the unpacked signs.
        bits = unpack_bits(lax.optimization_barrier(jnp.asarray(self.bits)), math.prod(self.shape)).reshape(
            self._stored_shape
        )
        return jnp.moveaxis(jnp.where(bits, one, -one), 0, -1)

    def words(self) -> AnyArray:
        """Returns the bits in the form of `packing.pack_kernel`, (features, *window, words)."""
        stored = self._stored_shape
        if stored[-1] % WORD_BITS == 0:
            return self.bits.reshape(*stored[:-1], -1)
        bits = unpack_bits(self.bits, math.prod(stored)).reshape(stored)
        return pack_bits(bits, kernel_word_count(stored[-1]))

    def conv(self, x: jax.Array, spec: ConvSpec) -> jax.Array:
        """Convolves the signs x, (batch, *spatial, in_features), with the kernel.

        The compiled kernels of CPUs count bits. Otherwise XLA convolves +1 and -1. In float32 both are exact.

        Returns:
          (batch, *out_spatial, features) in the dtype of `x`.
        """

        def xla(x, kernel):
            return convolve(x, kernel.signs(x.dtype), spec)

        return self._product(x, spec, xla) if is_compiled(spec) else xla(x, self)

    def dense(self, x: jax.Array, precision: jax.lax.PrecisionLike = None) -> jax.Array:
        """Multiplies the signs x, (..., in_features), with the kernel. Returns (..., features) in the dtype of `x`."""

        def xla(x, kernel):
            return jnp.matmul(x, kernel.signs(x.dtype), precision=precision)

        y = self._product(x.reshape(-1, x.shape[-1]), _DENSE, xla)
        return y.reshape(*x.shape[:-1], self.shape[-1])

    def _product(self, x, spec, xla):
        def counted(backend, x, *bits):
            kernel = BitKernel(bits[0], self.shape) if bits else self
            words = pack_batch(spec, backend, x)
            arranged = arrange_kernel(kernel.words(), self.shape[-2], spec.feature_group_count, backend)
            sums = count_bits(words, arranged, x, jax.ShapeDtypeStruct(self.shape, x.dtype), spec)
            # Bits cannot hold a NaN, so NaN is added to all sums of a sample that holds one.
            return sums.astype(x.dtype) + lax.expand_dims(nan_of_samples(x), range(1, x.ndim))

        def unpacked(x, *bits):
            return xla(x, BitKernel(bits[0], self.shape) if bits else self)

        bits = () if isinstance(self.bits, np.ndarray) else (self.bits,)
        return compiled_or_xla(x, *bits, compiled=counted, xla=unpacked)
