"""Writes the C statements of steps. The C functions that they call are in the header files of this folder."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from recu_jax.deploy.c.steps import Step, source_of
from recu_jax.deploy.graph import Node
from recu_jax.ops.packing import kernel_word_count

# Number of output features in a block of a binary kernel. RECU_LANES in recu_bits.h has the same value.
LANES = 8
_WINDOWED = ("conv", "binary_conv", "max_pool", "avg_pool")


def pixels_of(node: Node) -> int:
    """Returns the number of pixels in the output of an operation. A vector is one pixel."""
    return math.prod(node.value.shape[:-1])


def elements_of(node: Node) -> int:
    """Returns the number of array elements in the output of an operation: floats, or 32-bit words of packed signs."""
    channels = node.value.shape[-1]
    return pixels_of(node) * (kernel_word_count(channels) if node.value.kind == "bits" else channels)


class Lines:
    """Writes the statements of steps.

    Attributes:
      constants: the constant arrays that the statements read, by name.
      row, sums, patch: sizes, in elements, of the three C buffers for one pixel. `row` holds the channels of the pixel,
        `sums` the sums of a binary convolution, and `patch` the inputs in the window of a convolution.
    """

    def __init__(self, nodes: Sequence[Node], offsets: Mapping[int, int], image_values: np.ndarray):
        """Starts without constants and with buffers of size 0.

        Args:
          nodes: the operations.
          offsets: offset of each stored value in its buffer, in elements, by the value's number.
          image_values: the normalized value of each byte, 0 to 255, in each channel, float32, (channels, 256).
        """
        self.constants: dict[str, np.ndarray] = {}
        self.row = self.sums = self.patch = 0
        self._nodes, self._offsets, self._image_values = nodes, offsets, image_values

    def of(self, step: Step) -> list[str]:
        """Returns the statements of a step, without indentation."""
        numbers = sorted({*step.operations, *step.shifts.values()})
        names = ", ".join(f"{i} {self._nodes[i].op}" for i in numbers)
        first = step.operations[0]
        if step.loaded is None:
            body, later = [self._by_window(first)], step.operations[1:]
        else:
            before = self._channels(self._nodes[first].inputs[0])
            body, later = [f"recu_copy(row, {self._pixel(step.loaded, before)}, {before})"], step.operations
        body += [self._by_pixel(number, step) for number in later]
        last = step.stored[-1]
        if self._nodes[last].value.kind == "real":
            body.append(f"recu_copy({self._pixel(last)}, row, {self._channels(last)})")
        if self._nodes[first].op == "binary_conv":
            body.insert(1, f"RECU_WATCH({first}, p, sums, {self._channels(first)})")
        self.row = max(self.row, *(self._channels(i) for i in numbers))
        window = [self._window(first)] if self._nodes[first].op in _WINDOWED else []
        loop = f"for (int p = 0; p < {pixels_of(self._nodes[first])}; p++) {{"
        return [f"/* {names} */", "{", *window, loop, *(f"{line};" for line in body), "}", "}"]

    def _channels(self, number: int) -> int:
        return self._nodes[number].value.shape[-1]

    def _constant(self, role: str, number: int, array: np.ndarray | None = None) -> str:
        name = f"{role}_{number}"
        self.constants[name] = self._nodes[number].arrays[role] if array is None else array
        return name

    def _value(self, number: int) -> str:
        """Returns a C expression for the address of a stored value, of the image, or of the logits."""
        number = source_of(self._nodes, number)
        if number not in self._offsets:
            return "logits" if number else "image"
        kind = "signs" if self._nodes[number].value.kind == "bits" else "reals"
        return f"{kind} + {self._offsets[number]}"

    def _pixel(self, number: int, elements: int | None = None) -> str:
        """Returns a C expression for the address of pixel `p` of a value.

        `elements` is the number of elements of a pixel. None takes it from the value.
        """
        node = self._nodes[number]
        return f"{self._value(number)} + p * {elements or elements_of(node) // pixels_of(node)}"

    def _window(self, number: int) -> str:
        node = self._nodes[number]
        in_height, in_width, _ = self._nodes[node.inputs[0]].value.shape
        (top, _), (left, _) = node.attributes["padding"]
        if node.op == "binary_conv":
            window = node.arrays["kernel"].shape[1:3]
        else:
            window = node.arrays["kernel"].shape[:2] if node.op == "conv" else node.attributes["window"]
        fields = (in_height, in_width, *window, *node.attributes["strides"], top, left, node.value.shape[1])
        return f"static const recu_window w = {{{', '.join(map(str, fields))}}};"

    def _by_window(self, number: int) -> str:
        """Returns the statements for an operation that reads windows, a whole value, or the image."""
        node = self._nodes[number]
        if node.op == "image":
            return f"recu_image(row, image + p * {node.value.shape[-1]}, {self._values()}, {node.value.shape[-1]})"
        value = self._nodes[node.inputs[0]].value
        x, channels, features = self._value(node.inputs[0]), value.shape[-1], node.value.shape[-1]
        if node.op == "conv":
            kernel = node.arrays["kernel"]
            length = math.prod(kernel.shape[:3])
            self.patch = max(self.patch, length)
            collect = f"recu_collect(&w, p, {x}, {channels}, patch)"
            if value.kind == "bits":
                collect = f"recu_collect_signs(&w, p, {x}, {channels}, patch)"
            elif x == "image":
                collect = f"recu_collect_image(&w, p, image, {self._values()}, {channels}, patch)"
            return f"{collect};\nrecu_multiply(patch, {length}, {self._constant('kernel', number)}, {features}, row)"
        if node.op == "binary_conv":
            self.sums = max(self.sums, -(-features // LANES) * LANES)
            blocks = self._constant("kernel", number, arranged(node.arrays["kernel"]))
            return f"recu_binary_conv(&w, p, {x}, {channels}, {blocks}, {features}, sums)"
        if node.op == "max_pool" and value.kind == "bits":
            least = self._constant("least", number)
            return f"recu_max_pool_signs(&w, p, {x}, {channels}, {least}, {self._pixel(number)})"
        if node.op in ("max_pool", "avg_pool"):
            return f"recu_{node.op}(&w, p, {x}, {channels}, row)"
        if node.op == "mean":
            return f"recu_mean({x}, {pixels_of(self._nodes[node.inputs[0]])}, {channels}, row)"
        product = f"recu_multiply({x}, {channels}, {self._constant('kernel', number)}, {features}, row)"
        return f"{product};\nrecu_add(row, {self._constant('bias', number)}, {features})"

    def _values(self) -> str:
        return self._constant("values", 0, self._image_values)

    def _by_pixel(self, number: int, step: Step) -> str:
        """Returns the statement for an operation on one pixel, whose channels are in `row` or `sums`."""
        node = self._nodes[number]
        channels = self._channels(node.inputs[0])
        if node.op == "sign" and number in step.shifts:
            bias = self._constant("bias", step.shifts[number])
            return f"recu_sign_of_shifted({self._pixel(number)}, row, {bias}, {channels})"
        if node.op == "sign":
            return f"recu_sign({self._pixel(number)}, row, {channels})"
        if node.op == "threshold":
            return f"recu_threshold({self._pixel(number)}, sums, {self._constant('threshold', number)}, {channels})"
        if node.op == "add":
            other = step.others[number]
            return f"recu_add(row, {'row' if other is None else self._pixel(other, channels)}, {channels})"
        if node.op == "shift":
            return f"recu_add(row, {self._constant('bias', number)}, {channels})"
        if node.op == "pad_channels":
            low, high = node.attributes["channels"]
            return f"recu_pad_channels(row, {low}, {channels}, {high})"
        if node.op in ("scale", "affine"):
            array = self._constant(next(iter(node.arrays)), number)
            return f"recu_{node.op}(row, sums, {array}, {channels})"
        array = "".join(f"{self._constant(role, number)}, " for role in node.arrays)
        return f"recu_{node.op}(row, {array}{channels})"


def arranged(kernel: np.ndarray) -> np.ndarray:
    """Arranges a packed kernel, (features, height, width, words), as (blocks, height, width, words, `LANES`)."""
    missing = -kernel.shape[0] % LANES
    blocks = np.pad(kernel, [(0, missing), (0, 0), (0, 0), (0, 0)]).reshape(-1, LANES, *kernel.shape[1:])
    return np.moveaxis(blocks, 1, -1)
