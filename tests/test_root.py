"""Tests `from recu_jax import ...`: type checkers see real types, and each name is imported when first used."""

import compileall
import pathlib
import subprocess
import sys

import pytest

import recu_jax

ROOT = pathlib.Path(recu_jax.__file__).parents[1]
PROGRAM = """
import jax.numpy as jnp
from recu_jax import BinaryConv, exponential_tau, recu
from recu_jax import bianry_layers

layer = BinaryConv(64, (3, 3))
y = recu(jnp.ones((3,)), 0.9)
tau = exponential_tau(total_epochs="sixty", steps_per_epoch=195)
"""


@pytest.mark.slow
def test_a_type_checker_sees_the_types(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", f"--cache-dir={tmp_path}", "program.py"]
    # Without a cache, mypy also reads the types of JAX and Flax, hence the long timeout.
    result = subprocess.run(
        command, cwd=tmp_path, env={"MYPYPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, timeout=600
    )
    found = [line for line in result.stdout.splitlines() if line.startswith("program.py") and "error" in line]
    assert len(found) == 2, result.stdout
    assert found[0].startswith("program.py:4:") and 'no attribute "bianry_layers"' in found[0]
    assert found[1].startswith("program.py:8:") and '"total_epochs"' in found[1] and '"str"' in found[1]


def test_every_public_name_is_there():
    names = recu_jax.__all__
    assert len(names) > 30 and {"BinaryConv", "binary_layers", "recu", "nnx"} <= set(names)
    for name in names:
        assert getattr(recu_jax, name) is not None
    # `binary_layers` is the function, also after its module `binary_layer` is imported.
    assert callable(recu_jax.binary_layers)
    with pytest.raises(AttributeError, match="BinaryConvolution"):
        _ = recu_jax.BinaryConvolution


def test_nothing_is_imported_before_it_is_used():
    code = "import sys, recu_jax; print(*[m for m in ('jax', 'flax', 'optax') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == ""


# One process imports recu_jax, then Flax, then the layers, so that all times are of the same moment. It measures
# processor time, not elapsed time, because other processes may interrupt it.
SECONDS = """
import time
began = time.process_time()
import recu_jax
root = time.process_time()
import flax.linen
flax = time.process_time()
from recu_jax import BinaryConv, BinaryDense
print(root - began, flax - root, time.process_time() - flax)
"""


@pytest.mark.slow
def test_imports_are_quick():
    compileall.compile_dir(ROOT / "recu_jax", quiet=1)  # pip does this when it installs
    took = []
    for _ in range(5):
        result = subprocess.run([sys.executable, "-c", SECONDS], cwd=ROOT, capture_output=True, text=True, check=True)
        took.append([float(seconds) for seconds in result.stdout.split()])
    assert min(root for root, _, _ in took) < 0.1
    assert min((flax + layers) / flax for _, flax, layers in took) < 1.1
