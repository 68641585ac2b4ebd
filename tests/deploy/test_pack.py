"""Compares packed models with the models they were made of: equal outputs, a 32nd of the bytes, no latent weights."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

from recu_jax import BinaryConv, BinaryDense, UserError, create_model, pack, with_tau
from recu_jax.binarizers import ACTIVATIONS, WEIGHTS, activations, weights
from tests.support.draws import normal
from tests.support.geometries import GEOMETRIES


def initial(model, *args, **kwargs):
    """Returns variables in which no two channels, and no two layers of a stack, are alike."""
    variables = jax.jit(functools.partial(model.init, **kwargs))(jax.random.key(0), *args)
    leaves, structure = jax.tree.flatten(variables)
    return jax.tree.unflatten(
        structure, [leaf + 0.1 * abs(normal(leaf.shape, i)).astype(leaf.dtype) for i, leaf in enumerate(leaves)]
    )


def check_equal(model, variables, *args, jit=True, **kwargs):
    """Packs the variables and compares the outputs before and after, bit for bit. Returns the packed variables."""
    packed = pack(model, variables, *args, **kwargs)
    apply = functools.partial(model.apply, **kwargs)
    for call in (jax.jit(apply),) if jit == "only" else (jax.jit(apply), apply) if jit else (apply,):
        expected, got = call(variables, *args), call(packed, *args)
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(np.asarray(got, np.float64), np.asarray(expected, np.float64))
    assert np.unique(np.asarray(expected, np.float64)).size > 4
    return packed


def kernels(packed):
    flat = flatten_dict(packed["params"])
    return {path[:-1]: leaf for path, leaf in flat.items() if path[-1] == "kernel_bits"}


@pytest.mark.slow
@pytest.mark.parametrize(("window", "strides", "padding", "dilation", "groups", "spatial"), GEOMETRIES)
def test_convolutions_of_every_form(window, strides, padding, dilation, groups, spatial):
    layer = BinaryConv(8, window, strides, padding, kernel_dilation=dilation, feature_group_count=groups, use_bias=True)
    x = normal((2, *spatial, 4))
    packed = check_equal(layer, initial(layer, x), x)
    assert set(packed["params"]) == {"kernel_bits", "kernel_scale", "bias"}
    assert packed["params"]["kernel_bits"].nbytes == 4 * -(-np.prod((*window, 4 // groups, 8)) // 32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (BinaryConv(70, (3, 3)), (5, 5, 33)),
        (BinaryConv(48, (3, 3), feature_group_count=48), (5, 5, 48)),
        (BinaryConv(8, (3,), input_dilation=2, padding=1), (7, 4)),
        (BinaryConv(6, (2, 2, 2, 2), padding=1), (3, 3, 3, 3, 4)),
        (BinaryConv(8, 3), (2, 9, 4)),
        (BinaryDense(10), (3, 5, 70)),
        (BinaryDense(10, use_bias=True, precision="highest"), (64,)),
        (BinaryDense(5, alpha="none"), (4, 40)),
        (BinaryConv(5, (3, 3), alpha="mean"), (4, 4, 3)),
        (BinaryConv(5, (3, 3), input_binarizer=activations.RSign(0.1)), (4, 4, 3)),
    ],
)
def test_layers_of_every_form(layer, shape):
    x = normal((2, *shape))
    variables = initial(layer, x)
    packed = check_equal(layer, variables, x)
    np.testing.assert_array_equal(layer.apply(packed, x[0]), layer.apply(variables, x[0]))
    assert layer.apply(packed, x[:0]).shape == layer.apply(variables, x[:0]).shape


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["conv", "dense"])
@pytest.mark.parametrize(("dtype", "param_dtype"), [("bfloat16", None), (None, "bfloat16"), ("float16", "float32")])
def test_dtypes(kind, dtype, param_dtype):
    types = {"dtype": dtype, "param_dtype": param_dtype or jnp.float32}
    layer = BinaryConv(6, (3, 3), **types) if kind == "conv" else BinaryDense(6, **types)
    x = normal((2, 5, 5, 300)).astype(dtype or param_dtype)
    check_equal(layer, initial(layer, x), x)
    wider = layer.clone(dtype=None, param_dtype=jnp.float32, preferred_element_type=jnp.float32)
    check_equal(wider, initial(wider, x), x)
    # If the parameters were cast, the outputs have their dtype.
    plain = layer.clone(dtype=None, param_dtype=jnp.float32, alpha="none")
    cast = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), initial(plain, x))
    check_equal(plain, cast, x.astype(jnp.bfloat16))


@pytest.mark.slow
@pytest.mark.as_users_compile
@pytest.mark.parametrize("alpha", ["learned", "none"])
@pytest.mark.parametrize("name", [name for name, kind in WEIGHTS.items() if not kind.shifted])
def test_every_weight_binarizer(name, alpha):
    layer = BinaryConv(7, (3, 3), kernel_binarizer=WEIGHTS[name](), alpha=alpha)
    x = normal((2, 6, 6, 37))
    check_equal(layer, initial(layer, x), x)


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_binarizer(name):
    layer = BinaryConv(7, (3, 3), input_binarizer=ACTIVATIONS[name]())
    x = normal((2, 5, 5, 3))
    check_equal(layer, initial(layer, x), x)


class Strange(nn.Module):
    """A user's model: odd names, a list of layers, a shared layer, remat, jit, and a flag without a default."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(40, (3, 3), name="kernel")(x)
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        x = x + BinaryConv(40, (3, 3), name="a/b.c %2F")(norm()(x), train=train)
        for conv in [BinaryConv(40, (3, 3), alpha="mean", name=f"alpha_{i}") for i in range(2)]:
            x = x + conv(norm()(x), train=train)
        shared = BinaryConv(40, (1, 1), kernel_binarizer=weights.XNORNet())
        x = x + shared(nn.hard_tanh(shared(norm()(x))))
        x = x + nn.jit(nn.remat(BinaryConv))(40, (3, 3), name="remat")(norm()(x))
        x = x + BinaryConv(40, (3, 3), binary_weights=False, name="real")(norm()(x))
        x = nn.LayerNorm()(BinaryDense(20, name="0")(nn.LayerNorm()(x.mean((1, 2)))))
        return BinaryDense(10)(x)


