"""Runs the benchmark of packed models once, and compares its record in the repository with the bar."""

import json
import os
import statistics
import subprocess
import sys

import pytest

from recu_jax.ops import native
from tests.support import ROOT

BENCHMARKS = ROOT / "experiments" / "benchmarks"
RECORDS = ROOT / "experiments" / "results" / "benchmarks"


@pytest.mark.slow
@pytest.mark.skipif(not native.instruction_sets(), reason="no compiled kernels")
def test_all_sides_answer_and_packed_outputs_are_equal(tmp_path):
    core = min(os.sched_getaffinity(0))
    command = [sys.executable, BENCHMARKS / "pack.py", "--model=vgg", "--repeats=1", f"--core={core}"]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, f"--out={tmp_path / 'pack.json'}"], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "pack.json").read_text())
    assert all(milliseconds > 0 for milliseconds in record["median_milliseconds"].values())
    assert list(record["times"]) == ["float / packed", "float / inside", "packed / inside", "inside / folded"]
    outputs = record["outputs"]
    assert outputs["packed"]["largest_difference"] == outputs["inside"]["largest_difference"] == 0
    assert outputs["folded"]["largest_difference"] < 1e-4
    weights = 9 * sum(a * b for a, b in ((128, 128), (128, 256), (256, 256), (256, 512), (512, 512)))
    assert outputs["packed"]["bytes_before"] - outputs["packed"]["bytes"] == 4 * weights - weights // 8


def test_the_record_reaches_the_bar():
    record = json.loads((RECORDS / "pack_resnet18.json").read_text())
    seconds = record["seconds_of_turns"]
    ratio = statistics.median(a / b for a, b in zip(seconds["float"], seconds["packed"], strict=True))
    assert record["times"]["float / packed"]["median"] == ratio >= 2.5
    assert record["outputs"]["packed"]["largest_difference"] == 0
