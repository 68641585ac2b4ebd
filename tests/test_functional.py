"""Compares the functions of ReCU with NumPy, SciPy, closed-form gradients and random samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import stats

from recu_jax import functional as F  # noqa: N812
from recu_jax.errors import UserError

DTYPES = (*(pytest.param(d, marks=pytest.mark.slow) for d in ("float16", "bfloat16", "float64")), "float32")


def normal(shape, dtype="float32", seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def binary_conv(x, kernel, alpha=None, tau=None, train=False, **options):
    """Computes a binary convolution by SPEC.md sections 1 to 3."""
    signs = F.binarize_activations(x, x.ndim - 1, train=train)
    return F.conv_of_signs(signs, F.binarize_weights(kernel, tau, **options), alpha)


def binary_dense(x, kernel, alpha, tau, train):
    return F.dense_of_signs(F.binarize_activations(x, 1, train=train), F.binarize_weights(kernel, tau), alpha)


def test_standardize_gives_every_channel_the_laplace_deviation():
    kernel = np.random.default_rng(0).normal(3.0, 0.2, (3, 3, 8, 16)).astype(np.float32)
    got = np.asarray(F.standardize(kernel, b=1.5))
    flat = kernel.reshape(-1, 16)
    centred = flat - flat.mean(0)
    np.testing.assert_allclose(
        got.reshape(-1, 16), centred * np.sqrt(2) * 1.5 / np.sqrt(flat.var(0, ddof=1) + 1e-5), rtol=2e-5, atol=1e-5
    )


def test_standardize_without_centring():
    kernel = normal((3, 3, 4, 2)) + 1
    np.testing.assert_array_equal(np.sign(F.standardize(kernel, center=False)), np.sign(kernel))


@pytest.mark.slow
def test_b_and_center_reach_the_weights_of_a_convolution():
    x, kernel = normal((1, 5, 5, 4)), normal((3, 3, 4, 2), seed=1) + 0.5
    flat = np.asarray(kernel, np.float64)
    uncentred = flat * np.sqrt(2) * 0.7 / np.sqrt(flat.var((0, 1, 2), ddof=1) + 1e-5)
    np.testing.assert_allclose(F.clamped_weights(kernel, b=0.7, center=False), uncentred, rtol=1e-5)
    np.testing.assert_array_equal(
        binary_conv(x, kernel, center=False), binary_conv(x, jnp.sign(kernel), standardize=False)
    )
    # b scales the weights and their gradient, and changes no sign.
    np.testing.assert_array_equal(binary_conv(x, kernel, b=0.7), binary_conv(x, kernel))
    gradients = [jax.grad(lambda k: binary_conv(x, k, b=b, train=True).sum())(kernel) for b in (1.0, 3.0)]
    np.testing.assert_allclose(3 * gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def test_standardize_needs_two_weights_a_channel():
    with pytest.raises(UserError, match="standardize=False"):
        F.standardize(jnp.ones((1, 1, 1, 4)))


@pytest.mark.parametrize("tau", [0.6, 0.85, 0.99])
def test_quantile_is_that_of_the_laplace_distribution(tau):
    np.testing.assert_allclose(F.laplace_quantile(1.7, tau), stats.laplace.ppf(tau, scale=1.7), rtol=1e-5)


def test_quantile_at_one_is_infinite():
    assert F.laplace_quantile(2.0, 1.0) == np.inf


@pytest.mark.parametrize("tau", [0.5, 0.3, 1.01, -1])
def test_tau_outside_its_range(tau):
    with pytest.raises(UserError, match=r"above 0\.5 and at most 1"):
        F.laplace_quantile(1.0, tau)


@pytest.mark.parametrize("ends", [(0.5, 0.9), (0.3, 0.9), (-0.2, 0.9), (0.95, 0.9), (0.9, 1.01)])
def test_a_range_of_tau_that_is_none(ends):
    with pytest.raises(UserError, match=f"config.tau_min is {ends[0]} and config.tau_max is {ends[1]}; they must"):
        F.check_tau_range(*ends, prefix="config.")
    F.check_tau_range(0.51, 1.0)


@pytest.mark.parametrize("tau", [0.85, 0.9, 0.99])
def test_recu_clips_the_share_that_theory_says(tau):
    w = stats.laplace.rvs(scale=0.7, size=(200_000, 1), random_state=np.random.default_rng(1)).astype(np.float32)
    clipped = np.asarray(F.recu(w, tau))
    share = (clipped != w).mean()
    assert abs(share - 2 * (1 - tau)) < 4 * np.sqrt(2 * (1 - tau) / w.size)
    bound = stats.laplace.ppf(tau, scale=np.abs(w).mean())
    np.testing.assert_allclose(clipped, np.clip(w, -bound, bound), rtol=1e-5)


def test_recu_gradient_is_one_inside_and_zero_outside():
    w = normal((1000, 3))
    bound = stats.laplace.ppf(0.9, scale=np.abs(w).mean())
    grad = jax.grad(lambda w: F.recu(w, 0.9).sum())(w)
    np.testing.assert_array_equal(grad, (np.abs(w) <= bound).astype(np.float32))


@pytest.mark.parametrize("function", [F.sign, F.ste_sign, F.approx_sign])
def test_signs_are_never_zero(function):
    np.testing.assert_array_equal(function(jnp.array([-2.0, -0.0, 0.0, 1e-30, 3.0])), [-1, 1, 1, 1, 1])


def test_sign_gradients():
    x = jnp.linspace(-2, 2, 41)
    weight = jnp.arange(41.0)
    np.testing.assert_array_equal(jax.grad(lambda x: (weight * F.ste_sign(x)).sum())(x), weight)
    np.testing.assert_allclose(
        jax.grad(lambda x: (weight * F.approx_sign(x)).sum())(x), weight * np.maximum(0, 2 - 2 * abs(x)), rtol=1e-6
    )


def test_normalize_sample_gives_unit_unbiased_variance():
    x = normal((4, 5, 6, 7)) * 3 + 10
    y = np.asarray(F.normalize_sample(x, 3)).reshape(4, -1)
    np.testing.assert_allclose(y.var(1, ddof=1), 1, rtol=1e-4)
    np.testing.assert_allclose(
        y, np.asarray(x).reshape(4, -1) / np.asarray(x).reshape(4, -1).std(1, ddof=1)[:, None], rtol=1e-4
    )


@pytest.mark.usefixtures("x64", "platform_forms")
@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 1, 2), (3, 1, 1)])
def test_normalize_sample_gradient_against_finite_differences(shape):
    check_grads(lambda x: F.normalize_sample(x, 2), (normal(shape, "float64") + 0.5,), order=1, modes=["rev"])


@pytest.mark.usefixtures("x64", "platform_forms")
def test_signs_have_the_gradient_of_normalized_samples():
    x, dy = normal((3, 4, 5), "float64") * 2 + 0.3, normal((3, 4, 5), "float64", seed=1)
    signs, pull = jax.vjp(lambda x: F.binarize_activations(x, 2, train=True), x)
    np.testing.assert_array_equal(signs, np.where(np.asarray(x) >= 0, 1, -1))

    def smooth(x):
        """Computes the sum whose gradient the estimator gives: Bi-Real Net's polynomial of the normalized samples."""
        rows = x.reshape(3, -1)
        n = (rows / np.sqrt(rows.var(1, ddof=1)[:, None] + 1e-5)).clip(-1, 1)
        return (np.where(n < 0, 2 * n + n**2, 2 * n - n**2) * np.asarray(dy).reshape(3, -1)).sum()

    x = np.asarray(x)
    steps = 1e-6 * np.eye(x.size).reshape(-1, *x.shape)
    wanted = [(smooth(x + step) - smooth(x - step)) / 2e-6 for step in steps]
    np.testing.assert_allclose(np.ravel(pull(dy)[0]), wanted, atol=1e-7)


