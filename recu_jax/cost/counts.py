"""What is counted of a layer and of a model.

A weight of a 1-bit layer is one bit; every other number that inference needs is 32 bits: the parameters of real layers,
the scale and bias of batch norm, learned scales, and what is no parameter, running statistics and computed scales.

So counted, a Bi-Real-style ImageNet ResNet-18 has 11,689,512 parameters and 4.03 MiB, the published 11.7 M and 4.03 MB:
10,985,472 bits, the 3x3 convolutions of the blocks, and 713,640 numbers of 32 bits: first convolution, 1x1 projection
shortcuts, last linear layer, scale, bias and, 9,600 numbers, running statistics of batch norm. Its convolutions have no
scale of their own; a learned one would add 3,840 numbers.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

REAL_BITS = 32
# Multiply-accumulates by (bits of the weight, bits of the activation).
Macs = Mapping[tuple[int, int], int]


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """One layer; parameters of a module that others stand in are its own alone.

    Attributes:
      path: of the module in the model, such as `layer1_0/conv1`; empty for the model itself.
      kind: name of its class.
      output_shape: of its first call.
      kernel_shape: of its `kernel`; None where it has none.
      binary_parameters: weights of 1 bit.
      real_parameters: all its other parameters.
      constants: real numbers beside them that inference needs: running statistics, computed scales.
      macs: multiply-accumulates of all its calls.
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
        """What inference keeps of it, in whole bytes."""
        return math.ceil((self.binary_parameters + REAL_BITS * (self.real_parameters + self.constants)) / 8)


@dataclasses.dataclass(frozen=True)
class ModelCost:
    """A model: the sums over its `layers`."""

    layers: Sequence[LayerCost]

    @property
    def binary_parameters(self) -> int:
        """Weights of 1 bit."""
        return sum(layer.binary_parameters for layer in self.layers)

    @property
    def real_parameters(self) -> int:
        """All other parameters, of 32 bits."""
        return sum(layer.real_parameters for layer in self.layers)

    @property
    def constants(self) -> int:
        """Numbers of 32 bits that inference needs and that are no parameters."""
        return sum(layer.constants for layer in self.layers)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.binary_parameters + self.real_parameters

    @property
    def bytes(self) -> int:
        """What inference keeps of the model."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def float32_bytes(self) -> int:
        """The same with 32 bits for every number."""
        return REAL_BITS // 8 * (self.parameters + self.constants)

    @property
    def compression(self) -> float:
        """How many times smaller than in float32."""
        return self.float32_bytes / self.bytes if self.bytes else 1.0

    @property
    def macs(self) -> Macs:
        """Multiply-accumulates by (bits of the weight, bits of the activation)."""
        return sum((Counter(layer.macs) for layer in self.layers), Counter())

    @property
    def binary_macs(self) -> int:
        """Multiply-accumulates of a 1-bit weight and a 1-bit activation."""
        return self.macs.get((1, 1), 0)

    @property
    def binary_share_of_parameters(self) -> float:
        """Share of the parameters that have 1 bit, from 0 to 1."""
        return self.binary_parameters / self.parameters if self.parameters else 0.0

    @property
    def binary_share_of_macs(self) -> float:
        """Share of the multiply-accumulates that are of 1 bit on both sides, from 0 to 1."""
        return self.binary_macs / sum(self.macs.values()) if self.macs else 0.0

    @property
    def bops(self) -> int:
        """Bit operations, each multiply-accumulate times the bits of its weight and of its activation.

        The papers on 1-bit networks (Bi-Real Net, ReActNet) call BOPs what is `binary_macs` here.
        """
        return sum(n * weight * activation for (weight, activation), n in self.macs.items())

    @property
    def ace(self) -> int:
        """Arithmetic computation effort, the same sum (Zhang et al., "PokeBNN", CVPR 2022, arXiv 2112.00133)."""
        return self.bops

    @property
    def ops(self) -> float:
        """`binary_macs / 64` and the others as they are (Liu et al., "Bi-Real Net", ECCV 2018, arXiv 1808.00278).

        64 is how many 1-bit products a processor's word holds.
        """
        return sum(self.macs.values()) - self.binary_macs * (1 - 1 / 64)

    def as_json(self) -> dict[str, Any]:
        """Everything as JSON keeps it; precisions are `"1x1"`, bits of the weight by bits of the activation."""
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
    """`{"1x1": 1000, "32x32": 10}`, the lowest precision first."""
    return {f"{weight}x{activation}": macs[weight, activation] for weight, activation in sorted(macs)}
