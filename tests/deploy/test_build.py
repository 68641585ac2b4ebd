"""Tests what a convolution of a model becomes in a file."""

import numpy as np
import pytest

from recu_jax.binarizers import activations
from recu_jax.deploy.build import BlockParts, Builder
from recu_jax.ops.packing import unpack_kernel

CHANNELS = 40


def builder(**parts):
    r = np.random.default_rng(0)
    conv = {
        "kernel": r.normal(size=(3, 3, CHANNELS, CHANNELS)).astype("f"),
        "alpha": r.normal(size=CHANNELS),
        "shift": r.normal(size=CHANNELS),
    }
    norm = {"scale": np.ones(CHANNELS), "bias": np.zeros(CHANNELS)}
    statistics = {"mean": np.zeros(CHANNELS), "var": np.ones(CHANNELS)}
    params = {name: conv for name in ("conv1", "conv2")} | {name: norm for name in ("bn1", "bn2")}
    move, slope = {"bias": np.ones(CHANNELS)}, {"slope": np.ones(CHANNELS)}
    params["nonlinear"] = {"move1": move, "nonlinear": slope, "move2": move}
    variables = {"params": params, "batch_stats": {name: statistics for name in ("bn1", "bn2")}}
    b = Builder(variables, BlockParts(**parts))
    return b, b.add("image", [], CHANNELS, shape=[8, 8, CHANNELS])


def ops(b):
    return [entry["op"] for entry in b.operations]


def test_a_binary_convolution_is_bits_and_an_affine_function():
    b, x = builder()
    y = b.conv_norm(x, "conv1", "bn1", stride=2)
    assert ops(b) == ["image", "sign", "binary_conv", "affine"] and y == 3
    assert b.operations[2]["strides"] == [2, 2] and b.operations[2]["arrays"] == {"kernel": "conv1.kernel"}
    assert b.arrays["conv1.kernel"].shape == (CHANNELS, 3, 3, 2) and b.arrays["conv1.kernel"].dtype == np.uint32
    kernel = b.param("conv1", "kernel")
    signs = np.where(kernel >= kernel.mean((0, 1, 2)), 1, -1)  # ReCU subtracts the mean
    np.testing.assert_array_equal(unpack_kernel(b.arrays["conv1.kernel"], CHANNELS), signs)
    np.testing.assert_array_equal(b.arrays["bn1.affine"][0], b.param("conv1", "alpha"))


def test_signs_of_one_value_are_taken_once():
    b, x = builder()
    b.add_shortcut(b.conv_norm(x, "conv1", "bn1"), b.conv_norm(x, "conv2", "bn2"))
    assert ops(b).count("sign") == 1
    b, x = builder(input_binarizer=activations.RSign())  # each convolution has a shift of its own
    b.add_shortcut(b.conv_norm(x, "conv1", "bn1"), b.conv_norm(x, "conv2", "bn2"))
    assert ops(b).count("shift") == ops(b).count("sign") == 2


@pytest.mark.parametrize(
    "parts,last",
    [
        ({}, "threshold"),
        ({"nonlinearity": "rprelu"}, "shift"),
        ({"nonlinearity": "identity"}, "threshold"),
        ({"nonlinearity": "identity", "conv": "float"}, "batch_norm"),
        ({"input_binarizer": activations.RSign()}, "hard_tanh"),
        ({"conv": "binary_activations"}, "hard_tanh"),
        ({"conv": "float"}, "hard_tanh"),
    ],
)
def test_where_only_signs_follow_they_are_thresholds_if_they_can_be(parts, last):
    b, x = builder(**parts)
    b.conv_norm(x, "conv1", "bn1", then="nonlinear", only_signs=True)
    assert ops(b)[-1] == last
    assert ("binary_conv" in ops(b)) == (parts.get("conv", "binary") == "binary")
