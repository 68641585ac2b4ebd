"""Runs the Colab notebook's cell that installs, in a new virtual environment, with pip and small packages made here."""

import json
import os
import re
import subprocess
import venv
import zipfile

import pytest

from tests.support import ROOT

NOTEBOOK = ROOT / "experiments" / "colab_tpu.ipynb"


def install(python, folder, install_from):
    """Runs the cell that installs."""
    (cell,) = (cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["id"] == "install")
    source = f"install_from = {install_from!r}\n" + "".join(cell["source"])
    environment = {"PATH": os.environ["PATH"], "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}
    return subprocess.run([python, "-c", source], cwd=folder, env=environment, capture_output=True, text=True)


def write_wheel(folder, name, version, *requires):
    """Writes a package of one empty module."""
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {r}\n" for r in requires) + "Provides-Extra: report\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return folder / f"{name}-{version}-py3-none-any.whl"


@pytest.mark.slow
def test_installation_adds_what_is_missing_and_leaves_jax_alone(tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    (tmp_path / "recu_jax").mkdir()  # a clone in the notebook's folder would have this name
    for name, version in (("jax", "0.7.2"), ("jax", "0.8.0"), ("plotly", "6.0.0")):
        write_wheel(tmp_path, name, version)

    done = install(python, tmp_path, "")
    assert done.returncode == 1 and done.stderr == (
        "install_from is empty and recu_jax is not installed; fill it in above and run both cells again\n"
    )

    def versions():
        # Without -I, pip would also list a checkout in the current folder from which recu_jax was installed.
        listed = subprocess.run(
            [python, "-I", "-m", "pip", "freeze"], check=True, capture_output=True, text=True
        ).stdout
        return set(re.findall(r"^\w+(?:==[\d.]+)?", listed, re.MULTILINE))

    subprocess.run([python, "-m", "pip", "install", "-q", tmp_path / "jax-0.7.2-py3-none-any.whl"], check=True)
    wheel = write_wheel(tmp_path, "recu_jax", "0.1.0", "jax>=0.8", "plotly; extra == 'report'")
    done = install(python, tmp_path, str(wheel))
    assert done.returncode == 1 and "conflicting dependencies" in done.stderr
    before = versions()
    assert not any(v.startswith("recu_jax") for v in before)
    wheel = write_wheel(tmp_path, "recu_jax", "0.1.0", "jax>=0.7", "plotly; extra == 'report'")
    done = install(python, tmp_path, str(wheel))
    assert done.returncode == 0, done.stderr
    assert versions() == before | {"recu_jax", "plotly==6.0.0"}
    # Now recu_jax is installed, so the cell does nothing, even if `install_from` is empty.
    done = install(python, tmp_path, "")
    assert done.returncode == 0, done.stderr