@pytest.mark.slow
@pytest.mark.as_users_compile
def test_a_model_of_a_stranger():
    model, x = Strange(), normal((2, 9, 9, 3))
    variables = initial(model, x, train=False)
    packed = check_equal(model, variables, x, train=False)
    assert set(kernels(packed)) == {
        ("a/b.c %2F",), ("alpha_0",), ("alpha_1",), ("BinaryConv_0",), ("remat",),
        ("0",), ("BinaryDense_0",),
    }  # fmt: skip
    binary = sum(bits.nbytes for bits in kernels(packed).values())
    assert binary == 4 * (3 * 450 + 450 + 50 + 25 + 7) and 32 * binary - 4 * (4 * 14400 + 1600 + 800 + 200) < 32 * 4
    # Latent weights and alpha of packed layers are gone. All other variables stay.
    before, after = (flatten_dict(v, sep="/") for v in (variables, packed))
    kept = {name for name in before if name.split("/")[-1] not in ("kernel", "alpha")}
    kept |= {"params/kernel/kernel", "params/real/kernel", "params/real/alpha"}
    assert {name for name in after if "kernel_" not in name} == kept
    assert all(after[name] is before[name] for name in kept)
    # A flag that is passed by position reaches the model too.
    jax.tree.map(np.testing.assert_array_equal, pack(model, variables, x, False), packed)


class Stack(nn.Module):
    """Four layers of four features. nn.scan or nn.vmap stacks their kernels."""

    around: str
    axis: int = 0
    dense: bool = False
    alpha: str = "learned"

    @nn.compact
    def __call__(self, x):
        outer = self

        class Block(nn.Module):
            @nn.compact
            def __call__(self, x, _=None):
                options = {"alpha": outer.alpha, "kernel_binarizer": weights.DoReFa(), "name": "layer"}
                layer = BinaryDense(4, **options) if outer.dense else BinaryConv(4, (3, 3), **options)
                return nn.LayerNorm()(layer(x)), None

        axes = {"variable_axes": {"params": self.axis}, "split_rngs": {"params": True}}
        if self.around == "scan":
            return nn.scan(nn.remat(Block), length=4, **axes)(name="blocks")(x, None)[0]
        return nn.vmap(Block, axis_size=4, **axes)(name="blocks")(jnp.stack([x] * 4))[0]


@pytest.mark.slow
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("around", "axis"), [("scan", 0), ("scan", 1), ("scan", -1), ("vmap", 0), ("vmap", -1)])
def test_stacked_layers(around, axis, dense):
    """The stacked axis and the axes of features have one size, so sizes do not tell which axis is stacked."""
    model, x = Stack(around, axis, dense), normal((2, 5, 5, 4))
    packed = check_equal(model, initial(model, x), x, jit="only")
    assert sum(bits.nbytes for bits in kernels(packed).values()) == 4 * 4 * (1 if dense else 5)


