"""The commands of recu_jax as processes of their own."""

import os
import subprocess
import sys

from tests.support import ROOT

# Generous: a machine that does other things besides is no failure.
SECONDS = 600


def module_and_arguments(command: str | None, arguments) -> tuple[str, list[str]]:
    """What `python -m` is given: `main` is `recu_jax.main`, any other is a command of `recu`, None is `recu` alone."""
    arguments = list(map(str, arguments))
    if command == "main":
        return "recu_jax.main", arguments
    return "recu_jax", arguments if command is None else [command, *arguments]


def run(command: str, *arguments, cwd=ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Runs a command, on one device whatever the tests of this process run on, unless `environment` says otherwise."""
    module, arguments = module_and_arguments(command, arguments)
    given = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=cwd, env=given, capture_output=True, text=True, timeout=SECONDS
    )


def the_line(stderr: str) -> str:
    """`stderr`, which must be one line that begins with `error: `."""
    assert stderr.startswith("error: ") and stderr.count("\n") == 1 and stderr.endswith("\n"), stderr
    return stderr
