"""Runs QONNX files in qonnx's own executor, if qonnx is installed: pip install 'recu_jax[qonnx]'."""

import numpy as np
import pytest

from recu_jax.deploy import container, model
from tests.support.random_networks import file_of, variables_of

pytest.importorskip("qonnx")
# Warnings of qonnx and onnx are not errors.
pytestmark = pytest.mark.filterwarnings("default")

SHAPES = {
    "digits_resnet8": (8, 8, 1),
    "cifar_resnet18a": (16, 16, 3),
    "cifar_vgg_small": (16, 16, 3),
    "react_resnet18": (32, 32, 3),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "digits_resnet8")) for name in SHAPES]
)
def test_the_same_logits(name, tmp_path):
    from qonnx.core.modelwrapper import ModelWrapper

    from recu_jax.deploy import qonnx_export

    header, arrays = file_of(name, variables_of(name, SHAPES[name])[1], SHAPES[name])
    loaded = model.parse(header, arrays)
    container.write_bytes(tmp_path / "network.onnx", qonnx_export.serialize(loaded))
    images = np.random.default_rng(0).integers(0, 256, (2, *SHAPES[name]), np.uint8)
    logits = np.asarray(loaded.predict(images))
    found = qonnx_export.predictor(tmp_path / "network.onnx")(images)
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-5 * abs(logits).max())
    # Each binary convolution has its signs from BipolarQuant on both sides.
    graph = ModelWrapper(str(tmp_path / "network.onnx")).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    convs = [[made_by.get(i) for i in node.input] for node in graph.node if node.op_type == "Conv"]
    binary = sum(entry["op"] == "binary_conv" for entry in header["operations"])
    assert sum(inputs[1] == "BipolarQuant" for inputs in convs) == binary
    assert all(inputs[0] in ("BipolarQuant", "MaxPool", "Mul") for inputs in convs if inputs[1] == "BipolarQuant")
