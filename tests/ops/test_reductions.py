"""Compares sums that are computed as products with ones, and moments in one pass, with float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax.ops import reductions


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
@pytest.mark.parametrize("dtype,rtol", [("float32", 1e-6), ("bfloat16", 2**-8)])
def test_sums_and_their_gradients(kind, dtype, rtol, monkeypatch):
    if kind == "gpu":
        monkeypatch.setattr(reductions, "by_platform", lambda x, cpu, default: default(x))
    x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (60, 700)), dtype)
    exact = np.asarray(x, np.float64)
    for function, axis in ((reductions.sum_rows, 0), (reductions.sum_columns, 1)):
        got, pull = jax.vjp(function, x)
        assert got.dtype == dtype
        np.testing.assert_allclose(np.asarray(got, np.float64), exact.sum(axis), rtol=rtol)
        weights = jnp.arange(got.size).astype(dtype)
        np.testing.assert_array_equal(pull(weights)[0], jnp.broadcast_to(jnp.expand_dims(weights, axis), x.shape))


@pytest.mark.parametrize("function", [reductions.sum_rows, reductions.sum_columns])
def test_products_on_cpus_and_reductions_elsewhere(function):
    traced = jax.jit(function).trace(jnp.ones((6, 7)))
    for platform in ("cpu", "cuda", "rocm", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("dot_general" in text, "reduce" in text) == (platform == "cpu", platform != "cpu")


def in_one_pass(x, axis, sums=reductions._sums_in_parts):
    return reductions._moments_in_one_pass(functools.partial(sums, axis), x, axis, jnp.float32)


def apart(axis, x, y):
    return x.sum(axis), y.sum(axis)


@pytest.mark.parametrize("axis", [0, 1])
def test_moments_of_one_pass(axis):
    x = jnp.asarray(np.random.default_rng(0).normal(1000, 0.5, (300, 200)), jnp.float32)
    exact = np.asarray(x, np.float64)
    for mean, squares in (reductions.moments(x, axis, jnp.float32), in_one_pass(x, axis)):
        np.testing.assert_allclose(mean, exact.mean(axis), rtol=3e-6)
        # If x were not shifted before it is squared, these sums would be wrong by 10%.
        np.testing.assert_allclose(squares, exact.var(axis) * x.shape[axis], rtol=1e-3)


@pytest.mark.parametrize("axis,shape", [(0, (300, 200)), (1, (300, 200)), (1, (20, 37)), (1, (20, 6144))])
@pytest.mark.parametrize("mean", [0, 30])
def test_moments_of_bfloat16(axis, shape, mean):
    x = jnp.asarray(np.random.default_rng(0).normal(mean, 1, shape), jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    of_cpus = reductions.moments(x, axis, jnp.float32)
    for means, squares in (of_cpus, in_one_pass(x, axis), in_one_pass(x, axis, apart)):
        np.testing.assert_allclose(means, exact.mean(axis), rtol=1e-5, atol=1e-5)
        # The mean square is up to 900 times the variance, and float32 has 7 digits.
        np.testing.assert_allclose(squares, exact.var(axis) * x.shape[axis], rtol=1e-3)


def test_a_gpu_sums_in_equal_parts():
    assert [reductions._parts(n) for n in (1, 37, 64, 98, 7 * 7 * 512, 56 * 56 * 64)] == [1, 1, 32, 14, 32, 32]
    x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (60, 96)), jnp.float32)
    for axis in (0, 1):
        for got, wanted in zip(reductions._sums_in_parts(axis, x, x * x), (x, x * x), strict=True):
            np.testing.assert_allclose(got, np.asarray(wanted, np.float64).sum(axis), rtol=1e-6)


@pytest.mark.parametrize(
    "function,elsewhere",
    [(lambda x: reductions.moments(x, 0, jnp.float32), 2), (lambda x: reductions.sum_rows_of_both(x, x * x), 2)],
)
def test_a_gpu_sums_twice_in_one_reduction(function, elsewhere):
    traced = jax.jit(function).trace(jnp.ones((6, 7)))
    counts = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.reduce(")
        for platform in ("cpu", "cuda", "rocm", "tpu")
    }
    assert counts == {"cpu": 0, "cuda": 1, "rocm": 1, "tpu": elsewhere}


def test_both_sums_and_their_gradients():
    x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (60, 70)), jnp.float32)
    (sums, squares), pull = jax.vjp(lambda x: reductions.sum_rows_of_both(x, x * x), x)
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(sums, exact.sum(0), rtol=1e-6)
    np.testing.assert_allclose(squares, (exact**2).sum(0), rtol=1e-6)
    np.testing.assert_allclose(pull((jnp.ones(70), 3 * jnp.ones(70)))[0], 1 + 6 * exact, rtol=1e-6)
    for got, wanted in zip(reductions._sums_at_once(0, x, x * x), (sums, squares), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
