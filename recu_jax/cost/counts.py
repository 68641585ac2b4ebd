"""Defines what is counted for a layer and for a model, and derives the published measures from these counts.

A weight of a 1-bit layer takes one bit. Every other number that inference needs takes 32 bits: parameters of real
layers, scale and bias of batch norm, learned scales, running statistics and computed scales.

Example: a Bi-Real-style ImageNet ResNet-18 has 11,689,512 parameters and 4.03 MiB. The published figures are 11.7 M and
4.03 MB. The 3x3 convolutions of the blocks take 10,985,472 bits. 713,640 numbers take 32 bits each: first convolution,
1x1 projection shortcuts, last linear layer, batch norm's scale and bias (9,600 numbers), and batch norm's running
statistics (9,600 numbers). The convolutions of this model have no scale; learned scales would add 3,840 numbers.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

REAL_BITS = 32
# Number of multiply-accumulates by (bits of the weight, bits of the activation).
Macs = Mapping[tuple[int, int], int]


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """The cost of one layer, without the cost of its submodules.

    Attributes:
      path: path of the layer in the model, such as `layer1_0/conv1`; empty for the model itself.
      kind: name of the layer's class.
      output_shape: shape of the output of the layer's first call.
      kernel_shape: shape of the layer's `kernel`, or None.
      binary_parameters: number of 1-bit weights.
      real_parameters: number of all other parameters.
      constants: number of other real numbers that inference needs: running statistics, computed scales.
      macs: multiply-accumulates of all calls of the layer.
    """

    path: str
    kind: str
    output_shape: tuple[int, ...]
    kernel_shape: tuple[int, ...] | None
    binary_parameters: int
    real_parameters: int
    constants: int
    macs: Macs

    @property
    def bytes(self) -> int:
        """Memory of the layer in inference, in whole bytes."""
        return math.ceil((self.binary_parameters + REAL_BITS * (self.real_parameters + self.constants)) / 8)


@dataclasses.dataclass(frozen=True)
class ModelCost:
    """The cost of a model: the sums over its `layers`."""

    layers: Sequence[LayerCost]

    @property
    def binary_parameters(self) -> int:
        """Number of 1-bit weights."""
        return sum(layer.binary_parameters for layer in self.layers)

    @property
    def real_parameters(self) -> int:
        """Number of all other parameters, of 32 bits each."""
        return sum(layer.real_parameters for layer in self.layers)

    @property
    def constants(self) -> int:
        """Number of other values that inference needs, of 32 bits each: running statistics, computed scales."""
        return sum(layer.constants for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Number of all parameters."""
        return self.binary_parameters + self.real_parameters

    @property
    def bytes(self) -> int:
        """Memory of the model in inference, in bytes."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def float32_bytes(self) -> int:
        """Memory with 32 bits for every number, in bytes."""
        return REAL_BITS // 8 * (self.parameters + self.constants)

    @property
    def compression(self) -> float:
        """How many times smaller the model is than in float32."""
        return self.float32_bytes / self.bytes if self.bytes else 1.0

    @property
    def macs(self) -> Macs:
        """Number of multiply-accumulates by (bits of the weight, bits of the activation)."""
        return sum((Counter(layer.macs) for layer in self.layers), Counter())

    @property
    def binary_macs(self) -> int:
        """Number of multiply-accumulates of a 1-bit weight and a 1-bit activation."""
        return self.macs.get((1, 1), 0)

    @property
    def binary_share_of_parameters(self) -> float:
        """Share of the parameters that are 1 bit, from 0 to 1."""
        return self.binary_parameters / self.parameters if self.parameters else 0.0

    @property
    def binary_share_of_macs(self) -> float:
        """Share of the multiply-accumulates with a 1-bit weight and a 1-bit activation, from 0 to 1."""
        return self.binary_macs / sum(self.macs.values()) if self.macs else 0.0

    @property
    def bops(self) -> int:
        """Bit operations: the sum over all multiply-accumulates of weight bits times activation bits.

        The papers on 1-bit networks (Bi-Real Net, ReActNet) use "BOPs" for the number that is called `binary_macs`
        here.
        """
        return sum(n * weight * activation for (weight, activation), n in self.macs.items())

    @property
    def ace(self) -> int:
        """Arithmetic computation effort, equal to `bops` (Zhang et al., "PokeBNN", CVPR 2022, arXiv 2112.00133)."""
        return self.bops

    @property
    def ops(self) -> float:
        """`binary_macs / 64` plus all other multiply-accumulates: a processor multiplies 64 pairs of bits in one word.

        Liu et al., "Bi-Real Net", ECCV 2018, arXiv 1808.00278.
        """
        return sum(self.macs.values()) - self.binary_macs * (1 - 1 / 64)

    def as_json(self) -> dict[str, Any]:
        """Returns all numbers as dicts and lists for JSON. Keys such as `"1x1"` mean weight bits x activation bits."""
        totals = {
            name: getattr(self, name)
            for name in (
                "parameters", "binary_parameters", "real_parameters", "constants", "bytes", "float32_bytes",
                "compression", "binary_share_of_parameters", "binary_share_of_macs", "bops", "ace", "ops",
            )
        }  # fmt: skip
        layers = [
            dataclasses.asdict(layer) | {"bytes": layer.bytes, "macs": by_precision(layer.macs)}
            for layer in self.layers
        ]
        return {**totals, "macs": by_precision(self.macs), "layers": layers}


def by_precision(macs: Macs) -> dict[str, int]:
    """Formats `macs` as `{"1x1": 1000, "32x32": 10}`, lowest precision first."""
    return {f"{weight}x{activation}": macs[weight, activation] for weight, activation in sorted(macs)}
