"""Tests the bins of histograms."""

import jax.numpy as jnp
import numpy as np

from recu_jax.diagnostics import measures


def test_edges():
    np.testing.assert_allclose(measures.inner_edges(), np.linspace(-8, 8, 65)[1:-1])
    counts = measures.histogram(jnp.array([-100.0, -8.0, -0.1, 0.0, 0.1, 7.9, 100.0]), jnp.float32(1.0))
    assert (counts[0], counts[31], counts[32], counts[-1]) == (2, 1, 2, 2)
