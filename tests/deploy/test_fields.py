"""Checks that each field of an operation is validated, and that unknown fields are refused."""

import numpy as np
import pytest

from recu_jax import UserError
from recu_jax.deploy.fields import Fields, Value

IMAGE = Value("real", (8, 8, 3))
KERNEL = np.zeros((3, 3, 3, 4), np.float32)


def fields(inputs=(IMAGE,), **entry):
    return Fields({"op": "conv", "inputs": [0], **entry}, list(inputs), {"k": KERNEL})


def test_what_is_there_and_fits():
    f = fields(strides=[2, 1], padding=[1, 1, 0, 2], std=[0.5, 1])
    assert f.input("real", rank=3) is IMAGE
    assert f.counts("strides", 2, 1, 64) == (2, 1) and f.reals("std", 2) == (0.5, 1.0)
    f.padding((2, 3))
    assert f.attributes == {"strides": (2, 1), "std": (0.5, 1.0), "padding": ((1, 1), (0, 2))}
    f.finish()


def test_arrays_by_role():
    f = fields(arrays={"kernel": "k"})
    assert f.array("kernel", np.float32, (None, None, 3, None)) is KERNEL and f.arrays == {"kernel": KERNEL}
    f.finish()


@pytest.mark.parametrize(
    "entry,ask,message",
    [
        ({}, lambda f: f.input("bits"), "it takes bits, and its input is real"),
        ({}, lambda f: f.input("real", rank=1), r"its input is \(8, 8, 3\); it takes 1 dimensions"),
        (
            {"strides": [0, 1]},
            lambda f: f.counts("strides", 2, 1, 64),
            r"its strides is \[0, 1\]; it must be 2",
        ),
        ({"strides": [1.0, 1]}, lambda f: f.counts("strides", 2, 1, 64), "must be 2 integers"),
        ({"strides": [True, 1]}, lambda f: f.counts("strides", 2, 1, 64), "must be 2 integers"),
        ({}, lambda f: f.counts("strides", 2, 1, 64), "its strides is None"),
        ({"std": [1, "a"]}, lambda f: f.reals("std", 2), "it must be 2 numbers"),
        ({"std": [1e31]}, lambda f: f.reals("std", 1), "it must be 1 numbers"),
        ({"padding": [2, 0, 0, 0]}, lambda f: f.padding((2, 3)), "as much as its window"),
        ({"arrays": [1]}, lambda f: f, "its arrays are no object"),
        ({"arrays": {"kernel": "no"}}, lambda f: f.array("kernel", np.float32, (3,)), "which is none of the file's"),
        ({"arrays": {"kernel": "k"}}, lambda f: f.array("kernel", np.uint32, KERNEL.shape), "it must be uint32"),
        (
            {"arrays": {"kernel": "k"}},
            lambda f: f.array("kernel", np.float32, (3, 3, 5, None)),
            r"be float32 \(3, 3",
        ),
        ({"extra": 1}, lambda f: f.finish(), "it has 'extra', which it does not take"),
        ({"arrays": {"extra": "k"}}, lambda f: f.finish(), "it has 'extra', which it does not take"),
    ],
)
def test_what_does_not_fit(entry, ask, message):
    with pytest.raises(UserError, match=message):
        ask(fields(**entry))


def test_one_input_where_there_are_two():
    with pytest.raises(UserError, match="it has 2 inputs instead of 1"):
        fields([IMAGE, IMAGE]).input("real")
