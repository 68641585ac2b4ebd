"""Compares convolutions of signs, and layers, with `nn.Conv` and with a slow convolution in NumPy."""

import functools
import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import recu_jax.nnx
from recu_jax import BinaryConv
from recu_jax.binarizers import weights
from recu_jax.errors import UserError
from recu_jax.functional import binarize_activations, binarize_weights, conv_of_signs, sign, standardize
from recu_jax.ops.conv import ConvSpec
from tests.support.geometries import GEOMETRIES, arrays

# Forms that `nn.Conv` takes and GEOMETRIES lacks: strings in lower case, "SAME_LOWER", None, negative padding, lists,
# windows of even and unequal sizes, depthwise, and 3-D with everything at once.
MORE_GEOMETRIES = [
    (3, 1, "same", 1, 1, (9,)),
    ((4,), 2, "SAME_LOWER", None, 4, (10,)),
    ((3,), None, "valid", 3, 2, (12,)),
    ((2,), 1, [(2, 1)], 2, 1, (6,)),
    ((4, 3), (2, 3), "SAME_LOWER", 1, 1, (8, 7)),
    ((2, 4), 2, "same_lower", 1, 2, (8, 7)),
    ((3, 3), 2, "CIRCULAR", 1, 4, (8, 6)),
    ((2, 3), (1, 2), "REFLECT", (2, 1), 2, (6, 7)),
    ((3, 3), 1, [(-1, 0), -1], 1, 1, (8, 8)),
    ((3, 3), [1, 2], ([0, 2], (1, 1)), [2, 1], 4, (7, 8)),
    ((2, 3, 2), (1, 2, 1), "SAME", (2, 1, 1), 2, (4, 5, 4)),
    ((2, 2, 3), (2, 1, 1), "CIRCULAR", 1, 4, (4, 4, 5)),
    ((3, 1, 2), 1, "REFLECT", 1, 1, (4, 3, 4)),
    ((2, 2, 2), 2, "VALID", 1, 1, (4, 4, 5)),
    ((2, 1, 3), 1, 1, 1, 2, (3, 3, 4)),
]


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("window,strides,padding,dilation,groups,spatial", GEOMETRIES)
def test_forward_equals_flax_conv_of_signs(window, strides, padding, dilation, groups, spatial):
    x, kernel, alpha = arrays(window, groups, spatial)
    conv = nn.Conv(
        8, window, strides, padding, kernel_dilation=dilation, feature_group_count=groups, use_bias=False,
        param_dtype=jnp.float64,
    )  # fmt: skip
    expected = conv.apply({"params": {"kernel": sign(standardize(kernel))}}, sign(x))
    expected = np.asarray(expected) * np.asarray(alpha)
    got = conv_of_signs(
        binarize_activations(x, len(window) + 1, train=False), binarize_weights(kernel), alpha, strides=strides,
        padding=padding, kernel_dilation=dilation, feature_group_count=groups,
    )  # fmt: skip
    np.testing.assert_allclose(got, expected, rtol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize(
    "window,strides,padding,dilation,groups,spatial",
    [pytest.param(*case, marks=[pytest.mark.slow] * (i % 3 > 0)) for i, case in enumerate(MORE_GEOMETRIES)],
)
def test_layers_equal_flax_conv_of_signs(window, strides, padding, dilation, groups, spatial):
    """Expects the gradients of `nn.Conv` with respect to signs, times alpha, and for x also times the signs' slopes."""
    x, kernel, alpha = arrays((window,) if isinstance(window, int) else window, groups, spatial)
    options = {"padding": padding, "kernel_dilation": dilation, "feature_group_count": groups}
    plain = nn.Conv(8, window, strides, use_bias=False, **options)
    options["kernel_binarizer"] = weights.ReCU(standardize=False)
    linen = BinaryConv(8, window, strides, **options)
    of_nnx = recu_jax.nnx.BinaryConv(4, 8, window, strides, **options, rngs=nnx.Rngs(0))
    structure = nnx.graphdef(of_nnx)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(x, kernel, alpha):
        y, pull = jax.vjp(lambda x, k, a: linen.apply({"params": {"kernel": k, "alpha": a}}, x), x, kernel, alpha)
        dy = jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        by_nnx = nnx.merge(structure, nnx.State({"kernel": nnx.Param(kernel), "alpha": nnx.Param(alpha)}))
        sums, pull_sums = jax.vjp(lambda x, k: plain.apply({"params": {"kernel": k}}, x), sign(x), sign(kernel))
        scale = alpha.reshape((1,) * (y.ndim - 1) + (-1,))
        of_x, of_kernel = pull_sums(dy * scale)
        of_x = of_x * jnp.maximum(0, 2 - 2 * jnp.abs(x))  # SPEC.md 2
        expected = (sums * scale, of_x, of_kernel, (sums * dy).reshape(-1, 8).sum(0))
        return (y, *pull(dy)), by_nnx(x, train=False), expected

    got, by_nnx, expected = run(x, kernel, alpha)
    np.testing.assert_array_equal(by_nnx, got[0])
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def slow_conv(x, kernel, strides, padding, dilation, groups):
    """Computes a convolution without batch in NumPy, one output position and one group at a time."""
    window = kernel.shape[:-2]
    x = np.pad(x, [*padding, (0, 0)])
    sides = zip(x.shape, window, strides, dilation, strict=False)
    out = [(side - (k - 1) * d - 1) // s + 1 for side, k, s, d in sides]
    channels, features = x.shape[-1] // groups, kernel.shape[-1] // groups
    y = np.zeros((*out, kernel.shape[-1]))
    for at in itertools.product(*map(range, out)):
        firsts = [i * s for i, s in zip(at, strides, strict=True)]
        seen = x[tuple(slice(i, i + k * d, d) for i, k, d in zip(firsts, window, dilation, strict=True))]
        for g in range(groups):
            of_group = slice(g * features, (g + 1) * features)
            part = seen[..., g * channels : (g + 1) * channels, None] * kernel[..., of_group]
            y[(*at, of_group)] = part.reshape(-1, features).sum(0)
    return y


@st.composite
def geometries(draw):
    """Draws (spatial shape, window, strides, padding, dilation, groups, channels and features of a group)."""
    dimensions = draw(st.integers(1, 3))

    def each(low, high):
        return draw(st.lists(st.integers(low, high), min_size=dimensions, max_size=dimensions))

    window, strides, dilation = each(1, 3), each(1, 3), each(1, 2)
    padding = list(zip(each(0, 2), each(0, 2), strict=True))
    more = each(0, 3)
    spatial = [(k - 1) * d + 1 + m for k, d, m in zip(window, dilation, more, strict=True)]
    return spatial, window, strides, padding, dilation, *(draw(st.integers(1, 3)) for _ in range(3))


@pytest.mark.slow
@settings(max_examples=12)
@given(geometry=geometries(), seed=st.integers(0, 99))
def test_any_geometry_equals_a_slow_convolution(geometry, seed):
    spatial, window, strides, padding, dilation, groups, channels, features = geometry
    r = np.random.default_rng(seed)
    x = r.choice([-1.0, 1.0], (2, *spatial, groups * channels)).astype(np.float32)
    kernel = r.choice([-1.0, 1.0], (*window, channels, groups * features)).astype(np.float32)
    got = conv_of_signs(
        x, kernel, strides=strides, padding=padding, kernel_dilation=dilation, feature_group_count=groups
    )
    np.testing.assert_array_equal(got, [slow_conv(a, kernel, strides, padding, dilation, groups) for a in x])


@pytest.mark.parametrize("padding", ["FULL", "CAUSAL", (1,), ((1, 2, 3), 1), 1.5, (("a", "b"), 1), None])
def test_unknown_padding(padding):
    with pytest.raises(UserError, match=re.escape(f"padding is {padding!r} for a 2-D convolution")):
        ConvSpec.create((3, 3), 1, padding, 1, 1)
