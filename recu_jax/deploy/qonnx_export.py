"""Writes a network as QONNX (github.com/fastmachinelearning/qonnx), the format that FINN and hls4ml read.

Signs of weights and activations are BipolarQuant nodes of scale 1. The operations after a binary convolution are
separate nodes, so that they round as the trained model does. Images are float32 pixels from 0 to 255,
(1, channels, height, width).
"""

import os
from collections.abc import Callable

import numpy as np

from recu_jax.deploy.model import Model
from recu_jax.deploy.onnx_export import IMAGES, LOGITS, Writer, make_bytes
from recu_jax.errors import UserError, require

_DOMAIN = "qonnx.custom_op.general"


class _QonnxWriter(Writer):
    def image(self):
        return IMAGES

    def sign(self, x):
        return self.add("BipolarQuant", x, self.constant(np.asarray([1], np.float32), "scale"), domain=_DOMAIN)

    def at_least(self, x, threshold):
        return self.sign(self.per_channel("Sub", x, threshold))

    def binary_kernel(self, signs):
        return self.sign(self.constant(signs.astype(np.float32), "kernel"))

    def sums(self, x):
        return x


def serialize(model: Model) -> bytes:
    """Makes the bytes of an ONNX file of the network.

    Raises:
      UserError: onnx is not installed.
    """
    require("qonnx", "onnx")
    from onnx import TensorProto, helper

    writer = _QonnxWriter()
    writer.write(model.nodes)
    height, width, channels = model.image_shape
    images = helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, (1, channels, height, width))
    logits = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, (1, model.num_classes))
    return make_bytes(writer, model.header.model, images, logits, _DOMAIN)


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
