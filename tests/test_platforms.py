"""Exports a user's own model for every platform, and compiles it for a TPU without having one."""

import functools

import flax.linen as nn
import jax
import jax.export
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recu_jax import BinaryConv, BinaryDense
from recu_jax.models.batch_norm import BatchNorm
from tests.support import tpu_chip

SLOW = pytest.mark.slow
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
X = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


class OwnModel(nn.Module):
    """A small model with both kinds of binary layers, a real convolution and batch norm."""

    @nn.compact
    def __call__(self, x, train):
        x = BatchNorm()(nn.Conv(8, (3, 3))(x), not train)
        x = BatchNorm()(BinaryConv(16, (3, 3))(x, tau=0.9, train=train), not train)
        return BinaryDense(10)(x.mean((1, 2)), tau=0.9, train=train)


def predict(variables, x):
    return OwnModel().apply(variables, x, False)


def loss_and_gradients(variables, x):
    def loss(params):
        y, _ = OwnModel().apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
        return (y**2).mean()

    return jax.value_and_grad(loss)(variables["params"])


FUNCTIONS = {"evaluation": predict, "training": loss_and_gradients}


def variables():
    return jax.jit(OwnModel().init, static_argnums=2)(jax.random.key(0), X, False)


def cases():
    for platforms in (("cpu",), ("tpu",), ("cuda",), PLATFORMS):
        for kind in FUNCTIONS:
            for batch in ("fixed", "symbolic"):
                quick = len(platforms) == 1 and platforms != ("cpu",) and batch == "fixed"
                marks = [] if quick else [SLOW]
                yield pytest.param(platforms, kind, batch, marks=marks, id=f"{'-'.join(platforms)}-{kind}-{batch}")


@pytest.mark.parametrize("platforms,kind,batch", list(cases()))
def test_a_model_is_exported_for_any_platform(platforms, kind, batch):
    function, given = jax.jit(FUNCTIONS[kind]), variables()
    size = len(X) if batch == "fixed" else jax.export.symbolic_shape("batch")[0]
    exported = jax.export.export(function, platforms=platforms)(
        given, jax.ShapeDtypeStruct((size, *X.shape[1:]), X.dtype)
    )
    # A custom call would be `@recu_...`. The name alone may also be that of a test, in the locations of jax 0.7.
    assert "@recu_" not in exported.mlir_module()
    assert exported.platforms == platforms
    if "cpu" not in platforms:
        return
    again = jax.export.deserialize(exported.serialize())
    for x in (X, X[:3])[: 1 + (batch == "symbolic")]:
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(close, again.call(given, x), function(given, x))


def compiled_for_a_chip():
    """Compiles the gradients and describes the program. Runs in a process that `tpu_chip.answer` started."""
    devices = tpu_chip.devices()
    everywhere = NamedSharding(Mesh(devices, ("data",)), PartitionSpec())
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=everywhere), (variables(), X))
    compiled = jax.jit(loss_and_gradients).lower(*shapes).compile()
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    return {"device": devices[0].device_kind, "temporaries": temporaries, "program": compiled.as_text()}


@pytest.mark.slow
@tpu_chip.needs_compiler
def test_gradients_are_compiled_for_a_tpu_chip():
    result = tpu_chip.answer(__name__, "compiled_for_a_chip")
    assert result["device"] == "TPU v5 lite" and result["temporaries"] > 0
    assert "convolution" in result["program"] and "recu_pack" not in result["program"]
