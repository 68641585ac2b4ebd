"""Calls the kernels of built wheels as XLA does, without Python: those for x86-64 here, those for aarch64 in QEMU.

`RECU_JAX_DIST` names a folder of wheels that `release/build_wheels.py` built. Without it, the tests build the wheels,
which takes minutes.
"""

import importlib.util
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import zipfile

import jax
import pytest

from recu_jax.ops import native
from tests.support import ROOT

SYSROOT = pathlib.Path("/usr/aarch64-linux-gnu")
DRIVER = ROOT / "tests" / "release" / "csrc" / "call_kernels.c"
pytestmark = pytest.mark.slow


def wheel_of(platform_tag, target, tmp_path_factory):
    """Returns the wheel with this platform tag, from RECU_JAX_DIST or, if that is not set, newly built."""
    given = os.environ.get("RECU_JAX_DIST")
    dist = pathlib.Path(given) if given else tmp_path_factory.mktemp("dist")
    if not given:
        command = [sys.executable, ROOT / "release" / "build_wheels.py", f"--dist={dist}", target]
        subprocess.run(command, check=True)
    found = list(dist.glob(f"*-{platform_tag}.whl"))
    if given and not found:
        pytest.skip(f"no wheel for {platform_tag} in RECU_JAX_DIST")
    (wheel,) = found
    return wheel


def call_kernels(wheel, folder, zig_target, *emulator):
    """Builds the driver, which calls the kernels of the wheel. Runs the driver and returns its output."""
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("no ziglang; pip install ziglang")
    with zipfile.ZipFile(wheel) as archive:
        library = archive.extract("recu_jax/ops/_kernels.so", folder)
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", zig_target, "-O1", "-std=gnu11"]
    subprocess.run([*compiler, "-isystem", jax.ffi.include_dir(), DRIVER, "-o", folder / "driver"], check=True)
    done = subprocess.run(
        [*emulator, folder / "driver", library, *native.TARGETS], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(platform.machine() != "x86_64", reason="this processor is not x86-64")
def test_kernels_of_the_x86_64_wheel(tmp_path, tmp_path_factory):
    wheel = wheel_of("manylinux_2_17_x86_64", "linux_x86_64", tmp_path_factory)
    printed = call_kernels(wheel, tmp_path, "x86_64-linux-gnu.2.17")
    # 0.1 is the version of XLA's FFI in jaxlib 0.7.2, so every jaxlib since then takes the kernels.
    assert printed.startswith(f"FFI 0.1, {len(native.TARGETS)} functions, ") and "portable" in printed
    # The wheel has all instruction sets that a library built on this machine has.
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    assert ("avx2" in flags) == ("avx2" in printed)
    assert ("avx512_vpopcntdq" in flags) == ("avx512" in printed)


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="no qemu-aarch64; apt-get install qemu-user")
@pytest.mark.skipif(not SYSROOT.is_dir(), reason="no C library of aarch64; apt-get install libc6-arm64-cross")
def test_kernels_of_the_aarch64_wheel_in_qemu(tmp_path, tmp_path_factory):
    wheel = wheel_of("manylinux_2_17_aarch64", "linux_aarch64", tmp_path_factory)
    printed = call_kernels(wheel, tmp_path, "aarch64-linux-gnu.2.17", "qemu-aarch64", "-L", SYSROOT)
    assert printed.startswith(f"FFI 0.1, {len(native.TARGETS)} functions, ") and "neon portable" in printed
