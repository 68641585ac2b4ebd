"""Compares the NNX layers with the Linen layers, and tests them as users of Flax's NNX layers use them."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recu_jax
import recu_jax.nnx
from recu_jax import UserError, set_tau
from recu_jax.binarizers import weights
from recu_jax.nnx import BinaryConv, BinaryDense
from tests.support.draws import normal

PLAIN = weights.ReCU(standardize=False)
LAYERS = [
    (BinaryConv(4, 6, (3, 3), rngs=nnx.Rngs(0)), recu_jax.BinaryConv(6, (3, 3)), (2, 7, 7, 4)),
    (
        BinaryConv(4, 6, 3, 2, padding="CAUSAL", use_bias=True, feature_group_count=2, alpha="mean", rngs=nnx.Rngs(1)),
        recu_jax.BinaryConv(6, 3, 2, "CAUSAL", use_bias=True, feature_group_count=2, alpha="mean"),
        (2, 3, 8, 4),
    ),
    (BinaryDense(5, 6, use_bias=True, rngs=nnx.Rngs(2)), recu_jax.BinaryDense(6, use_bias=True), (2, 3, 5)),
    (
        BinaryDense(5, 6, dtype=jnp.bfloat16, alpha="none", kernel_binarizer=PLAIN, rngs=nnx.Rngs(3)),
        recu_jax.BinaryDense(6, dtype=jnp.bfloat16, alpha="none", kernel_binarizer=PLAIN),
        (2, 5),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("layer,linen,shape", LAYERS)
@pytest.mark.parametrize("train", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_bitwise_equal_to_linen(layer, linen, shape, train):
    x = normal(shape)
    structure, params, rest = nnx.split(layer, nnx.Param, ...)
    variables = {"params": nnx.to_pure_dict(params)}
    if linen.alpha == "mean":
        variables["batch_stats"] = {"tau": layer.last_tau[...]}

    @jax.jit
    def by_nnx(params, x, tau, rest):
        layer = nnx.merge(structure, params, rest)
        y = layer(x, tau, train)
        return (y.astype(jnp.float32) ** 2).sum(), (y, None if layer.last_tau is None else layer.last_tau[...])

    @jax.jit
    def by_linen(params, x, tau):
        y, changed = linen.apply({**variables, "params": params}, x, tau, train, mutable=["batch_stats"])
        return (y.astype(jnp.float32) ** 2).sum(), (y, changed.get("batch_stats", {}).get("tau"))

    tau = jnp.float32(0.8)
    got, of_nnx = jax.value_and_grad(by_nnx, (0, 1), has_aux=True)(params, x, tau, rest)
    expected, of_linen = jax.value_and_grad(by_linen, (0, 1), has_aux=True)(variables["params"], x, tau)
    of_nnx = (nnx.to_pure_dict(of_nnx[0]), of_nnx[1])
    jax.tree.map(np.testing.assert_array_equal, (got, of_nnx), (expected, of_linen))
    assert np.any(np.asarray(of_linen[0]["kernel"]))


def test_variables_are_those_of_linen():
    for layer, linen, shape in LAYERS:
        expected = jax.eval_shape(linen.init, jax.random.key(0), normal(shape))["params"]
        got = nnx.to_pure_dict(nnx.state(layer, nnx.Param))
        assert {k: (v.shape, v.dtype) for k, v in got.items()} == {k: (v.shape, v.dtype) for k, v in expected.items()}
    kernel = BinaryConv(64, 64, (3, 3), rngs=nnx.Rngs(0)).kernel[...]
    assert abs(kernel.std() - np.sqrt(2 / 576)) < 1e-3


@pytest.mark.parametrize("ours,theirs", [(BinaryConv, nnx.Conv), (BinaryDense, nnx.Linear)])
def test_constructors_are_those_of_flax(ours, theirs):
    mine, other = (inspect.signature(cls.__init__).parameters for cls in (ours, theirs))
    assert not set(other) - set(mine)
    for name in set(mine) & set(other):
        assert mine[name].kind == other[name].kind, name
    shared = set(mine) & set(other) - {"use_bias", "kernel_init", "bias_init", "kernel_metadata", "bias_metadata"}
    assert {n: mine[n].default for n in shared} == {n: other[n].default for n in shared}


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = BinaryConv(4, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = BinaryDense(6, 5, alpha="mean", rngs=rngs)

    def __call__(self, x):
        return self.dense(self.dropout(self.norm(self.conv(x))))


def test_train_and_eval_switch_the_layers():
    net, x = Net(nnx.Rngs(0)), normal((3, 6)) * 2
    layer = BinaryDense(6, 5, rngs=nnx.Rngs(0))
    net.other = layer
    kernel = layer.kernel[...]
    signs = np.where(kernel - kernel.mean(0, keepdims=True) >= 0, 1, -1)
    # The sign's slope depends on x itself in evaluation, and on x over its standard deviation in training.
    inside = np.maximum(0, 2 - 2 * np.abs(x)) * (signs @ layer.alpha[...])[None]
    for switch, train in ((net.eval, False), (net.train, True), (net.eval, False)):
        switch()
        assert net.norm.use_running_average != train and net.dropout.deterministic != train
        for layer in (net.conv, net.dense, net.other):
            assert layer.training == train and layer.deterministic != train and layer.use_running_average != train
        got = jax.grad(lambda x: net.other(x, 0.9).sum())(x)
        assert np.allclose(got, inside, rtol=1e-5, atol=1e-6) != train
        np.testing.assert_array_equal(got, jax.grad(lambda x: net.other(x, 0.9, train=train).sum())(x))


def test_mean_scale_evaluates_with_the_tau_of_the_last_training_step():
    layer, x = BinaryDense(6, 5, alpha="mean", rngs=nnx.Rngs(0)), normal((2, 6))
    y = layer(x, 0.8)
    layer.eval()
    # XLA may round the scale otherwise in training. With another tau the outputs differ by far more.
    evaluated = layer(x)
    np.testing.assert_allclose(evaluated, y, rtol=1e-6)
    layer(x, 0.9)
    np.testing.assert_array_equal(layer(x), evaluated)
    layer.train()
    assert abs(layer(x, 0.9) - y).max() > 1e-3


@pytest.mark.skipif(not hasattr(nnx, "view"), reason="flax before 0.12 has no nnx.view")
@pytest.mark.parametrize("name", ["use_running_average", "deterministic"])
def test_views(name):
    net = Net(nnx.Rngs(0))
    view = nnx.view(net, **{name: True})
    assert not view.conv.training and not view.dense.training and net.conv.training
    assert nnx.view(view, **{name: False}).conv.training
    assert nnx.view(net, use_running_average=True, deterministic=False).conv.training
    assert "deterministic: bool | None = None" in nnx.view_info(net)


def test_mistakes_are_named():
    rngs = nnx.Rngs(0)
    with pytest.raises(UserError, match="feature_group_count is 3"):
        BinaryConv(4, 6, (3, 3), feature_group_count=3, rngs=rngs)
    with pytest.raises(UserError, match="padding is 'FULL'"):
        BinaryConv(4, 6, (3, 3), padding="FULL", rngs=rngs)
    with pytest.raises(UserError, match="tau is 0"):
        BinaryDense(4, 6, rngs=rngs)(normal((2, 4)), 0.4)
    with pytest.raises(UserError, match="alpha is 'median'"):
        BinaryDense(4, 6, alpha="median", rngs=rngs)(normal((2, 4)), 0.9)
    with pytest.raises(TypeError, match="standardise"):
        BinaryDense(4, 6, standardise=False, rngs=rngs)


def test_metadata_of_parameters():
    init = nnx.initializers.normal()
    dense = BinaryDense(4, 6, use_bias=True, kernel_init=nnx.with_metadata(init, tag="a"), bias_metadata={"tag": "b"},
                        rngs=nnx.Rngs(0))  # fmt: skip
    assert (dense.kernel.tag, dense.bias.tag) == ("a", "b")
    assert dense(normal((2, 4)), train=False).shape == (2, 6)


def test_training_without_tau_is_an_error():
    x = normal((3, 6))
    layer = BinaryDense(6, 5, rngs=nnx.Rngs(0))
    for call in (layer, nnx.jit(lambda x: layer(x)), functools.partial(layer, train=True)):
        with pytest.raises(UserError, match=r"trains without tau.*tau=.*set_tau.*model\.eval\(\)"):
            call(x)
    y = layer(x, tau=None)
    set_tau(layer, 0.9)
    np.testing.assert_array_equal(layer(x), y)
    set_tau(layer, None)
    layer.eval()
    np.testing.assert_array_equal(layer(x), y)
    assert BinaryDense(6, 5, kernel_binarizer=weights.ClippedSign(), rngs=nnx.Rngs(0))(x).shape == (3, 5)


def test_in_features_counts_the_channels_of_all_groups():
    layer = recu_jax.nnx.BinaryConv(8, 4, (3, 3), feature_group_count=4, rngs=nnx.Rngs(0))
    assert (layer.in_features, layer.out_features, layer.kernel.shape) == (8, 4, (3, 3, 2, 4))


def test_a_call_without_tau_does_not_remember_the_tau_of_the_call_before():
    """The gradients show which tau was used: with a small tau, the clamp stops the gradients of most weights."""
    x = normal((2, 5, 5, 3))
    layer = BinaryConv(3, 4, (3, 3), rngs=nnx.Rngs(0))
    layer.train()

    def stopped(tau):
        gradient = nnx.grad(lambda m: m(x, tau=tau).sum())(layer)
        return int((gradient["kernel"][...] == 0).sum())

    without = stopped(None)
    assert stopped(0.55) > without + 20
    assert stopped(None) == without
