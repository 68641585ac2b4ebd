"""Checks that the listed faults still fit the code and the tests. `python -m tests.mutation --faults` runs them."""

import ast

import pytest

from tests.mutation.faults import FAULTS
from tests.support import ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_fault_fits_the_code_and_names_its_test(fault):
    text = (ROOT / "recu_jax" / fault.module).read_text()
    assert text.count(fault.right) == 1
    ast.parse(text.replace(fault.right, fault.wrong))
    file, _, name = fault.test.partition("::")
    assert f"def {name}(" in (ROOT / "tests" / file).read_text()
