"""Compares the gradient of max pooling that CPUs and GPUs use with XLA's gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax.ops import max_pool


@pytest.mark.slow
@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 7, 5, 2), (1, 2, 3, 1)])
def test_the_gradient_goes_to_the_first_largest_element(shape, window):
    def xla(x):
        padding = (window - 1) // 2
        return nn.max_pool(x, (window, window), (2, 2), ((padding, padding), (padding, padding)))

    keys = jax.random.split(jax.random.key(0))
    x = jnp.round(2 * jax.random.normal(keys[0], shape))  # with many ties
    y, pull = jax.vjp(xla, x)
    dy = jax.random.normal(keys[1], y.shape)
    pooled, own_pull = jax.vjp(lambda x: max_pool.max_pool(x, window), x)
    np.testing.assert_allclose(own_pull(dy)[0], pull(dy)[0], rtol=1e-6)
    np.testing.assert_array_equal(pooled, y)


def test_tpus_keep_xlas_gradient():
    traced = jax.jit(jax.grad(lambda x: max_pool.max_pool(x, 3).sum())).trace(jnp.ones((1, 4, 4, 1)))
    for platform in ("cpu", "cuda", "rocm", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("select_and_scatter" in text) == (platform == "tpu")
