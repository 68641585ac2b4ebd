"""Compares the packing of signs into words, on every backend, with NumPy's packing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax.ops import packed as ops
from recu_jax.ops import packing
from tests.support import compiled_kernels

BACKENDS = (*compiled_kernels.instruction_sets(), "xla")


@pytest.mark.parametrize("backend", BACKENDS)
def test_signs_become_words(backend):
    x = np.random.default_rng(0).standard_normal((3, 4, 77)).astype(np.float32)
    x[0, 0, :4] = 0.0, -0.0, np.nan, -np.inf
    words = np.asarray(ops.pack(jnp.asarray(x), backend=backend))
    assert words.shape == (3, 4, 4) and words.dtype == np.uint32
    # NumPy packs into bytes. Four of them are a little-endian word.
    bits = np.packbits(np.pad(x >= 0, ((0, 0), (0, 0), (0, 128 - 77))), axis=-1, bitorder="little").view("<u4")
    np.testing.assert_array_equal(words, bits)
    np.testing.assert_array_equal(packing.unpack_groups(jnp.asarray(words), 77), np.where(x >= 0, 1, -1))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_packing_after_batch_norm(backend, dtype):
    r = np.random.default_rng(0)
    x, norm = (r.standard_normal(s).astype(dtype) for s in ((3, 4, 77), (3, 77)))
    norm[1, :20] *= -1
    x[0, 0, :4] = 0.0, -0.0, np.nan, -np.inf
    words = jax.jit(lambda x: ops.pack(x, backend=backend, norm=norm))(x)
    mean, factor, bias = norm.astype(np.float64)
    np.testing.assert_array_equal(packing.unpack_groups(words, 77), np.where((x - mean) * factor + bias >= 0, 1, -1))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype,tiny", [("float64", 1e-300), ("float32", 2e-38), ("bfloat16", 2e-38)])
def test_a_tiny_negative_number_is_negative(backend, dtype, tiny):
    """A cast to a narrower dtype could round it to 0, of sign +1. XLA on CPUs takes subnormals as 0: none is used."""
    x = jnp.array([-tiny, tiny, -1.0, 0.0], dtype)
    words = jax.jit(lambda x: ops.pack(x, backend=backend))(x[None])
    np.testing.assert_array_equal(words, [[0b1010, 0]])
