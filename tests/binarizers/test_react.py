"""Compares ReActNet's RPReLU with its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax.binarizers import react
from tests.support.slopes import GRID


@pytest.mark.usefixtures("x64")
def test_rprelu():
    before, slopes, after = np.array([[0.0, 0.5, -1.0], [0.25, -0.5, 2.0], [0.0, -3.0, 1.0]])
    x = np.stack([GRID - b for b in before], 1)
    cotangent = np.random.default_rng(0).normal(size=x.shape)
    layer = react.RPRelu(param_dtype=jnp.float64)
    fresh = layer.init(jax.random.key(0), x)["params"]
    assert {k: (v.shape, float(v[0])) for p in fresh.values() for k, v in p.items()} == {
        "bias": ((3,), 0.0), "slope": ((3,), 0.25),
    }  # fmt: skip
    params = {"move1": {"bias": before}, "nonlinear": {"slope": slopes}, "move2": {"bias": after}}
    z, pull = jax.vjp(lambda p, x: layer.apply({"params": p}, x), params, x)
    # In the paper's letters: x - gamma + zeta where x > gamma, otherwise beta (x - gamma) + zeta. gamma is `-before`,
    # beta is `slopes`, and zeta is `after`.
    above = x > -before
    np.testing.assert_allclose(z, np.where(above, x + before + after, slopes * (x + before) + after), atol=1e-15)
    dparams, dx = pull(jnp.asarray(cotangent))
    np.testing.assert_allclose(dx, cotangent * np.where(above, 1, slopes), rtol=1e-12)
    np.testing.assert_allclose(dparams["move1"]["bias"], np.asarray(dx).sum(0), rtol=1e-12)
    np.testing.assert_allclose(dparams["nonlinear"]["slope"], (cotangent * (x + before) * ~above).sum(0), rtol=1e-12)
    np.testing.assert_allclose(dparams["move2"]["bias"], cotangent.sum(0), rtol=1e-12)
