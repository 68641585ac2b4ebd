"""The written-out backward pass against JAX's own, and its geometry and that of the layers against `nn.Conv`."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import recu_jax.nnx
from recu_jax import BinaryConv
from recu_jax.bits import native
from recu_jax.conv import ConvSpec
from recu_jax.errors import UserError
from recu_jax.functional import binary_conv, sign, standardize
from recu_jax.scaled_conv import scaled_conv

GEOMETRIES = [
    # window, strides, padding, dilation, groups, spatial shape
    ((3, 3), 1, "SAME", 1, 1, (8, 8)),
    ((3, 3), 2, ((1, 1), (1, 1)), 1, 1, (9, 7)),
    ((1, 1), 2, "VALID", 1, 1, (8, 8)),
    ((5, 3), (2, 1), "SAME", (1, 2), 2, (11, 9)),
    ((3, 3), 1, 1, 2, 4, (8, 8)),
    ((3,), 2, "CAUSAL", 2, 1, (12,)),
    ((4,), 1, "CIRCULAR", 1, 2, (10,)),
    ((3, 3), 1, "REFLECT", 1, 1, (6, 6)),
    ((3, 3), 1, "CIRCULAR", 2, 1, (7, 7)),
    ((3, 2, 3), 1, [1, 0, (2, 1)], 1, 1, (4, 5, 6)),
]
# What they leave out of the forms that `nn.Conv` takes: strings in lower case, the "SAME" whose odd pixel comes first,
# None, negative padding, lists, windows of even and unequal sizes, depthwise, and 3-D with everything at once.
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


def arrays(window, groups, spatial, in_features=4, features=8):
    r = np.random.default_rng(0)
    x = jnp.asarray(r.standard_normal((2, *spatial, in_features)))
    return (
        x,
        jnp.asarray(r.standard_normal((*window, in_features // groups, features))),
        jnp.asarray(r.random(features)),
    )


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
    got = binary_conv(
        x, kernel, alpha, strides=strides, padding=padding, kernel_dilation=dilation, feature_group_count=groups
    )
    np.testing.assert_allclose(got, expected, rtol=1e-14)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("window,strides,padding,dilation,groups,spatial", GEOMETRIES)
@pytest.mark.parametrize("scaled", [True, False])
def test_gradients_equal_those_of_lax(window, strides, padding, dilation, groups, spatial, scaled):
    if padding in ("CIRCULAR", "REFLECT"):
        padding = "VALID"  # the rest is jnp.pad, whose gradient is JAX's
    x, kernel, alpha = arrays(window, groups, spatial)
    spec = ConvSpec.create(window, strides, padding, dilation, groups)

    def plain(x, kernel, alpha):
        letters = "HWD"[: len(window)]
        y = lax.conv_general_dilated(
            x, kernel, spec.strides, spec.padding, rhs_dilation=spec.kernel_dilation, feature_group_count=groups,
            dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        )  # fmt: skip
        return y * alpha.reshape((1,) * (y.ndim - 1) + (-1,)) if scaled else y

    def ours(x, kernel, alpha):
        return scaled_conv(x, kernel, alpha if scaled else None, spec)

    y, pull = jax.vjp(plain, x, kernel, alpha)
    dy = jnp.asarray(np.random.default_rng(1).standard_normal(y.shape))
    y_ours, pull_ours = jax.vjp(ours, x, kernel, alpha)
    np.testing.assert_allclose(y_ours, y, rtol=1e-14)
    for got, expected in zip(pull_ours(dy), pull(dy), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("window,strides,padding,dilation,groups,spatial", GEOMETRIES)
@pytest.mark.parametrize("scaled", [True, False])
def test_signs_as_bits_equal_signs_as_floats(window, strides, padding, dilation, groups, spatial, scaled):
    """The compiled kernels, in float32 where they take the gradients too, against lax's convolution."""
    if padding in ("CIRCULAR", "REFLECT"):
        padding = "VALID"
    x, kernel, alpha = (a.astype(jnp.float32) for a in arrays(window, groups, spatial, 40 * groups, 24))
    x, kernel, alpha = sign(x), sign(kernel), alpha if scaled else None
    spec = ConvSpec.create(window, strides, padding, dilation, groups)
    y, pull = jax.vjp(lambda *args: scaled_conv(*args, spec, False), x, kernel, alpha)
    y_bits, pull_bits = jax.vjp(jax.jit(lambda *args: scaled_conv(*args, spec, True)), x, kernel, alpha)
    np.testing.assert_array_equal(y_bits, y)
    dy = jnp.asarray(np.random.default_rng(1).standard_normal(y.shape), jnp.float32)
    for got, expected in zip(pull_bits(dy), pull(dy), strict=True):
        if expected is not None:
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_signs_as_bits_in_half_precision(dtype):
    x, kernel, alpha = (a.astype(dtype) for a in arrays((3, 3), 1, (8, 8), 600, 8))
    x, kernel = sign(x), sign(kernel)
    spec = ConvSpec.create((3, 3), 1, "SAME", 1, 1)
    exact = scaled_conv(x.astype(jnp.float32), kernel.astype(jnp.float32), None, spec)
    y, pull = jax.vjp(lambda *args: scaled_conv(*args, spec, True), x, kernel, alpha)
    np.testing.assert_array_equal(y, exact.astype(dtype) * alpha[None, None, None])
    assert [g.dtype for g in pull(y)] == [dtype] * 3


def test_signs_as_bits_are_taken():
    """Where there are compiled kernels: else the tests above compare XLA with itself."""
    if native.default_backend() == "xla":
        pytest.skip("no compiled kernels")
    x, kernel, alpha = (a.astype(jnp.float32) for a in arrays((3, 3), 1, (8, 8)))
    spec = ConvSpec.create((3, 3), 1, "SAME", 1, 1)

    def loss(x, kernel, alpha, signs):
        return scaled_conv(x, kernel, alpha, spec, signs).sum()

    step = jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=3)
    for signs in (True, False):
        text = step.lower(x, kernel, alpha, signs).as_text()
        assert [name in text for name in ("recu_kernel_gradient", "recu_input_gradient")] == [signs] * 2
        assert ("stablehlo.convolution" in text) == (not signs)


@pytest.mark.parametrize("window,strides,padding,dilation,groups,spatial", MORE_GEOMETRIES)
def test_layers_equal_flax_conv_of_signs(window, strides, padding, dilation, groups, spatial):
    """Outputs, and gradients by the chain rule from those of `nn.Conv` with respect to signs."""
    x, kernel, alpha = arrays((window,) if isinstance(window, int) else window, groups, spatial)
    options = {"padding": padding, "kernel_dilation": dilation, "feature_group_count": groups}
    plain = nn.Conv(8, window, strides, use_bias=False, **options)
    linen = BinaryConv(8, window, strides, standardize=False, **options)
    of_nnx = recu_jax.nnx.BinaryConv(4, 8, window, strides, standardize=False, **options, rngs=nnx.Rngs(0))
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


@pytest.mark.parametrize("padding", ["FULL", "CAUSAL", (1,), ((1, 2, 3), 1), 1.5, (("a", "b"), 1), None])
def test_unknown_padding(padding):
    with pytest.raises(UserError, match=re.escape(f"padding is {padding!r} for a 2-D convolution")):
        ConvSpec.create((3, 3), 1, padding, 1, 1)
