"""Tests jax.export artifacts of a network."""

import jax
import numpy as np
import pytest

from recu_jax import UserError, deploy
from recu_jax.deploy import stablehlo
from tests.support.random_networks import IMAGES


def test_a_stablehlo_artifact_gives_the_same(path):
    loaded = deploy.load(path)
    data = stablehlo.serialize(loaded)
    # Calls it as a user does, with jax alone, and with another batch size.
    call = jax.export.deserialize(bytearray(data)).call
    for images in (IMAGES, IMAGES[:1]):
        np.testing.assert_allclose(call(images), loaded.predict(images), rtol=1e-5, atol=1e-5)
    assert len(data) < 2 * path.stat().st_size
    with pytest.raises(UserError, match=r"no jax.export artifact"):
        stablehlo.predictor(data[:1000])
