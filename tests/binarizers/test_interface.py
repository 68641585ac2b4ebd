"""Tests every binarizer, and a user's own one: dtypes, transformations, names, mistakes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax import BinaryConv, BinaryDense, UserError, binarizers
from recu_jax.binarizers import ACTIVATIONS, WEIGHTS, activations, interface, signs, weights

# The papers' constants, by binarizer. The other binarizers have none.
CONSTANTS = {
    weights.ReCU: {"standardize": True, "clamp": True, "b": 2.0, "center": True},
    weights.Libra: {"t_min": 0.1, "t_max": 10.0},
    weights.AdaBin: {"t_min": 1e-3, "t_max": 10.0},
    activations.ClippedSign: {"clip": 1.0},
    activations.SwishSign: {"beta": 5.0},
    activations.EDE: {"t_min": 0.1, "t_max": 10.0},
    activations.ReSTE: {"o_end": 3.0, "near": 0.1, "far": 1.5},
    activations.RSign: {"initial_shift": 0.0},
}


@pytest.mark.parametrize(
    "kind",
    [*WEIGHTS.values(), *ACTIVATIONS.values(), interface.WeightBinarizer, interface.ActivationBinarizer],
)
def test_a_binarizer_is_a_value_that_starts_with_the_papers_constants(kind):
    binarizer = kind()
    assert dataclasses.asdict(binarizer) == CONSTANTS.get(kind, {})
    assert binarizer == kind() and hash(binarizer) == hash(kind())
    assert "arXiv" in kind.__doc__ or kind.__module__ == interface.__name__
    with pytest.raises(dataclasses.FrozenInstanceError):
        binarizer.annealed = True


def test_what_layers_and_rules_ask_of_a_binarizer():
    of_weights, of_both = set(WEIGHTS.values()), {*WEIGHTS.values(), *ACTIVATIONS.values()}
    assert {k for k in of_both if k.annealed} == {weights.Libra, weights.AdaBin, activations.EDE, activations.ReSTE}
    scaled = {weights.XNORNet, weights.MagnitudeAwareSign, weights.DoReFa, weights.Libra, weights.AdaBin}
    assert {k for k in of_both if k.scaled} == {*scaled, activations.AdaBin}
    assert {k for k in of_weights if k.shifted} == {weights.AdaBin}
    assert {k for k in of_both - of_weights if k.per_layer} == {activations.AdaBin}
    assert {k for k in of_weights if not k.keeps_signs} == {weights.ReCU, weights.Libra, weights.AdaBin}
    assert {k for k in of_weights if k().needs_tau} == {weights.ReCU}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_signs_and_gradients_in_every_dtype(dtype):
    """sign(0) is +1. All gradients are finite, also if all inputs are 0."""
    most = float(jnp.finfo(dtype).max)
    x = jnp.asarray([[0.0, -0.0], [1e-7, -1e-7], [0.5, -0.5], [6e4, -6e4], [most, -most]], dtype)
    for name, kind in ACTIVATIONS.items():
        extra = {k: jnp.ones(1) if k == "spread" else jnp.zeros(2) for k in kind().parameters}
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


@pytest.mark.slow
def test_progress_may_be_traced_under_scan_and_remat():
    layer = BinaryDense(4, kernel_binarizer=weights.Libra(), input_binarizer=activations.ReSTE())
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32)
    variables = layer.init(jax.random.key(0), x)

    def gradient(progress):
        loss = lambda v: (layer.apply(v, x, tau=0.9, train=True, progress=progress) ** 2).sum()  # noqa: E731
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
    layer = BinaryDense(1, alpha="none", input_binarizer=Triangle(0.5), kernel_binarizer=weights.ClippedSign())
    params = {"params": {"kernel": jnp.asarray([[0.5], [-0.5], [0.5]])}}
    np.testing.assert_allclose(jax.grad(lambda x: layer.apply(params, x).sum())(x), [[0.5, -0.8, 0.0]], rtol=1e-6)


@pytest.mark.parametrize(
    "layer,tau,progress,message",
    [
        (
            BinaryConv(8, (3, 3), input_binarizer=activations.EDE()),
            0.9,
            None,
            r"EDE\(t_min=0.1, t_max=10.0\) needs the progress of the training, as its gradient changes with it",
        ),
        (BinaryDense(8, kernel_binarizer=weights.Libra()), None, None, "give the layer progress=, from 0 to 1"),
        (
            BinaryConv(8, (3, 3), alpha="mean", kernel_binarizer=weights.XNORNet()),
            0.9,
            None,
            "alpha is 'mean', which is ReCU's",
        ),
        (BinaryDense(8, input_binarizer=activations.EDE()), 0.3, 0.5, "tau is 0.3"),
    ],
)
def test_mistakes_are_named(layer, tau, progress, message):
    with pytest.raises(UserError, match=message):
        layer.init(jax.random.key(0), jnp.ones((2, 6, 6, 4)), tau=tau, train=True, progress=progress)


def test_names():
    with pytest.raises(UserError, match="weight binarizer is 'xnornet', which does not exist; did you mean 'xnor_net'"):
        binarizers.weight_binarizer("xnornet")
    with pytest.raises(UserError, match="did you mean 'approx_sign'"):
        binarizers.activation_binarizer("aprox_sign")
    assert binarizers.weight_binarizer("recu", standardize=False) == weights.ReCU(standardize=False)
