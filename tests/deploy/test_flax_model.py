"""Compares the predictions of a run with its model and variables, called without the trainer."""

import jax
import numpy as np
import pytest

from recu_jax import load_variables
from recu_jax.config.fields import plain
from recu_jax.data import digits as digits_data
from recu_jax.deploy.flax_model import of_run
from recu_jax.models import create_model
from tests.support import one_block, small_runs


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_predictions_are_those_of_the_model(dtype, tmp_path):
    config = small_runs.digits(model=one_block.MODEL, dtype=dtype)
    small_runs.recorded(config, tmp_path / "run")
    network = of_run(tmp_path / "run")
    assert network.image_shape == (8, 8, 1) and network.header.model == one_block.MODEL
    assert not network.header.preprocessing and plain(config)["dtype"] == dtype
    data = digits_data.load()
    images = data.test_images[:20]
    x = ((images / 255 - data.mean[0]) / data.std[0]).astype("f")
    expected = create_model(one_block.MODEL, 10).apply(load_variables(tmp_path / "run"), x)
    got = network.predict(images)
    assert got.dtype == np.float32
    # In bfloat16 some signs differ, but seldom the class.
    if dtype == "float32":
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert (jax.numpy.argmax(got, 1) == jax.numpy.argmax(expected, 1)).mean() > 0.7
