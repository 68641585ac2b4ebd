"""Checks that the command in experiments/README.md installs all packages that the scripts import."""

import ast
import re
import sys

from tests.support import ROOT
from tests.support.metadata import packages

OURS = {"recu_jax", "experiments", "tests", "configs"}
# Names of packages that differ from the name of their module.
PACKAGES = {"cv2": "opencv-python-headless", "PIL": "pillow", "sklearn": "scikit-learn"}


def test_what_the_scripts_import_is_installed_by_the_command():
    imported = set()
    for file in (ROOT / "experiments").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    text = (ROOT / "experiments" / "README.md").read_text()
    extras, others = re.search(r"`pip install -e '\.\[([\w,]+)\]' ([\w ]+)`", text).groups()
    # Only `torch_recu.py` needs PyTorch, which the extra `torch` installs. scipy comes with JAX.
    named = {"torch", "scipy", *others.split(), *packages(None, *extras.split(","))}
    lacking = {
        module
        for module in imported - OURS - set(sys.stdlib_module_names)
        if PACKAGES.get(module, module).lower() not in named
    }
    assert {"matplotlib", "scipy"} <= imported and lacking == set()
