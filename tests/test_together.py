"""Compares two ways to get 1-bit weights: one computation for all layers of a model, and one for each layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax import BinaryConv, BinaryDense, binarizers
from recu_jax.models.own import in_training
from recu_jax.models.together import with_signs

X = jax.random.normal(jax.random.key(0), (2, 4, 4, 8), jnp.float32)


class Passed(nn.Module):
    """Passes tau on to its layers. The last layer gets another tau, so it binarizes its weights itself."""

    weights: binarizers.WeightBinarizer

    @nn.compact
    def __call__(self, x, tau, progress=None, train=False):
        for i in range(4):
            layer = BinaryConv(8, (3, 3), kernel_binarizer=self.weights, name=f"conv{i}")
            x = x + layer(x, tau=tau if i < 3 else 0.7 * tau, progress=progress, train=train)
        return x.mean((1, 2))


class Left(nn.Module):
    """Takes no tau, so `with_tau` gives tau to its layers."""

    weights: binarizers.WeightBinarizer

    @nn.compact
    def __call__(self, x):
        for i in range(3):
            x = x + BinaryConv(8, (3, 3), kernel_binarizer=self.weights, name=f"conv{i}")(x)
        return BinaryConv(2, (4, 4), padding="VALID", kernel_binarizer=self.weights, name="last")(x)[:, 0, 0]


class Pair(nn.Module):
    """Two equal layers, which `Scanned` stacks."""

    weights: binarizers.WeightBinarizer

    @nn.compact
    def __call__(self, x, _):
        for i in range(2):
            x = x + BinaryConv(8, (3, 3), kernel_binarizer=self.weights, name=f"inner{i}")(x)
        return x, None


class Scanned(nn.Module):
    """Has layers within `nn.scan` and three others. Those within the scan binarize their weights themselves."""

    weights: binarizers.WeightBinarizer

    @nn.compact
    def __call__(self, x):
        pairs = nn.scan(Pair, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = pairs(self.weights, name="pairs")(x, None)
        for i in range(3):
            x = x + BinaryConv(8, (3, 3), kernel_binarizer=self.weights, name=f"conv{i}")(x)
        return x.mean((1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("model", [Passed, Left, Scanned])
@pytest.mark.parametrize("name", ["recu", "xnor_net", "libra"])
def test_results_and_gradients_are_those_of_single_layers(model, name):
    model = model(binarizers.weight_binarizer(name))
    variables = model.init(jax.random.key(1), X, **({"tau": 0.9} if isinstance(model, Passed) else {}))
    added = []

    def loss(params, tau, progress, together):
        given = {"params": params}
        if together:
            given = with_signs(model, given, X, tau, progress)
            added.extend(layer for layer, leaves in given["params"].items() if "recu_signs" in leaves)
        y = in_training(model, given, X, tau, progress)[0]
        return (y * jnp.arange(y.size).reshape(y.shape)).sum(), y

    of = jax.jit(jax.grad(loss, has_aux=True), static_argnums=3)
    alone, together = (of(variables["params"], jnp.float32(0.9), jnp.float32(0.5), by) for by in (False, True))
    assert set(added) == {"conv0", "conv1", "conv2"} | ({"last"} if isinstance(model, Left) else set())
    for got, wanted in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * float(jnp.abs(wanted).max()))


class Narrow(nn.Module):
    """Layers in bfloat16: two convolutions of equal kernels but different alpha, one in groups, and a dense layer."""

    weights: binarizers.WeightBinarizer

    @nn.compact
    def __call__(self, x):
        fields = {"dtype": jnp.bfloat16, "kernel_binarizer": self.weights}
        for i, alpha in enumerate(("learned", "none")):
            x = BinaryConv(8, (3, 3), alpha=alpha, name=f"c{i}", **fields)(x) / 8
        x = BinaryConv(8, (3, 3), feature_group_count=2, name="grouped", **fields)(x) / 8
        return BinaryDense(8, name="dense", **fields)(x.mean((1, 2)))


@pytest.mark.parametrize("name", ["recu", "xnor_net"])
def test_layers_of_bfloat16_get_their_scale_as_a_factor_of_the_signs(name):
    model = Narrow(binarizers.weight_binarizer(name))
    params = model.init(jax.random.key(1), X)["params"]

    def together(params):
        return with_signs(model, {"params": params}, X, 0.9, None)

    entries = {layer: set(leaves) - {"kernel", "alpha"} for layer, leaves in together(params)["params"].items()}
    scaled = {"recu_scaled_signs"}
    assert entries == {
        "c0": scaled, "c1": scaled if name == "xnor_net" else {"recu_signs"}, "grouped": scaled, "dense": scaled
    }  # fmt: skip

    def loss(params, form):
        y = in_training(model, form(params), X, 0.9, None)[0]
        return (y * jnp.arange(y.size).reshape(y.shape)).astype(jnp.float32).sum()

    got, wanted = (jax.grad(loss)(params, form) for form in (together, lambda params: {"params": params}))
    for of_one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(of_one, other, atol=0.03 * float(jnp.abs(other).max()))


def test_the_gradient_of_a_scale_is_summed_in_float32():
    model = Narrow(binarizers.weight_binarizer("recu"))
    params = model.init(jax.random.key(1), X)["params"]

    def of_first(params):
        return with_signs(model, {"params": params}, X, 0.9, None)["params"]["c0"]["recu_scaled_signs"]

    products, pull = jax.vjp(of_first, params)
    dy = jax.random.normal(jax.random.key(2), products.shape, jnp.bfloat16)
    wanted = (np.asarray(dy, np.float64) * np.sign(np.asarray(products, np.float64))).sum((0, 1, 2))
    np.testing.assert_allclose(pull(dy)[0]["c0"]["alpha"], wanted, rtol=1e-5)
