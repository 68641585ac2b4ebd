"""Compiles for a TPU v5e chip, the TPU of Colab, on a machine without a TPU."""

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

from experiments.benchmarks.compile_only import environment
from experiments.benchmarks.compile_targets import TARGETS
from tests.support import ROOT

TARGET = TARGETS["v5e"]
needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install libtpu"
)


def devices() -> list:
    """Returns the chip, as a list of one device. Call this in a process that `answer` started."""
    from jax.experimental import topologies

    return topologies.get_topology_desc(TARGET.topology, platform="tpu").devices[:1]


def answer(module: str, function: str) -> Any:
    """Calls `function` of `module` in a new process. Returns its result, which must be possible in JSON.

    libtpu reads the environment when it is loaded, and only one process at a time may load it.
    """
    code = f"import json, {module} as m; print(json.dumps(m.{function}()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(TARGET), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
