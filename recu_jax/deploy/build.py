"""What the operations of a Flax model are made with; `families` writes those of each model."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from recu_jax import functional
from recu_jax.deploy import fold
from recu_jax.deploy.packing import kernel_word_count, pack_bits, pack_kernel

NO_PADDING, PAD_1, PAD_3 = (0, 0, 0, 0), (1, 1, 1, 1), (3, 3, 3, 3)


@dataclasses.dataclass(frozen=True)
class Convs:
    """What the convolutions of a model are: fields of its config.

    Attributes:
      conv: "binary", "binary_activations" (signs on real weights) or "float".
      scale: alpha: "learned", "mean" or "none".
      standardize, clamp: as in `recu_jax.layers.BinaryConv`.
    """

    conv: str = "binary"
    scale: str = "learned"
    standardize: bool = True
    clamp: bool = True


class Builder:
    """Operations and arrays of a file in the making. Methods take numbers of operations and give one."""

    def __init__(self, variables: Mapping[str, Any], convs: Convs):
        self.operations: list[dict[str, Any]] = []
        self.arrays: dict[str, np.ndarray] = {}
        self._params, self._stats = variables["params"], variables.get("batch_stats", {})
        self._convs = convs
        self._channels: list[int] = []
        self._is_bits: list[bool] = []
        self._signs: dict[int, int] = {}

    def add(
        self,
        op: str,
        inputs: Sequence[int] = (),
        width: int | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
        name: str = "",
        bits: bool = False,
        **attributes: Any,
    ) -> int:
        """An operation; `arrays` by role are kept in the file as `name.role`."""
        entry: dict[str, Any] = {"op": op, "inputs": list(inputs), **attributes}
        for role, array in (arrays or {}).items():
            entry.setdefault("arrays", {})[role] = f"{name}.{role}"
            self.arrays[f"{name}.{role}"] = np.asarray(array)
        self.operations.append({k: v for k, v in entry.items() if v != []})
        self._channels.append(self._channels[inputs[0]] if width is None else width)
        self._is_bits.append(bits)
        return len(self.operations) - 1

    def param(self, path: str, leaf: str) -> np.ndarray:
        return np.asarray(_at(self._params, path)[leaf], np.float32)

    def channels(self, x: int) -> int:
        return self._channels[x]

    def signs(self, x: int) -> int:
        """`x` itself where it is signs already."""
        if self._is_bits[x]:
            return x
        if x not in self._signs:
            self._signs[x] = self.add("sign", [x], bits=True)
        return self._signs[x]

    def real_conv(self, x: int, path: str, stride: int = 1, padding: Sequence[int] = PAD_1) -> int:
        kernel = self.param(path, "kernel")
        return self.add(
            "conv", [x], kernel.shape[-1], {"kernel": kernel}, path, strides=[stride] * 2, padding=list(padding)
        )

    def norm_rows(self, path: str) -> np.ndarray:
        p, s = _at(self._params, path), _at(self._stats, path)
        return fold.norm_rows(p["scale"], p["bias"], s["mean"], s["var"])

    def norm(self, x: int, path: str) -> int:
        return self.add("batch_norm", [x], arrays={"norm": self.norm_rows(path)}, name=path)

    def conv_norm(self, x: int, conv: str, norm: str, stride: int = 1, pool: bool = False, then: str = "real") -> int:
        """A convolution of the kind that the model has, 2x2 max pooling if asked for, batch norm, and what is next.

        Args:
          then: "real" for the numbers, "hard_tanh" for these clamped, "sign" where of the clamped ones only the signs
            are used: then a binary convolution's are found by thresholds on its sums.
        """
        if self._convs.conv != "binary":
            x = self.real_conv(self.signs(x) if self._convs.conv == "binary_activations" else x, conv, stride)
            x = self.norm(self.pool(x) if pool else x, norm)
            return x if then == "real" else self.add("hard_tanh", [x])
        kernel, alpha = self._binary_kernel(conv)
        sums = self.add(
            "binary_conv", [self.signs(x)], kernel.shape[-1], {"kernel": pack_kernel(kernel)}, conv,
            strides=[stride] * 2, padding=list(PAD_1),
        )  # fmt: skip
        rows = self.norm_rows(norm)
        if then == "sign":
            found = fold.thresholds(alpha, rows, int(np.prod(kernel.shape[:-1])))
            bits = self.add("threshold", [sums], arrays={"threshold": found}, name=norm, bits=True)
            return self.pool(bits, fold.least_of_window(alpha, rows), norm) if pool else bits
        if pool:
            x = self.pool(self.add("scale", [sums], arrays={"alpha": alpha}, name=conv))
            x = self.norm(x, norm)
        else:
            x = self.add("affine", [sums], arrays={"affine": np.stack([alpha, *rows])}, name=norm)
        return self.add("hard_tanh", [x]) if then == "hard_tanh" else x

    def pool(self, x: int, least: np.ndarray | None = None, name: str = "") -> int:
        """2x2 max pooling, of bits where `least` says which channels take the least bit."""
        arrays = None
        if least is not None:
            arrays = {"least": pack_bits(least, kernel_word_count(len(least)))}
        return self.add(
            "max_pool", [x], arrays=arrays, name=name, bits=self._is_bits[x], window=[2, 2], strides=[2, 2],
            padding=list(NO_PADDING),
        )  # fmt: skip

    def stem_pool(self, x: int) -> int:
        return self.add("max_pool", [x], window=[3, 3], strides=[2, 2], padding=list(PAD_1))

    def avg_pool(self, x: int, stride: int) -> int:
        return self.add("avg_pool", [x], window=[2, 2], strides=[stride] * 2, padding=list(NO_PADDING))

    def add_shortcut(self, x: int, shortcut: int) -> int:
        return self.add("add", [x, shortcut])

    def dense(self, x: int, path: str, kernel: np.ndarray | None = None) -> int:
        kernel = self.param(path, "kernel") if kernel is None else kernel
        arrays = {"kernel": kernel, "bias": self.param(path, "bias")}
        return self.add("dense", [x], kernel.shape[-1], arrays, path)

    def _binary_kernel(self, path):
        """Signs of a kernel as +-1, and alpha, 1 where there is none."""
        kernel: Any = self.param(path, "kernel")
        c = self._convs
        tau: Any = np.float32(_at(self._stats, path)["tau"]) if c.scale == "mean" else None
        options = {"standardized": c.standardize, "clamp": c.clamp}
        # Jitted as in the trained model: rounded otherwise, a weight next to the mean has another sign.
        signs = jax.jit(lambda k: functional.binarize_weights(k, **options))(kernel)
        alpha: Any
        if c.scale == "learned":
            alpha = self.param(path, "alpha")
        elif c.scale == "mean":
            alpha = functional.computed_alpha(functional.latent_to_clamped(kernel, tau, **options))
        else:
            alpha = np.ones(kernel.shape[-1], np.float32)
        return np.asarray(signs), np.asarray(alpha, np.float32)


def _at(tree, path):
    for part in path.split("/"):
        tree = tree[part]
    return tree