@pytest.mark.usefixtures("x64")
def test_standardize_gradient_against_finite_differences():
    check_grads(F.standardize, (normal((3, 3, 2, 4), "float64"),), order=1, modes=["rev"])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_are_kept(dtype):
    x, kernel, alpha = normal((2, 6, 6, 4), dtype), normal((3, 3, 4, 8), dtype), normal((8,), dtype)
    for y in (
        F.standardize(kernel),
        F.recu(kernel, 0.9),
        F.clamped_weights(kernel, 0.9),
        F.binarize_weights(kernel, 0.9),
        F.mean_alpha(kernel),
        F.normalize_sample(x, 3),
        F.binarize_activations(x, 3, train=True),
        binary_conv(x, kernel, alpha, 0.9, train=True),
        binary_dense(x, normal((4, 8), dtype), alpha, 0.9, train=True),
    ):
        assert y.dtype == dtype
    grads = jax.grad(lambda *a: binary_conv(*a, 0.9, train=True).astype("float32").sum(), (0, 1, 2))(x, kernel, alpha)
    assert [g.dtype for g in grads] == [dtype] * 3
    assert F.laplace_scale(kernel).dtype == ("float64" if dtype == "float64" else "float32")


def test_bfloat16_statistics_are_float32():
    # 32,768 numbers around 4. Sums in bfloat16, which has 8 bits of precision, would lose their spread.
    x = (normal((1, 64, 64, 8)) + 4).astype("bfloat16")
    exact = np.asarray(x, np.float64).std(ddof=1)
    np.testing.assert_allclose(
        np.asarray(F.normalize_sample(x, 3), np.float64), np.asarray(x, np.float64) / exact, rtol=2**-8
    )


