"""Tests binarizers of activations: signs, and every slope against its paper's formula, on both sides of each kink."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax import BinaryDense
from recu_jax.binarizers import ACTIVATIONS, activations, weights
from recu_jax.functional import sign
from tests.support.slopes import GRID, approx, clipped, ede, o_of, reste, slope, swish, t_of

# The binarizer, the formula of its slope and, for an annealed binarizer, the training progress.
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
    options = {"sample_ndim": 1, "progress": progress[0] if progress else None}
    got = slope(lambda x: binarizer(x, train=True, **options), GRID)
    np.testing.assert_allclose(got, formula(GRID), rtol=1e-11, atol=2e-14)
    # Far from 0, tanh rounds to 1, or to the number below it.
    near = GRID[abs(GRID) < 1.6]
    np.testing.assert_array_equal(binarizer.lets_through(near, **options), formula(near) > 0)


@pytest.mark.usefixtures("x64")
def test_recu_activations_divide_each_sample():
    x, cotangent = np.random.default_rng(0).normal(size=(2, 3, 12)) * 2
    deviation = np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-5)
    inner = cotangent * approx(x / deviation)
    along = (inner * x).sum(-1, keepdims=True) * (x - x.mean(-1, keepdims=True)) / (11 * deviation**3)
    pull = jax.vjp(lambda x: activations.ReCU()(x, sample_ndim=1, train=True), jnp.asarray(x))[1]
    np.testing.assert_allclose(pull(cotangent)[0], inner / deviation - along, rtol=1e-10)
    np.testing.assert_array_equal(activations.ReCU().lets_through(x, sample_ndim=1), abs(x / deviation) < 1)


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
    passes = activations.RSign().lets_through(jnp.asarray(x), sample_ndim=1, shift=jnp.asarray(shift))
    np.testing.assert_array_equal(passes, expected / cotangent > 0)
    layer = BinaryDense(2, input_binarizer=activations.RSign(0.5))
    np.testing.assert_array_equal(layer.init(jax.random.key(0), x[None])["params"]["shift"], [0.5] * 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_layers_hand_on_activations_progress_and_parameters(name):
    r = np.random.default_rng(3)
    x, kernel, shift = (r.normal(size=s).astype(np.float32) for s in ((2, 5, 4), (4, 6), (4,)))
    binarizer = ACTIVATIONS[name]()
    of_adabin = {"spread": np.float32([1.3]), "shift": np.float32([0.2])}
    extra = {"rsign": {"shift": shift}, "adabin": of_adabin}.get(name, {})
    assert set(binarizer.parameters) == set(extra)
    layer = BinaryDense(6, alpha="none", input_binarizer=binarizer, kernel_binarizer=weights.ClippedSign())
    params = {"kernel": kernel, **extra}
    assert jax.tree.map(jnp.shape, layer.init(jax.random.key(0), x)["params"]) == jax.tree.map(np.shape, params)

    def through(x):
        s = binarizer(x, sample_ndim=1, train=True, progress=0.3, **extra)
        s = 1.3 * s + 0.2 if name == "adabin" else s
        return s @ sign(kernel)

    run = lambda x: layer.apply({"params": params}, x, train=True, progress=0.3)  # noqa: E731
    (y, pull), (z, expected) = jax.vjp(run, x), jax.vjp(through, jnp.asarray(x))
    np.testing.assert_allclose(y, z, rtol=1e-6)
    np.testing.assert_allclose(pull(y)[0], expected(y)[0], rtol=1e-6)
    assert (np.asarray(pull(y)[0]) != 0).any()
    # In evaluation, no progress is given, and the result is the same.
    np.testing.assert_array_equal(layer.apply({"params": params}, x), y)
