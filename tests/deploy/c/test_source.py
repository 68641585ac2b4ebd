"""Tests the C files of a network: their names, and the sizes that the header states."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from recu_jax import UserError, deploy
from recu_jax.deploy.c import compiled, source


@pytest.fixture(scope="module")
def folder(path, tmp_path_factory):
    made = tmp_path_factory.mktemp("c") / "digits"
    source.write(made, deploy.load(path))
    return made


def test_the_files_and_a_second_export_over_them(folder, path):
    names = {"digits.h", "digits.c", "digits_weights.h", *source.SHARED}
    assert {file.name for file in folder.iterdir()} == names
    (folder / "own.txt").write_text("of the user")
    (folder / "digits.c").write_text("old")
    source.write(folder, deploy.load(path))
    assert {file.name for file in folder.iterdir()} == names | {"own.txt"}
    assert "digits_predict" in (folder / "digits.c").read_text()


@pytest.mark.skipif(not (shutil.which("cc") and shutil.which("nm")), reason="no C compiler, or no nm of binutils")
def test_the_sizes_in_the_header_are_those_of_the_object(folder, tmp_path):
    subprocess.run(["cc", "-std=c99", "-O0", "-c", folder / "digits.c", "-o", tmp_path / "o"], check=True)
    lines = subprocess.run(["nm", "-S", tmp_path / "o"], check=True, capture_output=True, text=True).stdout.splitlines()
    symbols = [line.split() for line in lines if len(line.split()) == 4]

    def size(kind, names):
        return sum(int(s[1], 16) for s in symbols if s[2].lower() == kind and re.fullmatch(names, s[3]))

    sizes = compiled.sizes_of(folder)
    # The window descriptions of the convolutions, `w`, are constants too, but not weights.
    assert size("r", r"[a-z]+_\d+") == sizes["WEIGHT_BYTES"]
    assert size("b", ".*") == sizes["RAM_BYTES"]
    assert not [s for s in symbols if s[2].lower() == "d"]


def test_weights_are_written_exactly(path):
    made = source.source("net", deploy.load(path))
    text = made.files["net_weights.h"]
    for node in deploy.load(path).nodes:
        if node.op == "dense":
            want = node.arrays["bias"]
    (body,) = re.findall(r"float bias_\d+\[10\] = \{(.*?)\}", text, re.DOTALL)
    found = [np.float32(number.strip()[:-1]) for number in body.split(",")[:-1]]
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("name", ["my-net", "3d", "net.c", "größe", "recu_bits", ""])
def test_names_that_c_cannot_have(name):
    with pytest.raises(UserError, match=r"give one of letters, digits and _"):
        source.name_of(f"folder/{name}" if name else "/")


def test_what_is_too_large_is_refused(path, monkeypatch):
    monkeypatch.setattr(source, "MAX_WEIGHT_BYTES", 1000)
    with pytest.raises(
        UserError, match=r"digits_resnet8 has \d+ bytes of weights, and C is written up to 1000; export"
    ):
        source.source("net", deploy.load(path))


def test_a_file_in_the_place_of_the_folder(path, tmp_path):
    (tmp_path / "net").write_text("mine")
    with pytest.raises(UserError, match=r"cannot be made a folder: File exists; give another --out"):
        source.write(tmp_path / "net", deploy.load(path))
    assert (tmp_path / "net").read_text() == "mine"
