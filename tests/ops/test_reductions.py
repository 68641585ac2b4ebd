"""Long sums as products with ones: the same sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax.ops import reductions


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
@pytest.mark.parametrize("dtype,rtol", [("float32", 1e-6), ("bfloat16", 2**-8)])
def test_sums_and_their_gradients(kind, dtype, rtol, monkeypatch):
    monkeypatch.setattr(reductions.backend, "sums_by_dots", lambda: kind == "cpu")
    x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (60, 700)), dtype)
    exact = np.asarray(x, np.float64)
    for function, axis in ((reductions.sum_rows, 0), (reductions.sum_columns, 1)):
        got, pull = jax.vjp(function, x)
        assert got.dtype == dtype
        np.testing.assert_allclose(np.asarray(got, np.float64), exact.sum(axis), rtol=rtol)
        weights = jnp.arange(got.size).astype(dtype)
        np.testing.assert_array_equal(pull(weights)[0], jnp.broadcast_to(jnp.expand_dims(weights, axis), x.shape))
    # A new function, as JAX remembers what it traced of the old one.
    assert ("dot_general" in str(jax.make_jaxpr(lambda x: reductions.sum_rows(x))(x))) == (kind == "cpu")
