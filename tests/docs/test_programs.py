"""Checks that the Python programs of the documentation run, and that its site builds."""

import subprocess
import sys
import zlib

import pytest

import recu_jax
from tests.docs.pages import DOCS, NAMES, PAGES, blocks, run_blocks
from tests.support import ROOT

WITH_PYTHON = [name for name, page in zip(NAMES, PAGES, strict=True) if blocks(page, "python")]
# These pages train a network.
SLOW = {"deploy.md", "own_model.md", "train.md", "weights.md"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in WITH_PYTHON])
def test_python_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(DOCS / name)


def test_pages_have_programs():
    assert {"own_model.md", "deploy.md", "binarizers.md", "train.md", "weights.md"} <= set(WITH_PYTHON)


@pytest.mark.slow
def test_site_builds(tmp_path):
    """Builds every page and every plot, with warnings as errors. This takes a minute."""
    for package in ("sphinx", "myst_parser", "furo", "sphinx_copybutton", "matplotlib"):
        pytest.importorskip(package, reason="needs pip install -e '.[docs]'")
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", "-d", tmp_path / "trees", DOCS, tmp_path / "site"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert built.returncode == 0, built.stderr
    for page in PAGES:
        assert (tmp_path / "site" / page.relative_to(DOCS).with_suffix(".html")).is_file()
    # Sphinx's inventory of all documented names: four lines of text, then the compressed names.
    *_, names = (tmp_path / "site" / "objects.inv").read_bytes().split(b"\n", 4)
    documented = {line.split()[0].rpartition(".")[2] for line in zlib.decompress(names).decode().splitlines()}
    assert set(recu_jax.__all__) - documented == set()
