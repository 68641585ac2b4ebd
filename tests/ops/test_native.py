"""Checks that kernels that were built from other sources are not used: XLA computes instead, and one line says so."""

import shutil
import subprocess
import sys

import pytest

from tests.support import ROOT, compiled_kernels

compiled_kernels.instruction_sets()
WITHOUT_CPU = """
import jax
def devices(platform=None):
    raise RuntimeError("Unknown backend cpu. Available backends are ['cuda']")
jax.devices = devices
"""
BACKEND = "import logging; logging.basicConfig(format='%(message)s'); from recu_jax.ops import native; "


def _add_a_comment(folder):
    with open(folder / "csrc" / "ffi.cc", "a") as source:
        source.write("// changed since\n")


def _delete_kernels(folder):
    for path in folder.glob("_kernels*.so"):
        path.unlink()


@pytest.mark.parametrize(
    "change,words",
    [
        (None, None),
        (_add_a_comment, "the compiled kernels are older or newer than their sources in "),
        (_delete_kernels, "there are no compiled kernels in "),
    ],
)
def test_kernels_of_other_sources_are_left_alone(change, words, tmp_path):
    package = tmp_path / "recu_jax"
    shutil.copytree(ROOT / "recu_jax", package, ignore=shutil.ignore_patterns("__pycache__"))
    if change:
        change(package / "ops")
    command = [sys.executable, "-c", BACKEND + "print(native.cpu_backend())"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout == "xla\n") == (change is not None)
    lines = [line for line in done.stderr.splitlines() if "kernels" in line]
    if change is None:
        assert lines == []
    else:
        (line,) = lines
        assert line.startswith(words) and line.endswith("pip install -e .")


def test_where_jax_may_not_use_the_cpu_there_are_no_kernels():
    """As with JAX_PLATFORMS=cuda, where jax.devices("cpu") raises an error."""
    command = [sys.executable, "-c", WITHOUT_CPU + BACKEND + "print(native.cpu_backend())"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "xla\n"
