"""Checks that a sharded batch stays sharded under `jit`: the compiled program, its shardings and its results."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from recu_jax import BinaryConv
from recu_jax.ops import native
from recu_jax.ops.packed import pack
from recu_jax.ops.partitioned import over_batch

LAYER = BinaryConv(4, (3, 3))
X = np.random.default_rng(0).standard_normal((8, 6, 6, 4)).astype("float32")


def forward(variables, x):
    return LAYER.apply(variables, x, tau=0.9, train=True)


def loss(variables, x):
    return (forward(variables, x) ** 2).mean()


def scanned(variables, x):
    stacked = jax.tree.map(lambda a: jnp.stack([a, -a, a]), variables)
    return (jax.lax.scan(lambda x, v: (forward(v, x), None), x, stacked)[0] ** 2).mean()


GRADIENTS = jax.grad(loss, (0, 1))
SPLIT, WHOLE = PartitionSpec("data"), PartitionSpec()
# A function, and the partition specs of its results.
CASES = {
    "gradients": (GRADIENTS, (WHOLE, SPLIT)),
    "forward": (forward, SPLIT),
    "remat": (jax.grad(jax.checkpoint(loss), (0, 1)), (WHOLE, SPLIT)),
    "scan": (jax.grad(scanned, (0, 1)), (WHOLE, SPLIT)),
    "vmap": (lambda v, x: jax.vmap(forward, (None, 0))(v, x[:, None]), SPLIT),
    "gradients of each example": (
        lambda v, x: jax.vmap(GRADIENTS, (None, 0))(v, x[:, None]), (SPLIT, SPLIT),
    ),
    "several models": (
        lambda v, x: jax.vmap(forward, (0, None))(jax.tree.map(lambda a: jnp.stack([a, -a]), v), x),
        PartitionSpec(None, "data"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(k, marks=[pytest.mark.slow] * (k != "gradients")) for k in CASES])
def test_a_sharded_batch_stays_sharded(name):
    if native.cpu_backend() == "xla":
        pytest.skip("no compiled kernels")
    function, placement = CASES[name]
    variables = jax.jit(LAYER.init)(jax.random.key(0), X)
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    arguments = (
        jax.device_put(variables, NamedSharding(mesh, WHOLE)),
        jax.device_put(X, NamedSharding(mesh, SPLIT)),
    )
    compiled = jax.jit(function).lower(*arguments).compile()
    program, got = compiled.as_text(), compiled(*arguments)
    assert "all-gather" not in program
    sums = re.findall(r"s32\[(\d+),6,6,4\].* custom-call\(.*recu_conv_sums", program)
    # A device has two of the eight examples. In "gradients of each example" and "vmap", it takes them one by one.
    each = "each" in name or name == "vmap"
    assert sums and set(sums) == {"1" if each else "2"}
    for spec, part in zip(*((placement, got) if isinstance(placement, tuple) else ([placement], [got])), strict=True):
        for array in jax.tree.leaves(part):
            assert array.sharding.is_equivalent_to(NamedSharding(mesh, spec), array.ndim)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max()),
        got,
        jax.jit(function)(variables, X),
    )


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_arrays_that_are_not_placed_on_the_mesh_of_the_context(kind):
    x = jnp.asarray(X)
    variables = jax.jit(LAYER.init)(jax.random.key(0), x)
    expected = jax.jit(GRADIENTS)(variables, x)
    with jax.set_mesh(jax.make_mesh((len(jax.devices()),), ("data",), axis_types=(kind,))):
        got = jax.jit(GRADIENTS)(variables, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max()), got, expected)


def test_empty_batches_and_any_function():
    assert over_batch(pack, jnp.zeros((0, 4)), batched=[True]).shape == (0, 2)
    summed = over_batch(lambda x, y: x.T @ y, X[:, 0, 0], X[:, 1, 1], batched=[True, True], summed=True)
    np.testing.assert_allclose(summed, X[:, 0, 0].T @ X[:, 1, 1], rtol=1e-5)
