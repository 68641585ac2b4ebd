"""A training command asks for huge pages, once, and keeps its arguments and what the user asked for."""

import os
import pathlib
import re
import sys
import time

import pytest

from tests.support import ROOT, processes

MODE = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
pytestmark = pytest.mark.skipif(
    not (MODE.is_file() and "[madvise]" in MODE.read_text()), reason="this system gives no huge pages on request"
)
ASKED = "glibc.malloc.hugetlb=1"


def started(tmp_path, *program, **environment):
    """The settings of malloc in a run's process once JAX is loaded. Its arguments are checked."""
    given = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"} | {"PYTHONPATH": str(ROOT)} | environment
    arguments = ["--config=configs/digits.py", f"--workdir={tmp_path / 'a folder'}"]
    process = processes.start_program([sys.executable, *program, *arguments], cwd=ROOT, env=given)
    proc = pathlib.Path("/proc", str(process.pid))
    deadline = time.monotonic() + processes.PATIENCE_SECONDS
    while "libjax_common" not in (proc / "maps").read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    said = (proc / "cmdline").read_bytes().decode().split("\0")[1:-1]
    assert said == [*program, *arguments]
    # Some versions of glibc put zeros between the settings.
    return set(re.findall(r"glibc\.malloc\.\w+=\d", (proc / "environ").read_bytes().decode()))


@pytest.mark.parametrize("program", [("-m", "recu_jax.main"), ("-m", "recu_jax", "train")], ids=" ".join)
def test_a_run_starts_again_with_huge_pages(program, tmp_path):
    assert started(tmp_path, *program) == {ASKED}


@pytest.mark.parametrize("mine,expected", [
    ("glibc.malloc.hugetlb=0", {"glibc.malloc.hugetlb=0"}),
    ("glibc.malloc.arena_max=4", {"glibc.malloc.arena_max=4", ASKED}),
])  # fmt: skip
def test_what_the_user_set_stays(mine, expected, tmp_path):
    assert started(tmp_path, "-m", "recu_jax.main", GLIBC_TUNABLES=mine) == expected


def test_another_program_that_runs_the_module_is_left_alone(tmp_path):
    """As a notebook does, whose kernel must not start again."""
    code = "import runpy, sys; sys.argv[0] = 'x'; runpy.run_module('recu_jax.main', run_name='__main__')"
    assert started(tmp_path, "-c", code) == set()
