"""Compares layers with AdaBin's binarizers with a float convolution of the values that the paper's formulas give."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax import BinaryConv, BinaryDense, UserError, create_model, one_bit_weights, pack
from recu_jax.binarizers import activations, weights
from recu_jax.models.unit import fused
from tests.support.slopes import approx

SPREAD, SHIFT = 1.4, -0.3


def kernel_values(kernel):
    """Returns `a sign((w - c) / a) + c` of each output channel."""
    center = kernel.mean(tuple(range(kernel.ndim - 1)))
    scale = np.sqrt(((kernel - center) ** 2).mean(tuple(range(kernel.ndim - 1))))
    return scale * np.where(kernel >= center, 1.0, -1.0) + center


def check(layer, plain, shape):
    """Compares outputs and gradients of `layer` with those of `plain`, which gets the values of both operands."""
    r = np.random.default_rng(0)
    x = r.normal(size=shape)
    params = dict(jax.tree.map(np.asarray, layer.init(jax.random.key(0), x)["params"]))
    assert params["spread"] == [1.0] and params["shift"] == [0.0]
    params |= {"spread": np.array([SPREAD]), "shift": np.array([SHIFT])}
    kernel = kernel_values(params["kernel"]) * params.get("alpha", 1.0)
    v = (x - SHIFT) / SPREAD
    signs = np.where(v >= 0, 1.0, -1.0)

    run = lambda x, p: layer.apply({"params": p}, x, train=True, progress=0.6)  # noqa: E731
    y, pull = jax.vjp(run, jnp.asarray(x), params)
    z, plain_pull = jax.vjp(lambda a: plain.apply({"params": {"kernel": kernel}}, a), SPREAD * signs + SHIFT)
    np.testing.assert_allclose(y, z, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(layer.apply({"params": params}, x), z, rtol=1e-10, atol=1e-12)

    dy = r.normal(size=y.shape)
    dx, dparams = pull(jnp.asarray(dy))
    of_values = np.asarray(plain_pull(jnp.asarray(dy))[0])
    np.testing.assert_allclose(dx, of_values * approx(v), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(dparams["spread"], [(of_values * (signs - approx(v) * v)).sum()], rtol=1e-9)
    np.testing.assert_allclose(dparams["shift"], [(of_values * (1 - approx(v))).sum()], rtol=1e-9)


BOTH = {"kernel_binarizer": weights.AdaBin(), "input_binarizer": activations.AdaBin(), "param_dtype": jnp.float64}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("alpha", ["none", "learned"])
@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"strides": 2, "padding": 1},
        {"padding": "VALID", "feature_group_count": 2},
        {"padding": "CIRCULAR", "kernel_dilation": 2},
    ],
)
def test_convolutions(geometry, alpha):
    kind = {"features": 6, "kernel_size": (3, 3), **geometry}
    plain = nn.Conv(**kind, use_bias=False, param_dtype=jnp.float64)
    check(BinaryConv(**kind, alpha=alpha, **BOTH), plain, (2, 7, 7, 4))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_dense_layers(shape):
    plain = nn.Dense(6, use_bias=False, param_dtype=jnp.float64)
    check(BinaryDense(6, alpha="learned", **BOTH), plain, shape)


def test_a_batch_of_no_images():
    layer = BinaryConv(4, (3, 3), **{**BOTH, "param_dtype": jnp.float32})
    variables = layer.init(jax.random.key(0), jnp.ones((1, 5, 5, 3)))
    assert layer.apply(variables, jnp.ones((0, 5, 5, 3))).shape == (0, 5, 5, 4)


@pytest.mark.parametrize("use", [one_bit_weights, pack])
def test_what_knows_signs_and_a_scale_alone_refuses_an_offset(use):
    x = jnp.ones((1, 5, 5, 3))
    layer = nn.Sequential([BinaryConv(4, (3, 3)), BinaryConv(4, (3, 3), kernel_binarizer=weights.AdaBin())])
    variables = layer.init(jax.random.key(0), x)
    with pytest.raises(UserError, match=r"layer '.+' have an offset, by AdaBin"):
        use(layer, variables, x)


def test_a_model_does_not_use_the_kernels_that_know_signs_alone():
    """The units of a model on CPUs are computed by compiled kernels, if these can compute them."""
    model = create_model("digits_resnet8", conv=partial(BinaryConv, kernel_binarizer=weights.AdaBin()))
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    variables = model.init(jax.random.key(0), x)

    def outputs(model):
        return model.apply(variables, x, train=True, progress=0.5, mutable=["batch_stats"])[0]

    np.testing.assert_allclose(outputs(fused(model)), outputs(model), rtol=1e-4, atol=1e-5)
