"""Compares the costs of models with counts by hand and with published figures."""

import functools
import io

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from recu_jax import BinaryConv, BinaryDense, create_model, model_cost
from recu_jax.cost import ModelCost, print_table

IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)


def macs(cost):
    return {layer.path: dict(layer.macs) for layer in cost.layers}


class Small(nn.Module):
    dtype: object = None

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (5, 5), strides=2, dtype=self.dtype, name="stem")(x)
        x = BinaryConv(16, (3, 3), feature_group_count=4, use_bias=True, dtype=self.dtype, name="grouped")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = BinaryConv(4, (3, 3), padding="VALID", alpha="mean", dtype=self.dtype, name="valid")(x)
        x = BinaryDense(6, alpha="none", dtype=self.dtype, name="dense")(x.reshape(2, -1))
        return nn.Dense(3, dtype=self.dtype, name="head")(x)


def test_small_net_by_hand():
    # The input is 2 images of 8x8x3. Per image, stem returns 4x4x8, valid returns 2x2x4, and dense gets 16 numbers.
    cost = model_cost(Small(), jnp.zeros((2, 8, 8, 3)))
    rows = {
        c.path: (c.kind, c.output_shape, c.kernel_shape, c.binary_parameters, c.real_parameters, c.constants, c.bytes)
        for c in cost.layers
    }
    assert rows == {
        "stem": ("Conv", (2, 4, 4, 8), (5, 5, 3, 8), 0, 608, 0, 2432),
        "grouped": ("BinaryConv", (2, 4, 4, 16), (3, 3, 2, 16), 288, 32, 0, 36 + 128),
        "norm": ("BatchNorm", (2, 4, 4, 16), None, 0, 32, 32, 256),
        "valid": ("BinaryConv", (2, 2, 2, 4), (3, 3, 16, 4), 576, 0, 4, 72 + 16),
        "dense": ("BinaryDense", (2, 6), (16, 6), 96, 0, 0, 12),
        "head": ("Dense", (2, 3), (6, 3), 0, 21, 0, 84),
    }
    assert macs(cost) == {
        "stem": {(32, 32): 2 * 16 * 8 * 75},
        "grouped": {(1, 1): 2 * 16 * 16 * 18},
        "norm": {},
        "valid": {(1, 1): 2 * 4 * 4 * 144},
        "dense": {(1, 1): 2 * 6 * 16},
        "head": {(32, 32): 2 * 3 * 6},
    }
    assert (cost.parameters, cost.binary_parameters, cost.real_parameters, cost.constants) == (1653, 960, 693, 36)
    assert cost.bytes == 2432 + 164 + 256 + 88 + 12 + 84 == 960 / 8 + 4 * (693 + 36)
    assert cost.float32_bytes == 4 * (1653 + 36) and cost.compression == cost.float32_bytes / cost.bytes
    assert cost.macs == {(1, 1): 9216 + 4608 + 192, (32, 32): 19200 + 36}
    assert cost.binary_share_of_parameters == 960 / 1653 and cost.binary_share_of_macs == 14016 / 33252
    assert cost.ace == cost.bops == 14016 + 1024 * 19236
    assert cost.ops == 14016 / 64 + 19236


def test_bfloat16_halves_the_bits_of_real_products_and_no_others():
    cost = model_cost(Small(dtype=jnp.bfloat16), jnp.zeros((2, 8, 8, 3), jnp.bfloat16))
    assert cost.macs == {(1, 1): 14016, (16, 16): 19236}


@pytest.mark.parametrize("train", [False, True])
def test_sums_of_the_training_are_not_products_of_a_binary_layer(train):
    layer = BinaryConv(4, (3, 3))
    assert model_cost(layer, jnp.zeros((2, 8, 8, 3)), tau=0.9, train=train).macs == {(1, 1): 2 * 64 * 4 * 27}


def test_real_weights_on_binary_activations():
    cost = model_cost(BinaryDense(5, binary_weights=False, alpha="none"), jnp.zeros((1, 7)))
    assert (cost.binary_parameters, cost.real_parameters, dict(cost.macs)) == (0, 35, {(32, 1): 35})
    assert cost.ace == 35 * 32 and cost.binary_share_of_macs == 0


