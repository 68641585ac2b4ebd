"""Checks the operations of a file. A file stores a network as a list of operations.

An operation is a JSON object. It has "op" (its name), "inputs" (indices of earlier operations), attributes, and
"arrays" (for each role, such as "kernel", the name of an array of the file). The first operation is "image". The last
one gives the logits. The output of an operation is of one of three kinds: "real" (float32), "bits" (packed signs) or
"sums" (int32). Shapes are without the batch dimension.

Files may come from strangers, so `check` runs before execution. It verifies the shapes of all operations and keeps
their memory and time within the limits below.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from recu_jax.deploy.container import is_count
from recu_jax.deploy.fields import Fields, Value
from recu_jax.errors import UserError
from recu_jax.ops.geometry import Geometry
from recu_jax.ops.packing import kernel_word_count

# Limit on the output of one operation for one image: 256 MiB of float32. imagenet_resnet34 has at most 0.8 million
# elements.
MAX_ELEMENTS = 1 << 26
# Limits on the operations of a file, and on its products for one image. A file at both limits takes some minutes to
# compile and seconds to run. imagenet_resnet34 has 174 operations and 3.6 billion products.
MAX_OPERATIONS = 2048
MAX_PRODUCTS = 1 << 38
# Limit on the height and the width of a window, and on each stride.
_MAX_WINDOW = 64


@dataclasses.dataclass(frozen=True)
class Node:
    """A checked operation.

    Attributes:
      op: name of the operation.
      inputs: numbers of the operations whose outputs it takes.
      attributes: attributes by name, with tuples in place of lists.
      arrays: arrays by role.
      value: kind and shape of the output.
    """

    op: str
    inputs: tuple[int, ...]
    attributes: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    value: Value

    def geometry(self, value: Value, batch: int) -> Geometry:
        """Returns the geometry of this convolution for `batch` inputs of the shape of `value`."""
        kernel = self.arrays["kernel"]
        packed = kernel.dtype == np.uint32
        window, features = (kernel.shape[1:3], kernel.shape[0]) if packed else (kernel.shape[:2], kernel.shape[3])
        return Geometry.create(
            batch, value.shape[:2], window, value.shape[2], features, self.attributes["strides"],
            self.attributes["padding"],
        )  # fmt: skip


def _image(r):
    shape = r.counts("shape", 3, 1, 1 << 14)
    r.reals("mean", shape[2])
    if min(abs(s) for s in r.reals("std", shape[2])) < 1e-30:
        raise UserError("its std is 0")
    return Value("real", shape)


def _windowed(r, value, window, features):
    """Reads the attributes `strides` and `padding`, and returns the output shape of a convolution or pooling."""
    r.counts("strides", 2, 1, _MAX_WINDOW)
    r.padding(window)
    geometry = Geometry.create(
        1, value.shape[:2], window, 1, 1, r.attributes["strides"], r.attributes["padding"]
    )  # fmt: skip
    return (*geometry.out, features)


def _window_of(kernel, axes):
    window = tuple(kernel.shape[a] for a in axes)
    if max(window) > _MAX_WINDOW:
        raise UserError(f"its window is {window}; {_MAX_WINDOW} is the most")
    return window


def _conv(r):
    x = r.input("real", "bits", rank=3)
    kernel = r.array("kernel", np.float32, (None, None, x.shape[2], None))
    return Value("real", _windowed(r, x, _window_of(kernel, (0, 1)), kernel.shape[3]))


def _binary_conv(r):
    x = r.input("bits", rank=3)
    words = kernel_word_count(x.shape[2])
    kernel = r.array("kernel", np.uint32, (None, None, None, words))
    # A binary convolution counts all bits of a word, so bits after the last channel would change the sums.
    if x.shape[2] % 32 and (kernel[..., -1] >> np.uint32(x.shape[2] % 32)).any():
        raise UserError("its kernel has bits set after the last channel")
    return Value("sums", _windowed(r, x, _window_of(kernel, (1, 2)), kernel.shape[0]))


def _channels(role, rows, dtype, kinds, gives):
    """Returns a function that checks an operation with an array of (rows, channels), or (channels,) if `rows` is 0."""

    def check(r):
        x = r.input(*kinds)
        array = r.array(role, dtype, (rows, x.shape[-1]) if rows else (x.shape[-1],))
        if role == "threshold" and (abs(array[0].astype(np.int64)) >= 1 << 30).any():
            raise UserError("its threshold is beyond every sum")
        if role == "threshold" and (abs(array[1].astype(np.int64)) != 1).any():
            raise UserError("its directions are not all +1 or -1")
        return Value(gives, x.shape)

    return check


def _pointwise(gives="real"):
    def check(r):
        return Value(gives, r.input("real").shape)

    return check


def _add(r):
    if len(r.inputs) != 2 or r.inputs[0].shape != r.inputs[1].shape:
        raise UserError("it takes two inputs of one shape")
    return r.inputs_like("real")[0]


def _max_pool(r):
    x = r.input("real", "bits", rank=3)
    if x.kind == "bits":
        # `least` marks the channels that take the smallest bit of a window, not the largest (`fold.least_of_window`).
        r.array("least", np.uint32, (kernel_word_count(x.shape[2]),))
    return Value(x.kind, _windowed(r, x, r.counts("window", 2, 1, _MAX_WINDOW), x.shape[2]))


def _avg_pool(r):
    x = r.input("real", rank=3)
    shape = _windowed(r, x, r.counts("window", 2, 1, _MAX_WINDOW), x.shape[2])
    if r.attributes["padding"] != ((0, 0), (0, 0)):
        raise UserError("its padding must be 0")
    return Value("real", shape)


def _pad_channels(r):
    x = r.input("real", rank=3)
    low, high = r.counts("channels", 2, 0, 1 << 20)
    return Value("real", (*x.shape[:2], low + x.shape[2] + high))


def _mean(r):
    return Value("real", r.input("real", rank=3).shape[2:])


def _flatten(r):
    return Value("real", (math.prod(r.input("real", rank=3).shape),))


def _dense(r):
    x = r.input("real", rank=1)
    kernel = r.array("kernel", np.float32, (x.shape[0], None))
    r.array("bias", np.float32, (kernel.shape[1],))
    return Value("real", (kernel.shape[1],))


_REAL, _SUMS = ("real",), ("sums",)
OPS: dict[str, Callable[[Fields], Value]] = {
    "image": _image,
    "conv": _conv,
    "batch_norm": _channels("norm", 3, np.float32, _REAL, "real"),
    "hard_tanh": _pointwise(),
    "relu": _pointwise(),
    "prelu": _channels("slope", 0, np.float32, _REAL, "real"),
    "shift": _channels("bias", 0, np.float32, _REAL, "real"),
    "add": _add,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "pad_channels": _pad_channels,
    "mean": _mean,
    "flatten": _flatten,
    "dense": _dense,
    "sign": _pointwise("bits"),
    "binary_conv": _binary_conv,
    "scale": _channels("alpha", 0, np.float32, _SUMS, "real"),
    "affine": _channels("affine", 4, np.float32, _SUMS, "real"),
    "threshold": _channels("threshold", 2, np.int32, _SUMS, "bits"),
}


def check(entries: Any, arrays: Mapping[str, np.ndarray]) -> list[Node]:
    """Checks the operations of a file.

    Args:
      entries: the operations as read from the file. Any JSON value is possible.
      arrays: the arrays of the file, by name.

    Returns:
      The checked operations.

    Raises:
      UserError: an operation is unknown, does not fit its inputs or arrays, or exceeds a limit. The message names it.
        Or there are too few or too many operations, too many products, or the last operation gives no logits.
    """
    if not isinstance(entries, list) or len(entries) < 2:
        raise UserError("it has no list of operations")
    if len(entries) > MAX_OPERATIONS:
        raise UserError(f"it has {len(entries)} operations; {MAX_OPERATIONS} is the most")
    nodes: list[Node] = []
    for number, entry in enumerate(entries):
        op = entry.get("op") if isinstance(entry, dict) else None
        try:
            nodes.append(_checked(entry, op, nodes, arrays))
        except UserError as error:
            raise UserError(f"operation {number} ({str(op)[:40]}): {error}") from error
    if (products := sum(map(_products, nodes))) > MAX_PRODUCTS:
        raise UserError(f"it takes {products} products an image; {MAX_PRODUCTS} is the most")
    if nodes[-1].value.kind != "real" or len(nodes[-1].value.shape) != 1:
        raise UserError("its last operation gives no logits")
    return nodes


def _products(node: Node) -> int:
    """Counts the work of an operation for one image.

    Counts the products of a convolution or linear layer, the elements that a pooling reads, and the output elements of
    any other operation.
    """
    if (kernel := node.arrays.get("kernel")) is not None:
        bits = 32 if kernel.dtype == np.uint32 else 1
        return math.prod(node.value.shape[:-1]) * kernel.size * bits
    return math.prod(node.value.shape) * math.prod(node.attributes.get("window", ()))


def _checked(entry, op, nodes: Sequence[Node], arrays) -> Node:
    if not isinstance(op, str) or op not in OPS:
        raise UserError("this version of recu_jax does not know it")
    inputs = entry.get("inputs", [])
    if not isinstance(inputs, list) or not all(is_count(i) and i < len(nodes) for i in inputs):
        raise UserError(f"its inputs are {str(inputs)[:80]}; they must be numbers of earlier operations")
    if (op == "image") != (not nodes):
        raise UserError("the first operation, and no other, must be 'image'")
    reader = Fields(entry, [nodes[i].value for i in inputs], arrays)
    value = OPS[op](reader)
    reader.finish()
    elements = math.prod(value.shape)
    if not 1 <= elements <= MAX_ELEMENTS:
        raise UserError(f"it gives {value.shape}, {elements} numbers an image; 1 to {MAX_ELEMENTS} are allowed")
    return Node(op, tuple(inputs), reader.attributes, reader.arrays, value)
