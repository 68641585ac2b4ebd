"""Compares the compiled kernels' unit (convolution, batch norm, shortcut, hard tanh) with its parts in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax import functional
from recu_jax.models.batch_norm import EPSILON, normalize
from recu_jax.ops import native
from recu_jax.ops.conv import ConvSpec
from recu_jax.ops.unit import is_served, unit, unit_in_evaluation

SHAPES = [
    # batch, side, in_features, features, stride, shortcut
    pytest.param((5, 8, 16, 16, 1, "identity"), id="identity"),
    pytest.param((4, 8, 16, 32, 2, "array"), id="stride"),
    pytest.param((3, 9, 5, 7, 1, None), id="odd"),
    pytest.param((2, 5, 300, 300, 1, "identity"), id="large kernel", marks=pytest.mark.slow),
    pytest.param((17, 4, 64, 40, 1, None), id="odd batch", marks=pytest.mark.slow),
]
pytestmark = pytest.mark.skipif(not native.instruction_sets(), reason="no compiled kernels")


def parts(x, kernel, alpha, scale, bias, shortcut, stride, clamp):
    signs = functional.binarize_activations(x, 3, train=True)
    y = functional.conv_of_signs(signs, kernel, alpha, strides=stride, padding=((1, 1), (1, 1)))
    y, mean, var = normalize(y, scale, bias, None)
    y = y + x if isinstance(shortcut, str) else y if shortcut is None else y + shortcut
    return jax.nn.hard_tanh(y) if clamp else y, mean, var


def arguments(batch, side, in_features, features, stride, shortcut):
    r = np.random.default_rng(0)
    out = (batch, -(-side // stride), -(-side // stride), features)
    x = r.normal(size=(batch, side, side, in_features)).clip(-1, 1)
    kernel = r.choice([-1.0, 1.0], (3, 3, in_features, features))
    numbers = [x, kernel, *(r.uniform(0.1, 1, features) for _ in range(3))]
    given = r.normal(size=out) if shortcut == "array" else shortcut
    numbers, dz = [np.float32(n) for n in numbers], np.float32(r.normal(size=out))
    return numbers, np.float32(given) if shortcut == "array" else given, dz


def with_gradients(function, numbers, shortcut, dz):
    """Returns ((loss, results of `function`), gradients with respect to all arrays)."""
    arrays = [*numbers, *([] if shortcut is None or isinstance(shortcut, str) else [shortcut])]

    def loss(*arrays):
        results = function(*arrays[:5], arrays[5] if len(arrays) > 5 else shortcut)
        return (results[0] * dz).sum(), results

    return jax.jit(jax.value_and_grad(loss, tuple(range(len(arrays))), has_aux=True))(*arrays)


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["fastest", "portable"])
@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_its_parts_in_float64(shape, clamp, instructions, x64, monkeypatch):
    if instructions == "portable":
        monkeypatch.setattr(native, "cpu_backend", lambda: "portable")
    stride = shape[4]
    spec = ConvSpec.create((3, 3), stride, ((1, 1), (1, 1)), 1, 1)
    numbers, shortcut, dz = arguments(*shape)
    assert is_served(jnp.asarray(numbers[0]), numbers[1].shape, spec)
    (_, got), gradients = with_gradients(lambda *a: unit(*a, spec, EPSILON, None, clamp), numbers, shortcut, dz)
    monkeypatch.undo()
    wide = [np.float64(n) for n in numbers]
    given = np.float64(shortcut) if isinstance(shortcut, np.ndarray) else shortcut
    (_, expected), slopes = with_gradients(lambda *a: parts(*a, stride, clamp), wide, given, np.float64(dz))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * np.abs(b).max())
    for i, (a, b) in enumerate(zip(gradients, slopes, strict=True)):
        # Alpha's gradient is nearly 0, because batch norm undoes a scale. Its error is relative to the summed terms.
        atol = 1e-6 * np.abs(slopes[1]).sum((0, 1, 2)).max() if i == 2 else 1e-5 * np.abs(b).max()
        np.testing.assert_allclose(a, b, atol=atol, err_msg=f"argument {i}")


@pytest.mark.parametrize("where", ["x", "kernel"])
def test_nan_stays(where):
    numbers, _, _ = arguments(2, 5, 4, 6, 1, None)
    spec = ConvSpec.create((3, 3), 1, ((1, 1), (1, 1)), 1, 1)
    numbers[where == "kernel"].flat[0] = np.nan
    z, mean, _ = jax.jit(lambda *a: unit(*a, None, spec, EPSILON, None))(*numbers)
    # The convolution spreads a NaN of x over all channels, and batch norm spreads it over its channel.
    assert np.isnan(z[..., 0]).all() and np.isnan(mean[0])
    assert np.isnan(z).all() == (where == "x")


def evaluated(x, kernel, alpha, scale, bias, shortcut, stride, clamp):
    y = functional.conv_of_signs(functional.sign(x), kernel, alpha, strides=stride, padding=((1, 1), (1, 1)))
    y = (np.asarray(y) - scale) * bias + scale
    y = y + x if isinstance(shortcut, str) else y if shortcut is None else y + shortcut
    return np.clip(y, -1, 1) if clamp else y


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_evaluation_equals_its_parts_in_float64(shape, clamp, x64):
    spec = ConvSpec.create((3, 3), shape[4], ((1, 1), (1, 1)), 1, 1)
    (x, kernel, alpha, scale, bias), shortcut, _ = arguments(*shape)
    norm = jnp.stack([scale, bias, scale])  # mean, factor, bias
    got = jax.jit(lambda *a: unit_in_evaluation(*a, shortcut, spec, clamp))(x, kernel, alpha, norm)
    given = np.float64(shortcut) if isinstance(shortcut, np.ndarray) else shortcut
    expected = evaluated(*(np.float64(a) for a in (x, kernel, alpha, scale, bias)), given, shape[4], clamp)
    np.testing.assert_allclose(got, expected, atol=1e-5 if clamp else 1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("where", ["x", "kernel"])
def test_nan_stays_in_evaluation(where):
    (x, kernel, alpha, scale, bias), _, _ = arguments(3, 5, 4, 6, 1, None)
    spec = ConvSpec.create((3, 3), 1, ((1, 1), (1, 1)), 1, 1)
    (x if where == "x" else kernel).flat[0] = np.nan
    z = np.isnan(unit_in_evaluation(x, kernel, alpha, jnp.stack([scale, bias, scale]), None, spec))
    # A NaN of x stays in its sample, and one of the kernel in its channel.
    assert z[0].all() and not z[1:].any() if where == "x" else z[..., 0].all() and not z[..., 1:].any()


def test_statistics_of_all_devices():
    numbers, _, dz = arguments(8, 5, 4, 6, 1, None)
    spec = ConvSpec.create((3, 3), 1, ((1, 1), (1, 1)), 1, 1)

    def loss(x, dz, axis_name):
        z, mean, var = unit(x, *numbers[1:], None, spec, EPSILON, axis_name)
        return (z * dz).sum(), (z, mean, var)

    gradient = jax.grad(loss, has_aux=True)
    dx, (z, mean, var) = gradient(jnp.asarray(numbers[0]), dz, None)
    split = [a.reshape(4, 2, *a.shape[1:]) for a in (numbers[0], dz)]
    of_devices = jax.pmap(lambda x, dz: gradient(x, dz, "batch"), axis_name="batch")(*split)
    each_dx, (each_z, each_mean, each_var) = of_devices
    np.testing.assert_allclose(each_z.reshape(z.shape), z, atol=2e-6)
    for i in range(4):
        np.testing.assert_allclose(each_mean[i], mean, atol=1e-6)
        np.testing.assert_allclose(each_var[i], var, rtol=1e-5)
    np.testing.assert_allclose(each_dx.reshape(dx.shape), dx, atol=1e-5 * np.abs(dx).max())


def test_what_is_served(monkeypatch):
    spec = ConvSpec.create((3, 3), 1, "SAME", 1, 1)
    x = jnp.zeros((2, 5, 5, 4))
    assert is_served(x, (3, 3, 4, 6), spec)
    assert not is_served(x.astype(jnp.bfloat16), (3, 3, 4, 6), spec)
    assert not is_served(x[:0], (3, 3, 4, 6), spec)
    # The kernel adds up squares of sums in int32. Sums of 9000 products would be too large.
    assert not is_served(x, (3, 3, 1000, 6), spec)
    assert not is_served(x, (3, 3, 4, 6), ConvSpec.create((3, 3), 1, ((1, 1), (1, 1)), 1, 1, 2))
    monkeypatch.setattr(native, "cpu_backend", lambda: "xla")
    assert not is_served(x, (3, 3, 4, 6), spec)