def test_a_bi_real_style_resnet18_is_as_published():
    """Compares with larq zoo and with Liu et al. 2018, arXiv 1808.00278.

    larq zoo: 11.7 M parameters, or 11,699,112 with running statistics, and 4.03 MB of 2^20 bytes.

    Liu et al.: 1.63e8 operations. With a scale per channel and without running statistics: 33.6 Mbit. In full
    precision: 374.1 Mbit and 1.81e9 multiply-accumulates.
    """
    bi_real = create_model("resnet18", 1000, conv=functools.partial(BinaryConv, alpha="none"))
    cost = model_cost(bi_real, IMAGE)
    assert cost.parameters == 11_689_512 and cost.parameters + cost.constants == 11_699_112
    assert round(cost.bytes / 2**20, 2) == 4.03
    assert sum(cost.macs.values()) == 1_814_073_344
    assert cost.ops == pytest.approx(1.63e8, rel=0.01)
    scaled = model_cost(create_model("resnet18", 1000, conv=BinaryConv), IMAGE)
    assert round((scaled.binary_parameters + 32 * scaled.real_parameters) / 1e6, 1) == 33.6
    real = model_cost(create_model("resnet18", 1000), IMAGE)
    assert round(32 * real.parameters / 1e6, 1) == 374.1 and real.macs == {(32, 32): 1_814_073_344}
    assert real.compression == 1 and real.binary_share_of_parameters == 0


