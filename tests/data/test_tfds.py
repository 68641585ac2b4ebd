"""Tests TFDS's data sets without TensorFlow, and the errors if they are missing."""

import importlib.util

import numpy as np
import pytest

from recu_jax import UserError, data
from tests.support.prepared_tfds import prepare


@pytest.mark.parametrize(
    "name,version,shape,padding", [("cifar10", "3.0.2", (32, 32, 3), 0), ("mnist", "3.0.1", (28, 28, 1), 2)]
)
@pytest.mark.filterwarnings("ignore")
def test_tfds_without_tensorflow(tmp_path, name, version, shape, padding):
    r = np.random.default_rng(0)
    images, labels = r.integers(0, 256, (25, *shape), np.uint8), r.integers(0, 10, 25)
    prepare(tmp_path, name, version, images, labels)
    d = data.load(name, str(tmp_path))
    assert d.train_images.shape == (20, 32, 32, shape[-1]) and d.test_images.shape == (5, 32, 32, shape[-1])
    pad = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    expected = {(a.tobytes(), b) for a, b in zip(np.pad(images, pad), labels, strict=True)}
    got = zip(np.concatenate([d.train_images, d.test_images]), [*d.train_labels, *d.test_labels], strict=True)
    assert {(a.tobytes(), b) for a, b in got} == expected


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow would download it")
@pytest.mark.filterwarnings("ignore")
def test_tfds_that_is_not_there_says_what_to_type(tmp_path):
    with pytest.raises(UserError, match=r"no cifar10 in .*pip install tensorflow, "):
        data.load("cifar10", str(tmp_path))
