"""Exports a user's own model for every platform, and compiles it for a TPU without having one."""

import functools
import importlib.util
import json
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.export
import numpy as np
import pytest

from recu_jax import BinaryConv, BinaryDense
from recu_jax.models.batch_norm import BatchNorm
from tests.support import ROOT

SLOW = pytest.mark.slow
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
X = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


class OwnModel(nn.Module):
    """A small model with both binary layers, a real convolution and batch norm."""

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
    for platforms in (("cpu",), ("tpu",), PLATFORMS):
        for kind in FUNCTIONS:
            for batch in ("fixed", "symbolic"):
                quick = platforms == ("tpu",) and batch == "fixed"
                marks = [] if quick else [SLOW]
                yield pytest.param(platforms, kind, batch, marks=marks, id=f"{'-'.join(platforms)}-{kind}-{batch}")


@pytest.mark.parametrize("platforms,kind,batch", list(cases()))
def test_a_model_is_exported_for_any_platform(platforms, kind, batch):
    function, given = jax.jit(FUNCTIONS[kind]), variables()
    size = len(X) if batch == "fixed" else jax.export.symbolic_shape("batch")[0]
    exported = jax.export.export(function, platforms=platforms)(
        given, jax.ShapeDtypeStruct((size, *X.shape[1:]), X.dtype)
    )
    assert "recu_" not in exported.mlir_module().replace("recu_jax", "")
    assert exported.platforms == platforms
    if "cpu" not in platforms:
        return
    again = jax.export.deserialize(exported.serialize())
    for x in (X, X[:3])[: 1 + (batch == "symbolic")]:
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(close, again.call(given, x), function(given, x))


# A process of its own: libtpu reads the environment when it is loaded, and one process at a time may load it.
COMPILE = """
import json, jax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tests.test_platforms import X, loss_and_gradients, variables
devices = topologies.get_topology_desc("v5e:2x2", platform="tpu").devices[:1]
everywhere = NamedSharding(Mesh(devices, ("data",)), PartitionSpec())
shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=everywhere), (variables(), X))
compiled = jax.jit(loss_and_gradients).lower(*shapes).compile()
print(json.dumps({"device": devices[0].device_kind, "temporaries": compiled.memory_analysis().temp_size_in_bytes,
                  "program": compiled.as_text()}))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install -e '.[tpu]'")
def test_gradients_are_compiled_for_a_tpu_chip():
    environment = {
        "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["device"] == "TPU v5 lite" and result["temporaries"] > 0
    assert "convolution" in result["program"] and "recu_pack" not in result["program"]
