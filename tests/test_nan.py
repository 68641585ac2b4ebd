"""Checks that NaN inputs give NaN outputs, as in `nn.Conv`.

Also checks ReCU of zeros at tau = 1, where the bound of the clamp is 0 times infinity.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax import BinaryConv, BinaryDense, laplace_quantile, recu, sign
from recu_jax.binarizers import ACTIVATIONS, WEIGHTS, weights
from recu_jax.ops import native

SLOW = pytest.mark.slow
X = np.random.default_rng(0).normal(size=(3, 6, 6, 40)).astype(np.float32)


@pytest.fixture(params=["kernels", pytest.param("xla", marks=SLOW)])
def backend(request, monkeypatch):
    """Runs a test twice: with the compiled kernels, and with XLA's convolution, which runs where there are none."""
    if request.param == "xla":
        monkeypatch.setattr(native, "cpu_backend", lambda: "xla")
    elif native.cpu_backend() == "xla":
        pytest.skip("no compiled kernels")
    jax.clear_caches()
    return request.param


@pytest.mark.slow
@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "input_name,train,dtype",
    [
        *(pytest.param(n, True, jnp.float32, marks=[SLOW] * (n not in ("recu", "rsign"))) for n in ACTIVATIONS),
        # Only ReCU runs other code in evaluation than in training: it skips a division that changes no sign.
        pytest.param("recu", False, jnp.float32, marks=SLOW),
        pytest.param("recu", True, jnp.bfloat16, marks=SLOW),
    ],
    ids=str,
)
def test_a_nan_among_the_activations(input_name, train, dtype):
    layer = BinaryConv(8, (3, 3), input_binarizer=ACTIVATIONS[input_name](), dtype=dtype)
    variables = layer.init(jax.random.key(0), X)
    run = jax.jit(lambda x: layer.apply(variables, x, tau=0.9, train=train, progress=0.5))
    whole = run(X)
    assert np.isfinite(whole.astype(np.float32)).all()
    x = X.copy()
    x[1, 2, 3, 4] = np.nan
    got = run(x)
    np.testing.assert_array_equal(got[0], whole[0])
    np.testing.assert_array_equal(got[2], whole[2])
    # `nn.Conv` gives NaN in the outputs whose window has a NaN. At least these must be NaN here.
    theirs = nn.Conv(8, (3, 3)).init_with_output(jax.random.key(0), x)[0]
    assert np.isnan(theirs[1]).any() and np.isnan(got[1])[np.isnan(theirs[1])].all()


@pytest.mark.slow
@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "kernel_name", [pytest.param(name, marks=[SLOW] * (name not in ("recu", "libra"))) for name in WEIGHTS]
)
def test_a_nan_in_a_kernel(kernel_name):
    layer = BinaryConv(8, (3, 3), kernel_binarizer=WEIGHTS[kernel_name]())
    params = dict(layer.init(jax.random.key(0), X)["params"])
    params["kernel"] = params["kernel"].at[0, 0, 1, 5].set(jnp.nan)
    got = np.isnan(layer.apply({"params": params}, X, tau=0.9, train=True, progress=0.5))
    assert got[:, 2:-2, 2:-2, 5].all()
    # ReCU's bound and DoReFa's scale are computed from the whole kernel, so a NaN may reach other channels.
    assert kernel_name in ("recu", "dorefa") or not got[..., :5].any()


def test_a_nan_in_a_dense_layer():
    x = X[:, 0, 0].copy()
    x[1, 7] = np.nan
    layer = BinaryDense(5)
    got = layer.apply(layer.init(jax.random.key(0), x), x)
    np.testing.assert_array_equal(np.isnan(got).all(1), [False, True, False])
    np.testing.assert_array_equal(np.isnan(got).any(1), [False, True, False])


def test_the_sign_of_nan_is_nan():
    np.testing.assert_array_equal(sign(jnp.array([-0.0, 0.0, -jnp.inf, jnp.nan])), [1, 1, -1, np.nan])


@pytest.mark.slow
@pytest.mark.usefixtures("backend")
def test_a_kernel_of_zeros_has_the_same_signs_in_training_and_evaluation():
    assert laplace_quantile(0.0, 1.0) == np.inf and laplace_quantile(2.0, 1.0) == np.inf
    np.testing.assert_array_equal(recu(jnp.zeros((4, 2)), 1.0), np.zeros((4, 2)))
    layer = BinaryConv(2, (3, 3), kernel_binarizer=weights.ReCU(standardize=False), alpha="none")
    params = {"kernel": jnp.zeros((3, 3, 40, 2))}
    trained = layer.apply({"params": params}, X, tau=1.0, train=True)
    np.testing.assert_array_equal(trained, layer.apply({"params": params}, X))
    # All signs of the weights are +1.
    np.testing.assert_array_equal(trained[0, 2, 2], np.where(X[0, 1:4, 1:4] >= 0, 1, -1).sum().repeat(2))
