"""Each row of the table of wrong input, in a process of its own; `python tests/bad_input.py` prints it."""

import pytest
from bad_input import problems, reason_to_leave_out, run
from bad_rows import ROWS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.wrong)
def test_a_mistake_gets_its_line_and_leaves_nothing(row, tmp_path):
    if reason := reason_to_leave_out(row):
        pytest.skip(reason)
    assert problems(row, run(row, tmp_path)) == []


def test_each_row_is_another_and_there_are_enough():
    assert len({row.wrong for row in ROWS}) == len(ROWS) >= 60
