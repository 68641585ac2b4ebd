"""Checks which binary layers, binarizers and 1-bit weights are found in models of Linen and NNX."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

import recu_jax.nnx
from recu_jax import BinaryConv, BinaryDense, BinaryLayer, UserError, binary_layers, create_model, one_bit_weights
from recu_jax.binarizers import activations, weights
from tests.support.draws import normal


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(6, (3, 3), name="first")(x)
        x = BinaryConv(4, (3, 3), alpha="mean", kernel_binarizer=weights.ReCU(clamp=False), name="mean")(x, train=train)
        no_center = weights.ReCU(b=1.0, center=False)
        x = BinaryConv(4, (3, 3), alpha="none", kernel_binarizer=no_center, name="none")(x, train=train)
        x = BinaryConv(4, (3, 3), binary_weights=False, alpha="none", name="real")(x)
        return BinaryDense(5, name="dense")(x.mean((1, 2)))


def test_layers_are_those_of_the_model_with_their_binarizers():
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    found = binary_layers(Net(), jax.ShapeDtypeStruct(x.shape, x.dtype), train=True)
    assert [(layer.path, layer.alpha, layer.binary_weights, layer.kernel_binarizer) for layer in found] == [
        ("mean", "mean", True, weights.ReCU(clamp=False)),
        ("none", "none", True, weights.ReCU(b=1.0, center=False)),
        ("real", "none", False, weights.ReCU()),
        ("dense", "learned", True, weights.ReCU()),
    ]
    model = create_model("digits_resnet8", 10)
    x = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    names = [f"layer{stage}_0/conv{i}" for stage in (1, 2, 3) for i in (1, 2)]
    assert [layer.path for layer in binary_layers(model, x)] == names


X = normal((3, 6))
RECU = (weights.ReCU(), activations.ReCU())


class Foreign(nn.Module):
    """Three binary dense layers, which are called with x alone. `around` names the transformation around the layers."""

    around: str

    @nn.compact
    def __call__(self, x):
        class Block(nn.Module):
            @nn.compact
            def __call__(self, x, _=None):
                return BinaryDense(6, name="dense", **OPTIONS.get(around, {}))(x), None

        around = self.around
        if around == "nothing":
            for i in range(3):
                x, _ = Block(name=f"block{i}")(x)
        elif around == "remat and jit":
            for i in range(3):
                x, _ = nn.jit(nn.remat(Block))(name=f"block{i}")(x)
        elif around == "vmap":
            mapped = nn.vmap(Block, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=3)
            x, _ = mapped(name="blocks")(jnp.stack([x] * 3))
        else:
            axis = {"scan": 0, "scan of no alpha": 0, "scan along axis 1": 1}[around]
            scanned = nn.scan(nn.remat(Block), variable_axes={"params": axis}, split_rngs={"params": True}, length=3)
            x, _ = scanned(name="blocks")(x, None)
        return x


OPTIONS = {"scan of no alpha": {"alpha": "none"}}


class ForeignNNX(nnx.Module):
    """A binary convolution, a batch norm and three scanned binary dense layers. They are called with x alone."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def create(rngs):
            return recu_jax.nnx.BinaryDense(6, 6, rngs=rngs)

        self.first = recu_jax.nnx.BinaryConv(1, 6, 3, alpha="none", rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.blocks = create(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x, block):
            return block(x)

        return forward(self.norm(self.first(x)), self.blocks)


def test_lists_the_layers_of_a_linen_model():
    model = create_model("cifar_resnet20", stage_sizes=(1, 1, 1))
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    found = binary_layers(model, x, train=False)
    flat = flatten_dict(jax.eval_shape(model.init, jax.random.key(0), x)["params"], sep="/")
    kernels = {
        path.removesuffix("/alpha"): flat[path.replace("alpha", "kernel")].shape for path in flat if "alpha" in path
    }
    assert len(found) == 6
    assert {layer.path: layer.kernel_shape for layer in found} == kernels
    assert sum(layer.weights for layer in found) == 9 * (2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    assert {layer.kind for layer in found} == {"conv"}

    (scanned,) = binary_layers(Foreign("scan of no alpha"), X)
    assert scanned == BinaryLayer("blocks/dense", "dense", (3, 6, 6), "none", True, *RECU, stacked=(0,))
    (alone,) = binary_layers(BinaryConv(4, (3, 3), binary_weights=False), jnp.ones((1, 5, 5, 2)))
    assert alone == BinaryLayer("", "conv", (3, 3, 2, 4), "learned", False, *RECU)
    assert binary_layers(nn.Dense(3), X) == []


def test_lists_the_layers_of_an_nnx_model():
    assert sorted(binary_layers(ForeignNNX(nnx.Rngs(0))), key=lambda layer: layer.path) == [
        BinaryLayer("blocks", "dense", (3, 6, 6), "learned", True, *RECU, stacked=(0,)),
        BinaryLayer("first", "conv", (3, 1, 6), "none", True, *RECU),
    ]
    assert binary_layers(nnx.Linear(6, 6, rngs=nnx.Rngs(0))) == []


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": "mean"},
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                {"alpha": "none"},
                {"kernel_binarizer": weights.Libra()},
                {"kernel_binarizer": weights.XNORNet(), "alpha": "none"},
                {"kernel_binarizer": weights.DoReFa()},
            )
        ),
    ],
    ids=str,
)
def test_one_bit_weights_are_those_that_a_layer_computes_with(options):
    conv, x = BinaryConv(6, (3, 3), feature_group_count=2, **options), normal((2, 6, 6, 4))
    variables = jax.jit(conv.init)(jax.random.key(0), x)
    if options.get("alpha") == "mean":  # evaluation uses the tau of the last step
        variables = {**variables, "batch_stats": {"tau": jnp.float32(0.8)}}
    ((path, (signs, alpha)),) = one_bit_weights(conv, variables, jax.ShapeDtypeStruct(x.shape, x.dtype)).items()
    assert path == "" and set(np.unique(signs)) == {-1, 1}
    plain = nn.Conv(6, (3, 3), feature_group_count=2, use_bias=False)
    expected = plain.apply({"params": {"kernel": signs}}, jnp.where(x >= 0, 1.0, -1.0))
    expected *= 1 if alpha is None else alpha[None, None, None]
    np.testing.assert_allclose(conv.apply(variables, x), expected, rtol=1e-6)


