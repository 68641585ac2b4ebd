"""Compares Linen and NNX layers under the transformations of JAX, Linen and NNX with plain loops."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

import recu_jax
import recu_jax.nnx

# The shape of one sample for each kind of layer. All layers have 4 input and 4 output channels.
SAMPLES = {"conv": (6, 6, 4), "grouped": (6, 6, 4), "dense": (5, 4)}
GROUPS = {"conv": 1, "grouped": 2}
# Compiling takes most of the time of these small programs, so it skips optimizations.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def linen_layer(kind, **options):
    if kind == "dense":
        return recu_jax.BinaryDense(4, **options)
    return recu_jax.BinaryConv(4, (3, 3), feature_group_count=GROUPS[kind], **options)


def nnx_layer(kind, rngs):
    if kind == "dense":
        return recu_jax.nnx.BinaryDense(4, 4, rngs=rngs)
    return recu_jax.nnx.BinaryConv(4, 4, (3, 3), feature_group_count=GROUPS[kind], rngs=rngs)


def images(kind, batch=4):
    return jnp.asarray(np.random.default_rng(0).standard_normal((batch, *SAMPLES[kind])), "float32")


def pure(flavour, kind):
    """Returns a training layer as a function of (parameters, x), and the parameters of three such layers."""
    if flavour == "linen":
        layer = linen_layer(kind)
        init = jit(layer.init)
        parameters = [init(jax.random.key(i), images(kind)) for i in range(3)]
        return lambda p, x: layer.apply(p, x, 0.8, True), parameters
    structure = nnx.split(nnx_layer(kind, nnx.Rngs(0)))[0]
    parameters = [nnx.split(nnx_layer(kind, nnx.Rngs(i)))[1] for i in range(3)]
    return lambda p, x: nnx.merge(structure, p)(x, 0.8), parameters


def close(got, expected):
    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())

    jax.tree.map(check, got, expected)


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


both = pytest.mark.parametrize("flavour", ["linen", "nnx"])
kinds = pytest.mark.parametrize("kind", ["conv", pytest.param("dense", marks=pytest.mark.slow)])


@both
@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k != "conv")) for k in SAMPLES])
def test_vmap_over_models_and_samples(flavour, kind):
    f, parameters = pure(flavour, kind)
    x = images(kind)
    plain = jit(f)
    one_by_one = np.stack([plain(p, x) for p in parameters])
    np.testing.assert_array_equal(jit(jax.vmap(f, (0, None)))(stack(parameters), x), one_by_one)
    np.testing.assert_array_equal(jit(jax.vmap(f, (None, 0)))(parameters[0], x), one_by_one[0])


@pytest.mark.slow
@both
@kinds
def test_jit_remat_and_vmap_of_grad(flavour, kind):
    f, (p, *_) = pure(flavour, kind)
    x = images(kind)

    def loss(p, x):
        return (f(p, x) ** 2).sum()

    expected = jax.grad(loss, (0, 1))(p, x)  # without jit
    close(jit(jax.grad(loss, (0, 1)))(p, x), expected)
    close(jit(jax.grad(jax.checkpoint(loss), (0, 1)))(p, x), expected)
    of_parameters, of_images = jit(jax.vmap(jax.grad(loss, (0, 1)), (None, 0)))(p, x[:, None])
    close((jax.tree.map(lambda g: g.sum(0), of_parameters), of_images[:, 0]), expected)


@both
@kinds
def test_scan_over_layers(flavour, kind):
    f, parameters = pure(flavour, kind)
    x = images(kind)

    def scanned(stacked, x):
        return (jax.lax.scan(lambda x, p: (f(p, x), None), x, stacked)[0] ** 2).sum()

    def unrolled(parameters, x):
        return (functools.reduce(lambda x, p: f(p, x), parameters, x) ** 2).sum()

    expected = jit(jax.value_and_grad(unrolled))(parameters, x)
    got = jit(jax.value_and_grad(scanned))(stack(parameters), x)
    close(got, (expected[0], stack(expected[1])))


@both
@kinds
@pytest.mark.parametrize("shared", ["parameters", "images"])
def test_shard_map(flavour, kind, shared):
    """Each of four devices has a share of the images, or a layer of its own for the same images."""
    f, parameters = pure(flavour, kind)
    mesh = Mesh(np.array(jax.devices()[:4]), ("devices",))
    split, whole = PartitionSpec("devices"), PartitionSpec()
    x = images(kind, 8)
    if shared == "parameters":
        p, specs = parameters[0], (whole, split)
        reference = f
    else:
        p, specs = stack([*parameters, parameters[0]]), (split, whole)
        reference = jax.vmap(f, (0, None))

        def f(p, x, one=f):
            return one(jax.tree.map(lambda leaf: leaf[0], p), x)[None]

    def loss(f, p, x):
        return (f(p, x) ** 2).sum()

    def step(p, x):
        value, gradients = jax.value_and_grad(functools.partial(loss, f), (0, 1))(p, x)
        return jax.lax.psum(value, "devices"), gradients

    # A gradient has the sharding of its array. Gradients of replicated arrays are summed over the devices.
    got = jit(jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=(whole, specs)))(p, x)
    expected = jit(jax.value_and_grad(functools.partial(loss, reference), (0, 1)))(p, x)
    close(got, expected)


@both
@kinds
def test_eval_shape(flavour, kind):
    f, (p, *_) = pure(flavour, kind)
    x = images(kind)
    abstract = jax.eval_shape(f, p, jax.ShapeDtypeStruct(x.shape, x.dtype))
    assert (abstract.shape, abstract.dtype) == (x.shape, x.dtype)
    if flavour == "linen":
        made = jax.eval_shape(linen_layer(kind).init, jax.random.key(0), x)
    else:
        made = nnx.state(nnx.eval_shape(lambda: nnx_layer(kind, nnx.Rngs(0))))
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(made)] == [
        (leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(p)
    ]


@pytest.mark.slow
@kinds
def test_linen_transformations(kind):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, tau):
            return linen_layer(kind, name="layer")(x, tau, True), None

    x = images(kind)
    axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
    scanned = nn.scan(nn.remat(Block), in_axes=nn.broadcast, length=3, **axes)()
    mapped = nn.vmap(nn.jit(Block), in_axes=(None, None), axis_size=3, **axes)()
    variables = scanned.init(jax.random.key(0), x, 0.8)
    layers = [{"params": jax.tree.map(lambda p: p[i], variables["params"]["layer"])} for i in range(3)]
    apply = linen_layer(kind).apply

    def gradients(f, argument):
        return jit(jax.grad(lambda a: (f(a) ** 2).sum()))(argument)

    def back(gradients):
        return {"params": {"layer": stack(gradients)["params"]}}

    chain = gradients(lambda v: functools.reduce(lambda x, one: apply(one, x, 0.8, True), v, x), layers)
    close(gradients(lambda v: scanned.apply(v, x, 0.8)[0], variables), back(chain))
    beside = gradients(lambda v: jnp.stack([apply(one, x, 0.8, True) for one in v]), layers)
    close(gradients(lambda v: mapped.apply(v, x, 0.8)[0], variables), back(beside))


@pytest.mark.slow
@kinds
def test_nnx_transformations(kind):
    x = images(kind)

    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=0, out_axes=0)
    def create(rngs):
        return nnx_layer(kind, rngs)

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def chain(layer, x):
        return nnx.remat(lambda layer, x: layer(x, 0.8))(layer, x)

    @nnx.vmap(in_axes=(0, None), out_axes=0)
    def beside(layer, x):
        return layer(x, 0.8)

    layers = create(nnx.Rngs(0))
    structure, state = nnx.split(layers)

    def gradients(f):
        found = nnx.jit(nnx.grad(lambda layers: (f(layers) ** 2).sum()))(layers)
        return nnx.to_pure_dict(found)

    def without(f):
        """Returns the gradients of `f`, which gets a list of the three layers instead of stacked layers."""
        apart = [jax.tree.map(lambda p: p[i], state) for i in range(3)]
        found = jit(jax.grad(lambda states: (f([nnx.merge(structure, one) for one in states]) ** 2).sum()))(apart)
        return stack([nnx.to_pure_dict(one) for one in found])

    unrolled = without(lambda layers: functools.reduce(lambda x, layer: layer(x, 0.8), layers, x))
    close(gradients(lambda layers: chain(layers, x)), unrolled)
    one_by_one = without(lambda layers: jnp.stack([layer(x, 0.8) for layer in layers]))
    close(gradients(lambda layers: beside(layers, x)), one_by_one)
