"""Tests `with_tau` and `set_tau`, which give tau to models without a tau argument."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze
from flax.traverse_util import flatten_dict

import recu_jax.nnx
from recu_jax import BinaryDense, UserError, set_tau, with_tau
from tests.support.draws import normal

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


X = normal((3, 6))


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


def layers_apart(around, params):
    """Returns a list of the parameters of the three layers. Splits parameters that are stacked along an axis."""
    if "blocks" not in params:
        return [params[f"block{i}"]["dense"] for i in range(3)]
    axis = int(around == "scan along axis 1")
    return [jax.tree.map(lambda p: p.take(i, axis), params["blocks"]["dense"]) for i in range(3)]


@pytest.mark.parametrize(
    "around",
    [
        "nothing",
        "scan",
        *(
            pytest.param(a, marks=pytest.mark.slow)
            for a in ("remat and jit", "vmap", "scan of no alpha", "scan along axis 1")
        ),
    ],
)
def test_with_tau_reaches_every_layer(around):
    """Compares the gradients with those of the same layers called one by one with tau."""
    model, layer = Foreign(around), BinaryDense(6, **OPTIONS.get(around, {}))
    params = jit(model.init)(jax.random.key(0), X)["params"]
    assert not [path for path in flatten_dict(params) if "tau" in path[-1]]

    @jit
    def by_model(params, tau):
        return jax.grad(lambda p: (model.apply(with_tau({"params": p}, tau), X) ** 2).sum())(params)

    @jit
    def one_by_one(params, tau):
        def loss(params):
            def call(x, p):
                return layer.apply({"params": p}, x, tau, True)

            apart = layers_apart(around, params)
            y = jnp.stack([call(X, p) for p in apart]) if around == "vmap" else functools.reduce(call, apart, X)
            return (y**2).sum()

        return jax.grad(loss)(params)

    gradients = []
    for tau in (0.7, 0.95):
        got, expected = by_model(params, tau), one_by_one(params, tau)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, expected)
        gradients.append(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(got)]))
    assert (gradients[0] != gradients[1]).any()


@pytest.mark.slow
def test_what_a_call_says_goes_first():
    layer = BinaryDense(6)
    variables = layer.init(jax.random.key(0), X)

    def gradients(variables, *args, **kwargs):
        def loss(p, x):
            beside = {name: leaf for name, leaf in variables["params"].items() if name not in p}
            return (layer.apply({"params": {**p, **beside}}, x, *args, **kwargs) ** 2).sum()

        return jit(jax.grad(loss, (0, 1)))({name: variables["params"][name] for name in ("kernel", "alpha")}, X)

    def same(a, b):
        return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))

    given = with_tau(variables, 0.7)
    assert same(gradients(given), gradients(variables, 0.7, True))
    assert same(gradients(given, 0.9), gradients(variables, 0.9))
    assert same(gradients(given, 0.9, True), gradients(variables, 0.9, True))
    assert same(gradients(given, train=False), gradients(variables, 0.7, False))
    assert not same(gradients(given), gradients(variables, 0.7)) and not same(gradients(given), gradients(variables))
    np.testing.assert_array_equal(layer.apply(given, X), layer.apply(variables, X))


class WithNorm(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        init = nn.with_partitioning(nn.initializers.normal(), (None, "model"))
        x = BinaryDense(5, alpha="mean", name="dense")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(2, kernel_init=init, name="head")(x)


class PassesNoneOn(nn.Module):
    """A model whose argument tau is None by default. It passes tau on to its layer."""

    @nn.compact
    def __call__(self, x, tau=None, train=False):
        return BinaryDense(5, name="dense")(x, tau=tau, train=train)


def test_none_beside_the_tau_of_with_tau_is_an_error():
    """Without the error, a model that passes on its default None would train without the tau of `with_tau`."""
    model = PassesNoneOn()
    variables = model.init(jax.random.key(0), X)
    with pytest.raises(UserError, match=r"dense trains with tau=None, and recu_jax.with_tau .*recu_jax.NOT_GIVEN"):
        model.apply(with_tau(variables, 0.9), X, train=True)
    assert model.apply(with_tau(variables, 0.9), X).shape == (3, 5)  # evaluation
    layer = recu_jax.nnx.BinaryDense(6, 5, rngs=nnx.Rngs(0))
    set_tau(layer, 0.9)
    with pytest.raises(UserError, match="trains with tau=None"):
        layer(X, None)


def test_with_tau_leaves_the_variables_as_they_were():
    model = WithNorm()
    variables = model.init(jax.random.key(0), X)
    before = jax.tree.map(np.array, variables)
    for kind in (freeze, dict):
        y, changed = model.apply(with_tau(kind(variables), 0.75), X, train=True, mutable=["batch_stats"])
        assert changed["batch_stats"]["dense"]["tau"] == 0.75 and changed["batch_stats"]["norm"]["mean"].any()
        y_threaded, _ = model.apply(variables, X, train=True, mutable=["batch_stats"])
        assert y.shape == y_threaded.shape
    assert jax.tree.structure(variables) == jax.tree.structure(before)
    jax.tree.map(np.testing.assert_array_equal, variables, before)


def test_mistakes_are_named():
    variables = BinaryDense(6).init(jax.random.key(0), X)
    with pytest.raises(UserError, match="tau is 85"):
        with_tau(variables, 85)
    with pytest.raises(UserError, match=r"entries \['alpha', 'kernel'\] hold no kernel"):
        with_tau(variables["params"], 0.9)
    packed = {
        "params": {"block": {"dense": {"kernel_bits": np.zeros((1, 2), np.uint32), "kernel_scale": np.ones((1, 6))}}}
    }
    with pytest.raises(UserError, match="with_tau: the model is packed"):
        with_tau(packed, 0.9)
    with pytest.raises(UserError, match="Linear has no binary layer"):
        set_tau(nnx.Linear(6, 6, rngs=nnx.Rngs(0)), 0.9)
    with pytest.raises(UserError, match="tau is 1"):
        set_tau(recu_jax.nnx.BinaryDense(6, 6, rngs=nnx.Rngs(0)), 1.5)


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


@pytest.mark.slow
def test_set_tau_reaches_every_layer():
    x = normal((2, 5, 1))
    model = ForeignNNX(nnx.Rngs(0))
    before = jax.tree.structure(nnx.state(model))

    @nnx.jit
    def gradients(model, tau):
        set_tau(model, tau)
        return nnx.grad(lambda model: (model(x) ** 2).sum())(model)

    structure, params, rest = nnx.split(model, nnx.Param, ...)

    @jit
    def one_by_one(params, rest, tau):
        def loss(params):
            model = nnx.merge(structure, params, jax.tree.map(jnp.copy, rest))
            dense, stacked = nnx.split(model.blocks)
            y = model.norm(model.first(x, tau))
            for i in range(3):
                y = nnx.merge(dense, jax.tree.map(lambda p: p[i], stacked))(y, tau)
            return (y**2).sum()

        return jax.grad(loss)(params)

    seen = []
    for tau in (0.7, 0.95):
        got = nnx.to_pure_dict(gradients(model, tau))
        expected = nnx.to_pure_dict(one_by_one(params, rest, tau))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), got, expected)
        seen.append(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(got)]))
    assert (seen[0] != seen[1]).any()
    assert len(jax.tree.leaves(nnx.state(model, recu_jax.nnx.Tau))) == 2
    set_tau(model, None)
    assert jax.tree.structure(nnx.state(model)) == before
    set_tau(model, 0.9)
    assert model.blocks.tau[...].shape == (3, 6)