@pytest.mark.usefixtures("x64")
def test_second_derivatives_of_signs_are_those_of_normalized_samples():
    x, v, w = (normal((3, 4, 5), "float64", seed) for seed in range(3))

    def gradient(signs):
        return jax.grad(lambda x: (signs(x) * w).sum() ** 2)

    def of_samples(x):
        return F.approx_sign(F.normalize_sample(x, 2))

    ours, wanted = (
        jax.jvp(gradient(signs), (x,), (v,))[1]
        for signs in (lambda x: F.binarize_activations(x, 2, train=True), of_samples)
    )
    assert jnp.abs(wanted).max() > 1
    np.testing.assert_allclose(ours, wanted, rtol=1e-9)


def test_an_empty_batch_has_no_samples():
    x = jnp.zeros((0, 4, 5))
    signs = jax.vjp(lambda x: F.binarize_activations(x, 2, train=True), x)
    assert F.normalize_sample(x, 2).shape == signs[0].shape == signs[1](signs[0])[0].shape == x.shape


def test_tau_never_changes_the_output():
    x, kernel = normal((2, 8, 8, 4)), normal((3, 3, 4, 8))
    y = binary_conv(x, kernel)
    for tau in (0.6, 0.85, 1.0):
        np.testing.assert_array_equal(binary_conv(x, kernel, tau=tau, train=True), y)


def test_outputs_are_integers_and_padding_counts_zero():
    x, kernel = normal((1, 4, 4, 1)), normal((3, 3, 1, 1))
    y = np.asarray(binary_conv(x, kernel))[0, ..., 0]
    taps = np.array([[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]])
    np.testing.assert_array_equal(y % 2, taps % 2)
    assert (np.abs(y) <= taps).all()


@pytest.mark.parametrize("tau", [0.85, 0.99])
def test_tau_is_differentiated_without_trouble_inside_jit(tau):
    kernel = normal((3, 3, 4, 8))
    grad = jax.jit(jax.grad(lambda k, t: (F.recu(F.standardize(k), t) ** 2).sum()))(kernel, jnp.float32(tau))
    assert np.isfinite(grad).all() and (grad != 0).any()
