"""Checks that long sums, computed as products with ones, are the same sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax.ops import reductions


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
@pytest.mark.parametrize("dtype,rtol", [("float32", 1e-6), ("bfloat16", 2**-8)])
def test_sums_and_their_gradients(kind, dtype, rtol, monkeypatch):
    if kind == "gpu":
        monkeypatch.setattr(reductions, "by_platform", lambda x, cpu, default: default(x))
    x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (60, 700)), dtype)
    exact = np.asarray(x, np.float64)
    for function, axis in ((reductions.sum_rows, 0), (reductions.sum_columns, 1)):
        got, pull = jax.vjp(function, x)
        assert got.dtype == dtype
        np.testing.assert_allclose(np.asarray(got, np.float64), exact.sum(axis), rtol=rtol)
        weights = jnp.arange(got.size).astype(dtype)
        np.testing.assert_array_equal(pull(weights)[0], jnp.broadcast_to(jnp.expand_dims(weights, axis), x.shape))


@pytest.mark.parametrize("function", [reductions.sum_rows, reductions.sum_columns])
def test_products_on_cpus_and_reductions_elsewhere(function):
    traced = jax.jit(function).trace(jnp.ones((6, 7)))
    for platform in ("cpu", "cuda", "rocm", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("dot_general" in text, "reduce" in text) == (platform == "cpu", platform != "cpu")
