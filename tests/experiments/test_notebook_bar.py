"""Runs a training in a notebook, as a command and as a function call, and reads what its cells show."""

import os
import re
import sys

import nbclient
import nbformat
import pytest

from tests.support import ROOT

pytestmark = pytest.mark.slow

COMMAND = "!{python} -m recu_jax.main --config={root}/configs/digits.py --config.epochs=2 --config.report=False"
CALL = """
from recu_jax.config import load
from recu_jax.training.loop import train
train(load("digits", epochs=2, report=False), "called");
"""
LINES = (
    r"digits_resnet8 \(binary\) on digits, 1 device \(cpu\), .*; workdir \S+; reading the images",
    r"1437 training and 360 test images, 8x8x1",
    r"compiling",
    r"compiled, and the first step done, in \d+ s",
    r"epoch 1/2: train loss \S+, top-1 \S+%; test loss \S+, top-1 \S+%; \d+ images/s; .* left, until \d\d:\d\d",
    r"epoch 2/2: train loss \S+, top-1 \S+%; test loss \S+, top-1 \S+%; \d+ images/s",
    r"final test top-1 \S+%, best \S+% \(epoch \d\); workdir \S+",
)


def shown(text):
    """Returns the lines that a cell shows: text after a carriage return is written over the line, as Jupyter does."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        now = ""
        for part in line.split("\r"):
            now = part + now[len(part) :]
        lines.append(now.rstrip())
    return "\n".join(lines).replace("\n  ", " ").strip().split("\n")  # indented lines go on the line before


def test_text_after_a_carriage_return_is_written_over_the_line():
    assert shown("one\r\n abc\rx\r\nlong\r\n  line\r\n") == ["one", "xabc", "long line"]


@pytest.mark.parametrize("cell,step_lines", [(COMMAND, False), (CALL, True)], ids=["command", "call"])
def test_no_bar_is_torn_or_left_in_a_notebook(cell, step_lines, tmp_path):
    """A command has a terminal, so it draws a bar. A call has none, so it prints a line for every 20 steps."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(cell.format(python=sys.executable, root=ROOT))]
    environment = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "PYTHONPATH": str(ROOT),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    client = nbclient.NotebookClient(
        notebook, timeout=300, startup_timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env=os.environ | environment)
    text = "".join(output["text"] for output in notebook.cells[0].outputs)
    assert ("\r" in text and "%|" in text) != step_lines
    lines, patterns = shown(text), LINES
    if step_lines:
        patterns = LINES[:-1]  # the command prints the last line
        of_steps = [
            line for line in lines if re.match(r"epoch \d/2(, step \d+/44: loss|: all steps done; testing)", line)
        ]
        assert len(of_steps) == 5
        lines = [line for line in lines if line not in of_steps]
    assert len(lines) == len(patterns)
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line