@pytest.mark.slow
def test_own_models():
    model, x = create_model("digits_resnet8", num_classes=10), normal((2, 8, 8, 1))
    check_equal(model, initial(model, x), x, jit="only")


@pytest.mark.slow
def test_nan_gradients_vmap_and_shards():
    layer, x = BinaryConv(8, (3, 3)), normal((4, 5, 5, 3))
    variables = initial(layer, x)
    packed = pack(layer, variables, x)
    damaged = x.at[1, 2, 2, 1].set(jnp.nan)
    np.testing.assert_array_equal(layer.apply(packed, damaged), layer.apply(variables, damaged))
    mapped = [jax.vmap(layer.apply, (None, 0))(v, x) for v in (packed, variables)]
    np.testing.assert_array_equal(*mapped)
    mesh = jax.make_mesh((4,), ("batch",))
    shards = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch")))
    y = jax.jit(layer.apply)(packed, shards)
    np.testing.assert_array_equal(y, layer.apply(variables, x))
    assert not y.sharding.is_fully_replicated
    # The gradient with respect to the inputs, as saliency maps use it.
    of_input = [jax.grad(lambda x, v=v: (layer.apply(v, x) ** 2).sum())(x) for v in (packed, variables)]
    np.testing.assert_allclose(*of_input, rtol=1e-4, atol=1e-4)
    assert abs(of_input[0]).max() > 0


def test_bits_that_a_program_holds_are_arranged_while_it_is_traced():
    layer, x = BinaryConv(8, (3, 3)), normal((1, 5, 5, 3))
    variables = layer.init(jax.random.key(0), x)
    packed = pack(layer, variables, x)
    in_numpy = jax.device_get(packed)
    np.testing.assert_array_equal(layer.apply(in_numpy, x), layer.apply(variables, x))
    programs = {str(jax.make_jaxpr(functools.partial(layer.apply, v))(x)) for v in (packed, in_numpy)}
    assert len(programs) == 1


def refused(call, match):
    with pytest.raises(UserError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_errors():
    layer, x = BinaryConv(8, (3, 3)), normal((1, 5, 5, 3))
    variables = layer.init(jax.random.key(0), x)
    packed = pack(layer, variables, x)
    refused(lambda: layer.apply(packed, x, tau=0.9, train=True), r"do not train.*recu_jax\.pack was given")
    refused(lambda: layer.apply(with_tau(packed, 0.9), x), "do not train")
    refused(lambda: pack(layer, packed, x), "packed already")
    refused(lambda: pack(nn.Conv(8, (3, 3)), variables, x), "Conv has no binary layer")
    refused(lambda: pack(layer.clone(binary_weights=False), variables, x), "no binary layer .*1-bit weights")
    refused(lambda: pack(layer.clone(features=9), variables, x), r"\(3, 3, 3, 9\).*one of shape \(3, 3, 3, 8\)")
    refused(lambda: pack(layer, {"params": {"conv": {}}}, x), "have none")
    refused(lambda: pack(layer, variables["params"], x), r"\['alpha', 'kernel'\], and no 'params'")
    refused(lambda: pack(layer, variables), "TypeError.*pack.model, variables, images.")
    refused(lambda: pack(layer, jax.tree.map(lambda leaf: leaf * jnp.nan, variables), x), "NaN")
    refused(lambda: layer.clone(features=20).apply(packed, x), r"^BinaryConv: .* uint32 of shape \(1, 1, 1, 17\)")
    inner = {"params": {"layers_0": packed["params"]}}
    refused(lambda: nn.Sequential([layer.clone(features=20)]).apply(inner, x), "^layers_0: kernel_bits is uint32")
    refused(lambda: layer.apply(jax.tree.map(lambda leaf: leaf.astype("float32"), packed), x), "float32 of shape")
    refused(lambda: pack(nnx.Linear(2, 2, rngs=nnx.Rngs(0))), "Linear has no binary layer")
    refused(lambda: pack(nnx.Linear, variables, x), "no Linen module")
    mean = layer.clone(alpha="mean")
    packed = pack(mean, mean.init(jax.random.key(0), x), x)
    refused(lambda: mean.apply(packed, x, tau=0.9), "leave out tau")
