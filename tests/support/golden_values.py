"""Reads numbers that were recorded from the official code, and makes the parameters that its models had then.

The numbers were recorded in float64, so that rounding differences flip no signs. A projection of an array is the sum of
its products with standard normal numbers. The generator of these numbers is seeded with the array's name.
"""

import json
import math
import zlib

import numpy as np

from tests.support import GOLDEN as FOLDER


def rng(name, seed=7):
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def value(name, shape):
    """Draws the parameter or buffer `name`: the numbers that the PyTorch model had when the values were recorded."""
    leaf = name.rsplit(".", 1)[-1]
    r = rng(name)
    n = r.standard_normal(shape)
    if leaf == "alpha":
        return r.random(shape)
    if leaf == "running_var":
        return 1 + 0.1 * abs(n)
    if leaf in ("running_mean", "bias"):
        return 0.1 * n
    if len(shape) == 4:
        return n * math.sqrt(2 / math.prod(shape[1:]))
    if len(shape) == 2:
        return n * 0.05
    return 0.25 + 0.05 * n if "nonlinear" in name else 1 + 0.1 * n  # PReLU; batch norm


def load(name):
    """Returns a model's JSON, and the arrays of its .npz file. Without this file, the arrays are an empty dict."""
    path = FOLDER / f"{name}.npz"
    return json.loads((FOLDER / f"{name}.json").read_text()), dict(np.load(path)) if path.exists() else {}


def state_dict(record):
    return {k: value(k, tuple(shape)) for k, shape in record["state_dict_shapes"].items()}


def batch(name, record, num_classes):
    """Returns NHWC images and labels."""
    r = rng(name + ".input")
    x = r.standard_normal(record["input_shape_nchw"])
    return x.transpose(0, 2, 3, 1), r.integers(0, num_classes, len(x))


def norm_and_projection(name, array):
    return np.linalg.norm(array), (array * rng("proj." + name).standard_normal(array.shape)).sum()
