"""What the operations of a Flax model are made with; `families` writes those of each model."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from recu_jax import binarizers, functional
from recu_jax.bits.packing import kernel_word_count, pack_bits, pack_kernel
from recu_jax.deploy import fold

NO_PADDING, PAD_1, PAD_3 = (0, 0, 0, 0), (1, 1, 1, 1), (3, 3, 3, 3)


@dataclasses.dataclass(frozen=True)
class Convs:
    """What the convolutions of a model are, and what stands between them: fields of its config.

    Attributes:
      conv: "binary", "binary_activations" (signs on real weights) or "float".
      scale: alpha: "learned", "mean" or "none".
      standardize, clamp, laplace_b, centre: ReCU's parts, as in `recu_jax.layers.BinaryConv` (`b`).
      weight_binarizer, activation_binarizer: names in `recu_jax.binarizers`.
      nonlinearity: "rprelu", or "hard_tanh" or None for hardtanh.
    """

    conv: str = "binary"
    scale: str = "learned"
    standardize: bool = True
    clamp: bool = True
    laplace_b: float = 2.0
    centre: bool = True
    weight_binarizer: str = "recu"
    activation_binarizer: str = "recu"
    nonlinearity: str | None = None


class Builder:
    """Operations and arrays of a file in the making. Methods take numbers of operations and give one."""

    def __init__(self, variables: Mapping[str, Any], convs: Convs):
        self.operations: list[dict[str, Any]] = []
        self.arrays: dict[str, np.ndarray] = {}
        self._params, self._stats = variables["params"], variables.get("batch_stats", {})
        self._convs = convs
        self._channels: list[int] = []
        self._is_bits: list[bool] = []
        self._signs: dict[tuple[int, str], int] = {}

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

    @property
    def _learns_shifts(self) -> bool:
        return "shift" in binarizers.ACTIVATIONS[self._convs.activation_binarizer].parameters

    def signs(self, x: int, path: str) -> int:
        """What goes into the convolution `path`: `x` itself where it is signs already."""
        if self._is_bits[x]:
            return x
        path = path if self._learns_shifts else ""
        if (x, path) not in self._signs:
            shifted = self.shift(x, f"{path}/shift", -self.param(path, "shift")) if path else x
            self._signs[x, path] = self.add("sign", [shifted], bits=True)
        return self._signs[x, path]

    def shift(self, x: int, path: str, bias: np.ndarray) -> int:
        return self.add("shift", [x], arrays={"bias": bias}, name=path)

    def move(self, x: int, path: str) -> int:
        """See `recu_jax.binarizers.react`, as for `rprelu`."""
        return self.shift(x, path, self.param(path, "bias"))

    def rprelu(self, x: int, move1: str, nonlinear: str, move2: str) -> int:
        slope = {"slope": self.param(nonlinear, "slope")}
        return self.move(self.add("prelu", [self.move(x, move1)], arrays=slope, name=nonlinear), move2)

    def nonlinearity(self, x: int, path: str) -> int:
        """See `models.parts.nonlinearity`."""
        if self._convs.nonlinearity != "rprelu":
            return self.add("hard_tanh", [x])
        return self.rprelu(x, *(f"{path}/{part}" for part in ("move1", "nonlinear", "move2")))

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

    def conv_norm(
        self,
        x: int,
        conv: str,
        norm: str,
        stride: int = 1,
        pool: bool = False,
        then: str | None = None,
        only_signs: bool = False,
    ) -> int:
        """A convolution of the kind that the model has, 2x2 max pooling if asked for, batch norm, and what is next.

        Args:
          then: path of the nonlinearity that follows; None for the numbers.
          only_signs: whether only the signs of what follows are used. Those of a binary convolution's numbers under
            hardtanh are found by thresholds on its sums.
        """
        if self._convs.conv != "binary":
            x = self.real_conv(self.signs(x, conv) if self._convs.conv == "binary_activations" else x, conv, stride)
            x = self.norm(self.pool(x) if pool else x, norm)
            return self.nonlinearity(x, then) if then else x
        kernel, alpha = self._binary_kernel(conv)
        sums = self.add(
            "binary_conv", [self.signs(x, conv)], kernel.shape[-1], {"kernel": pack_kernel(kernel)}, conv,
            strides=[stride] * 2, padding=list(PAD_1),
        )  # fmt: skip
        rows = self.norm_rows(norm)
        if only_signs and self._convs.nonlinearity != "rprelu" and not self._learns_shifts:
            found = fold.thresholds(alpha, rows, int(np.prod(kernel.shape[:-1])))
            bits = self.add("threshold", [sums], arrays={"threshold": found}, name=norm, bits=True)
            return self.pool(bits, fold.least_of_window(alpha, rows), norm) if pool else bits
        if pool:
            x = self.pool(self.add("scale", [sums], arrays={"alpha": alpha}, name=conv))
            x = self.norm(x, norm)
        else:
            x = self.add("affine", [sums], arrays={"affine": np.stack([alpha, *rows])}, name=norm)
        return self.nonlinearity(x, then) if then else x

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
        parts = {"standardize": c.standardize, "clamp": c.clamp, "b": c.laplace_b, "centre": c.centre}
        binarizer: Any = binarizers.weight_binarizer(c.weight_binarizer, **parts)
        # Jitted as in the trained model: rounded otherwise, a weight next to the mean has another sign.
        signs, own = jax.jit(lambda k: binarizer(k))(kernel)
        alpha: Any
        if c.scale == "learned":
            alpha = self.param(path, "alpha")
        elif c.scale == "mean":
            alpha = functional.computed_alpha(binarizer.clamped(kernel, tau))
        else:
            alpha = np.ones(kernel.shape[-1], np.float32)
        if own is not None:
            alpha = alpha * own
        return np.asarray(signs), np.asarray(alpha, np.float32)


def _at(tree, path):
    for part in path.split("/"):
        tree = tree[part]
    return tree
