"""Compiles the C++ kernels for 64-bit Arm, and runs them in an emulator. Tests whose tools are missing are skipped."""

import functools
import os
import re
import shutil
import subprocess
import sys

import pytest

from recu_jax.ops import native
from tests.support import ROOT
from tests.support.compiled_kernels import KERNELS, SOURCES

pytestmark = pytest.mark.slow


@functools.cache
def compiler():
    """Returns the command of a compiler for 64-bit Arm. If there is none, skips the test that calls it."""
    if found := shutil.which("aarch64-linux-gnu-g++"):
        return [found]
    zig = [sys.executable, "-m", "ziglang"]
    if subprocess.run([*zig, "version"], capture_output=True).returncode == 0:
        return [*zig, "c++", "-target", "aarch64-linux-gnu.2.28"]
    pytest.skip("no compiler for aarch64; apt-get install g++-aarch64-linux-gnu, or pip install ziglang")


def compile_with(*arguments):
    # Static programs need no shared libraries for Arm. zig has a static musl, but no static glibc.
    command = [part.replace("gnu.2.28", "musl") for part in compiler()] if "ziglang" in compiler() else compiler()
    flags = "-std=c++17 -O1 -Wall -Wextra -Werror -ffp-contract=off -pthread"
    subprocess.run([*command, *flags.split(), f"-I{SOURCES}", *arguments], check=True)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """Returns object files of the kernels, which several tests link."""
    compiler()
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("no qemu-aarch64; apt-get install qemu-user")
    folder = tmp_path_factory.mktemp("kernels")
    for name in KERNELS:
        compile_with("-c", SOURCES / name, "-o", folder / f"{name}.o")
    return sorted(folder.iterdir())


@pytest.mark.parametrize(
    "test, shapes", [("binary_conv_test", 40), ("gradients_test", 20), ("unit_test", 20), ("weights_test", 100)]
)
def test_neon_gives_the_bits_of_plain_cpp(test, shapes, kernels, tmp_path):
    """Each program compares the instruction sets with each other bit for bit, and with loops over +-1."""
    compile_with("-static", *kernels, ROOT / "tests" / "ops" / "csrc" / f"{test}.cc", "-o", tmp_path / test)
    command = ["qemu-aarch64", tmp_path / test, "1", str(shapes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.stdout == f"{shapes} shapes: neon portable\n", done.stdout + done.stderr


def test_setup_builds_the_library(tmp_path):
    """setup.py builds the library of an aarch64 wheel, from the same sources and with the same flags as for x86."""
    pytest.importorskip("setuptools")
    if shutil.which("readelf") is None:
        pytest.skip("no readelf to read the library; apt-get install binutils")
    tool = " ".join(compiler())
    tools = {"CC": tool, "CXX": tool, "LDSHARED": f"{tool} -shared", "LDCXXSHARED": f"{tool} -shared"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", tmp_path / "lib", "--build-temp", tmp_path]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | tools, capture_output=True, text=True)
    assert done.returncode == 0 and "compiled kernels" not in done.stdout, done.stdout + done.stderr
    (library,) = (tmp_path / "lib").rglob("_kernels*.so")
    read = subprocess.run(["readelf", "-hW", "--dyn-syms", library], capture_output=True, text=True, check=True).stdout
    assert re.search(r"Machine: +AArch64", read)
    assert {*native.TARGETS, "recu_isas"} <= set(re.findall(r"FUNC +GLOBAL +DEFAULT +\d+ (\S+)", read))
    assert b"neon\0" in library.read_bytes()
