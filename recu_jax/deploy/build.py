"""Builds the operations of a file from a Flax model's variables. `families` calls the builder for each model family."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from recu_jax import functional
from recu_jax.binarizers import ActivationBinarizer, WeightBinarizer, activations, weights
from recu_jax.deploy import fold
from recu_jax.ops.packing import kernel_word_count, pack_bits, pack_kernel

NO_PADDING, PAD_1, PAD_3 = (0, 0, 0, 0), (1, 1, 1, 1), (3, 3, 3, 3)


@dataclasses.dataclass(frozen=True)
class BlockParts:
    """The kind of a model's convolutions, their binarizers, and the nonlinearity between them.

    Attributes:
      conv: "binary", "binary_activations" (binary inputs and real weights) or "float".
      alpha: scale of the outputs of binary convolutions, "learned", "mean" or "none".
      kernel_binarizer: of binary convolutions.
      input_binarizer: of convolutions with binary inputs.
      nonlinearity: one of `models.parts.NONLINEARITIES`. None is the same as "hard_tanh".
    """

    conv: str = "binary"
    alpha: str = "learned"
    kernel_binarizer: WeightBinarizer = weights.ReCU()
    input_binarizer: ActivationBinarizer = activations.ReCU()
    nonlinearity: str | None = None


class Builder:
    """Collects the operations and arrays of a file.

    The number of an operation is its index in `operations`. Methods that add operations take the numbers of the input
    operations and return the number of the last new one.
    """

    def __init__(self, variables: Mapping[str, Any], parts: BlockParts):
        self.operations: list[dict[str, Any]] = []
        self.arrays: dict[str, np.ndarray] = {}
        self._params, self._stats = variables["params"], variables.get("batch_stats", {})
        self._parts = parts
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
        """Adds an operation.

        Args:
          op: name of the operation.
          inputs: numbers of the operations whose outputs the new operation takes.
          width: number of output channels or features; None takes that of the first input.
          arrays: dict from role to array. The file stores each array under the name `name.role`.
          name: prefix for the names of the arrays.
          bits: whether the output is packed signs.
          **attributes: attributes of the operation.

        Returns:
          The number of the new operation.
        """
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
        return "shift" in self._parts.input_binarizer.parameters

    def signs(self, x: int, path: str) -> int:
        """Returns the number of the operation that gives the binary input of the convolution `path`.

        This is `x` itself if the output of `x` is bits. Otherwise it is a `sign` operation. If the binarizer has a
        learned shift, a `shift` operation comes before it. Both operations are added only once.
        """
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
        """Adds the learned shift of `recu_jax.binarizers.react.Move`."""
        return self.shift(x, path, self.param(path, "bias"))

    def rprelu(self, x: int, move1: str, nonlinear: str, move2: str) -> int:
        slope = {"slope": self.param(nonlinear, "slope")}
        return self.move(self.add("prelu", [self.move(x, move1)], arrays=slope, name=nonlinear), move2)

    def nonlinearity(self, x: int, path: str) -> int:
        """Adds the nonlinearity that `models.parts.nonlinearity` computes in the model."""
        if self._parts.nonlinearity == "identity":
            return x
        if self._parts.nonlinearity == "rprelu":
            return self.rprelu(x, *(f"{path}/{part}" for part in ("move1", "nonlinear", "move2")))
        return self.add("hard_tanh", [x])

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
        """Adds a convolution of the model's kind, optional 2x2 max pooling, batch norm, and an optional nonlinearity.

        Args:
          x: number of the input.
          conv: path of the convolution.
          norm: path of the batch norm.
          stride: of the convolution.
          pool: whether max pooling follows the convolution.
          then: path of the nonlinearity; None without one.
          only_signs: whether later operations use only the signs of the result. If so, thresholds on the sums of a
            binary convolution give these signs, unless the model has RPReLU or learned shifts.

        Returns:
          The number of the last operation.
        """
        if self._parts.conv != "binary":
            x = self.real_conv(self.signs(x, conv) if self._parts.conv == "binary_activations" else x, conv, stride)
            x = self.norm(self.pool(x) if pool else x, norm)
            return self.nonlinearity(x, then) if then else x
        kernel, alpha = self._binary_kernel(conv)
        sums = self.add(
            "binary_conv", [self.signs(x, conv)], kernel.shape[-1], {"kernel": pack_kernel(kernel)}, conv,
            strides=[stride] * 2, padding=list(PAD_1),
        )  # fmt: skip
        rows = self.norm_rows(norm)
        if only_signs and self._parts.nonlinearity != "rprelu" and not self._learns_shifts:
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
        """Adds 2x2 max pooling.

        Args:
          x: number of the input.
          least: booleans, (channels,), for an input of bits; None for a real input. With True, the output is the
            smallest bit of the window, with False the largest bit.
          name: prefix for the name of the array.
        """
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
        """Returns the signs of a kernel as +1 and -1, and the scale of each output channel.

        The scale is alpha (1 if the model has none), times the scale that the binarizer returns, if it returns one.
        """
        kernel: Any = self.param(path, "kernel")
        binarizer: Any = self._parts.kernel_binarizer
        # `jit` compiles the binarizer, as in the trained model. Other rounding could flip the sign of a weight near the
        # mean.
        signs, own = jax.jit(lambda k: binarizer(k))(kernel)
        alpha: Any
        if self._parts.alpha == "learned":
            alpha = self.param(path, "alpha")
        elif self._parts.alpha == "mean":
            tau = np.float32(_at(self._stats, path)["tau"])
            alpha = functional.mean_alpha(binarizer.clamped(kernel, tau))
        else:
            alpha = np.ones(kernel.shape[-1], np.float32)
        if own is not None:
            alpha = alpha * own
        return np.asarray(signs), np.asarray(alpha, np.float32)


def _at(tree, path):
    for part in path.split("/"):
        tree = tree[part]
    return tree
