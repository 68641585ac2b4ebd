"""Writes a network as QONNX (github.com/fastmachinelearning/qonnx), the format that hls4ml reads.

Images are float32 pixels from 0 to 255, (1, channels, height, width). Quant nodes of two bits give the signs of weights
and activations, +1 and -1. One bit is not enough, because convolutions pad with 0. BatchNormalization nodes apply
constants per channel. Each multiplication or addition after a binary convolution has a node of its own, so that results
round as in the trained model.
"""

import os
from collections.abc import Callable

import numpy as np

from recu_jax.deploy.model import Model
from recu_jax.deploy.onnx_export import IMAGES, LOGITS, Writer, make_bytes
from recu_jax.errors import UserError, require

_DOMAIN = "qonnx.custom_op.general"


class _QonnxWriter(Writer):
    """Writes only nodes that hls4ml can read."""

    def per_channel(self, op, x, values, rank=3):
        """Writes `op` as BatchNormalization, because hls4ml reads no Mul, Add or Sub of feature maps and constants."""
        values = np.asarray(values, np.float32)
        factor, bias = {"Mul": (values, 0), "Add": (1, values), "Sub": (1, -values)}[op]
        return self._affine(x, np.full(values.shape, factor), np.full(values.shape, bias))

    def _affine(self, x, factor, bias):
        """Adds a node that computes `factor * x + bias`, with one factor and one bias per channel."""
        rows = np.stack([factor, bias, np.zeros_like(bias), np.ones_like(bias)]).astype(np.float32)
        return self.add("BatchNormalization", x, *(self.constant(row, "norm") for row in rows), epsilon=0.0)

    def image(self, mean, std):
        mean, std = (np.asarray(row, np.float64) for row in (mean, std))
        return self._affine(IMAGES, 1 / (255 * std), -mean / std)

    def _two_bits(self, x, scale=()):
        """Adds a Quant node that rounds x to -1, 0 or 1. `scale` is the shape of its scale, an array of ones."""
        constants = [np.ones(scale, np.float32), np.zeros((), np.float32), np.full((), 2, np.float32)]
        attributes = {"signed": 1, "narrow": 1, "rounding_mode": "ROUND"}
        return self.add("Quant", x, *(self.constant(c, "quant") for c in constants), domain=_DOMAIN, **attributes)

    def sign(self, x):
        # BipolarQuant has the scale 2, so it returns +2 and -2. With the scale 1 hls4ml would turn its +1 and -1 into
        # bits. The Quant node then limits +2 and -2 to +1 and -1.
        return self._two_bits(self.add("BipolarQuant", x, self.constant(np.float32(2), "scale"), domain=_DOMAIN))

    def at_least(self, x, thresholds):
        # x and the thresholds are integers, so `2 x + 1 - 2 threshold` is odd, not 0. The Quant node limits it to +-1.
        return self._two_bits(self._affine(x, np.full(len(thresholds), 2.0), 1 - 2 * thresholds))

    def binary_kernel(self, signs):
        return self._kernel_of_two_bits(signs)

    def _kernel_of_two_bits(self, kernel):
        # qonnx needs a scale of the kernel's rank, with one entry per output channel.
        return self._two_bits(self.constant(kernel.astype(np.float32), "kernel"), (len(kernel), 1, 1, 1))

    def sums(self, x):
        return x

    def clip(self, x, shape):
        # 1 - relu(2 - relu(x + 1))
        one = np.ones(shape[-1])
        x = self.add("Relu", self._affine(x, one, one))
        x = self.add("Relu", self._affine(x, -one, 2 * one))
        return self._affine(x, -one, one)

    def prelu(self, x, slopes):
        positive = self.add("Relu", x)
        return self.add("Add", positive, self.per_channel("Mul", self.add("Sub", x, positive), slopes))

    def pad_channels(self, x, channels, low, high):
        kernel = np.eye(low + channels + high, channels, -low)[..., None, None]
        return self._one_conv(x, self._kernel_of_two_bits(kernel), (1, 1), (1, 1), 1)

    def avg_pool(self, x, channels, window, strides):
        kernel = np.full((channels, 1, *window), 1 / np.prod(window), np.float32)
        return self._one_conv(x, self.constant(kernel, "kernel"), window, strides, channels)

    def _one_conv(self, x, kernel, window, strides, group):
        attributes = {"kernel_shape": list(window), "strides": list(strides), "dilations": [1, 1], "group": group}
        return self.add("Conv", x, kernel, pads=[0, 0, 0, 0], **attributes)


def serialize(model: Model) -> bytes:
    """Makes the bytes of a QONNX file of the network, for one image at a time.

    Raises:
      UserError: onnx is not installed.
    """
    require("onnx", extra="onnx")
    from onnx import TensorProto

    height, width, channels = model.image_shape
    return make_bytes(model, _QonnxWriter(), TensorProto.FLOAT, (1, channels, height, width), _DOMAIN)


def require_runner() -> None:
    """Raises UserError if qonnx is not installed."""
    require("qonnx")


def predictor(path: str | os.PathLike) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs the file with the executor of qonnx.

    The function takes uint8 images, (batch, height, width, channels), and returns logits, (batch, classes).

    Raises:
      UserError: qonnx is not installed, or cannot read the file.
    """
    require_runner()
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
