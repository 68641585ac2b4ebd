"""Saves, loads and exports packed models. Runs them also in processes that never had the latent weights."""

import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from flax import nnx

import recu_jax.nnx
from recu_jax import BinaryConv, BinaryDense, UserError, load, pack, save
from tests.support import ROOT


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(40, (3, 3), param_dtype=jnp.bfloat16)(x)
        x = x + BinaryConv(40, (3, 3), name="50% a/b")(nn.GroupNorm(8)(x))
        return BinaryDense(10)(nn.LayerNorm()(x.mean((1, 2))))


X = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)


def packed_net():
    return pack(Net(), Net().init(jax.random.key(0), X), X)


@pytest.mark.slow
def test_linen_in_a_new_process(tmp_path):
    packed, file = packed_net(), tmp_path / "net.safetensors"
    save(file, packed)
    read = load(file)
    assert jax.tree.structure(read) == jax.tree.structure(packed)
    for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(packed), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    with safetensors.safe_open(file, framework="numpy") as opened:  # a reader without recu_jax
        assert opened.get_tensor("params/50%25 a%2Fb/kernel_bits").dtype == np.uint32
    np.save(tmp_path / "x.npy", X)
    code = (
        "import sys, numpy as np, jax, recu_jax; from tests.deploy.test_packed_files import Net; "
        "jax.config.update('jax_disable_most_optimizations', True); x = np.load('x.npy'); "
        "np.save('y.npy', Net().apply(recu_jax.load('net.safetensors'), x))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), Net().apply(packed, X))


@pytest.mark.slow
def test_export_for_every_platform(tmp_path):
    pytest.importorskip("flatbuffers")
    packed = packed_net()
    (batch,) = jax.export.symbolic_shape("batch")
    platforms = ("cpu", "cuda", "rocm", "tpu")
    shape = jax.ShapeDtypeStruct((batch, 8, 8, 3), jnp.float32)
    data = jax.export.export(jax.jit(lambda x: Net().apply(packed, x)), platforms=platforms)(shape).serialize()
    assert len(data) < 40000  # the binary kernels alone have 59200 bytes as float32
    (tmp_path / "net.bin").write_bytes(data)
    np.save(tmp_path / "x.npy", X)
    code = (
        "import sys, numpy as np, jax, jax.export; "
        "jax.config.update('jax_disable_most_optimizations', True); "
        "np.save('y.npy', jax.export.deserialize(bytearray(open('net.bin', 'rb').read())).call(np.load('x.npy'))); "
        "assert not any(name.startswith('recu_jax') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), Net().apply(packed, X), rtol=1e-5, atol=1e-5)


def nnx_net(seed, width=10):
    rngs = nnx.Rngs(seed)
    return nnx.Sequential(
        recu_jax.nnx.BinaryConv(3, 8, (3, 3), alpha="mean", rngs=rngs),
        nnx.BatchNorm(8, rngs=rngs),
        nnx.Dropout(0.5, rngs=rngs),
        recu_jax.nnx.BinaryDense(8, width, alpha="none", rngs=rngs),
    )


def test_nnx(tmp_path):
    packed, file = pack(nnx_net(0)), tmp_path / "net.safetensors"
    save(file, packed)
    other = nnx_net(1)
    read = load(file, other)
    assert not np.array_equal(pack(other)(X), packed(X)) and other.layers[0].kernel is not None
    np.testing.assert_array_equal(read(X), packed(X))
    np.testing.assert_array_equal(load(file, read)(X), packed(X))
    with pytest.raises(UserError, match=r"does not fit Sequential: layers/3/kernel_scale.*sizes that were saved"):
        load(file, nnx_net(1, width=11))
    with pytest.raises(UserError, match="holds an NNX model"):
        load(file)


def refused(call, match):
    with pytest.raises(UserError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_errors(tmp_path):
    packed, file = packed_net(), tmp_path / "net.safetensors"
    save(file, packed)
    whole = file.read_bytes()
    refused(lambda: load(tmp_path / "none"), "none cannot be read.*recu_jax.save wrote")
    refused(lambda: load(tmp_path), "cannot be read")
    file.write_bytes(whole[:-5])
    refused(lambda: load(file), "no whole file of safetensors")
    file.write_bytes(b"not a file")
    refused(lambda: load(file), "no whole file of safetensors")
    file.write_bytes(safetensors.numpy.save({"kernel": X}))
    refused(lambda: load(file), r"another layout.*recu_jax\.deploy\.load")
    file.write_bytes(safetensors.numpy.save({"kernel": X}, metadata={"recu_packed": "2"}))
    refused(lambda: load(file), "format '2'; this version of recu_jax knows 1")
    refused(lambda: save(file, Net().init(jax.random.key(0), X)), "not packed")
    refused(lambda: save(file, nnx_net(0)), "not packed")
    refused(lambda: save(file, {**packed, "intermediates": {"y": (X,)}}), "intermediates/y is tuple")
    refused(lambda: save(tmp_path / "none" / "file", packed), "cannot be written")
