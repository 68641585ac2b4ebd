"""Compares the gradient of max pooling that GPUs use with XLA's gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax.ops import max_pool


def xla(x):
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 7, 5, 2), (1, 1, 2, 1)])
def test_the_gradient_goes_to_the_first_largest_element(shape):
    keys = jax.random.split(jax.random.key(0))
    x = jnp.round(2 * jax.random.normal(keys[0], shape))  # with many ties
    y, pull = jax.vjp(xla, x)
    dy = jax.random.normal(keys[1], y.shape)
    np.testing.assert_allclose(max_pool._gradient(x, dy), pull(dy)[0], rtol=1e-6)
    np.testing.assert_array_equal(jax.vjp(max_pool.max_pool, x)[1](dy)[0], pull(dy)[0])
    np.testing.assert_array_equal(max_pool.max_pool(x), y)


def test_gpus_alone_get_it():
    traced = jax.jit(jax.grad(lambda x: max_pool.max_pool(x).sum())).trace(jnp.ones((1, 4, 4, 1)))
    for platform in ("cpu", "cuda", "rocm", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("select_and_scatter" in text) == (platform in ("cpu", "tpu"))
