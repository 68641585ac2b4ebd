"""Reads the metadata that setup.py gives the package."""

import email
import email.message
import functools
import pathlib
import re
import subprocess
import sys
import tempfile

from tests.support import ROOT


def read_metadata(root: pathlib.Path) -> email.message.Message:
    """Returns the metadata of the checkout in `root`. Its payload is the long description: the page on PyPI."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", folder]
        subprocess.run(command, cwd=root, check=True, capture_output=True)
        (file,) = pathlib.Path(folder).glob("*/PKG-INFO")
        return email.message_from_string(file.read_text())


@functools.cache
def metadata() -> email.message.Message:
    """Returns the metadata of this checkout."""
    return read_metadata(ROOT)


def packages(*extras: str | None) -> set[str]:
    """Returns the lower-case names of the packages that `extras` install. None stands for those that need no extra."""
    found = set()
    for line in metadata().get_all("Requires-Dist"):
        name, extra = re.fullmatch(r"([\w.-]+)[^;]*(?:; extra == \"(\w+)\")?", line).groups()
        if extra in extras:
            found.add(name.lower())
    return found
