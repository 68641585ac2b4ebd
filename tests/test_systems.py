"""Checks that the package imports, trains, exports and predicts without what Windows lacks, such as SIGUSR1."""

import math
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from recu_jax.data import workers
from recu_jax.training import recipe
from tests.support import ROOT, commands

# The text of a file sitecustomize.py. If PYTHONPATH begins with the folder of this file, Python runs the file first.
AS_ON_WINDOWS = """
import asyncio, concurrent.futures.process, os, signal, sys  # first what only works with all that this system has
try:
    import psutil
except ImportError:
    pass
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT"):
    delattr(signal, name)
for name in ("sysconf", "statvfs", "sched_getaffinity"):
    delattr(os, name)
sys.modules["resource"] = None  # its import fails
"""
IMPORT_ALL = """
import pkgutil, sys, recu_jax
from recu_jax.ops import native
native.instruction_sets = lambda: ()  # no kernels are built there
for module in pkgutil.walk_packages(recu_jax.__path__, "recu_jax."):
    if not module.name.endswith(("__main__", "recu_jax.main", "_kernels")):
        __import__(module.name)
import jax, jax.numpy as jnp
from recu_jax.training.stopping import SIGNALS
layer = recu_jax.BinaryDense(4)
y, _ = layer.init_with_output(jax.random.key(0), jnp.ones((2, 3)))
print(y.shape, [s.name for s in SIGNALS])
"""


@pytest.fixture
def windows(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(AS_ON_WINDOWS)
    return os.pathsep.join([str(tmp_path), str(ROOT)])


@pytest.mark.slow
def test_every_module_imports_and_a_layer_computes(windows):
    environment = {**os.environ, "PYTHONPATH": windows, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run([sys.executable, "-c", IMPORT_ALL], env=environment, capture_output=True, text=True)
    assert result.stdout.split("\n")[-2:] == ["(2, 4) ['SIGINT', 'SIGTERM']", ""], result.stderr


@pytest.mark.slow
def test_training_export_and_prediction(windows, tmp_path):
    def run(*arguments):
        result = commands.run(*arguments, cwd=tmp_path, PYTHONPATH=windows)
        assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr
        return result.stdout

    r = np.random.default_rng(0)
    images, labels = r.integers(0, 256, (32, 8, 8, 1), np.uint8), np.arange(32) % 10
    np.savez(tmp_path / "i.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    fields = {"dataset": "npz", "data_dir": tmp_path / "i.npz", "batch_size": 16, "epochs": 1, "report": False}
    said = run("train", "--config=digits", *(f"--config.{k}={v}" for k, v in fields.items()), "--workdir=run")
    assert "final test top-1" in said
    run("export", "run", "--out=net.recu", "--check")
    cv2.imwrite(str(tmp_path / "a.png"), images[0])
    assert re.match(r"a.png: \d \d+\.\d%, \d ", run("predict", "net.recu", "a.png"))


def test_what_the_system_does_not_say_is_no_limit(monkeypatch):
    monkeypatch.delattr(os, "statvfs")
    monkeypatch.delattr(os, "sysconf")
    assert workers._free_shared_memory() == sys.maxsize and recipe._memory() == math.inf


def test_linux_and_macos_are_named_in_the_metadata():
    text = (ROOT / "setup.py").read_text()
    assert '"Operating System :: POSIX :: Linux"' in text and '"Operating System :: MacOS"' in text
