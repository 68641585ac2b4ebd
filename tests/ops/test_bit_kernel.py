"""Compares kernels that are stored as bits with NumPy's bits, and with convolutions of +1 and -1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from recu_jax.ops.bit_kernel import BitKernel, bits_of_kernel
from recu_jax.ops.conv import ConvSpec


def signs(shape, seed=0):
    return np.where(np.random.default_rng(seed).random(shape) < 0.5, np.float32(-1), np.float32(1))


def test_bits_follow_each_other_channel_by_channel():
    kernel = signs((2, 3, 3, 5, 7))
    bits = bits_of_kernel(kernel, stacked=1)
    assert bits.shape == (2, 10) and bits.dtype == np.uint32
    for one, words in zip(kernel, bits, strict=True):
        in_order = np.moveaxis(one, -1, 0).ravel() > 0
        expected = np.packbits(np.pad(in_order, (0, 5)), bitorder="little").view("<u4")
        np.testing.assert_array_equal(words, expected)
        np.testing.assert_array_equal(BitKernel(words, one.shape).signs(jnp.float32), one)


@pytest.mark.parametrize("channels", [5, 64])
@pytest.mark.parametrize("traced", [False, True])
def test_products(channels, traced):
    kernel, x = signs((3, 3, channels, 20)), signs((2, 6, 6, channels), 1)

    def conv(x, bits):
        return BitKernel(bits, kernel.shape).conv(x, ConvSpec.create((3, 3), 2, "SAME", 1, 1))

    bits = bits_of_kernel(kernel)
    y = jax.jit(conv)(x, bits) if traced else conv(x, bits)
    expected = lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_array_equal(y, expected)
    dense = BitKernel(bits_of_kernel(kernel[0, 0]), (channels, 20)).dense(x)
    np.testing.assert_array_equal(dense, x @ kernel[0, 0])
