"""Tests what all commands share: `--help`, exit statuses, errors of one line."""

import os
import subprocess
import sys

import pytest

from recu_jax import RunFailed, UserError
from recu_jax.__main__ import COMMANDS
from recu_jax.commands.arguments import ArgumentParser, fail, run
from tests.support import ROOT, commands, forked

STATUSES = ("  0    finished", "  2    a mistake in the input")
OF_A_RUN = ("  3    the run failed", "  75   stopped by SIGTERM", "  130  stopped by Control-C")


@pytest.mark.parametrize("command", ["main", *COMMANDS])
def test_help(command):
    ended = forked.run(command, ["--help"])
    assert (ended.status, ended.stderr) == (0, "")
    head, _, rest = ended.stdout.partition("\n\n")
    program = "python -m recu_jax.main" if command == "main" else f"recu {command}"
    assert head.startswith(f"usage: {program} ") and "\n" not in head
    options, _, example = rest.partition("\n\nexample:\n")
    assert "options:\n" in options and f"  {program} " in example
    for status in (*STATUSES, *(OF_A_RUN if command in ("main", "train", "eval") else ())):
        assert status in example
    if command in ("main", "train", "eval", "summary"):
        assert ("--config.weight_decay=0.0005: " in options and "--workdir" in options) or command == "summary"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_without_a_command_it_lists_them(arguments):
    ended = forked.run(None, arguments)
    assert (ended.status, ended.stderr) == (0, "")
    assert ended.stdout.startswith("usage: recu COMMAND") and all(f"  {name} " in ended.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    "command, arguments", [(None, []), ("train", ["--help"]), ("export", ["--help"]), ("main", ["--help"])]
)
def test_a_reader_that_goes_away_is_no_traceback(command, arguments):
    """As in `recu --help | head -1`, but the reader is gone before the first line."""
    read, write = os.pipe()
    os.close(read)
    try:
        module, arguments = commands.module_and_arguments(command, arguments)
        command = [sys.executable, "-m", module, *arguments]
        # With buffered output, as users have it.
        buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
        ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=ROOT, env=buffered, text=True)
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_control_c_before_a_command_begins_is_one_line(tmp_path):
    """The first seconds of `recu train` go into imports. Modules in C turn a KeyboardInterrupt into other errors."""
    lines = ["import os, signal", "try:", "    os.kill(os.getpid(), signal.SIGINT)"]
    lines += ["except KeyboardInterrupt:", "    raise ImportError"]
    (tmp_path / "jax.py").write_text("\n".join(lines))
    ended = commands.run("train", "--config=digits", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "stopped by SIGINT\n")


def status_and_line(call, capsys):
    with pytest.raises(SystemExit) as ended:
        call()
    (line,) = capsys.readouterr().err.splitlines()
    return ended.value.code, line


def test_errors_end_with_a_line_and_a_status(capsys):
    def raises(error):
        def function():
            raise error

        return lambda: run(function)

    assert run(lambda: 5) == 5
    assert status_and_line(raises(UserError("a\nb")), capsys) == (2, "error: a b")
    assert status_and_line(raises(RunFailed("full")), capsys) == (3, "error: full")
    assert status_and_line(lambda: fail("so\n  it is", 7), capsys) == (7, "error: so it is")
    with pytest.raises(KeyError):  # a fault of recu_jax is not hidden
        raises(KeyError("x"))()


def test_options_have_whole_names(capsys):
    parser = ArgumentParser("make", "Makes.", "recu make FILE")
    parser.add_argument("--format", choices=("a", "b"))
    assert parser.parse_args(["--format=a"]).format == "a"
    status, line = status_and_line(lambda: parser.parse_args(["--form=a"]), capsys)
    assert status == 2 and line.startswith("error: ") and line.endswith("--form=a; see recu make --help")
