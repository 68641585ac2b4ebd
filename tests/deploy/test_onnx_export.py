"""Runs ONNX files in onnxruntime, OpenVINO and LiteRT, where these are installed.

pip install 'recu_jax[onnx]' openvino; pip install onnx2tf tensorflow tf-keras ai-edge-litert.
"""

import subprocess
import sys

import numpy as np
import pytest

from recu_jax import data, networks
from recu_jax.deploy import container, model, onnx_export
from tests.support.random_networks import file_of, variables_of

onnx = pytest.importorskip("onnx", reason="pip install 'recu_jax[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'recu_jax[onnx]'")
# Warnings of onnx are not errors.
pytestmark = pytest.mark.filterwarnings("default")

SHAPES = {
    "digits_resnet8": (8, 8, 1),
    "cifar_resnet18a": (16, 16, 3),
    "cifar_vgg_small": (16, 16, 3),
    "imagenet_resnet18": (32, 32, 3),
    "react_resnet18": (32, 32, 3),
    "resnet18": (32, 32, 3),
}


def written(name, path):
    """Writes a random network to the ONNX file `path`. Returns its `deploy` model, images, and the logits of these."""
    loaded = model.parse(*file_of(name, variables_of(name, SHAPES[name])[1], SHAPES[name]))
    container.write_bytes(path, onnx_export.serialize(loaded))
    images = np.random.default_rng(0).integers(0, 256, (5, *SHAPES[name]), np.uint8)
    return loaded, images, np.asarray(loaded.predict(images))


def binary_kernels(file):
    """Returns those kernels of a file's convolutions that hold only +1 and -1."""
    graph = onnx.load(file).graph
    constants = {array.name: onnx.numpy_helper.to_array(array) for array in graph.initializer}
    made_by = {node.output[0]: node for node in graph.node}
    names = [node.input[1] for node in graph.node if node.op_type == "Conv"]
    names = [made_by[name].input[0] if name in made_by else name for name in names]
    return [constants[name] for name in names if (abs(constants[name]) == 1).all()]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "digits_resnet8")) for name in SHAPES]
)
def test_the_same_logits(name, tmp_path):
    file = tmp_path / "network.onnx"
    loaded, images, logits = written(name, file)
    onnx.checker.check_model(str(file), full_check=True)
    assert {node.domain for node in onnx.load(file).graph.node} == {""}
    most = 1e-5 * max(1, abs(logits).max())
    # The file takes any batch size.
    run = onnx_export.predictor(file)
    np.testing.assert_allclose(run(images), logits, rtol=0, atol=most)
    np.testing.assert_allclose(run(images[:1]), logits[:1], rtol=0, atol=most)

    binary = sum(node.op == "binary_conv" for node in loaded.nodes)
    kernels = binary_kernels(file)
    assert len(kernels) == binary and {kernel.dtype for kernel in kernels} <= {np.dtype("int8")}

    openvino = pytest.importorskip("openvino", reason="pip install openvino")
    compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled(images)[0], logits, rtol=0, atol=most)


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.NAMES)
def test_litert_predicts_the_same(name, tmp_path):
    pytest.importorskip("onnx2tf", reason="pip install onnx2tf tensorflow tf-keras")
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="pip install ai-edge-litert")
    loaded = model.load(networks.file(name))
    file, folder = tmp_path / "network.onnx", tmp_path / "lite"
    container.write_bytes(file, onnx_export.serialize(loaded))
    convert = "import onnx2tf; onnx2tf.main()"
    command = [sys.executable, "-c", convert, "-i", file, "-o", folder, "-kat", onnx_export.IMAGES]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    images = np.random.default_rng(0).integers(0, 256, (50, *loaded.image_shape), np.uint8)
    if name == "digits_resnet8":
        images = data.load("digits").test_images
    interpreter = litert.Interpreter(str(folder / "network_float32.tflite"))
    (inputs,), (outputs,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(inputs["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(inputs["index"], images)
    interpreter.invoke()
    found, logits = interpreter.get_tensor(outputs["index"]), np.asarray(loaded.predict(images))
    np.testing.assert_array_equal(found.argmax(-1), logits.argmax(-1))
    # LiteRT rounds batch norm otherwise. If a value near 0 gets another sign, the logits of its image change.
    close = (abs(found - logits) <= 1e-5 * max(1, abs(logits).max())).all(-1)
    assert close.mean() > 0.95


def test_the_optimizer_leaves_binary_kernels_alone(tmp_path):
    """If onnxruntime multiplied alpha into a kernel, the sums would not be integers."""
    loaded, *_ = written("digits_resnet8", tmp_path / "network.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "network.onnx"), options, providers=["CPUExecutionProvider"])
    assert len(binary_kernels(tmp_path / "optimized.onnx")) == sum(n.op == "binary_conv" for n in loaded.nodes)


def test_zero_has_the_sign_plus_one(tmp_path):
    """Minus zero has the sign +1, too, as everywhere in recu_jax."""
    writer = onnx_export.Writer()
    writer.add("Identity", writer.sign("images"))
    writer.nodes[-1].output[0] = "logits"
    images, logits = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ("batch", 1, 1, 1))
        for name in ("images", "logits")
    )
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in writer.constants.items()]
    graph = onnx.helper.make_graph(writer.nodes, "sign", [images], [logits], constants)
    opsets = [onnx.helper.make_opsetid("", onnx_export.OPSET)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=onnx_export.IR_VERSION), tmp_path / "sign.onnx"
    )
    x = np.float32([0.0, -0.0, 1e-30, -1e-30, 3.0, -3.0])[:, None, None, None]
    found = onnx_export.predictor(tmp_path / "sign.onnx")(x)
    np.testing.assert_array_equal(found.ravel(), [1, 1, 1, -1, 1, -1])