def test_one_bit_weights_of_models():
    x = normal((2, 6, 6, 3))
    variables = jax.jit(Net().init)(jax.random.key(0), x)
    found = one_bit_weights(Net(), variables, x, train=True)
    assert list(found) == ["mean", "none", "dense"] and found["none"].alpha is None
    stored = variables["params"]["mean"]["kernel"]
    assert 0 < (found["mean"].signs != jnp.sign(stored)).mean() < 0.2

    class Twin(nnx.Module):
        def __init__(self):
            # Flax before 0.12 takes a plain list.
            listed = getattr(nnx, "List", list)
            self.layers = listed([recu_jax.nnx.BinaryDense(6, 4, rngs=nnx.Rngs(0))])

    twin = Twin()
    layer = twin.layers[0]
    layer.kernel[...] = normal((6, 4)) + 1
    ((path, (signs, alpha)),) = one_bit_weights(twin).items()
    assert path == "layers/0"
    y = jnp.where(X >= 0, 1.0, -1.0) @ signs * alpha[None]
    np.testing.assert_allclose(layer(X, train=False), y, rtol=1e-6)
    with pytest.raises(UserError, match="Conv has no binary layer"):
        one_bit_weights(nn.Conv(4, (3, 3)), {}, x)


@pytest.mark.parametrize("axis", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(-1, marks=pytest.mark.slow)])
def test_one_bit_weights_of_stacked_layers(axis):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return BinaryDense(6, name="dense")(x), None

    model = nn.scan(Block, variable_axes={"params": axis}, split_rngs={"params": True}, length=3)()
    variables = jax.jit(model.init)(jax.random.key(0), X)
    (record,), (found,) = binary_layers(model, X), one_bit_weights(model, variables, X).values()
    assert record.stacked == ({0: 0, 1: 1, -1: 2}[axis],)
    assert found.signs.shape == (3, 6, 6) and found.alpha.shape == (3, 6)
    y = X
    for signs, alpha in zip(*found, strict=True):
        y = jnp.where(y >= 0, 1.0, -1.0) @ signs * alpha[None]
    np.testing.assert_allclose(model.apply(variables, X)[0], y, rtol=1e-6)