class Repeated(nn.Module):
    @nn.compact
    def __call__(self, x):
        class Step(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                return BinaryDense(4, name="dense")(nn.Dense(4, name="real")(x)), None

        stacked = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        x, _ = nn.scan(Step, length=3, **stacked)(name="scanned")(x, None)
        x = nn.remat(BinaryDense)(4, name="remade")(x)
        x = nn.jit(BinaryDense)(4, name="compiled1")(x)
        x = nn.jit(BinaryDense)(4, name="compiled2")(x)
        shared = BinaryDense(4, name="shared")
        x = shared(shared(x))
        return nn.vmap(BinaryDense, in_axes=None, axis_size=5, **stacked)(6, name="mapped")(x)


def test_transformations_and_shared_layers():
    first = model_cost(Repeated(), jnp.zeros((2, 4)))
    cost = model_cost(Repeated(), jnp.zeros((2, 4)))  # finds the compiled parts of the first call
    assert cost == first
    assert macs(cost) == {
        "scanned/real": {(32, 32): 3 * 32},
        "scanned/dense": {(1, 1): 3 * 32},
        "remade": {(1, 1): 32},
        "compiled1": {(1, 1): 32},
        "compiled2": {(1, 1): 32},
        "shared": {(1, 1): 2 * 32},
        "mapped": {(1, 1): 5 * 2 * 6 * 4},
    }
    assert cost.binary_parameters == 3 * 16 + 4 * 16 + 5 * 24 and cost.real_parameters == 3 * (20 + 4) + 4 * 4 + 5 * 6


def test_whatever_multiplies_is_counted():
    class Other(nn.Module):
        @nn.compact
        def __call__(self, x, double: bool):
            x = nn.ConvTranspose(5, (4, 4), strides=(2, 2), name="up")(x)  # 3x3x2 to 6x6x5
            x = x.reshape(1, 36, 5)
            x = nn.MultiHeadDotProductAttention(1, qkv_features=7, name="attention")(x)
            x = jax.lax.cond(x.sum() > 0, lambda x: x, lambda x: x @ jnp.ones((5, 5)), x)
            return x @ x.mT if double else x

    image = jax.ShapeDtypeStruct((1, 3, 3, 2), jnp.float32)
    cost = macs(model_cost(Other(), image, False))
    assert cost["up"] == {(32, 32): 9 * 2 * 16 * 5}
    assert cost["attention/query"] == {(32, 32): 36 * 5 * 7} and cost["attention/out"] == {(32, 32): 36 * 5 * 7}
    assert cost["attention"] == {(32, 32): 2 * 36 * 36 * 7}
    assert cost[""] == {(32, 32): 36 * 25}
    assert macs(model_cost(Other(), image, double=True))[""] == {(32, 32): 36 * 25 + 36 * 36 * 5}


def test_nothing_is_allocated():
    cost = model_cost(BinaryDense(10**6), jax.ShapeDtypeStruct((1, 10**6), jnp.float32))
    assert cost.binary_parameters == 10**12 and cost.bytes == 10**12 / 8 + 4 * 10**6


class NnxModel(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.data([nnx.Linear(4, 5, rngs=rngs), nnx.BatchNorm(5, rngs=rngs)])
        self.conv = nnx.Conv(5, 6, (3, 3), rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.drop(self.conv(x))


@pytest.mark.parametrize("make", [lambda: NnxModel(nnx.Rngs(0)), lambda: nnx.eval_shape(lambda: NnxModel(nnx.Rngs(0)))])
def test_nnx_by_hand(make):
    model = make()
    before, call = nnx.graphdef(model), nnx.Linear.__call__
    cost = model_cost(model, jnp.zeros((1, 8, 8, 4)))
    assert [(c.path, c.kind, c.real_parameters, c.constants, dict(c.macs)) for c in cost.layers] == [
        ("layers/0", "Linear", 25, 0, {(32, 32): 64 * 20}),
        ("layers/1", "BatchNorm", 10, 10, {}),
        ("conv", "Conv", 276, 0, {(32, 32): 64 * 6 * 45}),
    ]
    assert nnx.graphdef(model) == before and nnx.Linear.__call__ is call


def test_nnx_binary_layers():
    layers = pytest.importorskip("recu_jax.nnx", reason="no layers for NNX")

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.conv = layers.BinaryConv(3, 4, (3, 3), alpha="mean", rngs=rngs)
            self.dense = layers.BinaryDense(4, 5, rngs=rngs)

        def __call__(self, x):
            return self.dense(self.conv(x).mean((1, 2)))

    cost = model_cost(Model(nnx.Rngs(0)), jnp.zeros((1, 8, 8, 3)))
    assert [(c.path, c.binary_parameters, c.real_parameters, c.constants, dict(c.macs)) for c in cost.layers] == [
        ("conv", 108, 0, 4, {(1, 1): 64 * 108}),
        ("dense", 20, 5, 0, {(1, 1): 20}),
    ]


def test_layers_without_products_are_listed():
    """In training a batch norm writes its statistics."""

    class Normalized(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.LayerNorm(name="layer_norm")(nn.relu(x))
            return nn.BatchNorm(use_running_average=not train, name="batch_norm")(x)

    cost = model_cost(Normalized(), jnp.zeros((2, 8)), train=True)
    rows = {c.path: (c.real_parameters, c.constants, sum(c.macs.values())) for c in cost.layers}
    assert rows == {"layer_norm": (16, 0, 0), "batch_norm": (16, 16, 0)}


def test_shares_of_a_model_without_parameters():
    cost = ModelCost([])
    assert (cost.compression, cost.binary_share_of_parameters) == (1.0, 0.0)


def test_table_has_every_layer_and_the_sums():
    out = io.StringIO()
    print_table(model_cost(Small(), jnp.zeros((2, 8, 8, 3))), "small", out)
    text = out.getvalue()
    titles = text.splitlines()[2].split("┃")[1:-1]
    assert [t.strip() for t in titles][:5] == ["layer", "kind", "output", "kernel", "1-bit"]
    assert "small" in text and "2x4x4x16" in text and "3x3x2x16" in text and "164" in text
    assert "1,653: 960 of 1 bit (58.1%), 693 of 32 bits" in text and "1.971e+07" in text


def test_all_devices_of_a_shard_map_are_counted():
    """Four devices compute one image each."""
    mesh, per_image = jax.sharding.Mesh(jax.devices()[:4], ("x",)), jax.sharding.PartitionSpec("x")

    class Mapped(nn.Module):
        @nn.compact
        def __call__(self, x):
            kernel = self.param("kernel", nn.initializers.ones, (5, 6))
            product = jax.shard_map(
                jnp.matmul, mesh=mesh, in_specs=(per_image, jax.sharding.PartitionSpec()), out_specs=per_image
            )
            return product(x, kernel)

    (layer,) = model_cost(Mapped(), jax.ShapeDtypeStruct((4, 5), jnp.float32)).layers
    assert dict(layer.macs) == {(32, 32): 4 * 5 * 6}
