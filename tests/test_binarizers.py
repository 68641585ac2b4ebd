"""Binarizers: signs, and every gradient against its paper's closed form in NumPy, on both sides of every kink."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax import BinaryConv, BinaryDense, UserError, binarizers
from recu_jax.binarizers import ACTIVATIONS, WEIGHTS, Annealed, activations, interface, react, signs, weights
from recu_jax.functional import approx_sign, sign

KINKS = np.array([0.1, 1.0, 1.5])
# XLA takes what is less than a normal number for 0.
AROUND_ZERO = [0.0, 1e-300, -1e-300, 1e-9, -1e-9]
BESIDE_KINKS = [s * np.nextafter(KINKS, to) for s in (-1, 1) for to in (-9, 9)]
GRID = np.unique(np.concatenate([np.linspace(-3, 3, 61), *BESIDE_KINKS, KINKS, -KINKS, AROUND_ZERO]))


def t_of(progress):
    return 0.1 * 100**progress


def o_of(progress):
    return 1 + 2 * (1 - np.cos(np.pi * progress / 2))


def approx(x):
    return np.where(abs(x) < 1, 2 - 2 * abs(x), 0)


def clipped(x, clip=1.0):
    return np.where(abs(x) <= clip, 1.0, 0.0)


def swish(x, beta):
    return beta * (2 - beta * x * np.tanh(beta * x / 2)) / (1 + np.cosh(beta * x))


def ede(x, t):
    return max(1 / t, 1) * t * (1 - np.tanh(t * x) ** 2)


def reste(x, o, near=0.1, far=1.5):
    inside = np.array([abs(v) ** ((1 - o) / o) / o if abs(v) > near else near ** (1 / o) / near for v in x])
    return np.where(abs(x) <= far, inside, 0)


def slope(function, x):
    """What a cotangent of many values comes back multiplied with."""
    cotangent = np.arange(1.0, 1 + x.size).reshape(x.shape)
    return jax.vjp(function, jnp.asarray(x))[1](jnp.asarray(cotangent))[0] / cotangent


# What to call with x, and the slope.
SLOPES = {
    "clipped_sign": (activations.ClippedSign(), clipped),
    "clipped_sign at 0.1": (activations.ClippedSign(clip=0.1), lambda x: clipped(x, 0.1)),
    "approx_sign": (activations.ApproxSign(), approx),
    "swish_sign": (activations.SwishSign(), lambda x: swish(x, 5)),
    "swish_sign of 2": (activations.SwishSign(beta=2.0), lambda x: swish(x, 2)),
    **{f"ede at {p}": (activations.EDE(), lambda x, p=p: ede(x, t_of(p)), p) for p in (0.0, 0.4, 0.5, 0.9, 1.0)},
    **{f"reste at {p}": (activations.ReSTE(), lambda x, p=p: reste(x, o_of(p)), p) for p in (0.0, 0.3, 1.0)},
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SLOPES)
def test_slope_of_activations(name):
    binarizer, formula, *progress = SLOPES[name]
    got = slope(lambda x: binarizer(x, sample_ndim=1, train=True, progress=progress[0] if progress else None), GRID)
    np.testing.assert_allclose(got, formula(GRID), rtol=1e-11, atol=2e-14)


@pytest.mark.usefixtures("x64")
def test_slopes_are_the_derivatives_of_the_papers_curves():
    x = np.array([-2.3, -1.2, -0.7, -0.31, -0.15, 0.15, 0.31, 0.7, 1.2, 1.45])
    s = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    t, o, h = 3.7, 2.2, 1e-6
    curves = {
        "swish": (lambda x: 2 * s(5 * x) * (1 + 5 * x * (1 - s(5 * x))) - 1, signs.swish_sign, x),
        "ede": (lambda x: np.tanh(t * x), lambda x: signs.ede_sign(x, t), x),
        "ede, t small": (lambda x: np.tanh(0.3 * x) / 0.3, lambda x: signs.ede_sign(x, 0.3), x),
        "reste": (lambda x: np.sign(x) * abs(x) ** (1 / o), lambda x: signs.reste_sign(x, o), x[x > -1.5]),
        "approx": (lambda x: np.where(x < 0, 2 * x + x**2, 2 * x - x**2), approx_sign, x[abs(x) < 1]),
    }
    for name, (curve, function, at) in curves.items():
        derivative = (curve(at + h) - curve(at - h)) / (2 * h)
        np.testing.assert_allclose(slope(function, at), derivative, rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.usefixtures("x64")
def test_recu_activations_divide_each_sample():
    x, cotangent = np.random.default_rng(0).normal(size=(2, 3, 12)) * 2
    deviation = np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-5)
    inner = cotangent * approx(x / deviation)
    along = (inner * x).sum(-1, keepdims=True) * (x - x.mean(-1, keepdims=True)) / (11 * deviation**3)
    pull = jax.vjp(lambda x: activations.ReCU()(x, sample_ndim=1, train=True), jnp.asarray(x))[1]
    np.testing.assert_allclose(pull(cotangent)[0], inner / deviation - along, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_rsign_and_its_shift():
    shift = np.array([0.0, 0.1, -1.0])
    x = np.stack([GRID + s for s in shift], 1)
    cotangent = np.random.default_rng(0).normal(size=x.shape)
    run = lambda x, shift: activations.RSign()(x, sample_ndim=1, train=True, shift=shift)  # noqa: E731
    y, pull = jax.vjp(run, jnp.asarray(x), jnp.asarray(shift))
    np.testing.assert_array_equal(y, np.where(x - shift >= 0, 1, -1))
    dx, dshift = pull(jnp.asarray(cotangent))
    expected = cotangent * approx(x - shift)
    np.testing.assert_allclose(dx, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(dshift, -expected.sum(0), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_rprelu():
    before, slopes, after = np.array([[0.0, 0.5, -1.0], [0.25, -0.5, 2.0], [0.0, -3.0, 1.0]])
    x = np.stack([GRID - b for b in before], 1)
    cotangent = np.random.default_rng(0).normal(size=x.shape)
    layer = react.RPRelu(param_dtype=jnp.float64)
    fresh = layer.init(jax.random.key(0), x)["params"]
    assert {k: (v.shape, float(v[0])) for p in fresh.values() for k, v in p.items()} == {
        "bias": ((3,), 0.0), "slope": ((3,), 0.25),
    }  # fmt: skip
    params = {"move1": {"bias": before}, "nonlinear": {"slope": slopes}, "move2": {"bias": after}}
    z, pull = jax.vjp(lambda p, x: layer.apply({"params": p}, x), params, x)
    # The paper's form: with gamma = -before, x - gamma + zeta above gamma, beta (x - gamma) + zeta else.
    above = x > -before
    np.testing.assert_allclose(z, np.where(above, x + before + after, slopes * (x + before) + after), atol=1e-15)
    dparams, dx = pull(jnp.asarray(cotangent))
    np.testing.assert_allclose(dx, cotangent * np.where(above, 1, slopes), rtol=1e-12)
    np.testing.assert_allclose(dparams["move1"]["bias"], np.asarray(dx).sum(0), rtol=1e-12)
    np.testing.assert_allclose(dparams["nonlinear"]["slope"], (cotangent * (x + before) * ~above).sum(0), rtol=1e-12)
    np.testing.assert_allclose(dparams["move2"]["bias"], cotangent.sum(0), rtol=1e-12)


def latent(seed=0):
    """Three channels that hold all of the grid, in three orders, and of three sizes."""
    r = np.random.default_rng(seed)
    values = GRID[: GRID.size // 2 * 2]
    return np.stack([r.permutation(values), 0.3 * r.permutation(values), 1.5 + r.permutation(values)], 1).reshape(
        2, -1, 3
    )


def expected_weights(name, w, g, progress):
    """scale * signs, and the gradient with respect to w for g, that with respect to scale * signs."""
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
    u = w - w.mean((0, 1))
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
        plus_minus, scale = WEIGHTS[name]()(w, 0.9, progress)
        assert (scale is not None) == WEIGHTS[name].scaled
        return plus_minus if scale is None else plus_minus * scale[None, None]

    value, pull = jax.vjp(product, jnp.asarray(w))
    expected, gradient = expected_weights(name, w, g, progress)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(pull(jnp.asarray(g))[0], gradient, rtol=1e-9, atol=1e-13)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scale", ["none", "learned"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_layers_give_the_weights_their_gradient(name, scale):
    """Through a real convolution with the expected kernel, whose gradient the formula takes to the latent weights."""
    r = np.random.default_rng(2)
    x, kernel, dy = r.normal(size=(2, 5, 5, 4)), r.normal(size=(3, 3, 4, 6)), r.normal(size=(2, 5, 5, 6))
    params = {"kernel": kernel} | ({"alpha": r.uniform(0.5, 1.5, 6)} if scale == "learned" else {})
    alpha = params.get("alpha", np.ones(6))
    layer = BinaryConv(6, (3, 3), scale=scale, weights=WEIGHTS[name](), param_dtype=jnp.float64)
    run = lambda p: layer.apply({"params": p}, x, tau=Annealed(0.9, 0.7), train=True)  # noqa: E731
    y, pull = jax.vjp(run, params)

    flat = kernel.reshape(1, -1, 6)
    product, _ = expected_weights(name, flat, np.zeros_like(flat), 0.7)
    plain = nn.Conv(6, (3, 3), use_bias=False, param_dtype=jnp.float64)
    z, plain_pull = jax.vjp(
        lambda k: plain.apply({"params": {"kernel": k}}, np.where(x >= 0, 1.0, -1.0)),
        product.reshape(kernel.shape) * alpha,
    )
    np.testing.assert_allclose(y, z, rtol=1e-10, atol=1e-12)
    of_product = np.asarray(plain_pull(dy)[0])
    _, gradient = expected_weights(name, flat, (of_product * alpha).reshape(1, -1, 6), 0.7)
    got = pull(dy)[0]
    np.testing.assert_allclose(got["kernel"].reshape(1, -1, 6), gradient, rtol=1e-8, atol=1e-12)
    if scale == "learned":
        np.testing.assert_allclose(got["alpha"], (of_product * product.reshape(kernel.shape)).sum((0, 1, 2)), rtol=1e-9)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_layers_hand_on_activations_progress_and_parameters(name):
    r = np.random.default_rng(3)
    x, kernel, shift = (r.normal(size=s).astype(np.float32) for s in ((2, 5, 4), (4, 6), (4,)))
    binarizer = ACTIVATIONS[name]()
    extra = {"shift": shift} if name == "rsign" else {}
    assert set(binarizer.parameters) == set(extra)
    layer = BinaryDense(6, scale="none", activations=binarizer, weights=weights.ClippedSign())
    params = {"kernel": kernel, **extra}
    assert jax.tree.map(jnp.shape, layer.init(jax.random.key(0), x)["params"]) == jax.tree.map(np.shape, params)

    def through(x):
        s = binarizer(x, sample_ndim=1, train=True, progress=0.3, **extra)
        return s @ sign(kernel)

    run = lambda x: layer.apply({"params": params}, x, tau=Annealed(None, 0.3), train=True)  # noqa: E731
    (y, pull), (z, expected) = jax.vjp(run, x), jax.vjp(through, jnp.asarray(x))
    np.testing.assert_allclose(y, z, rtol=1e-6)
    np.testing.assert_allclose(pull(y)[0], expected(y)[0], rtol=1e-6)
    assert (np.asarray(pull(y)[0]) != 0).any()
    np.testing.assert_array_equal(layer.apply({"params": params}, x), y)  # evaluation: no progress, the same signs


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_signs_and_gradients_in_every_dtype(dtype):
    """sign(0) is +1; no gradient is anything but finite, whatever is given, zeros alone included."""
    most = float(jnp.finfo(dtype).max)
    x = jnp.asarray([[0.0, -0.0], [1e-7, -1e-7], [0.5, -0.5], [6e4, -6e4], [most, -most]], dtype)
    for name, kind in ACTIVATIONS.items():
        extra = {k: jnp.zeros(2) for k in kind.parameters}
        run = lambda x: kind()(x, sample_ndim=1, train=name != "recu", progress=0.6, **extra)  # noqa: E731
        y, pull = jax.vjp(run, x)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, np.where(np.asarray(x) >= 0, 1, -1), err_msg=name)
        gradient = pull(jnp.ones_like(y))[0]
        assert gradient.dtype == dtype and np.isfinite(np.asarray(gradient, np.float64)).all(), name
    for kernel in (x[:3], jnp.zeros((3, 2), dtype)):
        for name, kind in WEIGHTS.items():
            (plus_minus, scale), pull = jax.vjp(lambda k: kind()(k, 0.9, 0.6), kernel)
            assert plus_minus.dtype == dtype and set(np.unique(plus_minus)) <= {-1, 1}, name
            assert scale is None or (scale.dtype == dtype and np.isfinite(np.asarray(scale, np.float64)).all()), name
            gradient = pull((jnp.ones_like(plus_minus), None if scale is None else jnp.ones_like(scale)))[0]
            assert np.isfinite(np.asarray(gradient, np.float64)).all(), name


def test_progress_may_be_traced_under_scan_and_remat():
    layer = BinaryDense(4, weights=weights.Libra(), activations=activations.ReSTE())
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32)
    variables = layer.init(jax.random.key(0), x)

    def gradient(progress):
        loss = lambda v: (layer.apply(v, x, tau=Annealed(0.9, progress), train=True) ** 2).sum()  # noqa: E731
        return jax.grad(jax.checkpoint(loss))(variables)["params"]["kernel"]

    together = jax.jit(lambda: jax.lax.scan(lambda c, p: (c, gradient(p)), 0, jnp.array([0.0, 0.5, 0.9]))[1])()
    for one, progress in zip(together, (0.0, 0.5, 0.9), strict=True):
        np.testing.assert_allclose(one, gradient(progress), rtol=1e-3, atol=1e-5)
    assert abs(together[0] - together[1]).max() > 1e-3


def test_a_binarizer_of_ones_own():
    @dataclasses.dataclass(frozen=True)
    class Triangle(interface.ActivationBinarizer):
        width: float = 1.0

        def __call__(self, x, *, sample_ndim, train, progress=None):
            return signs.sign_with_slope(x, jnp.maximum(0, 1 - jnp.abs(x) / self.width))

    x = jnp.asarray([[0.25, -0.1, 3.0]])
    layer = BinaryDense(1, scale="none", activations=Triangle(0.5), weights=weights.ClippedSign())
    params = {"params": {"kernel": jnp.asarray([[0.5], [-0.5], [0.5]])}}
    np.testing.assert_allclose(jax.grad(lambda x: layer.apply(params, x).sum())(x), [[0.5, -0.8, 0.0]], rtol=1e-6)


@pytest.mark.parametrize(
    "layer,tau,message",
    [
        (
            BinaryConv(8, (3, 3), activations=activations.EDE()),
            0.9,
            r"EDE\(t_min=0.1, t_max=10.0\) changes its gradient",
        ),
        (BinaryDense(8, weights=weights.Libra()), None, "was told of no progress; give the model or layer tau="),
        (BinaryConv(8, (3, 3), scale="mean", weights=weights.XNORNet()), 0.9, "scale is 'mean', which is ReCU's"),
        (BinaryDense(8, activations=activations.EDE()), Annealed(0.3, 0.5), "tau is 0.3"),
    ],
)
def test_mistakes_are_named(layer, tau, message):
    with pytest.raises(UserError, match=message):
        layer.init(jax.random.key(0), jnp.ones((2, 6, 6, 4)), tau=tau, train=True)


def test_names():
    with pytest.raises(UserError, match="weight binarizer is 'xnornet', which does not exist; did you mean 'xnor_net'"):
        binarizers.weight_binarizer("xnornet")
    with pytest.raises(UserError, match="did you mean 'approx_sign'"):
        binarizers.activation_binarizer("aprox_sign")
    assert binarizers.weight_binarizer("recu", standardize=False) == weights.ReCU(standardize=False)
    assert len(WEIGHTS) == 6 and len(ACTIVATIONS) == 7
    for kind in (*WEIGHTS.values(), *ACTIVATIONS.values()):
        assert kind() == kind() and hash(kind()) == hash(kind()) and "arXiv" in kind.__doc__
