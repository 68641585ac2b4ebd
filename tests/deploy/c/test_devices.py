"""Tests that the C of a network predicts on emulated devices as the runtime does. Skips emulators that are missing."""

import importlib.util
import os
import shutil
import subprocess

import numpy as np
import pytest

from recu_jax import deploy
from recu_jax.deploy import model
from recu_jax.deploy.c import source
from tests.support import ROOT
from tests.support.random_networks import IMAGES, file_of, variables_of

_spec = importlib.util.spec_from_file_location("devices_run", ROOT / "experiments" / "devices" / "run.py")
devices = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(devices)
KERNELS = {"Cortex-M4": "Cortex-M DSP", "Cortex-M7": "Cortex-M DSP", "AArch64": "NEON", "WebAssembly": "C99"}


@pytest.mark.slow
@pytest.mark.parametrize("device", devices.DEVICES)
def test_the_predictions_of_a_device(device, path, tmp_path):
    if lacking := devices.missing(device):
        pytest.skip(f"not installed: {lacking}")
    loaded = deploy.load(path)
    source.write(tmp_path / "network", loaded)
    logits, record = devices.logits_on(device, tmp_path, IMAGES)
    want = np.asarray(loaded.predict(IMAGES))
    np.testing.assert_allclose(logits, want, rtol=0, atol=1e-5 * abs(want).max())
    assert (logits.argmax(-1) == want.argmax(-1)).all()
    assert record["kernels"] == KERNELS[device]


@pytest.mark.slow
@pytest.mark.parametrize("options", [["-DRECU_PORTABLE"], ["-march=native"]], ids=["portable", "native"])
def test_the_sanitizers_find_nothing(options, path, tmp_path):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler; install gcc or clang")
    loaded = deploy.load(path)
    source.write(tmp_path / "network", loaded)
    IMAGES.tofile(tmp_path / "images.bin")
    sources = ["network/network.c", devices.HERE / "predict_file.c", "-lm", "-o", "program"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", *devices.WARNINGS]
    subprocess.run(["cc", "-O1", *sanitizers, *options, "-Inetwork", *sources], cwd=tmp_path, check=True)
    # Without LD_PRELOAD, because the sanitizer refuses to run if another library is loaded before it.
    subprocess.run(["./program"], cwd=tmp_path, check=True, env={"PATH": os.environ["PATH"]})
    logits = np.fromfile(tmp_path / "logits.bin", np.float32).reshape(len(IMAGES), -1)
    np.testing.assert_allclose(logits, loaded.predict(IMAGES), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_resnet20_in_256_kilobytes(tmp_path):
    """The linker script gives the program 256 kB of RAM in all, for the C library and the stack too."""
    if lacking := devices.missing("Cortex-M4"):
        pytest.skip(f"not installed: {lacking}")
    shape = (32, 32, 3)
    loaded = model.parse(*file_of("cifar_resnet20", variables_of("cifar_resnet20", shape)[1], shape))
    source.write(tmp_path / "network", loaded)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    logits, record = devices.logits_on("Cortex-M4", tmp_path, images)
    np.testing.assert_allclose(logits, loaded.predict(images), rtol=0, atol=1e-5)
    assert record["network_ram_bytes"] < 110 * 1024 and record["program_ram_bytes"] < 256 * 1024
