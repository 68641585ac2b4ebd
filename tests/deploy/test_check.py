"""Tests the comparison of a file with its trained model, for equal and for different predictions."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax import create_model, deploy
from recu_jax.data import info_of
from recu_jax.deploy import check, container, trained
from recu_jax.training.recipe import parts_of
from tests.support.small_runs import dataset, digits


@pytest.fixture(scope="module")
def network():
    config = digits(model="digits_resnet8")
    data = dataset(8, 1)
    net = create_model("digits_resnet8", 10, **parts_of(config))
    variables = jax.jit(net.init)(jax.random.key(0), data.test_images.astype(np.float32))
    return trained.Trained(config.to_dict(), jax.device_get(variables), info_of("digits", data, 8), lambda: data)


@pytest.mark.slow
def test_a_file_of_the_same_network(network, tmp_path):
    path = tmp_path / "same.recu"
    assert trained.write(network, path).startswith(f"{path} holds digits_resnet8 in {path.stat().st_size} bytes, ")
    said = check.check(network, path)
    assert said.startswith("13 test images: 0 differing predictions, logits differ by ")
    result = json.loads((tmp_path / "same.recu.check.json").read_text())
    assert (result["images"], result["differing_predictions"]) == (13, 0)
    assert result["max_logit_difference"] < 1e-4 and result["bytes"] == path.stat().st_size


def test_a_file_of_another_network(network, tmp_path):
    header, arrays = trained.network(network)
    (bias,) = (name for name in arrays if name.endswith("linear.bias"))
    logits = np.zeros(10, np.float32)
    logits[3] = 1000
    container.write(tmp_path / "other.recu", header, arrays | {bias: logits})
    result = check.check(network, tmp_path / "other.recu")
    differing = int(result.split(": ")[1].split()[0])
    assert differing > 5 and "logits differ by 1.0e+03 at most" in result


@pytest.mark.slow
def test_a_run_in_bfloat16_is_told_from_its_file(network, tmp_path):
    """The file computes in float32. Its predictions are compared with those of the network in bfloat16."""
    path, rough = tmp_path / "rough.recu", dataclasses.replace(network, config=network.config | {"dtype": "bfloat16"})
    said = trained.write(rough, path)
    assert said.endswith("; the file computes in float32, the run computed in bfloat16: --check counts the predictions "
                         "that differ")  # fmt: skip
    images, info = network.load_test().test_images, network.info
    x = jnp.asarray((images / 255 - info.mean) / info.std, jnp.bfloat16)
    net = create_model("digits_resnet8", 10, jnp.bfloat16, **parts_of(digits()))
    theirs = np.asarray(jax.jit(net.apply)(network.variables, x)).argmax(-1)
    differing = int((np.asarray(deploy.load(path).predict(images)).argmax(-1) != theirs).sum())
    assert check.check(rough, path).startswith(
        f"13 test images: {differing} differing predictions (the file computes in float32, the run computed in "
        "bfloat16), "
    )
    assert "the run computed" not in trained.write(network, path) + check.check(network, path)


def test_it_says_which_speed_is_whose():
    assert check._speeds(300.0, 100.0).endswith(
        "300 images/s, the trained model in Flax 100: the file is 3.0 times as fast"
    )
    assert check._speeds(100.0, 250.0).endswith("the trained model in Flax 250: the trained model is 2.5 times as fast")
