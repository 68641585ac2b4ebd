"""Tests the layout of packed kernels."""

import numpy as np

from recu_jax.ops import packing


def test_kernels_go_into_words_and_back():
    kernel = np.random.default_rng(0).standard_normal((3, 3, 70, 5)).astype(np.float32)
    words = packing.pack_kernel(kernel)
    assert words.shape == (5, 3, 3, 3)
    np.testing.assert_array_equal(packing.unpack_kernel(words, 70), np.where(kernel >= 0, 1, -1))
