"""The C++ of the compiled kernels under the sanitizers, its numbers against loops over +-1."""

import subprocess

import pytest

from tests.support import ROOT
from tests.support.compiled_kernels import COMPILER, SOURCES

KERNELS = ("workers.cc", "binary_conv.cc", "gradients.cc", "unit.cc", "isa_portable.cc", "isa_avx2.cc", "isa_avx512.cc")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(COMPILER is None, reason="no g++")]


def output(tmp_path, test, sources, sanitizers, *arguments):
    """What the program of `csrc/TEST.cc` prints; a sanitizer that finds something ends it with another status."""
    program = tmp_path / test
    flags = f"-std=c++17 -O1 -g -Wall -Wextra -Werror -ffp-contract=off -pthread -fsanitize={sanitizers}"
    command = [COMPILER, *flags.split(), "-fno-sanitize-recover=all", f"-I{SOURCES}"]
    sources = [*(SOURCES / name for name in sources), ROOT / "tests" / "ops" / "csrc" / f"{test}.cc"]
    subprocess.run([*command, *sources, "-o", program], check=True)
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("test,shapes", [("binary_conv_test", 150), ("gradients_test", 60), ("unit_test", 60)])
def test_random_shapes_under_sanitizers(test, shapes, tmp_path):
    printed = output(tmp_path, test, KERNELS, "address,undefined", 1, shapes)
    assert f"{shapes} shapes: portable" in printed


def test_workers_under_the_thread_sanitizer(tmp_path):
    assert output(tmp_path, "workers_test", ["workers.cc"], "thread", 1, 200) == "200 rounds\n"
