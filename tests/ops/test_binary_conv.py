"""Compares convolutions and matrix products of bits, on every backend, with those of +-1."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from recu_jax import UserError
from recu_jax.ops import binary_conv as ops
from tests.support import compiled_kernels

BACKENDS = (*compiled_kernels.instruction_sets(), "xla")
# Most are no multiples of 32 or 64, and each word boundary has its neighbors.
CHANNELS = (1, 3, 31, 32, 33, 63, 64, 65, 100, 127, 128, 130, 257, 512)
PADDINGS = ("SAME", "VALID", "CIRCULAR", "REFLECT", 1, ((2, 0), (0, 3)))


def signs(a):
    return np.where(a >= 0, np.float32(1), np.float32(-1))


def float_conv(x, kernel, strides, padding, dilation, groups):
    """Computes lax's float convolution of signs, with NumPy's padding where lax has none."""
    x, spatial = signs(x), kernel.ndim - 2
    if padding in ("CIRCULAR", "REFLECT"):
        spans = [(k - 1) * d for k, d in zip(kernel.shape, dilation, strict=False)]
        mode = {"CIRCULAR": "wrap", "REFLECT": "reflect"}[padding]
        x = np.pad(x, [(0, 0), *((s // 2, s - s // 2) for s in spans[:spatial]), (0, 0)], mode=mode)
        padding = "VALID"
    if isinstance(padding, int):
        padding = ((padding, padding),) * spatial
    letters = "DHW"[3 - spatial :]
    return lax.conv_general_dilated(
        x, signs(kernel), strides, padding, rhs_dilation=dilation, feature_group_count=groups,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
    )  # fmt: skip


def check(x_shape, window, features, strides, padding, dilation, groups, seed):
    r = np.random.default_rng(seed)
    channels = x_shape[-1]
    x = r.standard_normal(x_shape).astype(np.float32)
    kernel = r.standard_normal((*window, channels // groups, features)).astype(np.float32)
    options = {"strides": strides, "padding": padding, "kernel_dilation": dilation, "feature_group_count": groups}
    packed = ops.pack_kernel(kernel)

    @jax.jit
    def all_backends(x):
        return [ops.binary_conv(ops.pack(x, groups, b), packed, channels, **options, backend=b) for b in BACKENDS]

    expected = np.asarray(float_conv(x, kernel, strides, padding, dilation, groups))
    for backend, y in zip(BACKENDS, all_backends(x), strict=True):
        assert y.dtype == jnp.int32
        np.testing.assert_array_equal(y, expected, err_msg=f"{backend} {x_shape} {window} {options}")


def cases(size):
    """Yields cases for a window of `size`: every stride and dilation, depthwise or not. Other options take turns."""
    turns = itertools.count(size)
    for stride, dilation, depthwise in itertools.product((1, 2), (1, 2), (False, True)):
        turn = next(turns)
        channels = CHANNELS[turn * 5 % len(CHANNELS)]
        groups = channels if depthwise and channels < 70 else 2 if channels % 2 == 0 and turn % 3 == 0 else 1
        features = groups * (1, 5, 16, 17)[turn % 4] if groups < 20 else groups
        batch = (1, 3)[turn % 2]
        side = (size - 1) * dilation + 1
        shape = (batch, side + turn % 4, side + 5, channels)
        yield shape, (size, size), features, (stride, stride), PADDINGS[turn % 6], (dilation, dilation), groups, turn


@pytest.mark.slow
@pytest.mark.parametrize("size", range(1, 8))
def test_windows_of_every_size(size):
    for case in cases(size):
        check(*case)


@pytest.mark.parametrize("padding", PADDINGS)
def test_every_padding(padding):
    check((1, 9, 10, 40), (3, 2), 20, (1, 2), padding, (2, 1), 1, seed=0)


@pytest.mark.parametrize("channels", CHANNELS)
def test_every_number_of_channels(channels):
    check((1, 5, 6, channels), (3, 3), 33, (1, 1), ((1, 1), (1, 1)), (1, 1), 1, seed=channels)


def test_one_and_three_dimensions():
    check((3, 30, 70), (5,), 9, (2,), "SAME", (2,), 1, seed=1)
    check((3, 30, 70), (5,), 9, (1,), ((8, 0),), (2,), 1, seed=2)
    check((2, 5, 6, 7, 12), (3, 1, 2), 8, (1, 2, 1), "SAME", (1, 1, 2), 4, seed=3)


def test_3100_channels():
    check((1, 7, 7, 3100), (7, 7), 3, (1, 1), 3, (1, 1), 1, seed=4)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("in_features,features", [(1, 1), (65, 7), (512, 1000), (3100, 37)])
def test_dense(backend, in_features, features):
    r = np.random.default_rng(features)
    x, kernel = (r.standard_normal(s).astype(np.float32) for s in ((3, 5, in_features), (in_features, features)))
    y = ops.binary_dense(ops.pack(x, backend=backend), ops.pack_kernel(kernel), in_features, backend)
    np.testing.assert_array_equal(y, signs(x) @ signs(kernel))


def test_it_maps_over_images():
    r = np.random.default_rng(0)
    x = r.standard_normal((3, 2, 6, 6, 20)).astype(np.float32)
    kernel = ops.pack_kernel(r.standard_normal((3, 3, 20, 4)))
    together = ops.binary_conv(ops.pack(x.reshape(6, 6, 6, 20)), kernel, 20)
    mapped = jax.vmap(lambda x: ops.binary_conv(ops.pack(x), kernel, 20))(x)
    np.testing.assert_array_equal(mapped.reshape(together.shape), together)


def test_what_does_not_fit_is_said():
    x, kernel = ops.pack(jnp.ones((1, 4, 4, 64))), ops.pack_kernel(np.ones((3, 3, 64, 8)))
    with pytest.raises(UserError, match="x is \\(1, 4, 4, 2\\); for 65 channels"):
        ops.binary_conv(x, ops.pack_kernel(np.ones((3, 3, 65, 8))), 65)
    with pytest.raises(UserError, match="kernel is \\(8, 3, 3, 2\\) for 32 input channels"):
        ops.binary_conv(x, kernel, 32)
    with pytest.raises(UserError, match="backend is 'sse9'; here it must be one of: xla"):
        ops.binary_conv(x, kernel, 64, backend="sse9")
    with pytest.raises(UserError, match="padding is 'FULL'"):
        ops.binary_conv(x, kernel, 64, padding="FULL")
