"""Writes a network as QONNX (github.com/fastmachinelearning/qonnx), the format that FINN and hls4ml read.

Signs of weights and activations are BipolarQuant nodes of scale 1. The operations after a binary convolution are
separate nodes, so that they round as the trained model does. Images are float32 pixels from 0 to 255,
(1, channels, height, width).
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from recu_jax.deploy.graph import Node
from recu_jax.deploy.model import Model
from recu_jax.errors import UserError, require
from recu_jax.ops.packing import unpack_bits, unpack_kernel

OPSET = 13
IMAGES, LOGITS = "images", "logits"
_DOMAIN = "qonnx.custom_op.general"


class _Writer:
    """Collects the nodes and constants of an ONNX graph. Methods take names of values and return a new name."""

    def __init__(self):
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, array: npt.ArrayLike, hint: str) -> str:
        name = f"{hint}_{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def add(self, op: str, *inputs: str, out: str | None = None, domain: str = "", **attributes: Any) -> str:
        from onnx import helper

        out = out or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=f"{out}_node", domain=domain, **attributes))
        return out

    def per_channel(self, op: str, x: str, values: npt.ArrayLike) -> str:
        """Adds the node `op(x, values)`, with `values` as a float32 constant that broadcasts over x."""
        return self.add(op, x, self.constant(np.asarray(values, np.float32), op.lower()))

    def sign(self, x: str) -> str:
        return self.add("BipolarQuant", x, self.constant(np.asarray([1], np.float32), "scale"), domain=_DOMAIN)


def _columns(values: np.ndarray, node: Node) -> np.ndarray:
    """Reshapes one number per channel so that it broadcasts over the node's output."""
    return values.reshape(-1, 1, 1) if len(node.value.shape) == 3 else values


def _window(node: Node) -> dict[str, Any]:
    (top, bottom), (left, right) = node.attributes["padding"]
    return {"strides": list(node.attributes["strides"]), "pads": [top, left, bottom, right]}


def _write(w: _Writer, node: Node, inputs: list[str], channels: int) -> str:
    a, arrays, x = node.attributes, node.arrays, inputs[0] if inputs else IMAGES

    def channel_wise(op, x, values):
        return w.per_channel(op, x, _columns(values, node))

    if node.op == "image":
        x = w.per_channel("Div", x, np.asarray([255], np.float32))
        mean, std = (np.asarray(a[name], np.float32) for name in ("mean", "std"))
        return channel_wise("Div", channel_wise("Sub", x, mean), std)
    if node.op in ("conv", "binary_conv"):
        if node.op == "binary_conv":
            signs = unpack_kernel(arrays["kernel"], channels).astype(np.float32)
            kernel = w.sign(w.constant(signs.transpose(3, 2, 0, 1), "kernel"))
        else:
            kernel = w.constant(arrays["kernel"].transpose(3, 2, 0, 1), "kernel")
        return w.add("Conv", x, kernel, **_window(node))
    if node.op == "scale":
        return channel_wise("Mul", x, arrays["alpha"])
    if node.op in ("batch_norm", "affine"):
        *alpha, mean, factor, bias = arrays["norm" if node.op == "batch_norm" else "affine"]
        x = channel_wise("Mul", x, alpha[0]) if alpha else x
        return channel_wise("Add", channel_wise("Mul", channel_wise("Sub", x, mean), factor), bias)
    if node.op == "threshold":
        threshold, direction = arrays["threshold"]
        return w.sign(channel_wise("Sub", channel_wise("Mul", x, direction), threshold))
    if node.op == "max_pool":
        pool = {"kernel_shape": list(a["window"]), **_window(node)}
        if "least" not in arrays:
            return w.add("MaxPool", x, **pool)
        # ONNX has no min pooling: min(x) = -max(-x).
        turn = np.where(unpack_bits(np.asarray(arrays["least"]), channels), -1.0, 1.0)
        return channel_wise("Mul", w.add("MaxPool", channel_wise("Mul", x, turn), **pool), turn)
    if node.op == "avg_pool":
        return w.add("AveragePool", x, kernel_shape=list(a["window"]), **_window(node))
    if node.op == "pad_channels":
        low, high = a["channels"]
        return w.add("Pad", x, w.constant(np.asarray([0, low, 0, 0, 0, high, 0, 0], np.int64), "pads"))
    if node.op == "mean":
        return w.add("Flatten", w.add("GlobalAveragePool", x))
    if node.op == "flatten":
        return w.add("Flatten", w.add("Transpose", x, perm=[0, 2, 3, 1]))
    if node.op == "dense":
        product = w.add("MatMul", x, w.constant(arrays["kernel"], "kernel"))
        return w.add("Add", product, w.constant(arrays["bias"], "bias"))
    if node.op == "hard_tanh":
        return w.add("Clip", x, w.constant(np.float32(-1), "low"), w.constant(np.float32(1), "high"))
    if node.op == "prelu":
        return channel_wise("PRelu", x, arrays["slope"])
    if node.op == "shift":
        return channel_wise("Add", x, arrays["bias"])
    if node.op == "sign":
        return w.sign(x)
    return w.add({"relu": "Relu", "add": "Add"}[node.op], *inputs)


def serialize(model: Model) -> bytes:
    """Makes the bytes of an ONNX file of the network.

    Raises:
      UserError: onnx is not installed.
    """
    require("qonnx", "onnx")
    from onnx import TensorProto, helper, numpy_helper

    w = _Writer()
    names: list[str] = []
    for node in model.nodes:
        channels = model.nodes[node.inputs[0]].value.shape[-1] if node.inputs else 0
        names.append(_write(w, node, [names[i] for i in node.inputs], channels))
    w.add("Identity", names[-1], out=LOGITS)
    height, width, channels = model.image_shape
    graph = helper.make_graph(
        w.nodes,
        model.header.model,
        [helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, (1, channels, height, width))],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, (1, model.num_classes))],
        [numpy_helper.from_array(array, name) for name, array in w.constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(_DOMAIN, 1)]
    # An old IR version, because old runtimes refuse files of a newer IR version.
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="recu_jax")
    return made.SerializeToString()


def predictor(path: str | os.PathLike) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs the file with the executor of qonnx.

    The function takes uint8 images, (batch, height, width, channels), and returns logits, (batch, classes).

    Raises:
      UserError: qonnx is not installed, or cannot read the file.
    """
    require("qonnx", "qonnx")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    try:
        model = ModelWrapper(str(path)).transform(InferShapes())
    except Exception as error:  # protobuf and onnx raise exceptions of many types
        raise UserError(f"{path} is no QONNX file: {str(error).splitlines()[0][:200]}") from error

    def predict(images):
        pixels = np.asarray(images).transpose(0, 3, 1, 2).astype(np.float32)
        return np.concatenate([execute_onnx(model, {IMAGES: image[None]})[LOGITS] for image in pixels])

    return predict
