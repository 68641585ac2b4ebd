"""Tests `recu summary`."""

import json
import math

from tests.support import commands


def test_the_command_prints_json():
    printed = commands.run("summary", "--config=configs/digits.py", "--config.alpha=none", "--json")
    assert printed.returncode == 0, printed.stderr
    cost = json.loads(printed.stdout)
    convs = [layer for layer in cost["layers"] if layer["kind"] == "BinaryConv"]
    assert cost["binary_parameters"] == sum(layer["binary_parameters"] for layer in convs) == 9 * 64 * 640
    assert cost["macs"]["1x1"] == sum(
        math.prod(layer["output_shape"]) * math.prod(layer["kernel_shape"][:-1]) for layer in convs
    )
    assert cost["model"] == "digits_resnet8" and cost["layers"][0]["output_shape"] == [1, 8, 8, 64]
