"""Runs the commands of recu_jax as processes."""

import os
import subprocess
import sys

from tests.support import ROOT

# So long that no test fails because the machine is busy.
SECONDS = 600


def module_and_arguments(command: str | None, arguments) -> tuple[str, list[str]]:
    """Returns module and arguments for `python -m`. `main` is `recu_jax.main`, None is `recu` without a command."""
    arguments = list(map(str, arguments))
    if command == "main":
        return "recu_jax.main", arguments
    return "recu_jax", arguments if command is None else [command, *arguments]


def run(command: str, *arguments, cwd=ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Runs a command in a process with one device, even if this process has more. `environment` can change that."""
    module, arguments = module_and_arguments(command, arguments)
    given = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=cwd, env=given, capture_output=True, text=True, timeout=SECONDS
    )


def the_line(stderr: str) -> str:
    """Returns `stderr`. Fails unless it is one line that begins with `error: `."""
    assert stderr.startswith("error: ") and stderr.count("\n") == 1 and stderr.endswith("\n"), stderr
    return stderr
