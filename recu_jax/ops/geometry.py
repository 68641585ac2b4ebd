"""Computes the shapes of a packed convolution: input, window and output."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax import lax

from recu_jax.ops.conv import ConvSpec, PaddingLike, check_groups
from recu_jax.ops.packing import word_count

BLOCK = 16  # output channels per pass of the compiled kernels; kBlock in csrc/binary_conv.h
COMPILED_DIMENSIONS = 3  # largest number of spatial dimensions in the compiled kernels


def is_compiled(spec: ConvSpec) -> bool:
    """Tells whether the compiled kernels support this kind of convolution."""
    return len(spec.strides) <= COMPILED_DIMENSIONS and spec.input_dilation is None


@dataclasses.dataclass(frozen=True)
class Geometry:
    """A convolution with `len(window)` spatial dimensions. A dense layer has none.

    Attributes:
      batch: number of images.
      spatial: size of the input, one int per spatial dimension.
      window, strides, dilation: of the kernel, one int each per spatial dimension.
      padding: (low, high) for each spatial dimension; a negative number crops.
      groups: groups of channels that are convolved separately.
      channels, features: input and output channels of one group.
    """

    batch: int
    spatial: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    groups: int
    channels: int
    features: int

    @classmethod
    def create(
        cls,
        batch: int,
        spatial: Sequence[int],
        window: Sequence[int],
        in_features: int,
        features: int,
        strides: int | Sequence[int] | None = 1,
        padding: PaddingLike = "VALID",
        kernel_dilation: int | Sequence[int] | None = 1,
        groups: int = 1,
    ) -> "Geometry":
        """Creates a geometry from arguments in the forms of `nn.Conv`.

        `conv.wrap_padding` must have replaced the paddings `"CIRCULAR"` and `"REFLECT"` before.

        Raises:
          UserError: the channels do not divide into groups, or the padding is unknown.
        """
        check_groups(in_features, features, groups)
        spec = ConvSpec.create(window, strides, padding, kernel_dilation, groups)
        dilated = [(k - 1) * d + 1 for k, d in zip(window, spec.kernel_dilation, strict=True)]
        pads = spec.padding
        if isinstance(pads, str):
            pads = tuple(lax.padtype_to_pads(spatial, dilated, spec.strides, pads)) if spatial else ()
        pads = tuple((int(low), int(high)) for low, high in pads)
        return cls(
            batch, tuple(spatial), tuple(window), spec.strides, spec.kernel_dilation, pads, groups,
            in_features // groups, features // groups,
        )  # fmt: skip

    @classmethod
    def of(cls, x: jax.Array, kernel: jax.Array | jax.ShapeDtypeStruct, spec: ConvSpec) -> "Geometry":
        """Returns the geometry of convolving x, (batch, *spatial, in_features), with `kernel`, as `spec` describes."""
        *window, _, features = kernel.shape
        return cls.create(
            x.shape[0], x.shape[1:-1], window, x.shape[-1], features, spec.strides, spec.padding, spec.kernel_dilation,
            spec.feature_group_count,
        )  # fmt: skip

    @property
    def out(self) -> tuple[int, ...]:
        """Size of the output, one int per spatial dimension."""
        sizes = zip(self.spatial, self.window, self.strides, self.dilation, self.padding, strict=True)
        return tuple(max((n + sum(p) - (k - 1) * d - 1) // s + 1, 0) for n, k, s, d, p in sizes)

    @property
    def taps(self) -> int:
        """Number of positions in the window."""
        return math.prod(self.window)

    @property
    def blocks(self) -> int:
        """Number of blocks of `BLOCK` output channels in one group."""
        return -(-self.features // BLOCK)

    @property
    def largest_sum(self) -> int:
        """The largest sum of products of signs that an output can have. The smallest is its negative."""
        return self.taps * self.channels

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the packed activations."""
        return (self.batch, *self.spatial, self.groups * word_count(self.channels))

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the sums."""
        return (self.batch, *self.out, self.groups * self.features)

    @property
    def bits_shape(self) -> tuple[int, ...]:
        """Shape of the packed signs of the output, with all channels as one group."""
        return (self.batch, *self.out, word_count(self.groups * self.features))

    @property
    def compiled(self) -> bool:
        """Whether the compiled kernels support this number of dimensions."""
        return len(self.window) <= COMPILED_DIMENSIONS

    def numbers(self) -> np.ndarray:
        """Returns the geometry as the compiled kernels read it: int64, (22,)."""
        missing = COMPILED_DIMENSIONS - len(self.window)
        low = [p[0] for p in self.padding]
        triples = ((self.spatial, 1), (self.out, 1), (self.window, 1), (self.strides, 1), (self.dilation, 1), (low, 0))
        flat = [n for values, filler in triples for n in (*[filler] * missing, *values)]
        return np.array([self.batch, *flat, self.groups, self.channels, self.features], np.int64)
