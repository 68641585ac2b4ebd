"""Traces steps of a small batch on the CPU, and checks which kernels the record has."""

import json
import os
import subprocess
import sys

import pytest

from recu_jax.ops import native
from tests.support import ROOT

SCRIPT = ROOT / "experiments" / "benchmarks" / "cpu_profile.py"


@pytest.mark.slow
@pytest.mark.skipif(not native.instruction_sets(), reason="no compiled kernels")
def test_a_step_calls_each_kernel_once_for_each_unit(tmp_path):
    command = [sys.executable, SCRIPT, "--batch_size=8", "--steps=2", f"--out={tmp_path / 'profile.json'}"]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=600)
    record = json.loads((tmp_path / "profile.json").read_text())
    times = {row["kind"]: row["times_a_step"] for row in record["operations"]}
    # cifar_resnet20 has 18 units.
    for kernel in ("sums", "normalize", "gradient_sums", "gradients"):
        assert times[f"recu_unit_{kernel}"] == 18, times
    assert all(row["milliseconds"] > 0 for row in record["operations"])
    assert f"{record['milliseconds_a_step']:8.1f} ms a step" in done.stdout
