"""Checks that the commands in the documentation parse, and that the fields, scripts and extras it names exist."""

import ast
import functools
import importlib
import re
import shlex
import subprocess
import sys

import pytest

from recu_jax import config
from recu_jax.__main__ import COMMANDS
from recu_jax.commands import arguments
from recu_jax.config.fields import check_config
from recu_jax.errors import UserError
from tests.docs.pages import CODE, NAMES, PAGES, blocks, prose
from tests.support import ROOT


class _Parsed(Exception):  # noqa: N818  (nothing is wrong)
    pass


def check_arguments(command: str, given: list[str], monkeypatch) -> None:
    """Raises an error if the command would refuse the arguments. Does not run the command."""
    if command not in ("train", "eval", "summary", "main"):
        parse = arguments.ArgumentParser.parse_args

        def stop(self, *args):
            parse(self, *args)
            raise _Parsed

        monkeypatch.setattr(arguments.ArgumentParser, "parse_args", stop)
        module = importlib.import_module(f"recu_jax.commands.{COMMANDS[command][0]}")
        with pytest.raises(_Parsed):
            module.main(given)
        return
    options = dict(argument.removeprefix("--").partition("=")[::2] for argument in given)
    fields = {k.removeprefix("config."): v for k, v in options.items() if k.startswith("config.")}
    known = help_of(command)
    for option in options.keys() - {f"config.{field}" for field in fields}:
        assert f"--{option} " in known, f"{command} has no --{option}"
    made = config.load(options["config"], **{field: _value(text) for field, text in fields.items()})
    check_config(made)


def _value(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@functools.cache
def help_of(command: str) -> str:
    """Returns what a command prints with `--help`."""
    module = ["recu_jax.main"] if command == "main" else ["recu_jax", command]
    return subprocess.run(
        [sys.executable, "-m", *module, "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout


_COMMAND = re.compile(r"(?<![\w./-])(recu|python -m recu_jax(?:\.main)?)(?=\s)([^;&|\"\n]*)")


def commands() -> list[tuple[str, str, list[str]]]:
    """Returns page, command and arguments of each recu_jax command in the shell blocks of all pages."""
    found = []
    for name, page in zip(NAMES, PAGES, strict=True):
        text = "\n".join(block for _, block, _ in blocks(page, "sh")).replace("\\\n", " ")
        for program, rest in _COMMAND.findall(text):
            given = shlex.split(rest, comments=True)
            command = "main" if program.endswith(".main") else given.pop(0)
            found.append((name, command, given))
    return found


@pytest.mark.parametrize("page, command, given", commands())
def test_command(page, command, given, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    # Commands in the pages name my_module.py, the user's own module. Python blocks in the pages have its text.
    own = [block for p in PAGES for _, block, _ in blocks(p, "python") if block.startswith("# my_module.py")]
    (tmp_path / "my_module.py").write_text("\n".join(own))
    monkeypatch.syspath_prepend(tmp_path)
    assert command == "main" or command in COMMANDS
    check_arguments(command, given, monkeypatch)


@pytest.mark.parametrize(
    "command, given",
    [
        ("train", ["--config=configs/digits.py", "--nothing=1"]),
        ("train", ["--config=configs/digits.py", "--config.epoch=1"]),
        ("train", ["--config=configs/digits.py", "--config.optimizer=sdg"]),
        ("train", ["--config=configs/digit.py"]),
        ("export", ["runs/digits", "--out=a", "--format=tflite"]),
        ("predict", ["digits.recu"]),
    ],
)
def test_wrong_commands_are_found(command, given, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((AssertionError, UserError, SystemExit)):
        check_arguments(command, given, monkeypatch)


def test_options_in_prose():
    """Checks that `--config.FIELD` and `config.FIELD` name fields that exist."""
    fields = set(config.base_config())
    for page in PAGES:
        said = " ".join(CODE.findall(prose(page)))
        for field in re.findall(r"(?<![\w./])(?:--)?config\.([a-z]\w*)", said):
            assert field in fields, f"{page.name}: config has no field {field}"


def test_scripts_and_extras():
    setup = (ROOT / "setup.py").read_text()
    experiments = "".join(p.read_text() for p in (ROOT / "experiments").rglob("*.py"))
    for page in PAGES:
        text = "\n".join(block for _, block, _ in blocks(page, "sh")).replace("\\\n", " ")
        for script, rest in re.findall(r"^python ((?!-[mc])\S+)(.*)$", text, re.MULTILINE):
            assert (ROOT / script).is_file(), f"{page.name}: there is no {script}"
            for option in re.findall(r"--(\w+)", rest.replace("--help", "")):
                assert f"--{option}" in experiments, f"{page.name}: {script} has no --{option}"
        for extras in re.findall(r"-e '\.\[(\w+)\]'", page.read_text()):
            assert extras == "NAME" or f'"{extras}": [' in setup or f'"{extras}": ' in setup, f"{page.name}: {extras}"
