"""Compares the signs of standardized weights and their gradient with the formulas of SPEC.md 1, which JAX derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax import UserError, functional
from recu_jax.ops import native
from recu_jax.ops.latent_weights import standardized_signs

SHAPES = [(3, 3, 5, 7), (1, 1, 2, 1), (2, 3), (11, 130), (3, 3, 70, 65), (2, 3, 1, 3, 16)]


@pytest.fixture(params=["fastest", "avx2", "portable", "xla"])
def backend(request, monkeypatch):
    if request.param != "fastest":
        if request.param not in (*native.instruction_sets(), "xla"):
            pytest.skip("not of this processor")
        monkeypatch.setattr(native, "cpu_backend", lambda: request.param)
    jax.clear_caches()
    return native.cpu_backend()


def draw(shape):
    r = np.random.default_rng(sum(shape))
    return np.float32(r.normal(0.03, 0.1, shape)), np.float32(r.normal(size=shape))


def signs_and_gradient(function, kernel, gradient):
    signs, back = jax.vjp(jax.jit(function), jnp.asarray(kernel))
    return signs, back(jnp.asarray(gradient, signs.dtype))[0]


def unfused(kernel, tau, b=2.0):
    return functional.ste_sign(functional.clamped_weights(kernel, tau, b=b))


@pytest.mark.parametrize("tau", [None, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_formulas_in_float64(shape, tau, backend, x64):
    kernel, gradient = draw(shape)
    got = signs_and_gradient(lambda w: functional.binarize_weights(w, tau, b=1.5), kernel, gradient)
    want = signs_and_gradient(lambda w: unfused(w, tau, b=1.5), np.float64(kernel), gradient)
    np.testing.assert_array_equal(got[0], want[0])
    assert got[0].dtype == got[1].dtype == jnp.float32
    # With few weights in a channel, terms of this size cancel.
    terms = 1.5 * np.sqrt(2) / np.sqrt(np.var(kernel, axis=tuple(range(kernel.ndim - 1)), ddof=1) + 1e-5) * gradient
    np.testing.assert_allclose(got[1], want[1], rtol=0, atol=1e-6 * np.abs(terms).max())


def test_float64_is_exact(x64):
    kernel, gradient = (np.float64(array) for array in draw((3, 3, 5, 7)))
    got = signs_and_gradient(lambda w: functional.binarize_weights(w, 0.8), kernel, gradient)
    want = signs_and_gradient(lambda w: unfused(w, 0.8), kernel, gradient)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_allclose(got[1], want[1], rtol=0, atol=1e-13 * float(jnp.abs(want[1]).max()))


def test_bfloat16_is_computed_in_float32():
    kernel, gradient = (jnp.asarray(array, jnp.bfloat16) for array in draw((3, 3, 5, 7)))
    got = signs_and_gradient(lambda w: functional.binarize_weights(w, 0.8), kernel, gradient)
    wide = (array.astype(jnp.float32) for array in (kernel, gradient))
    want = signs_and_gradient(lambda w: functional.binarize_weights(w, 0.8), *wide)
    assert got[0].dtype == got[1].dtype == jnp.bfloat16
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1].astype(jnp.bfloat16))


def test_a_bias_of_the_weights_does_not_matter(backend):
    """A one-pass variance, `mean(w^2) - mean(w)^2`, would lose all digits here."""
    kernel, gradient = draw((3, 3, 64, 16))
    rounded = np.float32(kernel + np.float32(100)) - np.float32(100)
    _, far = signs_and_gradient(lambda w: functional.binarize_weights(w, 0.8), rounded + np.float32(100), gradient)
    _, near = signs_and_gradient(lambda w: functional.binarize_weights(w, 0.8), rounded, gradient)
    assert np.mean(np.abs(far - near) > 1e-3 * np.abs(near).max()) < 0.01  # some weights are next to the bound


def test_equal_weights(backend):
    """All standardized weights are 0, so the bound is 0: they are inside it, and their signs are +1."""
    _, gradient = draw((3, 3, 4, 8))
    kernel = np.full((3, 3, 4, 8), 0.5, np.float32)
    for tau in (0.9, 1.0, None):
        signs, passed = signs_and_gradient(lambda w, tau=tau: functional.binarize_weights(w, tau), kernel, gradient)
        want = (gradient - gradient.mean((0, 1, 2))) * 2 * np.sqrt(2 / 1e-5)
        assert (signs == 1).all()
        np.testing.assert_allclose(passed, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_nan_stays_in_its_channel(number, backend):
    kernel, _ = draw((3, 3, 5, 20))
    kernel[1, 2, 3, 17] = number
    signs = functional.binarize_weights(jnp.asarray(kernel), 0.9)
    assert jnp.isnan(signs).all((0, 1, 2)).tolist() == [i == 17 for i in range(20)]
    assert jnp.isnan(signs).any((0, 1, 2)).tolist() == [i == 17 for i in range(20)]


def test_under_vmap(backend):
    kernel, gradient = draw((3, 3, 4, 9))
    kernels, taus = np.stack([kernel, kernel[::-1] ** 3]), jnp.array([0.6, 0.9])

    def loss(kernel, tau):
        return (functional.binarize_weights(kernel, tau) * gradient).sum()

    got = jax.vmap(jax.grad(loss))(kernels, taus)
    for i in range(2):
        _, want = signs_and_gradient(lambda w, i=i: unfused(w, taus[i]), kernels[i], gradient)
        np.testing.assert_allclose(got[i], want, rtol=0, atol=1e-5 * float(jnp.abs(want).max()))


@pytest.mark.parametrize("tau", [None, 0.8])
def test_second_derivatives(tau, backend):
    kernel, along = draw((3, 3, 4, 9))
    c = jnp.asarray(draw((3, 3, 4, 9))[1])

    def along_gradient(function):
        def loss(w):
            signs = function(w, tau)
            return (c * signs**2 * (signs + 1.3)).sum()

        return jax.jvp(jax.grad(loss), (jnp.asarray(kernel),), (jnp.asarray(along),))[1]

    got, want = along_gradient(functional.binarize_weights), along_gradient(unfused)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * float(jnp.abs(want).max()))


def test_compiled_kernels_are_used(backend):
    kernel, _ = draw((3, 3, 5, 7))
    text = jax.jit(jax.grad(lambda w: functional.binarize_weights(w, 0.9).sum())).lower(kernel).as_text()
    expected = backend != "xla"
    assert ("recu_weight_signs" in text) == ("recu_weight_gradient" in text) == expected


def test_arguments_that_only_the_formulas_take():
    """No features; a tau for each feature; a b that JAX traces."""
    assert functional.binarize_weights(jnp.zeros((3, 3, 4, 0)), 0.9).shape == (3, 3, 4, 0)
    kernel, gradient = draw((3, 3, 5, 7))
    for got, want in [
        (lambda w: functional.binarize_weights(w, jnp.full(7, 0.8)), lambda w: unfused(w, jnp.full(7, 0.8))),
        (lambda w: jax.jit(lambda b: functional.binarize_weights(w, 0.8, b=b))(1.5), lambda w: unfused(w, 0.8, b=1.5)),
    ]:
        with jax.numpy_rank_promotion("allow"):
            np.testing.assert_array_equal(*(signs_and_gradient(f, kernel, gradient)[1] for f in (got, want)))


@pytest.mark.parametrize("axis", range(4))
def test_a_kernel_that_is_sharded_explicitly(axis):
    mesh = jax.make_mesh((2,), ("m",), axis_types=(jax.sharding.AxisType.Explicit,), devices=jax.devices()[:2])
    kernel, gradient = draw((4, 2, 6, 8))
    _, want = signs_and_gradient(lambda w: functional.binarize_weights(w, 0.8), kernel, gradient)
    spec = jax.sharding.PartitionSpec(*[None] * axis, "m")
    with jax.set_mesh(mesh):
        placed = [jax.device_put(array, jax.sharding.NamedSharding(mesh, spec)) for array in (kernel, gradient)]
        got = jax.jit(lambda w, g: jax.vjp(lambda w: functional.binarize_weights(w, 0.8), w)[1](g)[0])(*placed)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * float(jnp.abs(want).max()))


def test_has_no_forward_mode():
    kernel, _ = draw((3, 3, 4, 9))
    with pytest.raises(UserError, match=r"no forward-mode derivative"):
        jax.jvp(lambda w: standardized_signs(w, 1.0, 2.8, 1e-5), (kernel,), (kernel,))
