"""Runs the C++ of the compiled kernels under sanitizers, and compares its results with loops over +-1."""

import re
import subprocess

import pytest

from tests.support import ROOT
from tests.support.compiled_kernels import COMPILER, KERNELS, SOURCES

pytestmark = [pytest.mark.slow, pytest.mark.skipif(COMPILER is None, reason="no g++")]


def compile_with(sanitizers, *arguments):
    flags = f"-std=c++17 -O1 -g -Wall -Wextra -Werror -ffp-contract=off -pthread -fsanitize={sanitizers}"
    command = [COMPILER, *flags.split(), "-fno-sanitize-recover=all", f"-I{SOURCES}"]
    subprocess.run([*command, *arguments], check=True)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """Returns object files of the kernels, which several tests link."""
    folder = tmp_path_factory.mktemp("kernels")
    objects = [folder / f"{name}.o" for name in KERNELS]
    for name, file in zip(KERNELS, objects, strict=True):
        compile_with("address,undefined", "-c", SOURCES / name, "-o", file)
    return objects


def output(tmp_path, test, parts, sanitizers, *arguments):
    """Builds and runs `csrc/TEST.cc`. Returns what it prints. Fails if a sanitizer finds something."""
    program = tmp_path / test
    compile_with(sanitizers, *parts, ROOT / "tests" / "ops" / "csrc" / f"{test}.cc", "-o", program)
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "test,shapes", [("binary_conv_test", 80), ("gradients_test", 30), ("unit_test", 30), ("weights_test", 200)]
)
def test_random_shapes_under_sanitizers(test, shapes, kernels, tmp_path):
    printed = output(tmp_path, test, kernels, "address,undefined", 1, shapes)
    assert re.fullmatch(rf"{shapes} shapes: .*\bportable\n", printed)


def test_workers_under_the_thread_sanitizer(tmp_path):
    assert output(tmp_path, "workers_test", [SOURCES / "workers.cc"], "thread", 1, 200) == "200 rounds\n"
