"""Tests names like `module:name`. Each mistake in such a name gives an error of one line."""

import re

import pytest

from recu_jax import UserError
from recu_jax.references import is_reference, load


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes modules to the working directory. It is not in sys.path, as when a console script runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "of_test_references.py").write_text(
        "import math\nfrom collections import OrderedDict\nTriangle, _hidden = 3, 4\ndef square(): pass\n"
    )
    (tmp_path / "lacks_another.py").write_text("import a_package_that_is_not_there\n")
    (tmp_path / "is_broken.py").write_text("1 / 0\n")
    (tmp_path / "ends_the_program.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "is_no_python.py").write_text("def :\n")


def test_the_working_directory_is_searched(module):
    assert is_reference("of_test_references:Triangle") and not is_reference("recu")
    assert load("model", "of_test_references:Triangle") == 3
    assert load("model", "recu_jax.models:MODELS")


@pytest.mark.parametrize(
    "reference, message",
    [
        ("nowhere:Net", "model is 'nowhere:Net', and there is no module 'nowhere'; it must be in /"),
        ("recu_jax.nowhere:Net", "there is no module 'recu_jax.nowhere'"),
        ("of_test_references:Circle", "it must be one of: Triangle, square"),
        ("of_test_references:Trangle", "'Trangle', which does not exist; did you mean 'Triangle'?"),
        ("lacks_another:x", "importing lacks_another fails: ModuleNotFoundError: No module named 'a_package_that"),
        ("is_broken:x", "importing is_broken fails: ZeroDivisionError"),
        ("ends_the_program:x", "importing ends_the_program fails: SystemExit: 3"),
        ("is_no_python:x", "importing is_no_python fails: SyntaxError"),
        (":Net", "must be 'module:name'"),
        ("net:", "must be 'module:name'"),
        (".net:Net", "must be 'module:name'"),
    ],
)
def test_mistakes_are_one_line(reference, message, module):
    with pytest.raises(UserError) as error:
        load("model", reference)
    said = str(error.value)
    # The list of valid names has no private names, and no names that the module imports.
    assert not {"_hidden", "math", "OrderedDict"} & set(re.findall(r"\w+", said.partition("one of: ")[2]))
    assert message in said and "\n" not in said
