"""Compares the share of activations through which a gradient passes with NumPy, and with the gradient itself."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax import BinaryConv, BinaryDense, diagnostics
from recu_jax.binarizers import weights


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(6, (3, 3), name="first")(x)
        x = BinaryConv(4, (3, 3), alpha="mean", kernel_binarizer=weights.ReCU(clamp=False), name="mean")(x, train=train)
        no_center = weights.ReCU(b=1.0, center=False)
        x = BinaryConv(4, (3, 3), alpha="none", kernel_binarizer=no_center, name="none")(x, train=train)
        x = BinaryConv(4, (3, 3), binary_weights=False, alpha="none", name="real")(x)
        return BinaryDense(5, name="dense")(x.mean((1, 2)))


@pytest.mark.slow
def test_windows_are_those_in_which_a_gradient_passes():
    """The first binary layer is compared with NumPy, and the last one with the gradient itself."""
    r = np.random.default_rng(0)
    x = (r.normal(size=(4, 6, 6, 3)) * 3).astype(np.float32)
    variables = jax.jit(Net().init)(jax.random.key(0), x)
    shares = jax.jit(functools.partial(diagnostics.activation_windows, Net()))(variables, x)
    assert set(shares) == {"mean", "none", "real", "dense"}

    inner = np.asarray(nn.Conv(6, (3, 3)).apply({"params": variables["params"]["first"]}, x), np.float64)
    deviation = inner.reshape(4, -1).std(1, ddof=1)
    assert shares["mean"] == pytest.approx((abs(inner) < deviation[:, None, None, None]).mean(), abs=2e-3)

    found = jax.jit(functools.partial(diagnostics.measure_inputs, Net()))(variables, x)
    assert {name: measures["in_window"] for name, measures in found.items()} == shares
    assert found["mean"]["positive_signs"] == pytest.approx((inner >= 0).mean(), abs=1e-6)
    of_first = abs((inner >= 0) * 1 - (inner[:1] >= 0)).sum((0, 1, 2)) == 0
    assert found["mean"]["constant_channels"] == pytest.approx(of_first.mean()) and found["mean"]["nan_inputs"] == 0

    _, state = Net().apply(variables, x, capture_intermediates=True)
    a = state["intermediates"]["real"]["__call__"][0].mean((1, 2))
    a0 = a / jnp.sqrt(a.var(1, ddof=1, keepdims=True) + 1e-5)
    dense = {"params": variables["params"]["dense"]}
    gradient = jax.grad(lambda a0: BinaryDense(5).apply(dense, a0).sum())(a0)
    assert shares["dense"] == pytest.approx(float((gradient != 0).mean()), abs=1e-6)
