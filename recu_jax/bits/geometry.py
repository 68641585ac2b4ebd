"""The shape of a packed convolution: what goes in, what comes out, and what lies between."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jax import lax

from recu_jax.bits.packing import word_count
from recu_jax.conv import ConvSpec, PaddingLike, check_groups

BLOCK = 16  # output channels that the compiled kernels take at a time; kBlock in csrc/binary_conv.h
COMPILED_DIMENSIONS = 3  # spatial dimensions that they know


@dataclasses.dataclass(frozen=True)
class Geometry:
    """A convolution with `len(window)` spatial dimensions; a dense layer is one with none.

    Attributes:
      batch: images.
      spatial: size of the input.
      window, strides, dilation: of the kernel.
      padding: (low, high) for each spatial dimension; may be negative, which crops.
      groups: groups of channels that do not see each other.
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
        """From the forms that `nn.Conv` takes, `"CIRCULAR"` and `"REFLECT"` excepted: see `conv.wrap_padding`.

        Raises:
          UserError: channels that do not divide into groups, or an unknown padding.
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

    @property
    def out(self) -> tuple[int, ...]:
        """Size of the output."""
        sizes = zip(self.spatial, self.window, self.strides, self.dilation, self.padding, strict=True)
        return tuple(max((n + sum(p) - (k - 1) * d - 1) // s + 1, 0) for n, k, s, d, p in sizes)

    @property
    def taps(self) -> int:
        """Positions of the window."""
        return math.prod(self.window)

    @property
    def blocks(self) -> int:
        """Blocks of output channels of one group."""
        return -(-self.features // BLOCK)

    @property
    def largest_sum(self) -> int:
        """The largest sum that can occur, and minus the smallest."""
        return self.taps * self.channels

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of packed activations."""
        return (self.batch, *self.spatial, self.groups * word_count(self.channels))

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of sums."""
        return (self.batch, *self.out, self.groups * self.features)

    @property
    def bits_shape(self) -> tuple[int, ...]:
        """Of packed signs of the output, as one group."""
        return (self.batch, *self.out, word_count(self.groups * self.features))

    @property
    def compiled(self) -> bool:
        """Whether the compiled kernels take it."""
        return len(self.window) <= COMPILED_DIMENSIONS

    def numbers(self) -> np.ndarray:
        """As the compiled kernels take it: int64, (22,)."""
        missing = COMPILED_DIMENSIONS - len(self.window)
        low = [p[0] for p in self.padding]
        triples = ((self.spatial, 1), (self.out, 1), (self.window, 1), (self.strides, 1), (self.dilation, 1), (low, 0))
        flat = [n for values, filler in triples for n in (*[filler] * missing, *values)]
        return np.array([self.batch, *flat, self.groups, self.channels, self.features], np.int64)
