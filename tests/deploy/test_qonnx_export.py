"""Runs QONNX files in qonnx and hls4ml, where they are installed: pip install qonnx hls4ml."""

from functools import partial

import numpy as np
import pytest

from recu_jax import deploy, networks
from recu_jax.commands import export
from recu_jax.data import digits
from recu_jax.deploy import container, model, qonnx_export
from recu_jax.models import MODELS
from recu_jax.models.cifar_vgg import CifarVgg
from recu_jax.training.loop import train
from tests.support import small_runs
from tests.support.random_networks import file_of, variables_of

pytest.importorskip("qonnx", reason="pip install qonnx")
# Warnings of qonnx and onnx are not errors.
pytestmark = pytest.mark.filterwarnings("default")

SHAPES = {
    "digits_resnet8": (8, 8, 1),
    "cifar_resnet18a": (16, 16, 3),
    "cifar_vgg_small": (16, 16, 3),
    "react_resnet18": (32, 32, 3),
}
NETWORKS = [pytest.param(name, marks=[pytest.mark.slow] * (name != "digits_resnet8")) for name in SHAPES]


def written(name, path):
    """Writes a random network to the QONNX file `path`. Returns its `deploy` model, images, and the logits of these."""
    header, arrays = file_of(name, variables_of(name, SHAPES[name])[1], SHAPES[name])
    loaded = model.parse(header, arrays)
    container.write_bytes(path, qonnx_export.serialize(loaded))
    images = np.random.default_rng(0).integers(0, 256, (2, *SHAPES[name]), np.uint8)
    return loaded, images, np.asarray(loaded.predict(images))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_logits(name, tmp_path):
    from qonnx.core.modelwrapper import ModelWrapper

    file = tmp_path / "network.onnx"
    loaded, images, logits = written(name, file)
    found = qonnx_export.predictor(file)(images)
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-5 * abs(logits).max())
    # A Quant node gives two bits to the kernel of each binary convolution, and of each convolution that pads channels.
    onnx_graph = ModelWrapper(str(file)).graph
    made_by = {output: node.op_type for node in onnx_graph.node for output in node.output}
    convs = [[made_by.get(i) for i in node.input] for node in onnx_graph.node if node.op_type == "Conv"]
    binary = sum(node.op == "binary_conv" for node in loaded.nodes)
    padding = sum(node.op == "pad_channels" for node in loaded.nodes)
    assert sum(inputs[1] == "Quant" for inputs in convs) == binary + padding


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_resnet8", "cifar_vgg_small"])
def test_transformations_of_qonnx(name, tmp_path):
    """qonnx's transformations accept the file and do not change its logits."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.bipolar_to_xnor import ConvertBipolarMatMulToXnorPopcount
    from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
    from qonnx.transformation.infer_datatypes import InferDataTypes
    from qonnx.transformation.lower_convs_to_matmul import LowerConvsToMatMul
    from qonnx.util.cleanup import cleanup_model

    _, images, logits = written(name, tmp_path / "network.onnx")
    cleaned = cleanup_model(ModelWrapper(str(tmp_path / "network.onnx")))

    def check(changed, pixels):
        inputs = {changed.graph.input[0].name: pixels.astype(np.float32)}
        found = execute_onnx(changed, inputs)[changed.graph.output[0].name]
        np.testing.assert_allclose(found, logits[:1], rtol=0, atol=1e-5 * abs(logits).max())
        return {node.op_type for node in changed.graph.node}, {node.domain for node in changed.graph.node}

    lowered = cleaned.transform(InferDataTypes()).transform(LowerConvsToMatMul()).transform(InferDataTypes())
    lowered = lowered.transform(ConvertBipolarMatMulToXnorPopcount())
    ops, _ = check(lowered, images[:1].transpose(0, 3, 1, 2))
    assert "Im2Col" in ops and "Conv" not in ops
    last = cleaned.transform(ConvertToChannelsLastAndClean(make_input_channels_last=True))
    _, domains = check(last, images[:1])
    assert "qonnx.custom_op.channels_last" in domains


def compiled_by_hls4ml(path, folder):
    """Compiles a QONNX file to a project in fixed point. Returns the project."""
    hls4ml = pytest.importorskip("hls4ml", reason="pip install hls4ml")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
    from qonnx.util.cleanup import cleanup_model

    network = cleanup_model(ModelWrapper(str(path)))
    # The second cleanup names the nodes that the transformation has made.
    network = cleanup_model(network.transform(ConvertToChannelsLastAndClean(make_input_channels_last=True)))
    # The precision of real numbers. Signs have two bits. Factors such as 1 / 255 need many bits after the point.
    precision = "fixed<48,14>"
    config = hls4ml.utils.config.config_from_onnx_model(
        network, granularity="name", backend="Vitis", default_precision=precision, max_precision=precision
    )
    project = hls4ml.converters.convert_from_onnx_model(
        network, hls_config=config, backend="Vitis", output_dir=str(folder)
    )
    project.compile()
    return project


def check_predictions(project, loaded):
    images = digits.load().test_images
    found = project.predict(images.astype(np.float32))
    logits = np.asarray(loaded.predict(images))
    assert (found.argmax(-1) == logits.argmax(-1)).all()
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_hls4ml_compiles_a_narrow_vgg_and_predicts_the_same(tmp_path, monkeypatch):
    pytest.importorskip("hls4ml", reason="pip install hls4ml")
    monkeypatch.setitem(MODELS, "cifar_vgg_small", partial(CifarVgg, widths=(4, 4, 8, 8, 16, 16)))
    train(small_runs.digits(model="cifar_vgg_small", epochs=3), tmp_path / "run")
    for kind in ("recu", "qonnx"):
        export.main([str(tmp_path / "run"), f"--out={tmp_path / kind}", f"--format={kind}"])
    project = compiled_by_hls4ml(tmp_path / "qonnx", tmp_path / "project")
    check_predictions(project, deploy.load(tmp_path / "recu"))


@pytest.mark.slow
def test_hls4ml_compiles_the_trained_resnet_of_the_digits_and_predicts_the_same(tmp_path):
    loaded = deploy.load(networks.file("digits_resnet8"))
    container.write_bytes(tmp_path / "qonnx", qonnx_export.serialize(loaded))
    check_predictions(compiled_by_hls4ml(tmp_path / "qonnx", tmp_path / "project"), loaded)
