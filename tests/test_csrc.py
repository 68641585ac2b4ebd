"""The C++ of the compiled kernels under the address and undefined behaviour sanitizers, against loops over +-1."""

import subprocess

import pytest
from compiled_kernels import COMPILER, ROOT, SOURCES

KERNELS = ("workers.cc", "binary_conv.cc", "gradients.cc", "isa_portable.cc", "isa_avx2.cc", "isa_avx512.cc")


@pytest.mark.skipif(COMPILER is None, reason="no g++")
@pytest.mark.parametrize("test,shapes", [("binary_conv_test", 150), ("gradients_test", 60)])
def test_random_shapes_under_sanitizers(test, shapes, tmp_path):
    program = tmp_path / test
    sources = [SOURCES / name for name in KERNELS] + [ROOT / "tests" / f"{test}.cc"]
    flags = "-std=c++17 -O1 -g -Wall -Wextra -Werror -ffp-contract=off -pthread -fsanitize=address,undefined"
    command = [COMPILER, *flags.split(), "-fno-sanitize-recover=all", f"-I{SOURCES}", *sources, "-o", program]
    subprocess.run(command, check=True)
    done = subprocess.run([program, "1", str(shapes)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{shapes} shapes: portable" in done.stdout
