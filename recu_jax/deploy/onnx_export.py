"""Writes a network as ONNX, with standard operators only. `qonnx_export` uses these functions to write QONNX.

Images are uint8, (batch, height, width, channels), as everywhere in recu_jax. Binary kernels are int8 +1 and -1, cast
to float32 before their convolution. The sign of x is +1 if x >= 0, and otherwise -1. The operations after a binary
convolution are separate nodes, so that they round as the trained model does.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from recu_jax.deploy.graph import Node
from recu_jax.deploy.model import Model
from recu_jax.errors import UserError, one_line, require
from recu_jax.ops.packing import unpack_bits, unpack_kernel

# This version of the operators came with ONNX 1.8 in 2020. It has all operators that a network needs.
OPSET = 13
# An old IR version, because older runtimes refuse newer ones.
IR_VERSION = 8
IMAGES, LOGITS = "images", "logits"
_FLOAT = 1  # onnx.TensorProto.FLOAT


class Writer:
    """Collects the nodes and constants of an ONNX graph.

    Methods that add a node take the names of its inputs and return the name of its output.
    """

    def __init__(self):
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, array: npt.ArrayLike, hint: str) -> str:
        name = f"{hint}_{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(array).reshape(np.shape(array))
        return name

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        from onnx import helper

        out = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=f"{out}_node", domain=domain, **attributes))
        return out

    def per_channel(self, op: str, x: str, values: npt.ArrayLike, rank: int = 3) -> str:
        """Adds the node `op(x, values)`.

        Args:
          op: name of the operator.
          x: name of the input, (batch, channels, height, width) if the rank is 3, or (batch, channels) if it is 1.
          values: one number for each channel, or one number for all channels.
          rank: rank of x, without the batch.
        """
        columns = np.asarray(values, np.float32).reshape(-1, *[1] * (rank - 1))
        return self.add(op, x, self.constant(columns, op.lower()))

    def image(self, mean: npt.ArrayLike, std: npt.ArrayLike) -> str:
        """Adds the normalization of the images. Its output is float32, (batch, channels, height, width)."""
        x = self.add("Transpose", self.add("Cast", IMAGES, to=_FLOAT), perm=[0, 3, 1, 2])
        x = self.add("Div", x, self.constant(np.float32(255), "div"))
        return self.per_channel("Div", self.per_channel("Sub", x, mean), std)

    def sign(self, x: str) -> str:
        """Adds nodes that compute +1 for x >= 0, else -1."""
        return self.at_least(x, [0])

    def at_least(self, x: str, thresholds: npt.ArrayLike) -> str:
        """Adds nodes that compute +1 for x >= threshold, else -1. There is one threshold, or one for each channel."""
        reached = self.per_channel("GreaterOrEqual", x, thresholds)
        return self.add("Where", reached, *(self.constant(np.float32(one), "one") for one in (1, -1)))

    def binary_kernel(self, signs: np.ndarray) -> str:
        """Adds a kernel of +1 and -1 as a constant, int8, (out, in, height, width), and its cast to float32."""
        return self.add("Cast", self.constant(signs, "kernel"), to=_FLOAT)

    def sums(self, x: str) -> str:
        """Protects the sums of a binary convolution from the optimizers of runtimes.

        If a product with a constant follows a convolution, onnxruntime multiplies the constant into the kernel. Then
        the sums are no longer exact, and signs may differ. A `Round` node after the convolution prevents this. It does
        not change the sums, which are integers.
        """
        return self.add("Round", x)

    def clip(self, x: str, shape: Sequence[int]) -> str:
        """Limits x to [-1, 1]. `shape` is (height, width, channels) or (channels,). Only `qonnx_export` uses it."""
        return self.add("Clip", x, self.constant(np.float32(-1), "low"), self.constant(np.float32(1), "high"))

    def prelu(self, x: str, slopes: npt.ArrayLike) -> str:
        return self.per_channel("PRelu", x, slopes)

    def pad_channels(self, x: str, channels: int, low: int, high: int) -> str:
        """Puts `low` channels of zeros before the `channels` channels of x, and `high` after them."""
        return self.add("Pad", x, self.constant(np.asarray([0, low, 0, 0, 0, high, 0, 0], np.int64), "pads"))

    def avg_pool(self, x: str, channels: int, window: Sequence[int], strides: Sequence[int]) -> str:
        return self.add("AveragePool", x, kernel_shape=list(window), strides=list(strides))

    def write(self, nodes: Sequence[Node]) -> None:
        """Adds the nodes of a network. The output of the last node gets the name `LOGITS`."""
        # If only a threshold uses the sums of a convolution, the threshold's directions are multiplied into the kernel.
        users = [[user for user in nodes if number in user.inputs] for number in range(len(nodes))]
        turned = {n: u[0] for n, u in enumerate(users) if len(u) == 1 and u[0].op == "threshold"}
        names: list[str] = []
        for number, node in enumerate(nodes):
            if node.op == "hard_tanh" and users[number] and all(user.op == "sign" for user in users[number]):
                # A clip changes no sign, and only the signs are used.
                names.append(names[node.inputs[0]])
                continue
            inputs = [names[i] for i in node.inputs]
            channels = nodes[node.inputs[0]].value.shape[-1] if node.inputs else 0
            if node.op == "binary_conv":
                signs = unpack_kernel(node.arrays["kernel"], channels)
                if number in turned:
                    signs = signs * turned[number].arrays["threshold"][1].astype(np.int8)
                names.append(self._conv(node, inputs[0], self.binary_kernel(signs.transpose(3, 2, 0, 1)), signs.shape))
            elif node.op == "threshold":
                threshold, direction = node.arrays["threshold"].astype(np.float32)
                x = inputs[0] if node.inputs[0] in turned else self.per_channel("Mul", inputs[0], direction)
                names.append(self.at_least(x, threshold))
            elif node.op == "mean":
                shape = nodes[node.inputs[0]].value.shape
                names.append(self.add("Flatten", self.avg_pool(inputs[0], channels, shape[:2], (1, 1))))
            else:
                names.append(self._node(node, inputs, channels))
        self.nodes[-1].output[0] = LOGITS

    def _conv(self, node: Node, x: str, kernel: str, shape: Sequence[int]) -> str:
        # Some readers of QONNX do not know ONNX's defaults, so attributes with default values are written too.
        return self.add("Conv", x, kernel, kernel_shape=shape[:2], dilations=[1, 1], group=1, **_window(node))

    def _node(self, node: Node, inputs: list[str], channels: int) -> str:
        a, arrays, x = node.attributes, node.arrays, inputs[0] if inputs else ""

        def channel_wise(op, x, values):
            return self.per_channel(op, x, values, len(node.value.shape))

        if node.op == "image":
            return self.image(a["mean"], a["std"])
        if node.op == "conv":
            kernel = arrays["kernel"]
            return self._conv(node, x, self.constant(kernel.transpose(3, 2, 0, 1), "kernel"), kernel.shape)
        if node.op == "scale":
            return channel_wise("Mul", self.sums(x), arrays["alpha"])
        if node.op in ("batch_norm", "affine"):
            *alpha, mean, factor, bias = arrays["norm" if node.op == "batch_norm" else "affine"]
            x = channel_wise("Mul", self.sums(x), alpha[0]) if alpha else x
            return channel_wise("Add", channel_wise("Mul", channel_wise("Sub", x, mean), factor), bias)
        if node.op == "max_pool":
            pool = {"kernel_shape": list(a["window"]), **_window(node)}
            if "least" not in arrays:
                return self.add("MaxPool", x, **pool)
            # ONNX has no min pooling: min(x) = -max(-x).
            turn = np.where(unpack_bits(np.asarray(arrays["least"]), channels), -1.0, 1.0)
            return channel_wise("Mul", self.add("MaxPool", channel_wise("Mul", x, turn), **pool), turn)
        if node.op == "avg_pool":
            return self.avg_pool(x, channels, a["window"], a["strides"])
        if node.op == "pad_channels":
            return self.pad_channels(x, channels, *a["channels"])
        if node.op == "flatten":
            return self.add("Flatten", self.add("Transpose", x, perm=[0, 2, 3, 1]))
        if node.op == "dense":
            product = self.add("MatMul", x, self.constant(arrays["kernel"], "kernel"))
            return self.add("Add", product, self.constant(arrays["bias"], "bias"))
        if node.op == "hard_tanh":
            return self.clip(x, node.value.shape)
        if node.op == "prelu":
            return self.prelu(x, arrays["slope"])
        if node.op == "shift":
            return channel_wise("Add", x, arrays["bias"])
        if node.op == "sign":
            return self.sign(x)
        return self.add({"relu": "Relu", "add": "Add"}[node.op], *inputs)


def _window(node: Node) -> dict[str, Any]:
    (top, bottom), (left, right) = node.attributes["padding"]
    return {"strides": list(node.attributes["strides"]), "pads": [top, left, bottom, right]}


def serialize(model: Model) -> bytes:
    """Makes the bytes of an ONNX file of the network, for any batch size.

    Raises:
      UserError: onnx is not installed.
    """
    require("onnx", extra="onnx")
    from onnx import TensorProto

    return make_bytes(model, Writer(), TensorProto.UINT8, ("batch", *model.image_shape))


def make_bytes(model: Model, writer: Writer, dtype: int, shape: Sequence[int | str], *domains: str) -> bytes:
    """Writes a network with `writer`, and returns the bytes of the ONNX file.

    Args:
      model: the network.
      writer: a new writer, which has no nodes yet.
      dtype: of the images, as in `onnx.TensorProto`.
      shape: of the images. The first entry is the batch size, or a name, which allows any batch size.
      *domains: the operator domains that the nodes use, besides the standard one.
    """
    from onnx import TensorProto, helper, numpy_helper

    writer.write(model.nodes)
    images = helper.make_tensor_value_info(IMAGES, dtype, shape)
    logits = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, (shape[0], model.num_classes))
    constants = [numpy_helper.from_array(array, name) for name, array in writer.constants.items()]
    graph = helper.make_graph(writer.nodes, model.header.model, [images], [logits], constants)
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="recu_jax")
    return made.SerializeToString()


def require_runner() -> None:
    """Raises UserError if onnxruntime is not installed."""
    require("onnxruntime", extra="onnx")


def predictor(path: str | os.PathLike) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs the file with onnxruntime, on the CPU.

    The function takes uint8 images, (batch, height, width, channels), and returns logits, (batch, classes).

    Raises:
      UserError: onnxruntime is not installed, or cannot read the file.
    """
    require_runner()
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises exceptions of many types
        raise UserError(f"{path} is no ONNX file: {one_line(error, 200)}") from error
    return lambda images: session.run([LOGITS], {IMAGES: np.asarray(images)})[0]
