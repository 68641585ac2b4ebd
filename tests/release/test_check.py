"""Runs those checks of a release that only read files, in a small repository made for each test."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.support import ROOT

FILES = ("recu_jax/__init__.py", "recu_jax/ops/native.py", "LICENSE", "NOTICE")
pytestmark = pytest.mark.skipif(not (ROOT / "release").is_dir(), reason="the release's scripts are not here")


@pytest.fixture
def repository(tmp_path):
    """Returns the folder of a repository of version 1.2.3 that passes the checks."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "release", tmp_path / "release", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    (tmp_path / "recu_jax" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CITATION.cff").write_text("title: recu_jax\nversion: 1.2.3\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-11-26\n\n- A change.\n")
    (tmp_path / "recu_jax" / "network.recu").write_bytes(b"\xe8\x00")
    _commit(tmp_path)
    return tmp_path


def _commit(folder):
    git = ["git", "-c", "user.name=recu_jax", "-c", "user.email=recu_jax@localhost"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "All"]):
        subprocess.run([*git, *command], cwd=folder, check=True)


def check(folder, *names):
    """Runs the checks `names`. Returns the exit status, {check: its line of output} and {check: its record}."""
    command = [sys.executable, "release/check.py", *names]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith(("ok ", "FAILED "))}
    return done.returncode, lines, json.loads((folder / "experiments/results/release/1.2.3.json").read_text())


def test_checks_are_recorded_one_by_one(repository):
    status, lines, record = check(repository, "tree", "version")
    assert status == 0 and list(lines) == ["tree", "version"] == list(record)
    # The record of the first call does not make the git tree unclean, and the second call keeps it.
    status, lines, record = check(repository, "changelog", "licences", "tree")
    assert status == 0 and list(record) == ["tree", "version", "changelog", "licences"]
    assert "1 changes, 2026-11-26" in lines["changelog"]
    assert record["version"]["holds"] and "CITATION.cff" in record["version"]["found"]


@pytest.mark.parametrize(
    "name,file,text,words",
    [
        ("tree", "left.txt", "", "?? left.txt"),
        ("version", "CITATION.cff", "version: 1.2.2\n", "'CITATION.cff': '1.2.2'"),
        ("version", "CHANGELOG.md", "## [1.2.2] - 2026-11-26\n", "'CHANGELOG.md': '1.2.2'"),
        ("changelog", "CHANGELOG.md", "## [Unreleased]\n- A change.\n", "has no line `## [1.2.3] - "),
        ("changelog", "CHANGELOG.md", "## [1.2.3] - 26.11.2026\n- A change.\n", "26.11.2026 is no day"),
        ("changelog", "CHANGELOG.md", "## [1.2.3] - 2026-11-26\n## [1.2.2]\n- A change.\n", "lists no change"),
        (
            "licences",
            "recu_jax/ops/native.py",
            "# Copyright (c) Somebody\n",
            "other licences in recu_jax/ops/native.py",
        ),
    ],
)
def test_a_fault_fails_its_check(name, file, text, words, repository):
    (repository / file).write_text(text)
    status, lines, record = check(repository, name)
    assert status == 1 and lines[name].startswith("FAILED")
    assert words in record[name]["found"] and not record[name]["holds"]


def test_a_tag_of_another_version_fails(repository):
    subprocess.run(["git", "tag", "v1.2.4"], cwd=repository, check=True)
    assert "'tag v1.2.4': '1.2.4'" in check(repository, "version")[2]["version"]["found"]


def test_an_unknown_check_is_refused(repository):
    done = subprocess.run([sys.executable, "release/check.py", "twin"], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 2 and "there is no check twin; checks: tree, version," in done.stderr
