"""Compares packed NNX models with the models they were made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recu_jax
import recu_jax.nnx
from recu_jax import UserError, pack, set_tau
from recu_jax.binarizers import activations, weights
from tests.support.draws import normal


class NnxNet(nnx.Module):
    def __init__(self, rngs, width=40):
        self.first = nnx.Conv(3, width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        conv = functools.partial(recu_jax.nnx.BinaryConv, width, width, (3, 3), rngs=rngs)
        self.convs = nnx.List([conv(input_binarizer=activations.RSign()), conv(kernel_binarizer=weights.XNORNet())])
        self.mean = conv(alpha="mean", dtype=jnp.bfloat16)
        self.shared = [self.mean] if not hasattr(nnx, "List") else nnx.List([self.mean])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = recu_jax.nnx.BinaryDense(width, 10, use_bias=True, rngs=rngs)

    def __call__(self, x):
        x = self.first(x)
        for conv in [*self.convs, self.mean, *self.shared]:
            x = x + conv(self.norm(x))
        return self.last(self.dropout(self.norm(x)).mean((1, 2)))


@pytest.mark.slow
@pytest.mark.as_users_compile
def test_nnx():
    model, x = NnxNet(nnx.Rngs(0)), normal((2, 8, 8, 3))
    set_tau(model, 0.9)
    model(x)
    packed = pack(model)
    assert model.mean.training and model.mean.kernel is not None
    model.eval()
    for call in (lambda m, x: m(x), nnx.jit(lambda m, x: m(x))):
        np.testing.assert_array_equal(call(packed, x), call(model, x))
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(m, nnx.Param))) for m in (model, packed)]
    # The 40 numbers are the alpha of layer `mean`. Before packing, this alpha is computed and not a parameter.
    assert sizes[0] - sizes[1] == (3 * 14400 + 400) * 4 - (3 * 450 + 13 + 40) * 4
    assert packed.mean is packed.shared[0] and packed.mean.kernel is None
    with pytest.raises(UserError, match="packed already"):
        pack(packed)
    with pytest.raises(UserError, match="latent weights are gone"):
        recu_jax.binary_layers(packed)
    with pytest.raises(UserError, match="latent weights are gone"):
        recu_jax.model_cost(packed, x)
    with pytest.raises(UserError, match="do not train"):
        set_tau(packed, 0.9)
    packed.train()
    with pytest.raises(UserError, match="do not train"):
        packed(x)


@nnx.vmap(in_axes=0, out_axes=0)
def _stacked(key):
    return recu_jax.nnx.BinaryDense(4, 4, kernel_binarizer=weights.XNORNet(), rngs=nnx.Rngs(key))


def test_nnx_scan():
    model, x = _stacked(jax.random.split(jax.random.key(0), 4)), normal((3, 4))
    forward = nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    packed = pack(model)
    model.eval()
    np.testing.assert_array_equal(forward(x, packed), forward(x, model))
