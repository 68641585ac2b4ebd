"""Runs commands in a pseudo-terminal, and returns what a reader sees there."""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
from collections.abc import Sequence

from tests.support import ROOT
from tests.support.commands import SECONDS, module_and_arguments


def run(command: str, arguments: Sequence[str], columns: int, interrupt_at: str | None = None) -> tuple[int, list[str]]:
    """Runs a command in a terminal.

    Args:
      command, arguments: as for `commands.run`.
      columns: width of the terminal.
      interrupt_at: a regular expression. Once the output matches it, Control-C is pressed.

    Returns:
      The exit status, and the lines as they stand on the screen at the end.
    """
    module, arguments = module_and_arguments(command, arguments)
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        quick = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "TERM": "xterm"}
        environment = {**os.environ, **quick, "PYTHONPATH": str(ROOT)}
        os.execve(sys.executable, [sys.executable, "-m", module, *arguments], environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    shown = ""
    while select.select([terminal], [], [], SECONDS)[0]:
        try:
            read = os.read(terminal, 4096)
        except OSError:  # on Linux, the process has ended
            break
        if not read:
            break
        shown += read.decode(errors="replace")
        if interrupt_at and re.search(interrupt_at, shown):
            os.write(terminal, b"\x03")
            interrupt_at = None
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), screen(shown, columns)


def screen(written: str, columns: int) -> list[str]:
    """Returns the lines that a terminal shows after it was sent the text `written`.

    A line that is wider than the terminal takes several rows there, but is one line here. As on a terminal, a carriage
    return goes to the start of the last row, and the text after it overwrites that row.
    """
    lines = []
    for line in written.split("\n"):
        seen: list[str] = []
        for part in line.split("\r"):
            row = max(len(seen) - 1, 0) // columns * columns
            seen[row : row + len(part)] = part
        lines.append("".join(seen).rstrip())
    return lines
