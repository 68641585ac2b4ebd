"""Replaces the convolutions of signs in an OpenVINO model by `BinaryConvolution`, which counts bits."""

import numpy as np
import openvino
from openvino import opset1


def _signs(node):
    """Returns the array of a constant, or of a converted constant, if all its values are +1 or -1; else None."""
    while node.get_type_name() in ("Convert", "FakeQuantize"):
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    array = node.data
    return array if (abs(array.astype(np.float32)) == 1).all() else None


def _column(values):
    return opset1.constant(np.asarray(values, np.float32).reshape(1, -1, 1, 1))


def with_binary_convolutions(model: openvino.Model) -> int:
    """Changes the model. Returns the number of convolutions that were replaced.

    A convolution of signs reads x >= threshold ? 1 : -1, or a pooling of such values.
    """
    replaced = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convolution":
            continue
        signs = _signs(node.input_value(1).get_node())
        if signs is None:
            continue
        source, threshold = node.input_value(0), np.zeros(1, np.float32)
        select = source.get_node()
        if select.get_type_name() == "Select":
            reached = select.input_value(0).get_node()
            source, threshold = reached.input_value(0), np.ravel(reached.input_value(1).get_node().data)
        # FakeQuantize gives 1 to values above its bounds. Thresholds other than 0 are of integers.
        bound = np.where(threshold == 0, np.float32(-1e-30), threshold - np.float32(0.5))
        bits = opset1.fake_quantize(source, _column(bound), _column(bound), _column(0), _column(1), 2)
        words = np.packbits(signs.ravel() > 0, bitorder="little")
        kernel = openvino.Tensor(words, openvino.Shape(signs.shape), openvino.Type.u1)
        constant = openvino.op.Constant(kernel, shared_memory=False)
        strides, begin, end, dilations = (
            node.get_attributes()[key] for key in ("strides", "pads_begin", "pads_end", "dilations")
        )
        made = opset1.binary_convolution(bits, constant, strides, begin, end, dilations, "xnor-popcount", 0.0)
        node.output(0).replace(made.output(0))
        replaced += 1
    return replaced
