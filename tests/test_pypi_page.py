"""Checks the page on PyPI: it renders, its links are absolute, and they name files that are there."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.support import ROOT
from tests.support.metadata import metadata, read_metadata

ADDRESS = "https://example.org/recu_jax"


@pytest.fixture(scope="module")
def with_address(tmp_path_factory):
    """Returns the metadata of a checkout whose CITATION.cff has the repository's address."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root)
    for name in ("recu_jax", "configs"):
        (root / name).symlink_to(ROOT / name)
    (root / "CITATION.cff").write_text((ROOT / "CITATION.cff").read_text() + f'repository-code: "{ADDRESS}"\n')
    return read_metadata(root)


def page(message):
    """Returns the HTML that PyPI makes of the long description. PyPI uses `readme_renderer`, too."""
    markdown = pytest.importorskip("readme_renderer.markdown", reason="pip install 'readme_renderer[md]'")
    html = markdown.render(message.get_payload())
    assert html is not None
    return html


def links(html):
    """Returns the links of a page, except those to a place on the same page."""
    return re.findall(r'(?:href|src)="((?!#)[^"]*)"', html)


def test_with_an_address_every_link_is_absolute_and_names_a_file(with_address):
    html, version = page(with_address), with_address["Version"]
    assert all(link.startswith("https://") for link in links(html))
    files = [link.removeprefix(ADDRESS) for link in links(html) if link.startswith(ADDRESS)]
    paths = [re.fullmatch(rf"/(?:blob|raw)/v{re.escape(version)}/(.+)", file)[1] for file in files]
    assert len(paths) > 20 and all((ROOT / path.partition("#")[0]).exists() for path in paths)
    assert f'src="{ADDRESS}/raw/v{version}/experiments/results/cifar10_resnet20_600_epochs/curve.png"' in html
    urls = dict(url.split(", ") for url in with_address.get_all("Project-URL"))
    assert urls["Source"] == ADDRESS and set(urls) == {"Paper", "Source", "Documentation", "Changelog", "Issues"}


def test_every_link_of_the_readme_is_on_the_page(with_address):
    named = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    found = links(page(with_address))
    assert len(named) > 20 and [name for name in named if not any(link.endswith(name) for link in found)] == []


def test_without_an_address_no_link_is_relative():
    html = page(metadata())
    assert all(link.startswith("https://") for link in links(html)) and "1-bit neural networks" in html


def test_code_is_as_in_the_readme(with_address):
    fence = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
    blocks = fence.findall((ROOT / "README.md").read_text())
    assert len(blocks) > 3 and fence.findall(with_address.get_payload()) == blocks


def test_badges_are_true():
    shown = re.findall(r"img\.shields\.io/badge/(\S+?)-blue", metadata().get_payload())
    versions = [c.rpartition(" ")[2] for c in metadata().get_all("Classifier") if ":: Python :: 3." in c]
    assert shown == ["licence-Apache--2.0", f"Python-{versions[0]}%20to%20{versions[-1]}"]
    assert metadata()["License-Expression"] == "Apache-2.0" and "Apache License" in (ROOT / "LICENSE").read_text()
    assert metadata()["Requires-Python"] == f">={versions[0]}"
    # CI runs the tests on these versions.
    assert all(version in (ROOT / ".github" / "workflows" / "ci.yml").read_text() for version in versions)


@pytest.mark.slow
def test_twine_takes_the_sdist(tmp_path):
    pytest.importorskip("twine", reason="pip install twine")
    command = [
        sys.executable,
        "setup.py",
        "--quiet",
        "egg_info",
        "--egg-base",
        tmp_path,
        "sdist",
        "--dist-dir",
        tmp_path,
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (sdist,) = pathlib.Path(tmp_path).glob("*.tar.gz")
    command = [sys.executable, "-m", "twine", "check", "--strict", str(sdist)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
