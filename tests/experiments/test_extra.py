"""Checks that the commands in the experiments' documents install all packages that the scripts import."""

import ast
import re
import sys

from tests.support import ROOT
from tests.support.metadata import packages

OURS = {"recu_jax", "experiments", "tests", "configs"}
# Names of packages that differ from the name of their module.
PACKAGES = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "larq_compute_engine": "larq-compute-engine",
}
EXPERIMENTS = ROOT / "experiments"
# Scripts for other engines, each in an environment of its own.
ENGINES = EXPERIMENTS / "benchmarks" / "engines"


def imported(files):
    """Returns the names of the packages that files import, without our own and Python's."""
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    return {PACKAGES.get(module, module).lower() for module in found - OURS - set(sys.stdlib_module_names)}


def test_what_the_scripts_import_is_installed_by_the_command():
    found = imported(file for file in EXPERIMENTS.rglob("*.py") if ENGINES not in file.parents)
    text = (EXPERIMENTS / "README.md").read_text()
    extras, others = re.search(r"`pip install -e '\.\[([\w,]+)\]' ([\w ]+)`", text).groups()
    # Only `torch_recu.py` needs PyTorch, which the extra `torch` installs. scipy comes with JAX.
    named = {"torch", "scipy", *others.split(), *packages(None, *extras.split(","))}
    assert {"matplotlib", "scipy"} <= found and found <= named


def test_what_the_engines_need_is_named_at_the_head_of_their_script():
    found = imported(ENGINES.glob("*.py"))
    head = ast.get_docstring(ast.parse((ENGINES / "run.py").read_text()))
    named = set(re.findall(r"[\w-]+", " ".join(re.findall(r"`pip install ([^`]+)`", head))))
    assert {"openvino", "larq"} <= found and found <= named | packages(None, "onnx")
