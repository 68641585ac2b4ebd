"""What the commands share: each mistake is one line on stderr, `error: ...`, and exit status 2; a failure is 3."""

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from recu_jax.errors import RunFailed, UserError, one_line

EXIT_USER_ERROR = 2
EXIT_FAILED = 3


def fail(message: object, status: int = EXIT_USER_ERROR) -> NoReturn:
    """Ends the process with one line, whatever a file's name or content puts into the message."""
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(status)


def run(function: Callable[[], Any]) -> Any:
    """`function()`, a UserError or RunFailed of which ends the process with its line."""
    try:
        return function()
    except UserError as error:
        fail(error)
    except RunFailed as error:
        fail(error, EXIT_FAILED)


class ArgumentParser(argparse.ArgumentParser):
    """argparse with whole option names only and without the usage before an error; `--help` shows it."""

    def __init__(self, module: str, description: str):
        super().__init__(prog=f"python -m {module}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        fail(f"{message}; see {self.prog} --help")
