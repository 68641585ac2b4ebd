"""Tests the layout of packed signs against NumPy's `packbits`."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from recu_jax.ops import packing

NUMBERS = st.sampled_from([-1.5, -0.0, 0.0, 2.0, -1e-30])


def bits(signs, words):
    """Packs booleans, (..., channels), into (..., words). Channel c becomes bit c % 32 of word c // 32."""
    bytes_ = np.packbits(signs, axis=-1, bitorder="little")
    bytes_ = np.pad(bytes_, [(0, 0)] * (signs.ndim - 1) + [(0, 4 * words - bytes_.shape[-1])])
    return bytes_.view("<u4")


@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 70), st.integers(1, 5)).flatmap(
        lambda shape: arrays.arrays(np.float32, shape, elements=NUMBERS)
    )
)
def test_kernels_go_into_words_and_back(kernel):
    words = packing.pack_kernel(kernel)
    np.testing.assert_array_equal(words, bits(np.moveaxis(kernel >= 0, -1, 0), -(-kernel.shape[2] // 32)))
    signs = packing.unpack_kernel(words, kernel.shape[2])
    np.testing.assert_array_equal(signs, np.where(kernel >= 0, 1, -1))
    assert words.dtype == np.uint32 and signs.dtype == np.int8


def test_each_group_begins_an_even_number_of_words():
    x = np.random.default_rng(0).standard_normal((2, 3, 3 * 70)).astype(np.float32)
    words = packing.pack_groups(jnp.asarray(x), 3)
    np.testing.assert_array_equal(words, bits(x.reshape(2, 3, 3, 70) >= 0, 4).reshape(2, 3, 12))
    signs = packing.unpack_groups(words, 210, 3, jnp.bfloat16)
    np.testing.assert_array_equal(signs, np.where(x >= 0, 1, -1))
    assert signs.dtype == jnp.bfloat16
    assert [packing.word_count(n) for n in (1, 64, 65, 128, 129)] == [2, 2, 4, 4, 6]
    assert [packing.kernel_word_count(n) for n in (1, 32, 33)] == [1, 1, 2]
