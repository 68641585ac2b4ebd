"""Compares values and gradients of weight binarizers with each paper's formula in NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax import BinaryConv
from recu_jax.binarizers import WEIGHTS, weights
from tests.support.slopes import GRID, clipped, ede, t_of


def latent(seed=0):
    """Returns three channels with the numbers of GRID in random order. The second is scaled, the third is shifted."""
    r = np.random.default_rng(seed)
    values = GRID[: GRID.size // 2 * 2]
    return np.stack([r.permutation(values), 0.3 * r.permutation(values), 1.5 + r.permutation(values)], 1).reshape(
        2, -1, 3
    )


def expected_weights(name, w, g, progress):
    """Returns `scale * signs + offset`, and the gradient of a loss with respect to w.

    `g` is the gradient of the loss with respect to that sum.
    """
    n, plus = w[..., 0].size, np.where(w >= 0, 1.0, -1.0)
    mean = abs(w).mean((0, 1))
    if name == "clipped_sign":
        return plus, g * clipped(w)
    if name == "xnor_net":
        return mean * plus, g * (1 / n + mean * clipped(w))
    if name == "magnitude_aware_sign":
        return mean * plus, g * mean * clipped(w)
    if name == "dorefa":
        return abs(w).mean() * plus, g
    assert name in ("adabin", "libra", "recu"), f"add the formula of {name}"
    u = w - w.mean((0, 1))
    if name == "adabin":
        scale = np.sqrt((u**2).mean((0, 1)))
        v = u / scale
        signs, h = np.where(v >= 0, 1.0, -1.0), g * ede(v, 1e-3 * 1e4**progress)
        through_scale = v * ((g * signs).mean((0, 1)) - (h * v).mean((0, 1)))
        return scale * signs + w.mean((0, 1)), h - h.mean((0, 1)) + through_scale + g.mean((0, 1))
    deviation = np.sqrt((u**2).sum((0, 1)) / (n - 1) + 1e-5)
    if name == "libra":
        v, t = u / deviation, t_of(progress)
        scale = 2.0 ** np.round(np.log2(abs(v).mean((0, 1))))
        dv, value = g * scale * ede(v, t), scale * np.where(v >= 0, 1.0, -1.0)
    else:  # recu at tau 0.9
        factor = np.sqrt(8)
        v = factor * u / deviation
        dv = factor * g * (abs(v) <= -np.log(0.2) * abs(v).mean())
        value = np.where(v >= 0, 1.0, -1.0)
    du = dv / deviation - u * (dv * u).sum((0, 1)) / ((n - 1) * deviation**3)
    return value, du - du.mean((0, 1))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("progress", [0.0, 0.7])
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name, progress):
    w = latent()
    g = np.random.default_rng(1).normal(size=w.shape)

    def product(w):
        binarizer = WEIGHTS[name]()
        plus_minus, scale = binarizer(w, 0.9, progress)
        assert (scale is not None) == binarizer.scaled
        y = plus_minus if scale is None else plus_minus * scale[None, None]
        return y + binarizer.offset(w)[None, None] if binarizer.shifted else y

    value, pull = jax.vjp(product, jnp.asarray(w))
    expected, gradient = expected_weights(name, w, g, progress)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(pull(jnp.asarray(g))[0], gradient, rtol=1e-9, atol=1e-13)


def test_the_bound_of_the_clamp():
    w = np.linspace(-1, 2, 7).astype(np.float32)
    bound = -np.log(2 - 2 * 0.8) * abs(w).mean()
    np.testing.assert_allclose(weights.ReCU().bound(w, 0.8), bound, rtol=1e-6)
    for binarizer, tau in ((weights.ReCU(), None), (weights.ReCU(clamp=False), 0.8), (weights.Libra(), 0.8)):
        assert binarizer.bound(w, tau) == np.inf


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("alpha", ["none", "learned"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_layers_give_the_weights_their_gradient(name, alpha):
    """Compares with a float convolution of the expected kernel. The formula maps that gradient to latent weights."""
    r = np.random.default_rng(2)
    x, kernel, dy = r.normal(size=(2, 5, 5, 4)), r.normal(size=(3, 3, 4, 6)), r.normal(size=(2, 5, 5, 6))
    params = {"kernel": kernel} | ({"alpha": r.uniform(0.5, 1.5, 6)} if alpha == "learned" else {})
    scale = params.get("alpha", np.ones(6))
    layer = BinaryConv(6, (3, 3), alpha=alpha, kernel_binarizer=WEIGHTS[name](), param_dtype=jnp.float64)
    run = lambda p: layer.apply({"params": p}, x, tau=0.9, train=True, progress=0.7)  # noqa: E731
    y, pull = jax.vjp(run, params)

    flat = kernel.reshape(1, -1, 6)
    product, _ = expected_weights(name, flat, np.zeros_like(flat), 0.7)
    plain = nn.Conv(6, (3, 3), use_bias=False, param_dtype=jnp.float64)
    z, plain_pull = jax.vjp(
        lambda k: plain.apply({"params": {"kernel": k}}, np.where(x >= 0, 1.0, -1.0)),
        product.reshape(kernel.shape) * scale,
    )
    np.testing.assert_allclose(y, z, rtol=1e-10, atol=1e-12)
    of_product = np.asarray(plain_pull(dy)[0])
    _, gradient = expected_weights(name, flat, (of_product * scale).reshape(1, -1, 6), 0.7)
    got = pull(dy)[0]
    np.testing.assert_allclose(got["kernel"].reshape(1, -1, 6), gradient, rtol=1e-8, atol=1e-12)
    if alpha == "learned":
        np.testing.assert_allclose(got["alpha"], (of_product * product.reshape(kernel.shape)).sum((0, 1, 2)), rtol=1e-9)
