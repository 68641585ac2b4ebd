"""Runs `release/wheel_contents.py` on a wheel without kernels, and on spoilt copies of this wheel."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.support import ROOT

COMMAND = [sys.executable, str(ROOT / "release" / "wheel_contents.py")]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "release").is_dir(), reason="the release's scripts are not here"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Returns the path of a wheel without kernels."""
    folder = tmp_path_factory.mktemp("pure")
    for name in ("recu_jax", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "CITATION.cff", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", f"--dist-dir={folder}"]
    environment = {**os.environ, "RECU_JAX_KERNELS": "none"}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def check(path):
    return subprocess.run([*COMMAND, path], capture_output=True, text=True, cwd=ROOT)


def test_a_wheel_without_kernels_is_for_any_platform(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    done = check(wheel)
    assert done.returncode == 0 and "py3-none-any" in done.stdout, done.stderr
    assert wheel.stat().st_size < 3_000_000


def _without(end):
    def copy(item, data):
        return None if item.filename.endswith(end) else data

    return copy


def _with_tag(item, data):
    return data.replace(b"Tag: py3-none-any", b"Tag: cp312-none-any") if item.filename.endswith("/WHEEL") else data


@pytest.mark.parametrize(
    "change,added,words",
    [
        (_without("recu_jax/configs/digits.py"), None, "lacks recu_jax/configs/digits.py"),
        (_without("py.typed"), None, "lacks recu_jax/py.typed"),
        (_without("licenses/NOTICE"), None, "has no NOTICE"),
        (_with_tag, None, "has the tag ['cp312-none-any']"),
        (None, ("tests/test_layers.py", b""), "has tests/test_layers.py, which it does not need"),
        (None, ("recu_jax/ops/_kernels.so", b""), "has the compiled libraries ['recu_jax/ops/_kernels.so']"),
        (None, ("recu_jax/large", os.urandom(3_000_000)), "and must have less than 3000000"),
    ],
)
def test_a_spoilt_wheel_is_refused(change, added, words, wheel, tmp_path):
    spoilt = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(spoilt, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            data = change(item, data) if change else data
            if data is not None:
                new.writestr(item, data)
        if added:
            new.writestr(*added)
    done = check(spoilt)
    assert done.returncode == 1 and words in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(importlib.util.find_spec("lief") is None, reason="no lief; pip install lief")
def test_a_library_of_another_platform_is_refused(wheel, tmp_path):
    """The library of Python's own module `_struct` takes the place of the compiled kernels."""
    import _struct

    name = wheel.name.replace("-any", "-manylinux_2_17_aarch64")
    spoilt = tmp_path / name
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(spoilt, "w") as new:
        for item in old.infolist():
            new.writestr(item, old.read(item).replace(b"py3-none-any", b"py3-none-manylinux_2_17_aarch64"))
        new.write(_struct.__file__, "recu_jax/ops/_kernels.so")
    done = check(spoilt)
    assert done.returncode == 1 and "the compiled library" in done.stderr, done.stderr
