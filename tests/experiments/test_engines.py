"""Tests the comparison with other engines. Needs onnx and onnxruntime; other engines are used where installed."""

import json
import subprocess
import sys

import numpy as np
import pytest

from recu_jax import layers, networks
from recu_jax.deploy import build, container, graph, model, onnx_export
from recu_jax.ops.packing import unpack_kernel
from tests.support import ROOT
from tests.support.random_networks import IMAGES, file_of, statistics, variables_of

onnx = pytest.importorskip("onnx", reason="pip install 'recu_jax[onnx]'")
pytest.importorskip("onnxruntime", reason="pip install 'recu_jax[onnx]'")
# Warnings of onnx and onnxruntime are not errors.
pytestmark = pytest.mark.filterwarnings("default")

from experiments.benchmarks.engines import files, recu_file, run  # noqa: E402

SCRIPT = ROOT / "experiments" / "benchmarks" / "engines" / "run.py"


def test_times_of_a_round_are_compared():
    seconds = {
        "recu, 1-bit": [1e-3, 2e-3, 1e-3],
        "onnxruntime, int8, u8s8": [2e-3, 6e-3, 4e-3],
        "openvino, int8, nncf": [1e-3, 3e-3, 9e-3],
        "openvino, float32": [1e-4, 1e-4, 1e-4],
    }
    found = run.summarize(seconds)
    assert found["fastest_int8"] == "openvino, int8, nncf"
    assert found["fastest_int8_without_amx"] == "onnxruntime, int8, u8s8"
    ours = found["cases"]["onnxruntime, int8, u8s8"]
    assert ours["milliseconds"] == pytest.approx({"median": 4, "min": 2, "max": 6})
    assert ours["times_recu"] == pytest.approx({"median": 3, "min": 2, "max": 4})
    assert run.fastest_int8({"larq, 1-bit": [1.0]}) is None


def test_predictions_are_compared_with_the_same_network():
    classes = {
        "recu, 1-bit": [0, 1, 2, 3],
        "larq, 1-bit": [0, 1, 2, 0],
        "openvino, float32": [0, 0, 0, 0],
        "openvino_no_amx, int8, nncf": [0, 0, 0, 1],
    }
    found = run.agreement(classes, [0, 1, 0, 0], {"1-bit": True, "float": False})
    assert found["recu, 1-bit"] == {"agreement": 1.0, "accuracy": 0.5}
    assert found["larq, 1-bit"] == {"agreement": 0.75, "accuracy": 0.75}
    # An untrained network has no accuracy.
    assert found["openvino_no_amx, int8, nncf"] == {"agreement": 0.75}


def test_a_name_and_a_value_make_an_argument():
    assert run.named(["digits_resnet8=runs/a=b"]) == {"digits_resnet8": "runs/a=b"}


def test_files_are_read_without_recu_jax():
    path = networks.file("digits_resnet8")
    header, arrays = container.read(path)
    nodes = graph.check(header["operations"], arrays)
    found = recu_file.read(path)
    assert [operation["op"] for operation in found] == [node.op for node in nodes]
    for operation, node in zip(found, nodes, strict=True):
        assert operation["arrays"].keys() == node.arrays.keys()
        for role, array in node.arrays.items():
            np.testing.assert_array_equal(operation["arrays"][role], array)
        if node.op == "binary_conv":
            channels = nodes[node.inputs[0]].value.shape[-1]
            signs = np.where(recu_file.bits(node.arrays["kernel"], channels), 1, -1).transpose(1, 2, 3, 0)
            np.testing.assert_array_equal(signs, unpack_kernel(node.arrays["kernel"], channels))


@pytest.mark.parametrize(
    "name, shape, norms",
    [
        ("digits_resnet8", (8, 8, 1), 0),
        # Some factors are negative, and batch norm after a max pooling stays: three of the six.
        pytest.param("cifar_vgg_small", (16, 16, 3), 3, marks=pytest.mark.slow),
        pytest.param("imagenet_resnet18", (32, 32, 3), 0, marks=pytest.mark.slow),
    ],
)
def test_the_twin_has_batch_norm_in_its_kernels_and_the_same_logits(name, shape, norms, tmp_path):
    variables = variables_of(name, shape, conv=layers.Conv)[1]
    twin = model.parse(*file_of(name, variables, shape, build.BlockParts(conv="float")))
    images = np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)
    logits = np.asarray(twin.predict(images))
    twin.nodes = files.folded(twin.nodes)
    assert sum(node.op == "batch_norm" for node in twin.nodes) == norms
    shape = (1, shape[2], *shape[:2])
    data = onnx_export.make_bytes(twin, files.TwinWriter(), onnx.TensorProto.FLOAT, shape)
    container.write_bytes(tmp_path / "twin.onnx", data)
    found = onnx_export.predictor(tmp_path / "twin.onnx")(files.normalize(images, *statistics(shape[1])))
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-4 * abs(logits).max())


def test_openvino_counts_bits_exactly(tmp_path):
    openvino = pytest.importorskip("openvino", reason="pip install openvino")
    from experiments.benchmarks.engines.openvino_bits import with_binary_convolutions

    loaded = model.load(networks.file("digits_resnet8"))
    container.write_bytes(tmp_path / "network.onnx", onnx_export.serialize(loaded))
    network = openvino.Core().read_model(tmp_path / "network.onnx")
    network.reshape([1, *loaded.image_shape])
    assert with_binary_convolutions(network) == sum(node.op == "binary_conv" for node in loaded.nodes)
    compiled = openvino.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for image in IMAGES:
        logits = np.asarray(loaded.predict(image[None]))
        np.testing.assert_allclose(compiled(image[None])[0], logits, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_digits_in_all_engines_that_are_installed(tmp_path):
    command = [sys.executable, SCRIPT, "--networks", "digits_resnet8", "--repeats=2", f"--out={tmp_path / 'a.json'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "a.json").read_text())
    of = record["networks"]["digits_resnet8"]
    assert of["test_images"] == 360 and of["trained"] == {"1-bit": True, "float": False}
    for case in ("recu, 1-bit", "onnxruntime, 1-bit ONNX"):
        assert of["cases"][case]["agreement"] == 1 and of["cases"][case]["accuracy"] > 0.99
    assert "accuracy" not in of["cases"]["onnxruntime, float32"]
    assert of["fastest_int8"].partition(", int8")[0] in record["versions"]
    assert all(numbers["milliseconds"]["min"] > 0 for numbers in of["cases"].values())
    assert {*record["versions"], *record["missing"]} == {
        "recu", "onnxruntime", "openvino", "openvino_no_amx", "larq"
    }  # fmt: skip
    for error in record["missing"].values():
        assert "PackageNotFoundError" in error
