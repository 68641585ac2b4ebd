"""Tests that the sums of the C equal NumPy's, for several shapes, in plain C99 and with AVX2 if this machine has it."""

import ctypes
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

from recu_jax.deploy.c import compiled, source
from recu_jax.deploy.c.lines import arranged
from recu_jax.ops import native
from recu_jax.ops.packing import kernel_word_count, pack_bits, pack_kernel

HEADERS = pathlib.Path(source.__file__).parent
PROGRAM = """
#include "recu_conv.h"
const char *kernels(void) { return RECU_KERNELS; }
void sums_of(const recu_window *w, int pixels, const uint32_t *in, int channels, const uint32_t *kernel, int features,
             int padded, int32_t *sums) {
  for (int p = 0; p < pixels; p++) recu_binary_conv(w, p, in, channels, kernel, features, sums + p * padded);
}
"""
VARIANTS = {"C99": ["-DRECU_PORTABLE"], "AVX2": ["-mavx2", "-mfma"]}
# Channels, features, window, stride and padding (before, after), for images of 6 x 5 pixels. The C counts bits in bytes
# first, and a byte would overflow with the bits of 1,100 channels.
SHAPES = [
    (1, 8, (1, 1), 1, (0, 0)),
    (16, 5, (3, 3), 1, (1, 1)),
    (40, 16, (3, 2), 2, (1, 0)),
    (65, 9, (5, 4), 3, (2, 3)),
    (1100, 8, (3, 3), 1, (0, 2)),
]


@pytest.fixture(scope="module", params=VARIANTS)
def library(request, tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler; install gcc or clang")
    if request.param == "AVX2" and "avx2" not in native.instruction_sets():
        pytest.skip("no AVX2 here")
    folder = tmp_path_factory.mktemp("sums")
    (folder / "sums.c").write_text(PROGRAM)
    command = [*compiled.compiler(), "-std=c99", "-O1", "-shared", "-fPIC", f"-I{HEADERS}", *VARIANTS[request.param]]
    subprocess.run([*command, "sums.c", "-o", "sums.so", "-lm"], cwd=folder, check=True)
    made = ctypes.CDLL(str(folder / "sums.so"))
    made.kernels.restype = ctypes.c_char_p
    assert made.kernels().decode() == request.param
    return made


def numpy_sums(signs, kernel, stride, low, high):
    """Returns the sums of products of +-1. Padding counts as 0."""
    padded = np.pad(signs, [(low, high), (low, high), (0, 0)])
    height, width = kernel.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(0, 1))[::stride, ::stride]
    return np.einsum("yxcij,ijcf->yxf", windows, kernel)


@pytest.mark.parametrize("channels, features, window, stride, padding", SHAPES)
def test_the_sums_of_a_binary_convolution(library, channels, features, window, stride, padding):
    r = np.random.default_rng(channels)
    signs = r.choice([-1, 1], (6, 5, channels))
    kernel = r.choice([-1, 1], (*window, channels, features))
    if channels == 1100:  # every bit of the first kernel differs from the signs
        signs[:], kernel[..., 0] = 1, -1
    want = numpy_sums(signs, kernel, stride, *padding)
    words = pack_bits(signs > 0, kernel_word_count(channels))
    blocks = np.ascontiguousarray(arranged(pack_kernel(kernel)))
    place = np.array([6, 5, *window, stride, stride, padding[0], padding[0], want.shape[1]], np.int32)
    found = np.zeros((*want.shape[:2], -(-features // 8) * 8), np.int32)
    address = ctypes.c_void_p
    library.sums_of(
        address(place.ctypes.data), want.shape[0] * want.shape[1], address(words.ctypes.data), channels,
        address(blocks.ctypes.data), features, found.shape[-1], address(found.ctypes.data),
    )  # fmt: skip
    np.testing.assert_array_equal(found[..., :features], want)
