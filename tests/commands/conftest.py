"""Provides an imported workdir, and a function that calls commands in this process."""

import pytest

from tests.support import commands
from tests.support.bad_files import OFFICIAL


@pytest.fixture
def refusal(capsys):
    """Returns a function that calls a command, checks that it fails with one line, and returns this line."""

    def call(main, *arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        assert ended.value.code == 2
        return commands.the_line(capsys.readouterr().err)

    return call


@pytest.fixture(scope="session")
def official():
    """Returns the content of the official checkpoint file."""
    import torch

    return torch.load(OFFICIAL, weights_only=True, map_location="cpu")


@pytest.fixture(scope="session")
def imported(tmp_path_factory):
    """Returns a workdir with the official checkpoint."""
    folder = tmp_path_factory.mktemp("imported") / "workdir"
    result = commands.run("import-torch", OFFICIAL, "--model=cifar_resnet20", f"--workdir={folder}")
    assert (result.returncode, result.stderr) == (0, "")
    assert "cifar_resnet20" in result.stdout and "epoch 2, best top-1 13.13%" in result.stdout
    return folder
