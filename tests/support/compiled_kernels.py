"""Builds the compiled kernels of this checkout, if they are missing or were built from other sources."""

import fcntl
import shutil
import subprocess
import sys

import pytest

from recu_jax.ops import native
from tests.support import ROOT

SOURCES = ROOT / "recu_jax" / "ops" / "csrc"
COMPILER = shutil.which("g++")
# What the programs of tests/ops/csrc link: all but the functions that XLA calls.
KERNELS = sorted(path.name for path in SOURCES.glob("*.cc") if not path.name.startswith("ffi"))


def build():
    """Builds the kernels, if there is a compiler, unless they were built from the present sources."""
    # If the tests run without the sources, an installed wheel has the kernels.
    if COMPILER is None or not SOURCES.is_dir():
        return
    with open(ROOT / "build.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = list(SOURCES.parent.glob("_kernels*.so"))
        if built and all(map(native.is_of_its_sources, built)):
            return
        # Removes and does not overwrite the old kernels, because another process may be running them.
        for path in built:
            path.unlink()
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--force"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "compiled kernels" not in done.stdout and "kernel" not in done.stderr, done.stdout + done.stderr


def instruction_sets():
    """Returns `native.instruction_sets()`. If there is no compiler, skips the test module that calls it."""
    if COMPILER is None:
        pytest.skip("no g++", allow_module_level=True)
    found = native.instruction_sets()
    assert found
    return found
