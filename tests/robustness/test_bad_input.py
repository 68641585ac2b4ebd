"""Runs each row of the table of wrong input, which `python -m tests.robustness.bad_input` prints."""

import pytest

from tests.robustness.bad_input import problems, reason_to_leave_out, run
from tests.robustness.bad_rows import ROWS, SECTIONS

# Number of rows of each section in quick tests. The first rows are the most common mistakes.
QUICK = 3
PARAMETERS = [
    pytest.param(row, id=row.wrong, marks=[pytest.mark.slow] * (i >= QUICK))
    for section in SECTIONS.values()
    for i, row in enumerate(section)
]


@pytest.mark.parametrize("row", PARAMETERS)
def test_a_mistake_gets_its_line_and_leaves_nothing(row, tmp_path):
    if reason := reason_to_leave_out(row):
        pytest.skip(reason)
    assert problems(row, run(row, tmp_path)) == []


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_so_it_does_in_a_process_that_starts_from_nothing(section, tmp_path):
    """These processes start from nothing. Those of the other test are forked, except for rows with an environment."""
    row = SECTIONS[section][len(SECTIONS[section]) // 2]
    if reason := reason_to_leave_out(row):
        pytest.skip(reason)
    assert problems(row, run(row, tmp_path, from_nothing=True)) == []


def test_each_row_is_another_and_there_are_enough():
    assert len({row.wrong for row in ROWS}) == len(ROWS) >= 60
