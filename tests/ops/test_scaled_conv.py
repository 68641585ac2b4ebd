"""Compares the explicit backward pass, and signs as bits, with JAX's own convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from recu_jax.functional import sign
from recu_jax.ops import native
from recu_jax.ops.conv import ConvSpec
from recu_jax.ops.scaled_conv import nan_of_samples, scaled_conv
from tests.support.geometries import GEOMETRIES, arrays


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("window,strides,padding,dilation,groups,spatial", GEOMETRIES)
@pytest.mark.parametrize("scaled", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_gradients_equal_those_of_lax(window, strides, padding, dilation, groups, spatial, scaled):
    if padding in ("CIRCULAR", "REFLECT"):
        padding = "VALID"  # these are padded with jnp.pad before the convolution
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


@pytest.mark.slow
@pytest.mark.parametrize("window,strides,padding,dilation,groups,spatial", GEOMETRIES)
@pytest.mark.parametrize("scaled", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_signs_as_bits_equal_signs_as_floats(window, strides, padding, dilation, groups, spatial, scaled):
    """Compares the compiled kernels with lax's convolution. In float32 the kernels compute the gradients, too."""
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


@pytest.mark.slow
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
    """Checks that compiled kernels are used if they exist. Otherwise the tests above would compare XLA with itself."""
    if native.cpu_backend() == "xla":
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


def test_the_gradient_of_alpha_is_summed_in_the_dtype_of_alpha():
    """A bfloat16 sum over the 9 x 256 products of a window would be wrong by 0.2%."""
    r = np.random.default_rng(0)
    x, kernel = (jnp.asarray(r.choice([-1.0, 1.0], shape), jnp.bfloat16) for shape in ((2, 6, 6, 256), (3, 3, 256, 4)))
    alpha, dy = jnp.ones((4,), jnp.float32), jnp.ones((2, 6, 6, 4), jnp.bfloat16)
    spec = ConvSpec.create((3, 3), 1, "SAME", 1, 1)
    _, pull = jax.vjp(lambda a: scaled_conv(x, kernel, a, spec, True), alpha)
    expected = scaled_conv(x.astype(jnp.float32), kernel.astype(jnp.float32), None, spec).sum((0, 1, 2))
    np.testing.assert_allclose(pull(dy)[0], expected, rtol=1e-3)


@pytest.mark.parametrize(
    "kind", ["penalty", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("hessian", "mixed", "no alpha"))]
)
def test_derivatives_of_gradients_of_bits_are_those_of_floats(kind):
    if native.cpu_backend() == "xla":
        pytest.skip("no compiled kernels")
    x, kernel, alpha = (a.astype(jnp.float32) for a in arrays((3, 3), 1, (6, 6), 40, 8))
    x, kernel, alpha = sign(x), sign(kernel), None if kind == "no alpha" else alpha
    spec = ConvSpec.create((3, 3), 2, "SAME", 1, 1)
    directions = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), (x, kernel, alpha))

    def derivatives(x, kernel, alpha, signs):
        def loss(x, kernel, alpha):
            return (scaled_conv(x, kernel, alpha, spec, signs) ** 3).sum()

        gradients = jax.grad(loss, (0, 1) if alpha is None else (0, 1, 2))
        if kind == "penalty":
            return jax.grad(lambda k: (jax.grad(loss)(x, k, alpha) ** 2).sum())(kernel)
        if kind == "mixed":
            return jax.grad(lambda x: jnp.vdot(gradients(x, kernel, alpha)[1], directions[1]))(x)
        return jax.jvp(gradients, (x, kernel, alpha), directions)[1]

    run = jax.jit(derivatives, static_argnums=3)
    got, expected = run(x, kernel, alpha, True), run(x, kernel, alpha, False)
    assert all(np.any(np.asarray(a)) for a in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max()), got, expected)


@pytest.mark.parametrize("shape", [(4, 6), (4, 5, 6), (4, 3, 5, 6), (4, 2, 3, 5, 6), (4, 2, 2, 3, 5, 6), (0, 3, 5, 6)])
def test_each_sample_with_a_nan_is_found(shape):
    r = np.random.default_rng(0)
    x = np.where(r.standard_normal(shape) >= 0, np.float32(1), np.float32(-1))
    flat = x.reshape(shape[0], np.prod(shape[1:]))
    if len(flat):
        flat[0, 0] = flat[1, -1] = flat[3, r.integers(flat.shape[1])] = np.nan
    expected = np.where(np.isnan(flat).any(1), np.float32(np.nan), np.float32(0))
    np.testing.assert_array_equal(nan_of_samples(jnp.asarray(x)), expected)
