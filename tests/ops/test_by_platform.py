"""Tests functions that are traced once for all platforms: what runs where, derivatives and `vmap`."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax.ops import native
from recu_jax.ops.by_platform import by_platform, compiled_or_xla

X = jnp.arange(6.0).reshape(2, 3)
EVERY = ("cpu", "cuda", "rocm", "tpu")


def forms(x):
    return by_platform({"x": x}, cpu=lambda a: (jnp.sin(a["x"]), a["x"]), default=lambda a: (a["x"] * 2, a["x"]))[0]


def kernels(x):
    return compiled_or_xla(x, None, compiled=lambda backend, x, none: jnp.sin(x), xla=lambda x, none: x * 2)


def is_of_cpus(function, x, platforms, **options):
    text = jax.jit(function).trace(x).lower(lowering_platforms=platforms, **options).as_text()
    return "sine" in text, "multiply" in text, "case" in text


def test_the_program_of_a_platform_holds_its_form_alone():
    assert is_of_cpus(forms, X, ("cpu",)) == (True, False, False)
    for platform in EVERY[1:]:
        assert is_of_cpus(forms, X, (platform,)) == (False, True, False)
    assert is_of_cpus(forms, X, EVERY) == (True, True, True)
    np.testing.assert_array_equal(jax.jit(forms)(X), jnp.sin(X))
    np.testing.assert_array_equal(forms(X), jnp.sin(X))


def test_gpus_may_have_a_form_of_their_own():
    def three(x):
        return by_platform(x, cpu=lambda x: x, default=lambda x: x * 2, gpu=jnp.sin)

    for function, argument in ((three, X), (jax.vmap(three), X)):
        found = [is_of_cpus(function, argument, (platform,))[:2] for platform in EVERY]
        assert found == [(False, False), (True, False), (True, False), (False, True)]
    np.testing.assert_array_equal(jax.grad(lambda x: three(x).sum())(X), 2 * jnp.ones_like(X))


@pytest.mark.parametrize("host", ["cpu", "tpu"])
def test_the_device_decides_and_not_the_host(host, monkeypatch):
    monkeypatch.setattr(native, "cpu_backend", lambda: "avx2")
    monkeypatch.setattr(jax, "default_backend", lambda: host)
    assert is_of_cpus(kernels, X, ("cpu",)) == (True, False, False)
    assert is_of_cpus(kernels, X, ("tpu",)) == (False, True, False)
    np.testing.assert_array_equal(kernels(X), jnp.sin(X))


def test_where_there_are_no_kernels_xla_computes(monkeypatch):
    monkeypatch.setattr(native, "cpu_backend", lambda: "xla")
    jax.clear_caches()  # JAX remembers the programs of other tests
    assert is_of_cpus(kernels, X, ("cpu",)) == (False, True, False)
    np.testing.assert_array_equal(kernels(X), X * 2)


def test_exported_programs_hold_no_compiled_kernel():
    for platforms in (("cpu",), EVERY):
        text = jax.export.export(jax.jit(kernels), platforms=platforms)(X).mlir_module()
        assert "sine" not in text and "case" not in text
    assert "sine" in jax.export.export(jax.jit(forms), platforms=("cpu",))(X).mlir_module()


@pytest.mark.parametrize("function", [forms, kernels])
def test_derivatives_are_those_of_the_other_form(function, monkeypatch):
    monkeypatch.setattr(native, "cpu_backend", lambda: "avx2")
    value, slope = jax.jvp(function, (X,), (jnp.ones_like(X),))
    np.testing.assert_array_equal(value, jnp.sin(X))
    np.testing.assert_array_equal(slope, jnp.full_like(X, 2))
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda x: function(x).sum()))(X), jnp.full_like(X, 2))


def test_arguments_that_do_not_move_have_no_derivative():
    def scaled(n, x, y):
        return by_platform(n, x, y, cpu=lambda n, x, y: n * x * y, default=lambda n, x, y: n * x * y)

    slope = jax.grad(lambda x: scaled(3, x, jnp.float32(2)))(jnp.float32(5))
    assert slope == 6


def test_maps():
    def weighted(x, w):
        return by_platform(x, w, cpu=lambda x, w: (x * w).sum(), default=lambda x, w: jnp.dot(x, w))

    w = jnp.array([1.0, 2.0, 3.0])
    for run in (lambda f: f, jax.jit):
        np.testing.assert_allclose(run(jax.vmap(weighted, (0, None)))(X, w), X @ w)
        twice = run(jax.vmap(jax.vmap(weighted), (None, 1)))(X, jnp.stack([X, X], 1))
        np.testing.assert_allclose(twice, [(X * X).sum(1)] * 2)
