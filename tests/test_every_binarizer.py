"""Compares Linen and NNX layers for every pair of binarizers.

Tau and progress are given to the call or to the model.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recu_jax.nnx
from recu_jax import BinaryConv, BinaryDense, UserError, set_tau, with_tau
from recu_jax.binarizers import ACTIVATIONS, WEIGHTS

TAU, PROGRESS = 0.9, 0.3
X = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)


def pair(kind, kernel_binarizer, input_binarizer):
    """Returns a Linen layer, its parameters, and an NNX layer with the same parameters. Shifts are not 0."""
    binarizers = {"kernel_binarizer": kernel_binarizer, "input_binarizer": input_binarizer}
    rngs = nnx.Rngs(0)
    if kind == "conv":
        linen = BinaryConv(4, (3, 3), **binarizers)
        ours = recu_jax.nnx.BinaryConv(3, 4, (3, 3), rngs=rngs, **binarizers)
    else:
        linen = BinaryDense(4, **binarizers)
        ours = recu_jax.nnx.BinaryDense(3, 4, rngs=rngs, **binarizers)
    params = dict(linen.init(jax.random.key(1), X)["params"])
    for name in input_binarizer.parameters:
        params[name] = params[name] + jnp.linspace(-0.2, 0.3, params[name].size)
    for name, variable in ours.parameters().items():
        variable[...] = params[name]
    assert set(ours.parameters()) == set(params)
    return linen, params, ours


def quick_or_slow(names, *quick):
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in quick)) for name in names]


@pytest.mark.parametrize("kind", ["conv", pytest.param("dense", marks=pytest.mark.slow)])
@pytest.mark.parametrize("input_name", quick_or_slow(ACTIVATIONS, "recu", "rsign"))
@pytest.mark.parametrize("kernel_name", quick_or_slow(WEIGHTS, "recu", "libra"))
def test_outputs_and_gradients(kernel_name, input_name, kind):
    linen, params, ours = pair(kind, WEIGHTS[kernel_name](), ACTIVATIONS[input_name]())
    ours.eval()
    np.testing.assert_array_equal(ours(X), linen.apply({"params": params}, X))
    ours.train()

    def by_call(p):
        return (linen.apply({"params": p}, X, tau=TAU, train=True, progress=PROGRESS) ** 2).sum()

    def by_model(p):
        return (linen.apply(with_tau({"params": p}, TAU, PROGRESS), X) ** 2).sum()

    expected = jax.grad(by_call)(params)
    of_nnx = nnx.grad(lambda m: (m(X, TAU, progress=PROGRESS) ** 2).sum(), argnums=nnx.DiffState(0, nnx.Param))
    set_tau_first = nnx.grad(lambda m: (m(X) ** 2).sum(), argnums=nnx.DiffState(0, nnx.Param))
    got = {"nnx": of_nnx(ours)}
    set_tau(ours, TAU, PROGRESS)
    got["set_tau"] = set_tau_first(ours)
    for name, gradient in expected.items():
        size = abs(np.asarray(gradient)).max()
        assert size > 0
        for found in (jax.grad(by_model)(params)[name], got["nnx"][name][...], got["set_tau"][name][...]):
            np.testing.assert_allclose(found, gradient, atol=1e-5 * size, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, kind in (WEIGHTS | ACTIVATIONS).items() if kind.annealed])
def test_annealed_ones_ask_for_the_progress_and_change_with_it(name):
    chosen = (WEIGHTS[name](), ACTIVATIONS["recu"]()) if name in WEIGHTS else (WEIGHTS["recu"](), ACTIVATIONS[name]())
    linen, params, ours = pair("dense", *chosen)
    set_tau(ours, TAU)
    for call in (
        lambda: linen.apply({"params": params}, X, tau=TAU, train=True),
        lambda: linen.apply(with_tau({"params": params}, TAU), X),
        lambda: ours(X),
    ):
        with pytest.raises(UserError, match=r"progress=.*with_tau or recu_jax\.set_tau"):
            call()

    def gradient(progress):
        return jax.grad(lambda p, x: (linen.apply(with_tau({"params": p}, TAU, progress), x) ** 2).sum(), (0, 1))(
            params, X
        )

    (early, early_x), (late, late_x) = gradient(0.0), gradient(1.0)
    changed = abs(early["kernel"] - late["kernel"]).max() if name in WEIGHTS else abs(early_x - late_x).max()
    assert changed > 0


@pytest.mark.parametrize(
    "argument", ["standardize", "clamp", "b", "centre", "center", "scale", "weights", "activations"]
)
def test_there_is_one_way_to_say_how_a_layer_binarises(argument):
    for make in (
        lambda **options: BinaryConv(4, (3, 3), **options),
        lambda **options: BinaryDense(4, **options),
        lambda **options: recu_jax.nnx.BinaryConv(3, 4, (3, 3), rngs=nnx.Rngs(0), **options),
        lambda **options: recu_jax.nnx.BinaryDense(3, 4, rngs=nnx.Rngs(0), **options),
    ):
        with pytest.raises(TypeError, match=argument):
            make(**{argument: None})
