"""Tests that network files with invalid operations or headers are refused."""

import copy

import pytest

from recu_jax import UserError
from recu_jax.deploy import graph, model


def operation(op):
    return lambda entries: next(entry for entry in entries if entry["op"] == op)


def _set(op, field, value):
    return lambda entries: operation(op)(entries).__setitem__(field, value)


WRONG = {
    "does not know it": _set("mean", "op", "system"),
    "they must be numbers of earlier operations": _set("mean", "inputs", [10**6]),
    "has 2 inputs instead of 1": _set("mean", "inputs", [0, 0]),
    "it takes bits, and its input is real": _set("binary_conv", "inputs", [1]),
    "its strides is \\[0, 1\\]": _set("binary_conv", "strides", [0, 1]),
    "it must be 2 integers in \\[1, 64\\]": _set("binary_conv", "strides", [2**62, 1]),
    "its padding is \\[9, 9, 9, 9\\]": _set("binary_conv", "padding", [9, 9, 9, 9]),
    "numbers an image; 1 to 67108864 are allowed": _set("image", "shape", [16384, 16384, 1]),
    "its std is 0": _set("image", "std", [0.0]),
    "its kernel is float32 \\(3, 3, 1, 64\\); it must be uint32": lambda entries: operation("binary_conv")(entries)[
        "arrays"
    ].__setitem__("kernel", "conv1.kernel"),
    "it takes two inputs of one shape": _set("add", "inputs", [0, 1]),
    "'surprise', which it does not take": _set("mean", "surprise", 1),
    "the first operation, and no other": lambda entries: entries.append({"op": "image"}),
    "its last operation gives no logits": lambda entries: entries.append({"op": "sign", "inputs": [len(entries) - 1]}),
}


@pytest.mark.parametrize("message", WRONG)
def test_operations_that_do_not_fit(message, network):
    header, arrays = copy.deepcopy(network)
    WRONG[message](header["operations"])
    with pytest.raises(UserError, match=message) as error:
        model.parse(header, arrays)
    assert "\n" not in str(error.value)


def test_numbers_that_do_not_fit(network):
    header, arrays = copy.deepcopy(network)
    for change, message in (
        ({"format": 2}, "its format is 2"),
        ({"class_names": ["a"]}, "1 class names for 10 classes"),
        ({"class_names": [1] * 10}, "no list of text"),
        ({"preprocessing": {"crop": "resize", "eval_resize": -1}}, "not a crop and a size"),
        ({"operations": {}}, "no list of operations"),
    ):
        with pytest.raises(UserError, match=message):
            model.parse(header | change, arrays)
    with pytest.raises(UserError, match="bits set after the last channel"):
        first = next(e for e in header["operations"] if e["op"] == "binary_conv")
        name = first["arrays"]["kernel"]
        image = {"op": "image", "shape": [8, 8, 40], "mean": [0] * 40, "std": [1] * 40}
        entries = [image, {"op": "sign", "inputs": [0]}, {**first, "inputs": [1]}]
        model.parse(header | {"operations": entries}, arrays | {name: arrays[name] | 1 << 31})


def test_what_would_take_forever_is_refused():
    image = {"op": "image", "shape": [4096, 4096, 1], "mean": [0], "std": [1]}
    pool = {"op": "max_pool", "window": [64, 64], "strides": [1, 1], "padding": [32, 31, 32, 31]}
    pools = [{**pool, "inputs": [i]} for i in range(5)]
    with pytest.raises(UserError, match="takes 343614160896 products an image"):
        graph.check([image, *pools], {})
    with pytest.raises(UserError, match="it has 2049 operations"):
        graph.check([image] * 2049, {})
