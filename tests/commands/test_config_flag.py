"""Tests `--config`: which file it names, and which default workdir follows from it."""

import subprocess
import sys

import pytest

from recu_jax.config.files import shipped
from tests.support import ROOT, commands

PROGRAM = """
import sys
from recu_jax import main
from recu_jax.commands import config_flag
config_flag.parse(["program", *sys.argv[1:]], main.HELP)
config = main._CONFIG.value
print(config.model, config.epochs, config_flag.default_workdir())
"""


GIVEN = ("--config=configs/digits.py", "-config=digits")


def said(folder, *arguments):
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True
    )
    return done.returncode, done.stdout.split(), done.stderr


@pytest.mark.parametrize("given", GIVEN)
def test_a_shipped_config_is_found_from_anywhere(given, tmp_path):
    assert said(tmp_path, given, "--config.epochs=3") == (0, ["digits_resnet8", "3", "runs/digits"], "")


@pytest.mark.slow
def test_a_file_of_ones_own_goes_first_and_a_part_names_the_workdir(tmp_path):
    text = "from recu_jax.config import base_config\n\n\ndef get_config(part='resnet8'):\n    c = base_config()\n"
    (tmp_path / "digits.py").write_text(text + "    c.model = f'cifar_{part}'\n    return c\n")
    assert said(tmp_path, "--config=digits.py")[1] == ["cifar_resnet8", "600", "runs/digits"]
    assert said(tmp_path, "--config", "digits.py:resnet20")[1] == ["cifar_resnet20", "600", "runs/digits_resnet20"]


def test_a_file_that_is_not_there_lists_those_that_are(tmp_path):
    status, _, line = said(tmp_path, "--config=cifra10")
    assert status == 2 and all(name in commands.the_line(line) for name in shipped())


def test_none_is_no_text_where_none_is_the_default():
    given = ["--config.latent_optimizer=None", "--config.nonlinearity=None", "--config.init_from=None"]
    result = commands.run("summary", "--config=digits", *given)
    assert (result.returncode, result.stderr) == (0, "")
    result = commands.run("summary", "--config=digits", "--config.optimizer=None")
    assert "config.optimizer is 'None'" in commands.the_line(result.stderr)
