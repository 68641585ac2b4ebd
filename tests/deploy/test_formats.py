"""Tests what the formats of `recu export` share: they refuse wrong paths and files, and the help and docs list them."""

import re

import numpy as np
import pytest

from recu_jax import UserError
from recu_jax.commands import export
from recu_jax.deploy import graph
from recu_jax.deploy.formats import FORMATS
from tests.support import ROOT


def test_the_first_format_is_the_default_one():
    assert next(iter(FORMATS)) == "recu" and len(FORMATS) >= 3


@pytest.mark.parametrize("name", FORMATS)
def test_a_path_that_cannot_be_written_is_a_line(name, tmp_path):
    with pytest.raises((UserError, OSError, ValueError)):
        FORMATS[name].write(tmp_path / "no" / "such" / "folder", {"format": "x"}, {"a": np.zeros(1, np.float32)})
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("name", FORMATS)
def test_a_text_is_no_file_of_any_format(name, tmp_path):
    (tmp_path / "text").write_text("no network\n")
    with pytest.raises(Exception, match=r"."):
        FORMATS[name].predictor(tmp_path / "text")


def test_the_help_says_of_each_format_what_it_is(capsys):
    with pytest.raises(SystemExit):
        export.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for name, kind in FORMATS.items():
        assert f"{name}: {kind.about}" in said


def test_the_docs_describe_each_operation_of_a_file():
    page = (ROOT / "docs" / "deploy.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", page.partition("The layout of a")[2], re.MULTILINE)
    described = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert set(graph.OPS) <= described
